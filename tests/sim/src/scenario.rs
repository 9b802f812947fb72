//! Families of scenarios: a name and a seed determine a system, its load, and what goes wrong in it.

use std::time::Duration;

use sandrail_proto::aoe::initiator::{InitiatorConfig, StaleWriteRule, TargetOrder};

use crate::breach::Breach;
use crate::host::{HostSpec, ns};
use crate::load::LoadSpec;
use crate::net::Rates;
use crate::target::{Fault, Flush, TargetSpec};
use crate::world::{Mishap, WorldSpec};

/// What a family is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Late copies of WRITEs on a small disk: rules S1 to S3.
    Stale,
    /// Everything there is.
    Initiator,
    /// Failures of power, restarts and flushes: rule S7.
    Flush,
    /// Several stations and interfaces, of which some fail.
    Paths,
    /// Initiators that crash and start again with the same addresses.
    Restart,
    /// Jumbo frames, and ports that do not carry them.
    Mtu,
    /// Targets that work on several frames at once.
    Parallel,
    /// Nothing goes wrong: nothing may fail.
    Calm,
    /// The production blade: everything at once.
    Blade,
    /// The production blade with initiators that do not keep S3: its sessions and its memory of copies do it alone.
    BladeNorule,
    /// Reservations by epoch from competing coordinators, and stations that write on though they are shut out.
    BladeFence,
    /// One station floods the blade.
    BladeFair,
}

impl Family {
    /// All, with their names.
    pub const ALL: [(&'static str, Self); 12] = [
        ("stale", Self::Stale),
        ("initiator", Self::Initiator),
        ("flush", Self::Flush),
        ("paths", Self::Paths),
        ("restart", Self::Restart),
        ("mtu", Self::Mtu),
        ("parallel", Self::Parallel),
        ("calm", Self::Calm),
        ("blade", Self::Blade),
        ("blade-norule", Self::BladeNorule),
        ("blade-fence", Self::BladeFence),
        ("blade-fair", Self::BladeFair),
    ];

    /// Whether it is about the production blade.
    #[must_use]
    pub const fn is_blade(self) -> bool {
        matches!(
            self,
            Self::Blade | Self::BladeNorule | Self::BladeFence | Self::BladeFair
        )
    }

    /// The family of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, family)| *family)
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(_, family)| *family == self)
            .map_or("", |(name, _)| name)
    }
}

/// A whole scenario.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Of which family.
    pub family: Family,
    /// The system.
    pub world: WorldSpec,
    /// What goes wrong, and when.
    pub mishaps: Vec<(u64, Mishap)>,
    /// All is made well after this time at the latest.
    pub trouble_ns: u64,
    /// Whether the watch judges S3; without it the oracle stands alone.
    pub watched: bool,
    /// Nothing may fail.
    pub spotless: bool,
}

/// What to change about a scenario, to show that the checkers notice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sabotage {
    /// The initiator does not keep S3.
    pub rule_off: bool,
    /// Frames live up to three times as long in the network as the initiator was told.
    pub beyond_lifetime: bool,
    /// The targets break the rules.
    pub fault: Option<Fault>,
    /// The watch on the wire looks away.
    pub unwatched: bool,
    /// The production blade breaks the rules.
    pub breach: Breach,
}

const MS: u64 = 1_000_000;

impl Scenario {
    /// The scenario of this family and seed.
    #[must_use]
    pub fn new(family: Family, seed: u64, sabotage: Sabotage) -> Self {
        let rng = fastrand::Rng::with_seed(seed ^ 0x5a4d_2ab1_0000_0000);
        if family.is_blade() {
            let mut maker = crate::served::Maker {
                family,
                rng,
                sabotage,
            };
            return maker.make(seed);
        }
        let mut maker = Maker {
            family,
            rng,
            sabotage,
        };
        maker.make(seed)
    }
}

struct Maker {
    family: Family,
    rng: fastrand::Rng,
    sabotage: Sabotage,
}

