//! From settings to a serving process, and to its end.

use std::hash::{BuildHasher, RandomState};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{Sender, SyncSender};
use std::thread::{self, JoinHandle};
use std::time::SystemTime;

use anyhow::{Context, Result, anyhow};
use sandrail_node::clock;
use sandrail_proto::aoe::target::{
    Blade, BladeConfig, InterfaceConfig, PersistentState, SessionRule, TargetConfig,
};
use sandrail_wire::TargetAddr;
use sandrail_wire::ata::IdentifyString;

use crate::control::server::{self, ControlSocket};
use crate::cores::hub::{Command, Hub};
use crate::cores::route::Homes;
use crate::cores::{Core, CoreParts, Target};
use crate::disk::ServedDisk;
use crate::drill::DrillLink;
use crate::events::{self, CoreEvent};
use crate::notify::notify;
use crate::plane::{Grips, LinkSwitch, Plane};
use crate::ports::{self, Ports};
use crate::settings::{CheckedExport, Copies, LockMemory, Settings, check};
use crate::state::StateDir;
use crate::state::keeper::{self, Job};
use crate::{os, size};

/// Everything that was told and read before anything runs.
pub(crate) struct Plan {
    settings: Settings,
    exports: Vec<CheckedExport>,
    states: Option<StateDir>,
    /// In the order of the exports.
    persistent: Vec<PersistentState>,
    seed: u64,
}

impl Plan {
    /// Checks settings, files and states. With `only_look` the folder of states may be in use, and is not made.
    pub(crate) fn new(settings: Settings, only_look: bool) -> Result<Self> {
        let exports = check(&settings)?;
        let states = match settings.state_dir.as_deref() {
            None => None,
            Some(dir) if only_look => Some(StateDir::look(dir)),
            Some(dir) => Some(StateDir::open(dir)?),
        };
        let mut chance = fastrand::Rng::with_seed(random_seed());
        let seed = settings.seed.unwrap_or_else(|| chance.u64(..));
        let mut persistent = Vec::with_capacity(exports.len());
        for checked in &exports {
            let known = match &states {
                Some(states) => states.load(checked.export.addr)?,
                None => None,
            };
            persistent.push(known.unwrap_or_else(|| PersistentState {
                // Somewhere, so that numbers of a life that nobody remembers are not likely to come again.
                session_next: chance.u16(1..),
                birth_next: births_of_nobody(),
                ..PersistentState::default()
            }));
        }
        Ok(Self {
            settings,
            exports,
            states,
            persistent,
            seed,
        })
    }

    /// What would be served, a line each.
    pub(crate) fn describe(&self) -> String {
        let mut lines = Vec::new();
        for (checked, state) in self.exports.iter().zip(&self.persistent) {
            let export = &checked.export;
            let medium = match &export.medium {
                crate::settings::Medium::Ram(bytes) => format!("memory, {}", size::show(*bytes)),
                crate::settings::Medium::File(path) => path.display().to_string(),
            };
            let reserved = match state.reserved.len() {
                0 => "not reserved".to_owned(),
                members => format!("reserved for {members}, epoch {}", state.epoch),
            };
            lines.push(format!(
                "{} on {}: {medium}, {reserved}, core {}",
                export.addr,
                self.settings.interfaces.join(", "),
                checked.home
            ));
        }
        lines.join("\n")
    }

    fn cores(&self) -> usize {
        self.settings.cores.as_ref().map_or(1, Vec::len)
    }

    /// Addresses of each core's targets, in its machine's order.
    fn targets_by_core(&self) -> Vec<Vec<TargetAddr>> {
        let of_core = |core| {
            let own = self.exports.iter().filter(move |one| one.home == core);
            own.map(|one| one.export.addr).collect()
        };
        (0..self.cores()).map(of_core).collect()
    }

    fn target_config(&self, place: usize) -> TargetConfig {
        let export = &self.exports[place].export;
        let mut config = TargetConfig::new(export.addr);
        if let Some(model) = export.model.as_deref().and_then(IdentifyString::new) {
            config.model = model;
        }
        if let Some(serial) = export.serial.as_deref().and_then(IdentifyString::new) {
            config.serial = serial;
        }
        config.read_only = export.read_only;
        config.sectors_max = export.sectors_max;
        config.force_set = export.force_set;
        if export.sessions_required {
            config.sessions = SessionRule::Required;
        }
        config.persistent = self.persistent[place].clone();
        config
    }

    fn warn(&self) {
        if self.states.is_none() {
            tracing::warn!(
                "no --state-dir: config strings, masks, reservations and their epochs are forgotten at the end of this \
                 process, and an empty reservation admits everyone"
            );
        }
    }
}

