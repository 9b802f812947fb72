//! Another station on the wire, mostly on the target's side: it sends what it likes, and sees what that end sees.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use sandrail_lab::{Lab, Side};
use sandrail_link::packet::{PacketConfig, PacketLink};
use sandrail_link::{HEADER_BYTES_MAX, Link};
use sandrail_node::clock;
use sandrail_wire::aoe::{Body, ConfigRepr, Repr};
use sandrail_wire::ethernet::{EthernetRepr, HEADER_BYTES};
use sandrail_wire::{EtherType, MacAddr, TargetAddr};

use crate::data::Pattern;

/// A packet socket on one end's interface.
pub struct Peer {
    link: PacketLink,
}

impl Peer {
    /// Opens it.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn open(lab: &Lab) -> Result<Self> {
        Self::open_on(lab, Side::Target)
    }

    /// Opens one on either side.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn open_on(lab: &Lab, side: Side) -> Result<Self> {
        Self::with(lab, side, PacketConfig::new(lab.interface(side)))
    }

    /// One whose frames are not padded, as those of Linux's AoE driver are not: what is short stays short on a virtual wire.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn open_unpadded(lab: &Lab, side: Side) -> Result<Self> {
        let mut config = PacketConfig::new(lab.interface(side));
        config.frame_bytes_min = 0;
        Self::with(lab, side, config)
    }

    fn with(lab: &Lab, side: Side, config: PacketConfig) -> Result<Self> {
        let link = lab.enter(side, || PacketLink::open(&config))??;
        Ok(Self { link })
    }

    /// Sends frames as they are, but for padding to 60 bytes unless that was left out. Returns how many the interface took.
    pub fn send<'a>(&mut self, frames: impl IntoIterator<Item = &'a [u8]>) -> u64 {
        let mut taken = 0;
        for frame in frames {
            let (header, payload) = frame.split_at(frame.len().min(HEADER_BYTES_MAX));
            taken += u64::from(self.link.transmit(clock::now(), header, payload).is_ok());
        }
        self.link.flush(clock::now());
        taken
    }

    /// The frames that came in, each as one piece.
    pub fn receive(&mut self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        self.link.receive(clock::now(), 64, &mut |frame| {
            frames.push(frame.segments().concat());
        });
        frames
    }
}

/// Ethernet header of an AoE frame.
#[must_use]
pub fn ethernet(dst: MacAddr, src: MacAddr, ethertype: EtherType) -> Vec<u8> {
    let mut header = vec![0; HEADER_BYTES];
    let repr = EthernetRepr {
        dst,
        src,
        vlans: [None; 2],
        ethertype,
    };
    repr.emit(&mut header)
        .expect("a header without tags is as long as that");
    header
}

/// A whole AoE frame: headers as given, then `data`.
#[must_use]
pub fn frame(dst: MacAddr, src: MacAddr, repr: &Repr<'_>, data: &[u8]) -> Vec<u8> {
    let mut bytes = ethernet(dst, src, EtherType::AOE);
    let start = bytes.len();
    bytes.resize(start + repr.len_bytes(), 0);
    repr.emit(&mut bytes[start..])
        .expect("the room was measured");
    bytes.extend_from_slice(data);
    bytes
}

