//! Families about the production blade: sessions, copies, restarts, reservations by epoch, fair shares.

use std::time::Duration;

use sandrail_proto::aoe::initiator::{InitiatorConfig, StaleWriteRule};
use sandrail_proto::aoe::target::backing::Durability;
use sandrail_proto::aoe::target::{BladeConfig, ForceSet, SessionRule, TargetConfig};
use sandrail_wire::TargetAddr;

use crate::breach::Breach;
use crate::bytes::Mac;
use crate::disk::DiskSpec;
use crate::host::{HostSpec, ns};
use crate::load::LoadSpec;
use crate::machine::MachineSpec;
use crate::net::Rates;
use crate::puppet::{Kind, PuppetSpec, WriterSpec};
use crate::scenario::{Family, Sabotage, Scenario};
use crate::target::TargetSpec;
use crate::world::{Mishap, WorldSpec};

const MS: u64 = 1_000_000;

/// Makes scenarios of the blade's families.
pub(crate) struct Maker {
    pub(crate) family: Family,
    pub(crate) rng: fastrand::Rng,
    pub(crate) sabotage: Sabotage,
}

/// How many of whom there are.
struct Cast {
    hosts: u64,
    writers: u64,
    coordinators: u8,
    operator: bool,
    asker: bool,
}

fn puppet_mac(number: u8) -> Mac {
    [2, 0, 0, 0, 0xcc, number]
}

impl Maker {
    pub(crate) fn make(&mut self, seed: u64) -> Scenario {
        let lifetime = Duration::from_millis([20, 50, 200, 1000][self.rng.usize(..4)]);
        let mtu_bytes = if self.rng.u8(..4) == 0 { 9000 } else { 1500 };
        let cast = self.cast();
        let targets = self.targets(mtu_bytes);
        let machine = self.machine(&targets, mtu_bytes, lifetime);
        let shares = cast.hosts + cast.writers;
        let hosts = (0..cast.hosts)
            .map(|index| self.host(index as u8, shares, &targets, mtu_bytes, lifetime))
            .collect();
        let puppets = self.puppets(&cast, &targets[0], lifetime);
        let world = WorldSpec {
            seed,
            rates: self.rates(ns(lifetime)),
            targets,
            hosts,
            target_port_mtu_bytes: 9216,
            rogue: false,
            machine: Some(machine),
            puppets,
        };
        let trouble_ns = 40 * MS + self.rng.u64(..2 * ns(lifetime).max(300 * MS));
        let mishaps = self.mishaps(&world, trouble_ns, ns(lifetime));
        Scenario {
            family: self.family,
            world,
            mishaps,
            trouble_ns: trouble_ns * 2 + 4 * ns(lifetime),
            watched: false,
            spotless: false,
        }
    }

    fn cast(&mut self) -> Cast {
        match self.family {
            Family::BladeNorule => Cast {
                hosts: self.rng.u64(1..=2),
                writers: self.rng.u64(..=1),
                coordinators: 0,
                operator: false,
                asker: false,
            },
            Family::BladeFence => Cast {
                hosts: self.rng.u64(..=1),
                writers: self.rng.u64(1..=3),
                coordinators: self.rng.u8(1..=2),
                operator: false,
                asker: self.rng.bool(),
            },
            Family::BladeFair => Cast {
                hosts: 0,
                writers: 2,
                coordinators: 0,
                operator: false,
                asker: false,
            },
            _ => Cast {
                hosts: self.rng.u64(1..=3),
                writers: self.rng.u64(..=2),
                coordinators: 0,
                operator: self.rng.bool(),
                asker: self.rng.bool(),
            },
        }
    }

    fn targets(&mut self, mtu_bytes: usize) -> Vec<TargetSpec> {
        let count = if self.family == Family::Blade {
            self.rng.u8(1..=2)
        } else {
            1
        };
        let stations = self.interfaces();
        let small = matches!(self.family, Family::BladeNorule);
        let target = |(index, sectors): (u8, u64)| {
            let mut spec = TargetSpec::vblade(index, sectors);
            spec.macs = (0..stations)
                .map(|station| [2, 0, 0, 0, 0xb0, station])
                .collect();
            spec.count_max = ((mtu_bytes - 36) / 512) as u8;
            spec
        };
        let sectors: Vec<(u8, u64)> = (0..count)
            .map(|index| {
                let most = if small { 24 } else { 96 };
                (index, self.rng.u64(16..=most))
            })
            .collect();
        sectors.into_iter().map(target).collect()
    }