impl Maker {
    fn make(&mut self, seed: u64) -> Scenario {
        let lifetime = Duration::from_millis([50, 200, 1000, 2000][self.rng.usize(..4)]);
        let parallel = self.family == Family::Parallel
            || (self.family == Family::Initiator && self.rng.u8(..6) == 0);
        let jumbo = match self.family {
            Family::Stale => false,
            Family::Mtu => true,
            _ => self.rng.bool(),
        };
        let mtu_bytes = if jumbo { 9000 } else { 1500 };
        let targets = self.targets(mtu_bytes, parallel);
        let hosts = self.hosts(&targets, mtu_bytes, lifetime, parallel);
        // Instances that the network makes of a request are beyond anybody's knowledge. One behind the other in one
        // serial socket they do no harm; elsewhere they would.
        let several = |target: &TargetSpec| target.socket_per_mac && target.macs.len() > 1;
        let duplicates = !parallel && !targets.iter().any(several);
        let rates = self.rates(ns(lifetime), duplicates);
        let target_port_mtu_bytes = match self.family {
            Family::Mtu => [9216, 1500, 4132 + 14, 600][self.rng.usize(..4)],
            Family::Initiator if self.rng.u8(..8) == 0 => 1500,
            _ => 9216,
        };
        let rogue =
            matches!(self.family, Family::Initiator | Family::Paths) && self.rng.u8(..4) == 0;
        let mut world = WorldSpec {
            seed,
            targets,
            hosts,
            rates,
            target_port_mtu_bytes,
            rogue,
            machine: None,
            puppets: Vec::new(),
        };
        for target in &mut world.targets {
            target.fault = self.sabotage.fault.unwrap_or(target.fault);
        }
        let trouble_ns = 40 * MS + self.rng.u64(..2 * ns(lifetime).max(500 * MS));
        let mishaps = self.mishaps(&world, trouble_ns, ns(lifetime));
        Scenario {
            family: self.family,
            world,
            mishaps,
            // A load that takes longer than this is cut off.
            trouble_ns: trouble_ns * 2 + 4 * ns(lifetime),
            watched: !self.sabotage.unwatched,
            spotless: self.family == Family::Calm,
        }
    }

    fn targets(&mut self, mtu_bytes: usize, parallel: bool) -> Vec<TargetSpec> {
        let count = match self.family {
            Family::Stale | Family::Flush | Family::Restart | Family::Parallel => 1,
            _ => self.rng.u8(1..=2),
        };
        (0..count)
            .map(|index| self.target(index, mtu_bytes, parallel))
            .collect()
    }

    fn target(&mut self, index: u8, mtu_bytes: usize, parallel: bool) -> TargetSpec {
        let sectors = if self.family == Family::Stale {
            self.rng.u64(8..=32)
        } else {
            self.rng.u64(24..=128)
        };
        let mut spec = TargetSpec::vblade(index, sectors);
        // vblade's own formula, which leaves room for the Ethernet header inside the MTU.
        spec.count_max = ((mtu_bytes - 36) / 512) as u8;
        spec.buffer_count = [1, 4, 16, 16, 16, 64][self.rng.usize(..6)];
        spec.socket_frames =
            usize::from(spec.buffer_count) * self.rng.usize(1..=4) + self.rng.usize(..8);
        spec.service_ns = [
            (1_000, 0),
            (5_000, 10_000),
            (5_000, 100_000),
            (20_000, 500_000),
        ][self.rng.usize(..4)];
        if parallel {
            spec.workers = self.rng.u8(2..=8);
        }
        let stations = match self.family {
            Family::Paths | Family::Restart => self.rng.u8(1..=2),
            Family::Initiator => 1 + u8::from(self.rng.u8(..3) == 0),
            _ => 1,
        };
        for station in 1..stations {
            spec.macs.push([2, 0, 0, 0, 1 + station, index]);
        }
        // Copies of an initiator's former life may wait in the socket of a process that is stopped, and come after
        // what its successor writes through another process: one lifetime of waiting does not help there, nor
        // anything an initiator can know. Hosts crash only where a target has one socket.
        spec.socket_per_mac = self.family == Family::Paths && self.rng.bool();
        let volatile = match self.family {
            Family::Flush => true,
            Family::Initiator => self.rng.u8(..3) == 0,
            _ => false,
        };
        if volatile {
            spec.volatile_cache = true;
            spec.flush = if self.rng.u8(..5) == 0 {
                Flush::Pretends
            } else {
                Flush::Works
            };
        }
        if self.family == Family::Initiator {
            spec.sectors_most += self.rng.u64(..32);
            if self.rng.u8(..8) == 0 {
                spec.flush = Flush::Refuses;
            }
        }
        if self.family == Family::Calm {
            // Room for all that the hosts may have outstanding together.
            spec.socket_frames = 1024;
        }
        spec
    }

