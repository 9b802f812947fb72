//! The lab with our target in it, in memory.

use sandrail_lab::{Blade, BladeOptions, Lab, Side};
use sandrail_wire::{MacAddr, TargetAddr};

use crate::site;

/// The target and its lab. Everything goes when it is dropped.
#[derive(Debug)]
pub struct BladeSite {
    // Dropped before the lab.
    blade: Blade,
    lab: Lab,
}

impl BladeSite {
    /// The target's address.
    pub const ADDR: TargetAddr = TargetAddr { shelf: 7, slot: 3 };

    /// Makes the namespaces and starts `sandrail-blade` on one core, with a disk in memory, over the link that its arguments
    /// `link` ask for. `idle` is what it does when there is nothing to do, in its own words.
    ///
    /// # Errors
    /// The machine can't have them, or the program is not built.
    pub fn new(sectors: u64, core: usize, link: &[&str], idle: &str) -> anyhow::Result<Self> {
        let lab = site::wire()?;
        let options = BladeOptions::find()?
            .export("e7.3", &format!("ram:{}", sectors * 512))
            .args(link.iter().copied())
            .args(["--idle", idle, "--cores", &core.to_string()]);
        let blade = lab.blade(options)?;
        Ok(Self { blade, lab })
    }

    /// Address and MAC of the target.
    #[must_use]
    pub fn target(&self) -> (TargetAddr, MacAddr) {
        (Self::ADDR, MacAddr(self.lab.mac(Side::Target).0))
    }

    /// The lab that it is in.
    #[must_use]
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The target's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.blade.pid()
    }

    /// Stops it where it is, so that others have its core.
    ///
    /// # Errors
    /// It has ended.
    pub fn pause(&mut self) -> anyhow::Result<()> {
        Ok(self.blade.pause()?)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// It has ended.
    pub fn resume(&mut self) -> anyhow::Result<()> {
        Ok(self.blade.resume()?)
    }

    /// What it said last, if it has ended.
    #[must_use]
    pub fn ended(&self) -> Option<String> {
        (!self.blade.is_running()).then(|| self.blade.output())
    }
}