    fn interfaces(&mut self) -> u8 {
        match self.family {
            Family::Blade | Family::BladeNorule => self.rng.u8(1..=2),
            _ => 1,
        }
    }

    fn machine(
        &mut self,
        targets: &[TargetSpec],
        mtu_bytes: usize,
        lifetime: Duration,
    ) -> MachineSpec {
        let fair = self.family == Family::BladeFair;
        let rough = self.family == Family::Blade;
        // Requests wait, for overlapping ones or for the disk, when a SET comes.
        let waits = rough || self.family == Family::BladeFence;
        let breach = self.sabotage.breach;
        let mut disk = DiskSpec {
            durability: match self.rng.u8(..6) {
                0 => Durability::WriteThrough,
                1 => Durability::Volatile,
                _ => Durability::Flush,
            },
            operations_max: [16, 64, 256][self.rng.usize(..3)],
            time_ns: [(1_000, 0), (5_000, 50_000), (10_000, 2 * MS)][self.rng.usize(..3)],
            at_once: [0, 300, 1000][self.rng.usize(..3)],
            busy: if waits && self.rng.bool() { 50 } else { 0 },
            fails: if rough && self.rng.u8(..4) == 0 {
                20
            } else {
                0
            },
            discards: self.rng.bool(),
            stuck: breach == Breach::DiskStuck,
            mark_stuck: breach == Breach::MarkStuck,
        };
        let mut config = BladeConfig {
            buffer_count: self.rng.u16(4..=64),
            initiators_max: 16,
            duplicates_max: [256, 4096][self.rng.usize(..2)],
            frame_lifetime: lifetime,
            stash_bytes: [1 << 16, 1 << 20][self.rng.usize(..2)],
            sessions_max: [16, 64][self.rng.usize(..2)],
        };
        let mut turn_ns = [500, 2_000, 20_000][self.rng.usize(..3)];
        if fair {
            config.buffer_count = 16;
            // Both stations' shares of the disk, of the memory for copies, and of that for writes that wait.
            config.stash_bytes = 1 << 20;
            disk.operations_max = 32;
            config.duplicates_max = 1 << 15;
            disk.time_ns = (20_000, 30_000);
            disk.at_once = 0;
            turn_ns = 2_000;
            if breach == Breach::BuffersUnlimited {
                config.buffer_count = 4096;
            }
        }
        MachineSpec {
            macs: targets[0].macs.clone(),
            mtu_bytes,
            config,
            disk,
            turn_ns,
            persist_ns: [10_000, MS, 20 * MS][self.rng.usize(..3)],
            persist_fails: if fair || self.rng.bool() { 0 } else { 100 },
            target: TargetConfig {
                force_set: match self.family {
                    _ if breach == Breach::ForceAllowed => ForceSet::Allow,
                    Family::BladeFence if self.rng.bool() => ForceSet::Refuse,
                    _ => ForceSet::default(),
                },
                sessions: if self.rng.bool() {
                    SessionRule::Required
                } else {
                    SessionRule::Optional
                },
                ..TargetConfig::new(TargetAddr { shelf: 7, slot: 0 })
            },
            segments: self.rng.bool(),
            breach,
        }
    }

    fn host(
        &mut self,
        index: u8,
        shares: u64,
        targets: &[TargetSpec],
        mtu_bytes: usize,
        lifetime: Duration,
    ) -> HostSpec {
        let norule = self.family == Family::BladeNorule;
        let interfaces = self.interfaces();
        let mut spec = HostSpec::new(index, interfaces, mtu_bytes);
        spec.config = InitiatorConfig {
            requests_max: self.rng.u16(8..=64),
            commands_max: [128, 256][self.rng.usize(..2)],
            frame_lifetime: lifetime,
            rto_initial: Duration::from_millis(self.rng.u64(5..=20)),
            rto_min: Duration::from_micros([500, 5_000][self.rng.usize(..2)]),
            shard: index,
            stale_write_rule: if norule || self.sabotage.rule_off {
                StaleWriteRule::Off
            } else {
                StaleWriteRule::Enforced
            },
            ..InitiatorConfig::default()
        };
        let part = |target: &TargetSpec| {
            let share = target.sectors / shares;
            (share * u64::from(index), share.max(1))
        };
        spec.load = Some(LoadSpec {
            requests: self.rng.u32(30..=120),
            depth: self.rng.usize(1..=16),
            sectors_max: self.rng.u64(1..=24),
            write_permille: self.rng.u16(300..=800),
            flush_permille: self.rng.u16(20..=150),
            refuse_permille: 0,
            foreign_permille: 200,
            timeout_ns: if norule {
                // What was given up could come late for the first time, of which no target can know.
                (120_000 * MS, 120_000 * MS)
            } else {
                (20 * MS, 2_000 * MS)
            },
            think_ns: [0, MS, 10 * MS][self.rng.usize(..3)],
            regions: targets.iter().map(part).collect(),
            disks: targets.iter().map(|target| target.sectors).collect(),
        });
        spec.turn_ns = [500, 2_000, 50_000][self.rng.usize(..3)];
        spec.segments = self.rng.bool();
        if self.rng.bool() {
            spec.transmit_delay_ns = self.rng.u64(..200_000);
        }
        if self.rng.bool() {
            spec.report_delay_ns = self.rng.u64(..5 * MS);
        }
        spec
    }