    fn hosts(
        &mut self,
        targets: &[TargetSpec],
        mtu_bytes: usize,
        lifetime: Duration,
        parallel: bool,
    ) -> Vec<HostSpec> {
        let count = match self.family {
            Family::Stale | Family::Restart => 1,
            Family::Initiator => self.rng.u8(1..=3),
            _ => self.rng.u8(1..=2),
        };
        let interfaces = match self.family {
            Family::Paths => self.rng.u8(1..=2),
            Family::Initiator => 1 + u8::from(self.rng.u8(..3) == 0),
            _ => 1,
        };
        let mut config = InitiatorConfig {
            requests_max: self.rng.u16(8..=64),
            commands_max: [128, 160, 256, 512][self.rng.usize(..4)],
            frame_lifetime: lifetime,
            rto_initial: Duration::from_millis(self.rng.u64(5..=20)),
            rto_min: Duration::from_millis(5),
            window_sharers: u16::from(count),
            target_order: if parallel {
                TargetOrder::Parallel
            } else {
                TargetOrder::Serial
            },
            ..InitiatorConfig::default()
        };
        if self.rng.bool() {
            config.rto_min = Duration::from_micros(500);
        }
        if self.sabotage.rule_off {
            config.stale_write_rule = StaleWriteRule::Off;
        }
        (0..count)
            .map(|index| {
                let mut spec = HostSpec::new(index, interfaces, mtu_bytes);
                spec.config = config.clone();
                spec.config.shard = index;
                spec.load = Some(self.load(targets, u64::from(index), u64::from(count), lifetime));
                self.rings(&mut spec);
                spec
            })
            .collect()
    }

    fn rings(&mut self, spec: &mut HostSpec) {
        if self.rng.bool() {
            spec.transmit_delay_ns = self.rng.u64(..200_000);
        }
        if self.rng.bool() {
            spec.report_delay_ns = self.rng.u64(..20 * MS);
        }
        spec.turn_ns = [500, 2_000, 50_000][self.rng.usize(..3)];
        spec.segments = self.rng.bool();
        if self.family == Family::Initiator && self.rng.u8(..4) == 0 {
            for interface in &mut spec.interfaces {
                interface.vlan = Some(7);
            }
        }
    }

    fn load(
        &mut self,
        targets: &[TargetSpec],
        index: u64,
        count: u64,
        lifetime: Duration,
    ) -> LoadSpec {
        let region = |target: &TargetSpec| (target.sectors * index / count, target.sectors / count);
        let requests = match self.family {
            Family::Stale => self.rng.u32(20..=80),
            _ => self.rng.u32(30..=160),
        };
        let depth = if self.rng.u8(..4) == 0 {
            1
        } else {
            self.rng.usize(1..=32)
        };
        let (patience, think_ns) = match self.family {
            Family::Calm => ((60_000 * MS, 60_000 * MS), 0),
            Family::Stale => (
                (100 * MS, 4 * ns(lifetime) + 500 * MS),
                [0, 0, MS, 20 * MS][self.rng.usize(..4)],
            ),
            _ => (
                (20 * MS, 2_000 * MS),
                [0, MS, 5 * MS, 20 * MS][self.rng.usize(..4)],
            ),
        };
        LoadSpec {
            requests,
            depth,
            sectors_max: if self.family == Family::Stale {
                self.rng.u64(1..=8)
            } else {
                self.rng.u64(1..=64)
            },
            write_permille: self.rng.u16(300..=800),
            flush_permille: match self.family {
                Family::Flush => self.rng.u16(50..=250),
                Family::Stale => 0,
                _ => self.rng.u16(..60),
            },
            refuse_permille: if self.rng.u8(..4) == 0 { 300 } else { 0 },
            foreign_permille: 300,
            timeout_ns: patience,
            think_ns,
            regions: targets.iter().map(region).collect(),
            disks: targets.iter().map(|target| target.sectors).collect(),
        }
    }