/// Another number with each start.
/// More than any birth that a target has given which forgot them: fewer lives than seconds pass.
fn births_of_nobody() -> u32 {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since_1970.map_or(1, |since| {
        u32::try_from(since.as_secs()).unwrap_or(u32::MAX / 2)
    })
}

fn random_seed() -> u64 {
    // The standard library seeds its maps from the system's randomness.
    RandomState::new().hash_one(std::process::id())
}

/// Serves until told to stop.
pub(crate) fn run(mut plan: Plan) -> Result<ExitCode> {
    plan.warn();
    // Threads inherit it, so it comes before all of them.
    os::hold_stops().context("holding back SIGTERM and SIGINT")?;
    die_with_any_serving_thread();
    let memory = lock_memory(plan.settings.lock_memory)?;
    let cores = plan.cores();
    let mut opened = ports::open(&plan.settings, cores)?;
    let mtu_bytes = opened
        .ports
        .iter()
        .map(|port| port.link.info().mtu_bytes)
        .max()
        .unwrap_or(1500);
    let owners: Vec<usize> = opened.ports.iter().map(|port| port.core).collect();
    let hub = Arc::new(Hub::new(cores, &owners, mtu_bytes).context("making event descriptors")?);
    let (keeper, keeper_thread) = match plan.states.take() {
        Some(states) => {
            let (sender, thread) =
                keeper::start(states, Arc::clone(&hub)).context("starting a thread")?;
            (Some(sender), Some(thread))
        }
        None => (None, None),
    };
    let (events, events_thread) =
        events::start(plan.targets_by_core()).context("starting a thread")?;
    let (cores, grips) = build_cores(&plan, &hub, &mut opened, Outlets { keeper, events })?;
    let socket = plan
        .settings
        .control
        .as_deref()
        .map(ControlSocket::bind)
        .transpose()?;
    let threads = start_cores(cores)?;
    let _socket = match socket {
        None => None,
        Some((socket, listener)) => {
            let plane = Plane::new(Arc::clone(&hub), grips, &opened, memory, plan.seed);
            server::start(listener, Arc::new(plane)).context("starting a thread")?;
            Some(socket)
        }
    };
    announce(&plan);
    let signal = os::wait_for_stop();
    tracing::info!(signal, "ends");
    notify("STOPPING=1");
    let others = keeper_thread.into_iter().chain([events_thread]).collect();
    end(&hub, threads, others, opened)
}

/// Locks memory if it can or must be; in words whether it is.
fn lock_memory(wanted: LockMemory) -> Result<&'static str> {
    if wanted == LockMemory::Off {
        return Ok("may be swapped out (--lock-memory off)");
    }
    match os::lock_memory() {
        Ok(()) => Ok("locked"),
        Err(error) if wanted == LockMemory::On => {
            Err(anyhow!(error).context("--lock-memory on: raise `ulimit -l` or grant CAP_IPC_LOCK"))
        }
        Err(error) => {
            tracing::info!(%error, "memory is not locked");
            Ok("may be swapped out (the system refused to lock it)")
        }
    }
}

/// A core whose thread is gone would leave its targets silent for ever; better that somebody starts the whole anew.
fn die_with_any_serving_thread() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        before(info);
        // Clients of the control socket have threads of their own, which nobody waits for.
        let thread = thread::current();
        if !thread
            .name()
            .is_some_and(|name| name.starts_with("control"))
        {
            std::process::abort();
        }
    }));
}

/// Where cores send what takes time.
struct Outlets {
    keeper: Option<Sender<Job>>,
    events: SyncSender<CoreEvent>,
}

