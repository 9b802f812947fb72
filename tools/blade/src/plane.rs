//! The control plane: answers requests of the control socket by asking the cores.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use sandrail_disk::{Delay, FaultControl, Strikes};
use sandrail_link::fault::Direction;
use sandrail_link::xdp::XdpPort;
use sandrail_wire::TargetAddr;
use serde_json::{Value, json};

use crate::control::protocol::{DiskFault, Keep, Request, Way, failure};
use crate::control::server::Serve;
use crate::cores::hub::{Command, Hub};
use crate::cores::status::CoreStatus;
use crate::drill::{Chances, DrillSwitch};
use crate::os;
use crate::ports::Ports;

/// A core's turn takes microseconds; a machine under load may leave it without a core for a while.
const CORE_PATIENCE: Duration = Duration::from_secs(10);
/// What the process's exit status says after `crash`.
const CRASH_CODE: i32 = 9;

/// A link's faults, and whose they are.
pub(crate) struct LinkSwitch {
    pub(crate) interface: String,
    pub(crate) switch: Arc<DrillSwitch>,
}

/// What can be done to links and disks from outside their threads.
#[derive(Default)]
pub(crate) struct Grips {
    pub(crate) links: Vec<LinkSwitch>,
    pub(crate) disks: Vec<(TargetAddr, FaultControl)>,
}

/// What answers.
pub(crate) struct Plane {
    hub: Arc<Hub>,
    switches: Vec<LinkSwitch>,
    disks: Vec<(TargetAddr, FaultControl)>,
    xdp: Vec<(String, XdpPort)>,
    memory: &'static str,
    seed: u64,
    begun: Instant,
}

impl Plane {
    pub(crate) fn new(
        hub: Arc<Hub>,
        grips: Grips,
        opened: &Ports,
        memory: &'static str,
        seed: u64,
    ) -> Self {
        Self {
            hub,
            switches: grips.links,
            disks: grips.disks,
            xdp: opened.xdp.clone(),
            memory,
            seed,
            begun: Instant::now(),
        }
    }

    fn tell(&self, core: usize, command: Command) -> Result<(), String> {
        if self.hub.tell(core, command) {
            return Ok(());
        }
        Err(format!("core {core} does not keep up with commands"))
    }

    /// Asks every core, and waits for as many answers as come.
    fn ask_all<T>(
        &self,
        command: impl Fn(std::sync::mpsc::Sender<T>) -> Command,
    ) -> Result<Vec<T>, String> {
        let (sender, answers) = channel();
        for core in 0..self.hub.cores.len() {
            self.tell(core, command(sender.clone()))?;
        }
        drop(sender);
        (0..self.hub.cores.len()).map(|_| wait(&answers)).collect()
    }

    fn status(&self) -> Result<Value, String> {
        let mut cores: Vec<CoreStatus> = self.ask_all(Command::Status)?;
        cores.sort_by_key(|core| core.number);
        let steering: Vec<Value> = self.xdp.iter().map(steering).collect();
        Ok(json!({
            "ok": true,
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "uptime_s": self.begun.elapsed().as_secs_f64(),
            "memory": self.memory,
            "seed": self.seed,
            "steering": steering,
            "cores": cores,
        }))
    }

    fn fault(
        &self,
        interface: Option<&str>,
        direction: Option<Way>,
        chances: &Chances,
    ) -> Result<Value, String> {
        let chosen = |link: &&LinkSwitch| interface.is_none_or(|name| link.interface == name);
        let links: Vec<&LinkSwitch> = self.switches.iter().filter(chosen).collect();
        if links.is_empty() {
            let names: Vec<&str> = self
                .switches
                .iter()
                .map(|link| link.interface.as_str())
                .collect();
            return Err(format!("no such interface; there are {}", names.join(", ")));
        }
        let direction = direction.map(|way| match way {
            Way::Transmit => Direction::Transmit,
            Way::Receive => Direction::Receive,
        });
        let chances = chances.with_defaults();
        for link in &links {
            link.switch.set(direction, &chances);
        }
        Ok(json!({ "ok": true, "links": links.len(), "chances": chances }))
    }

    fn fault_disk(&self, target: &str, fault: DiskFault) -> Result<Value, String> {
        let addr: TargetAddr = target
            .parse()
            .map_err(|error| format!("`{target}` is {error}"))?;
        let Some((_, control)) = self.disks.iter().find(|(own, _)| *own == addr) else {
            return Err(format!("{addr} is not served here"));
        };
        match fault {
            DiskFault::Fail {
                lba,
                sectors,
                reads,
                writes,
            } => {
                let strikes = match (reads, writes) {
                    (true, true) => Strikes::Both,
                    (true, false) => Strikes::Reads,
                    (false, true) => Strikes::Writes,
                    (false, false) => return Err("neither reads nor writes would fail".to_owned()),
                };
                if sectors == 0 || !control.fail(lba..lba.saturating_add(sectors), strikes) {
                    return Err("no sectors, or too many ranges: clear them first".to_owned());
                }
            }
            DiskFault::FailFlushes {} => control.fail_flushes(true),
            DiskFault::Slow { us, jitter_us } => control.slow(Some(Delay {
                fixed: Duration::from_micros(us),
                jitter: Duration::from_micros(jitter_us),
                seed: self.seed,
            })),
            DiskFault::Hold { nth: 0 } => return Err("writes are counted from 1".to_owned()),
            DiskFault::Hold { nth } => control.hold_write(nth),
            DiskFault::Release {} => control.release(),
            DiskFault::Clear {} => {
                control.heal();
                control.fail_flushes(false);
                control.slow(None);
                control.hold_write(0);
                control.release();
            }
        }
        Ok(json!({ "ok": true }))
    }

    /// Every core stops for good, then the process ends: no answer is ever sent after the loss.
    fn crash(&self, keep: Keep) -> Value {
        let gone = self.ask_all(|reply| Command::Crash { keep, reply });
        if let Err(error) = gone {
            tracing::error!(%error, "crash");
        }
        os::end_now(CRASH_CODE)
    }
}

/// What the program on an interface counted.
fn steering((interface, port): &(String, XdpPort)) -> Value {
    match port.steer_counters() {
        Ok(counters) => json!({
            "interface": interface,
            "redirected_aoe": counters.redirected_aoe,
            "redirected_aoe_base": counters.redirected_aoe_base,
            "passed_no_socket": counters.passed_no_socket,
            "passed_tags": counters.passed_tags,
            "passed_short": counters.passed_short,
            "passed_other": counters.passed_other,
        }),
        Err(error) => json!({ "interface": interface, "error": error.to_string() }),
    }
}

fn wait<T>(answers: &Receiver<T>) -> Result<T, String> {
    answers
        .recv_timeout(CORE_PATIENCE)
        .map_err(|_| "a core does not answer".to_owned())
}

impl Serve for Plane {
    fn answer(&self, request: Request) -> Value {
        let result = match request {
            Request::Status => self.status(),
            Request::Fault {
                interface,
                direction,
                chances,
            } => self.fault(interface.as_deref(), direction, &chances),
            Request::FaultOff {} => {
                self.switches.iter().for_each(|link| link.switch.disarm());
                Ok(json!({ "ok": true, "links": self.switches.len() }))
            }
            Request::FaultDisk { target, fault } => self.fault_disk(&target, fault),
            Request::Crash { keep } => return self.crash(keep),
            Request::Refresh {} => self
                .ask_all(Command::Refresh)
                .map(|changed| json!({ "ok": true, "changed": changed.iter().sum::<usize>() })),
        };
        result.unwrap_or_else(|error| failure(&error))
    }
}