    fn rates(&mut self, lifetime_ns: u64, duplicates: bool) -> Rates {
        if self.family == Family::Calm {
            return Rates {
                jitter_ns: 2_000,
                ..Rates::CLEAN
            };
        }
        let most_ns = if self.sabotage.beyond_lifetime {
            3 * lifetime_ns
        } else {
            lifetime_ns
        };
        let jitter_ns = [0, 10_000, 200_000, 2 * MS][self.rng.usize(..4)];
        let delay_ns = self.rng.u64(2_000..50_000);
        let share =
            |rng: &mut fastrand::Rng, most: u16| if rng.bool() { rng.u16(..most) } else { 0 };
        let straggle = match self.family {
            Family::Stale => self.rng.u16(1_000..12_000),
            _ => share(&mut self.rng, 3_000),
        };
        Rates {
            delay_ns,
            jitter_ns,
            loss: share(&mut self.rng, 6_000),
            duplicate: if duplicates {
                share(&mut self.rng, 4_000)
            } else {
                0
            },
            straggle,
            // The whole way stays within the lifetime.
            straggle_ns: most_ns - delay_ns - jitter_ns,
        }
    }

    fn mishaps(
        &mut self,
        world: &WorldSpec,
        until_ns: u64,
        lifetime_ns: u64,
    ) -> Vec<(u64, Mishap)> {
        let count = match self.family {
            Family::Calm => 0,
            Family::Stale => self.rng.usize(..3),
            Family::Mtu | Family::Parallel => self.rng.usize(..4),
            _ => self.rng.usize(..8),
        };
        let mut mishaps: Vec<_> = (0..count)
            .map(|_| (self.rng.u64(..until_ns), self.mishap(world, lifetime_ns)))
            .collect();
        if self.family == Family::Restart {
            for _ in 0..self.rng.usize(1..=3) {
                let down_ns = self.rng.u64(..50 * MS);
                mishaps.push((
                    self.rng.u64(..until_ns),
                    Mishap::CrashHost { host: 0, down_ns },
                ));
            }
        }
        mishaps.sort_by_key(|(at_ns, _)| *at_ns);
        mishaps
    }

    fn mishap(&mut self, world: &WorldSpec, lifetime_ns: u64) -> Mishap {
        let host = self.rng.u8(..world.hosts.len() as u8);
        let target = self.rng.u8(..world.targets.len() as u8);
        let interfaces = world.hosts[usize::from(host)].interfaces.len() as u8;
        let stations: usize = world.targets.iter().map(|target| target.macs.len()).sum();
        let ports = (usize::from(interfaces) * world.hosts.len() + stations) as u8;
        let for_ns = match self.rng.u8(..4) {
            0 => self.rng.u64(..5 * MS),
            1 | 2 => self.rng.u64(..300 * MS),
            _ => self.rng.u64(..2 * lifetime_ns + 500 * MS),
        };
        let pause = Mishap::PauseTarget {
            target,
            queue: self.rng.u8(..2),
            for_ns,
        };
        let power = world.targets[usize::from(target)].volatile_cache && self.rng.u8(..4) != 0;
        let restart = Mishap::RestartTarget {
            target,
            down_ns: for_ns,
            power,
            advertises: self.rng.u8(..4) != 0,
        };
        let interface = self.rng.u8(..interfaces);
        let port = self.rng.u8(..ports);
        match (self.family, self.rng.u8(..12)) {
            (Family::Stale, 0..=5) | (_, 0..=2) => pause,
            (Family::Stale, _) => Mishap::StallTransmit {
                host,
                interface,
                for_ns,
            },
            (Family::Flush, _) | (_, 3) => restart,
            (_, 4) => Mishap::StallTransmit {
                host,
                interface,
                for_ns,
            },
            (_, 5) => Mishap::BlockTransmit { host, for_ns },
            (_, 6) => Mishap::PortDown { port, for_ns },
            (_, 7) => Mishap::Block {
                from: port,
                to: self.rng.u8(..ports),
                for_ns,
            },
            (_, 8) => Mishap::PauseHost { host, for_ns },
            (Family::Initiator, 9) => {
                let most = world.targets[usize::from(target)].sectors_most;
                Mishap::Resize {
                    target,
                    sectors: self.rng.u64(most / 2..=most),
                }
            }
            (Family::Initiator, 10) => Mishap::Reserve { target, for_ns },
            (Family::Initiator, 11) if self.rng.bool() => Mishap::Detach { host, target },
            (Family::Initiator | Family::Restart, 11) => Mishap::CrashHost {
                host,
                down_ns: self.rng.u64(..50 * MS),
            },
            (Family::Mtu, _) => {
                let first = ports - stations as u8;
                Mishap::Shrink {
                    port: first + self.rng.u8(..stations as u8),
                    mtu_bytes: [1500, 4132][self.rng.usize(..2)],
                }
            }
            _ => Mishap::PortDown { port, for_ns },
        }
    }
}