/// Machines and loops, in the order of the cores, and the switches of all links' faults.
fn build_cores(
    plan: &Plan,
    hub: &Arc<Hub>,
    opened: &mut Ports,
    outlets: Outlets,
) -> Result<(Vec<Core>, Grips)> {
    let settings = &plan.settings;
    let interfaces: Vec<InterfaceConfig> = opened
        .ports
        .iter()
        .map(|port| InterfaceConfig {
            mac: port.link.info().mac,
            mtu_bytes: port.link.info().mtu_bytes,
            vlan: settings.vlan,
        })
        .collect();
    let mut grips = Grips::default();
    let mut links: Vec<Vec<(u8, DrillLink)>> = hub.cores.iter().map(|_| Vec::new()).collect();
    for (id, port) in (0..=u8::MAX).zip(std::mem::take(&mut opened.ports)) {
        let info = port.link.info();
        tracing::info!(
            interface = info.interface, queue = info.queue, mac = %info.mac, mtu = info.mtu_bytes, mode = info.mode,
            core = port.core, "link"
        );
        let interface = info.interface.clone();
        let link = DrillLink::new(port.link, plan.seed ^ u64::from(id) << 32);
        grips.links.push(LinkSwitch {
            interface,
            switch: link.switch(),
        });
        links[port.core].push((id, link));
    }
    let homes = Homes::new(plan.exports.iter().map(|one| (one.export.addr, one.home)));
    let copies = Copies::new(settings, os::available_memory_bytes());
    tracing::info!(
        writes = copies.entries,
        a_second = copies.rate_per_s(),
        bytes = copies.bytes(),
        "each core remembers"
    );
    let config = BladeConfig {
        duplicates_max: copies.entries,
        buffer_count: settings.buffer_count,
        initiators_max: settings.initiators_max,
        frame_lifetime: settings.frame_lifetime,
        ..BladeConfig::default()
    };
    let mut cores = Vec::new();
    for (number, links) in links.into_iter().enumerate() {
        let (targets, disks) = open_targets(plan, number)?;
        grips.disks.extend(
            disks
                .iter()
                .map(|(config, disk)| (config.addr, disk.faults())),
        );
        let seed = plan.seed.rotate_left(u32::try_from(number).unwrap_or(0));
        let blade = Blade::new(config.clone(), &interfaces, disks, seed, clock::now())
            .context("the settings do not fit together")?;
        cores.push(Core::new(CoreParts {
            hub: Arc::clone(hub),
            number,
            homes: homes.clone(),
            links,
            blade,
            copies,
            targets,
            keeper: outlets.keeper.clone(),
            events: outlets.events.clone(),
            idle: settings.idle,
            pin_to: settings.cores.as_ref().map(|cores| cores[number]),
        }));
    }
    Ok((cores, grips))
}

type OpenTargets = (Vec<Target>, Vec<(TargetConfig, ServedDisk)>);

/// Opens what one core serves.
fn open_targets(plan: &Plan, core: usize) -> Result<OpenTargets> {
    let (mut targets, mut disks) = (Vec::new(), Vec::new());
    for (place, checked) in plan
        .exports
        .iter()
        .enumerate()
        .filter(|(_, one)| one.home == core)
    {
        let export = &checked.export;
        let disk = ServedDisk::open(&plan.settings, export)?;
        tracing::info!(target = %export.addr, core, disk = disk.describe(), "target");
        targets.push(Target {
            addr: export.addr,
            read_only: export.read_only,
            persistent: plan.settings.state_dir.is_some(),
        });
        disks.push((plan.target_config(place), disk));
    }
    Ok((targets, disks))
}

fn start_cores(cores: Vec<Core>) -> Result<Vec<JoinHandle<bool>>> {
    let threads = cores.into_iter().enumerate().map(|(number, core)| {
        thread::Builder::new()
            .name(format!("core {number}"))
            .spawn(move || core.run())
            .context("starting a thread")
    });
    threads.collect()
}

/// Says that frames are answered from now on.
fn announce(plan: &Plan) {
    let targets: Vec<String> = plan
        .exports
        .iter()
        .map(|one| one.export.addr.to_string())
        .collect();
    // Whoever reads it decides when to go on; a reader that went away wants no line.
    let line = format!(
        "READY pid={} interfaces={} targets={}\n",
        std::process::id(),
        plan.settings.interfaces.join(","),
        targets.join(",")
    );
    let _ = std::io::Write::write_all(&mut std::io::stdout(), line.as_bytes());
    notify("READY=1");
}

/// Ends what is under way, flushes, and lets go of the interfaces.
fn end(
    hub: &Hub,
    threads: Vec<JoinHandle<bool>>,
    others: Vec<JoinHandle<()>>,
    opened: Ports,
) -> Result<ExitCode> {
    for core in 0..hub.cores.len() {
        while !hub.tell(core, Command::Stop) {
            thread::yield_now();
        }
    }
    let mut flushed = true;
    for thread in threads {
        flushed &= thread
            .join()
            .map_err(|_| anyhow!("a core's thread ended early"))?;
    }
    // What the cores handed them is written before they end.
    for thread in others {
        thread.join().map_err(|_| anyhow!("a thread ended early"))?;
    }
    // The links went with their cores; with the last port the steering program goes.
    drop(opened);
    Ok(if flushed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Export;

    #[test]
    fn a_plan_says_what_would_be_served() {
        let export = Export::parse("e7.3=ram:4G").unwrap();
        let plan = Plan {
            settings: Settings {
                interfaces: vec!["eth1".to_owned()],
                ..Settings::default()
            },
            exports: vec![CheckedExport { export, home: 0 }],
            states: None,
            persistent: vec![PersistentState {
                reserved: vec![sandrail_wire::MacAddr([2, 0, 0, 0, 0, 1])],
                epoch: 9,
                ..PersistentState::default()
            }],
            seed: 0,
        };
        assert_eq!(
            plan.describe(),
            "e7.3 on eth1: memory, 4 GiB, reserved for 1, epoch 9, core 0"
        );
    }
}