    fn puppets(&mut self, cast: &Cast, target: &TargetSpec, lifetime: Duration) -> Vec<PuppetSpec> {
        let fair = self.family == Family::BladeFair;
        let share = (target.sectors / (cast.hosts + cast.writers)).max(1);
        let mut puppets = Vec::new();
        for writer in 0..cast.writers {
            let greedy = fair && writer == 0;
            puppets.push(PuppetSpec {
                mac: puppet_mac(writer as u8),
                kind: Kind::Writer(WriterSpec {
                    region: (share * (cast.hosts + writer), share),
                    requests: if greedy {
                        1_000
                    } else {
                        self.rng.u32(30..=150)
                    },
                    depth: match (fair, greedy) {
                        (_, true) => 160,
                        (true, _) => 4,
                        _ => self.rng.usize(1..=12),
                    },
                    sectors_max: u64::from(target.count_max.min(if fair { 1 } else { 16 })),
                    write_permille: if fair { 300 } else { self.rng.u16(400..=900) },
                    flush_permille: if fair { 0 } else { self.rng.u16(..150) },
                    session: true,
                    births: self.rng.u8(..4) != 0,
                    sleeps: self.family == Family::BladeFence && self.rng.bool(),
                    overlaps: fair,
                    keeps_on: self.family == Family::BladeFence,
                    within_ns: if fair && !greedy { MS } else { 0 },
                }),
                rto_ns: match (fair, greedy) {
                    (_, true) => 50_000,
                    (true, _) => 20 * MS,
                    _ => self.rng.u64(200_000..=10 * MS),
                },
                think_ns: if fair {
                    0
                } else {
                    [0, MS, 5 * MS][self.rng.usize(..3)]
                },
            });
        }
        let mut everybody: Vec<Mac> = puppets.iter().map(|puppet| puppet.mac).collect();
        for host in 0..cast.hosts as u8 {
            everybody.extend([[2, 0, 0, 0, host, 0xa0], [2, 0, 0, 0, host, 0xa1]]);
        }
        let slow = |rng: &mut fastrand::Rng| PuppetSpec {
            mac: [0; 6],
            kind: Kind::Asker {
                questions: 0,
                sets: false,
            },
            rto_ns: rng.u64(MS..=10 * MS),
            think_ns: ns(lifetime) / 2 + 10 * MS,
        };
        for coordinator in 0..cast.coordinators {
            puppets.push(PuppetSpec {
                mac: puppet_mac(0x40 + coordinator),
                kind: Kind::Coordinator {
                    macs: everybody.clone(),
                    sets: self.rng.u32(2..=12),
                },
                ..slow(&mut self.rng)
            });
        }
        if cast.operator {
            everybody.push(puppet_mac(0x50));
            puppets.push(PuppetSpec {
                mac: puppet_mac(0x50),
                kind: Kind::Operator {
                    macs: everybody,
                    changes: self.rng.u32(2..=8),
                },
                ..slow(&mut self.rng)
            });
        }
        if cast.asker {
            puppets.push(PuppetSpec {
                mac: puppet_mac(0x60),
                kind: Kind::Asker {
                    questions: self.rng.u32(5..=60),
                    sets: self.family == Family::BladeFence,
                },
                think_ns: 5 * MS,
                ..slow(&mut self.rng)
            });
        }
        puppets
    }