/// Work that a thread does over and over until it is stopped.
pub struct Running {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(
        name: &str,
        mut work: impl FnMut() -> u64 + Send + 'static,
        pause: Duration,
    ) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let count = Arc::new(AtomicU64::new(0));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&count));
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                // Relaxed: a flag and a number, nothing is published by them.
                while !stopped.load(Ordering::Relaxed) {
                    counted.fetch_add(work(), Ordering::Relaxed);
                    std::thread::sleep(pause);
                }
            })?;
        Ok(Self {
            stop,
            count,
            thread: Some(thread),
        })
    }

    /// Frames sent so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && let Err(panic) = thread.join()
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }

    /// Stops it; how many frames it sent.
    #[must_use]
    pub fn stop(mut self) -> u64 {
        self.end();
        self.count()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// Starts a station that answers whatever is asked of `addr` with a MAC of its own: config queries as a target would, READs
/// with data of its own, WRITEs with an acknowledgement and no deed.
///
/// # Errors
/// The socket or the thread could not be had.
pub fn rogue(lab: &Lab, addr: TargetAddr, mac: MacAddr) -> Result<Running> {
    let mut peer = Peer::open(lab)?;
    let work = move || {
        let requests = peer.receive();
        let answers: Vec<Vec<u8>> = requests
            .iter()
            .filter_map(|request| rogue_answer(request, addr, mac))
            .collect();
        peer.send(answers.iter().map(Vec::as_slice))
    };
    Running::start("rogue", work, Duration::from_micros(50))
}

fn rogue_answer(request: &[u8], addr: TargetAddr, mac: MacAddr) -> Option<Vec<u8>> {
    let (ethernet, start) = EthernetRepr::parse(request).ok()?;
    let asked = Repr::parse(request.get(start..)?).ok()?;
    if asked.response || !asked.addr.matches(addr) {
        return None;
    }
    let mut data = Vec::new();
    let body = match asked.body {
        Body::Config(query) => Body::Config(ConfigRepr {
            buffer_count: 16,
            firmware: 0x4019,
            sectors_max: 17,
            aoe_version: 1,
            command: query.command,
            string: b"rogue",
        }),
        Body::Ata(ata) => {
            if !ata.write {
                data = vec![0; usize::from(ata.count) * 512];
                Pattern(0x00ba_dbad).fill(0, &mut data);
            }
            Body::Ata(sandrail_wire::aoe::AtaRepr {
                count: 0,
                command_status: 0x40,
                error_feature: 0,
                ..ata
            })
        }
        _ => return None,
    };
    let answer = Repr {
        response: true,
        addr,
        body,
        ..asked
    };
    Some(frame(ethernet.src, mac, &answer, &data))
}

/// What a source of noise sends, and to whom.
#[derive(Clone, Copy, Debug)]
pub struct Noise {
    /// The station that it is sent to.
    pub to: MacAddr,
    /// The target whose address some of it bears.
    pub target: MacAddr,
    /// Where that target is.
    pub addr: TargetAddr,
    /// MTU of the wire: the longest frames fill it.
    pub mtu_bytes: usize,
    /// Decides everything.
    pub seed: u64,
}

/// Starts a station that sends frames that make no sense, or none here: random bytes of all lengths, answers cut off,
/// answers too long, answers to questions that nobody asked, requests, other versions, other targets, lock frames.
///
/// # Errors
/// The socket or the thread could not be had.
pub fn noise(lab: &Lab, noise: Noise) -> Result<Running> {
    let mut peer = Peer::open(lab)?;
    let mut rng = fastrand::Rng::with_seed(noise.seed);
    let work = move || {
        let frames: Vec<Vec<u8>> = (0..16).map(|_| noise.frame(&mut rng)).collect();
        peer.send(frames.iter().map(Vec::as_slice))
    };
    Running::start("noise", work, Duration::from_micros(500))
}

impl Noise {
    fn frame(&self, rng: &mut fastrand::Rng) -> Vec<u8> {
        let mut stranger = [0; 6];
        rng.fill(&mut stranger);
        stranger[0] &= 0xfe;
        let from = if rng.bool() {
            self.target
        } else {
            MacAddr(stranger)
        };
        let longest = self.mtu_bytes + HEADER_BYTES;
        let length = rng.usize(HEADER_BYTES..=longest);
        let ethertype = if rng.u8(..16) == 0 {
            EtherType::SANDRAIL_LOCK
        } else {
            EtherType::AOE
        };
        let mut frame = ethernet(self.to, from, ethertype);
        let kind = rng.u8(..6);
        let mut body = vec![0; length - HEADER_BYTES];
        rng.fill(&mut body);
        if kind > 0 {
            // The beginning of an answer of that target's, with the rest random: data, cut off or too long.
            let mut head = [0x18, 0, 0, 0, self.addr.slot, rng.u8(..4), 0, 0, 0, 0];
            head[2..4].copy_from_slice(&self.addr.shelf.to_be_bytes());
            // Tags of either shard; low ones are likely to be of commands that were.
            head[6..10].copy_from_slice(&(rng.u32(..1 << 29) & 0x100f_ffff).to_be_bytes());
            match kind {
                1 => head[0] = 0x10,
                2 => head[0] = 0x28,
                3 => head[4] = head[4].wrapping_add(1),
                4 => (head[0], head[1]) = (0x1c, rng.u8(..)),
                _ => {}
            }
            let take = head.len().min(body.len());
            body[..take].copy_from_slice(&head[..take]);
        }
        frame.append(&mut body);
        frame
    }
}