    fn rates(&mut self, lifetime_ns: u64) -> Rates {
        if self.family == Family::BladeFair {
            return Rates::CLEAN;
        }
        let share =
            |rng: &mut fastrand::Rng, most: u16| if rng.bool() { rng.u16(..most) } else { 0 };
        let jitter_ns = [0, 10_000, 200_000, 2 * MS][self.rng.usize(..4)];
        let delay_ns = self.rng.u64(2_000..50_000);
        let straggle = if self.family == Family::BladeNorule {
            self.rng.u16(1_000..12_000)
        } else {
            share(&mut self.rng, 6_000)
        };
        let most_ns = if self.sabotage.beyond_lifetime {
            6 * lifetime_ns
        } else {
            lifetime_ns
        };
        Rates {
            delay_ns,
            jitter_ns,
            loss: share(&mut self.rng, 6_000),
            duplicate: share(&mut self.rng, 1_000),
            straggle,
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
            Family::BladeFair => 0,
            _ => self.rng.usize(..6),
        };
        let mut mishaps: Vec<_> = (0..count)
            .map(|_| (self.rng.u64(..until_ns), self.mishap(world, lifetime_ns)))
            .collect();
        if self.rng.u8(..3) == 0 {
            self.sideways(world, until_ns, lifetime_ns, &mut mishaps);
        }
        mishaps.sort_by_key(|(at_ns, _)| *at_ns);
        mishaps
    }

    /// A host with two paths attaches to a new process of the blade by one of them only; it crashes, and its next life has only
    /// the other. Nobody but itself knows that both are of one host.
    fn sideways(
        &mut self,
        world: &WorldSpec,
        until_ns: u64,
        lifetime_ns: u64,
        mishaps: &mut Vec<(u64, Mishap)>,
    ) {
        let mut first_port = 0;
        let mut pairs = Vec::new();
        for (host, spec) in (0..).zip(&world.hosts) {
            if spec.interfaces.len() == 2 {
                pairs.push((host, first_port));
            }
            first_port += spec.interfaces.len() as u8;
        }
        if pairs.is_empty() {
            return;
        }
        let (host, port) = pairs[self.rng.usize(..pairs.len())];
        let swapped = self.rng.u8(..2);
        let lasts_ns = lifetime_ns.max(100 * MS);
        // Early, as long as there is much to write.
        let at_ns = self.rng.u64(..until_ns / 4);
        let stops_ns = at_ns + self.rng.u64(..20 * MS);
        let crashes_ns = stops_ns + self.rng.u64(..lasts_ns);
        let away = |port: u8, for_ns: u64| Mishap::PortDown { port, for_ns };
        let (down_ns, power) = (self.rng.u64(..10 * MS), self.rng.bool());
        mishaps.push((at_ns, away(port + swapped, crashes_ns - at_ns)));
        mishaps.push((stops_ns, Mishap::StopMachine { down_ns, power }));
        let down_ns = self.rng.u64(..5 * MS);
        mishaps.push((crashes_ns, Mishap::CrashHost { host, down_ns }));
        mishaps.push((
            crashes_ns,
            away(port + 1 - swapped, self.rng.u64(..lasts_ns)),
        ));
    }

    fn mishap(&mut self, world: &WorldSpec, lifetime_ns: u64) -> Mishap {
        let for_ns = match self.rng.u8(..4) {
            0 => self.rng.u64(..5 * MS),
            1 | 2 => self.rng.u64(..100 * MS),
            _ => self.rng.u64(..2 * lifetime_ns + 100 * MS),
        };
        let stop = Mishap::StopMachine {
            down_ns: for_ns,
            power: self.rng.bool(),
        };
        let interfaces: usize = world.hosts.iter().map(|host| host.interfaces.len()).sum();
        let ports = (interfaces + world.targets[0].macs.len() + world.puppets.len()) as u8;
        let port = self.rng.u8(..ports);
        let host = self.rng.u8(..(world.hosts.len() as u8).max(1));
        let alone = world.hosts.is_empty();
        match self.rng.u8(..10) {
            0..=3 => stop,
            4 => Mishap::PauseMachine { for_ns },
            5 => Mishap::PortDown { port, for_ns },
            6 => Mishap::Block {
                from: port,
                to: self.rng.u8(..ports),
                for_ns,
            },
            _ if alone => stop,
            7 => Mishap::PauseHost { host, for_ns },
            8 if self.family != Family::BladeFence => Mishap::StallTransmit {
                host,
                interface: 0,
                for_ns: for_ns.min(lifetime_ns / 2),
            },
            _ => Mishap::CrashHost {
                host,
                down_ns: self.rng.u64(..50 * MS),
            },
        }
    }
}
