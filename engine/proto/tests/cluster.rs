//! Memberships on voting areas and targets that answer at once, with a clock that the test turns.
#![allow(
    clippy::cast_possible_truncation,
    reason = "numbers of a test are small"
)]

use std::time::Duration;

use sandrail_proto::cluster::{
    AreaAnswer, Cluster, Config, ConfigError, End, Event, FrameError, Membership, NodeConfig,
    Request, RequestId, Settings, TargetAnswer, TargetKind,
};
use sandrail_proto::time::Instant;
use sandrail_wire::MacAddr;
use sandrail_wire::lock::{ClusterId, Epoch, Incarnation, NodeId, Seal};

const SECTOR: usize = 512;

fn config(node: u16, nodes: u16) -> Config {
    Config {
        cluster: ClusterId(1),
        node: NodeId(node),
        nodes: (1..=nodes)
            .map(|node| NodeConfig {
                node: NodeId(node),
                macs: vec![mac(node, 0), mac(node, 1)],
            })
            .collect(),
        areas: 3,
        targets: vec![TargetKind::Epochs],
        seal: Seal::new(crc32c::crc32c, None),
        settings: Settings::default(),
        may_have_predecessor: false,
    }
}

fn mac(node: u16, shard: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, node as u8, shard])
}

/// What a target does with the next requests to it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mood {
    Well,
    Silent,
    Refusing,
    Stale(u64),
    /// It says that a list is set, and tells another one.
    Lying,
}

struct Bed {
    now: Instant,
    nodes: Vec<Option<Cluster>>,
    areas: Vec<Vec<u8>>,
    areas_up: bool,
    list: Vec<MacAddr>,
    mood: Mood,
    /// Requests that reached the target, by node.
    asked: Vec<(u16, Request)>,
    events: Vec<(u16, Event, Instant)>,
    /// Heartbeats of these nodes are lost.
    mute: Vec<u16>,
}

impl Bed {
    fn new(count: u16, change: impl Fn(&mut Config)) -> Self {
        let now = Instant::from_nanos(1_000_000_000);
        let nodes = (1..=count).map(|node| {
            let mut config = config(node, count);
            change(&mut config);
            Some(Cluster::new(config, Incarnation(1), u64::from(node), now).unwrap())
        });
        Self {
            now,
            nodes: nodes.collect(),
            areas: vec![vec![0; usize::from(count + 1) * 64 * SECTOR]; 3],
            areas_up: true,
            list: Vec::new(),
            mood: Mood::Well,
            asked: Vec::new(),
            events: Vec::new(),
            mute: Vec::new(),
        }
    }

    fn node(&self, node: u16) -> &Cluster {
        self.nodes[usize::from(node) - 1].as_ref().expect("alive")
    }

    /// Lets so many milliseconds pass.
    fn pass(&mut self, millis: u64) {
        for _ in 0..millis {
            self.now = self.now + Duration::from_millis(1);
            for at in 0..self.nodes.len() {
                let Some(mut machine) = self.nodes[at].take() else {
                    continue;
                };
                if machine.poll_timeout().is_some_and(|due| due <= self.now) {
                    machine.handle_timeout(self.now);
                }
                self.serve(at, &mut machine);
                self.nodes[at] = Some(machine);
            }
        }
    }

    fn serve(&mut self, at: usize, machine: &mut Cluster) {
        let me = at as u16 + 1;
        loop {
            let mut frame = [0; 300];
            while let Some(len) = machine.poll_transmit(&mut frame) {
                if self.mute.contains(&me) {
                    continue;
                }
                for other in self.nodes.iter_mut().flatten() {
                    other.handle_frame(self.now, &frame[..len]).unwrap();
                }
            }
            let Some((id, request)) = machine.poll_request() else {
                break;
            };
            self.answer(me, machine, id, request);
        }
        while let Some(event) = machine.poll_event() {
            self.events.push((me, event, self.now));
        }
    }

    fn answer(&mut self, me: u16, machine: &mut Cluster, id: RequestId, request: Request) {
        match &request {
            Request::Write {
                area,
                sector,
                bytes,
            } if self.areas_up => {
                let at = *sector as usize * SECTOR;
                self.areas[*area][at..at + SECTOR].copy_from_slice(&bytes[..]);
                machine.handle_area(self.now, id, AreaAnswer::Written);
            }
            Request::Read { area, first, count } if self.areas_up => {
                let at = *first as usize * SECTOR;
                let bytes = self.areas[*area][at..at + *count as usize * SECTOR].to_vec();
                machine.handle_area(self.now, id, AreaAnswer::Read(&bytes));
            }
            Request::Write { .. } | Request::Read { .. } => {}
            _ => {
                self.asked.push((me, request.clone()));
                let answer = match (self.mood, &request) {
                    (Mood::Silent, _) => TargetAnswer::Failed,
                    (Mood::Refusing, Request::Reserve { .. }) => TargetAnswer::Reserved,
                    (Mood::Stale(epoch), Request::Reserve { .. }) => {
                        TargetAnswer::StaleEpoch(Epoch(epoch))
                    }
                    (Mood::Lying, Request::Reserve { macs, .. }) => TargetAnswer::List(macs),
                    (_, Request::Reserve { macs, .. }) => {
                        self.list.clone_from(macs);
                        TargetAnswer::List(&self.list)
                    }
                    (_, Request::Probe { .. }) => TargetAnswer::Answered,
                    _ => TargetAnswer::List(&self.list),
                };
                machine.handle_target(self.now, id, answer);
            }
        }
    }

    fn is_together(&self, epochs: &[u16]) -> bool {
        let members = |node: &u16| {
            let members = self.node(*node).view().members;
            members
                .as_slice()
                .iter()
                .map(|life| life.node.0)
                .collect::<Vec<_>>()
        };
        epochs
            .iter()
            .all(|node| members(node) == epochs && self.node(*node).lease_valid(self.now))
    }

    fn until_together(&mut self, nodes: &[u16]) {
        for _ in 0..1000 {
            if self.is_together(nodes) && nodes.iter().all(|node| self.node(*node).is_usable(0)) {
                return;
            }
            self.pass(10);
        }
        panic!("{nodes:?} do not come together: {:?}", self.events);
    }

    fn saw(&self, node: u16, event: Event) -> bool {
        self.events
            .iter()
            .any(|(by, told, _)| (*by, *told) == (node, event))
    }
}

#[test]
fn nodes_come_together_and_all_of_their_macs_are_listed() {
    let mut bed = Bed::new(3, |_| ());
    bed.until_together(&[1, 2, 3]);
    let expected: Vec<_> = (1..=3)
        .flat_map(|node| [mac(node, 0), mac(node, 1)])
        .collect();
    assert_eq!(bed.list, expected);
    let views: Vec<_> = (1..=3).map(|node| *bed.node(node).view()).collect();
    assert!(views.iter().all(|view| *view == views[0]), "{views:?}");
}

#[test]
fn one_of_two_goes_on_alone_when_the_other_is_dead_and_waits_for_its_lease() {
    let mut bed = Bed::new(2, |_| ());
    bed.until_together(&[1, 2]);
    for coordinator in [true, false] {
        let mut bed = Bed::new(2, |_| ());
        bed.until_together(&[1, 2]);
        let first = bed.node(1).view().coordinator.0;
        let dead = if coordinator { first } else { 3 - first };
        let alive = 3 - dead;
        let life = bed.node(dead).life();
        bed.nodes[usize::from(dead) - 1] = None;
        let died_at = bed.now;
        bed.until_together(&[alive]);
        assert!(
            !bed.list.contains(&mac(dead, 0)),
            "the dead node is still let in"
        );
        let epoch = bed.node(alive).view().epoch;
        assert!(bed.saw(alive, Event::RecoveryMayBegin { epoch }));
        let decided_at = bed
            .events
            .iter()
            .find_map(|(_, event, at)| {
                matches!(event, Event::View(view) if view.epoch == epoch).then_some(*at)
            })
            .expect("told");
        let granted_at = loop {
            if bed.node(alive).may_grant_over(life, bed.now) {
                break bed.now;
            }
            assert!(
                bed.now < decided_at + Duration::from_secs(2),
                "never granted"
            );
            bed.pass(1);
        };
        let waited = granted_at.saturating_since(decided_at);
        assert!(
            waited > Settings::default().lease,
            "granted after {waited:?}, over a lease that may be valid"
        );
        let took = decided_at.saturating_since(died_at);
        assert!(took < Duration::from_millis(400), "decided after {took:?}");
    }
}

#[test]
fn a_node_that_is_only_muted_is_told_from_a_dead_one() {
    let mut bed = Bed::new(2, |_| ());
    bed.until_together(&[1, 2]);
    let coordinator = bed.node(1).view().coordinator.0;
    let other = 3 - coordinator;
    bed.mute.push(other);
    bed.pass(260);
    let node = NodeId(other);
    assert!(bed.saw(coordinator, Event::Suspected { node, is_cut: true }));
    bed.mute.clear();
    bed.pass(100);
    assert!(bed.saw(coordinator, Event::Cleared { node }));
    assert!(
        bed.is_together(&[1, 2]),
        "a false suspicion must not cost a member its place"
    );
    assert_eq!(bed.node(coordinator).stat().false_suspicions, 1);
}

#[test]
fn a_lease_ends_without_the_voting_areas() {
    let mut bed = Bed::new(1, |_| ());
    bed.until_together(&[1]);
    bed.areas_up = false;
    bed.pass(240);
    assert!(
        bed.node(1).lease_valid(bed.now),
        "it was renewed just before"
    );
    bed.pass(70);
    assert!(!bed.node(1).lease_valid(bed.now));
    bed.areas_up = true;
    bed.pass(700);
    assert!(
        bed.node(1).lease_valid(bed.now),
        "it is renewed when they are back"
    );
}

#[test]
fn a_node_that_was_away_blames_itself() {
    let mut bed = Bed::new(2, |_| ());
    bed.until_together(&[1, 2]);
    let before = bed.events.len();
    let paused = bed.nodes[1].take();
    let muted = bed.nodes[0].take();
    bed.now = bed.now + Duration::from_secs(3);
    bed.nodes = vec![muted, paused];
    bed.pass(400);
    assert!(bed.is_together(&[1, 2]));
    let suspected = bed.events[before..]
        .iter()
        .any(|(_, event, _)| matches!(event, Event::Suspected { .. } | Event::View(_)));
    assert!(!suspected, "{:?}", &bed.events[before..]);
}

#[test]
fn a_target_that_says_yes_and_does_nothing_is_not_fenced() {
    let mut bed = Bed::new(1, |_| ());
    bed.mood = Mood::Lying;
    bed.pass(5000);
    assert!(bed.node(1).is_member() && !bed.node(1).is_usable(0));
    let began = |bed: &Bed| {
        bed.events
            .iter()
            .any(|(_, event, _)| matches!(event, Event::RecoveryMayBegin { .. }))
    };
    assert!(!began(&bed), "nothing was fenced");
    assert!(bed.node(1).stat().lists_differed > 10);
    bed.mood = Mood::Well;
    bed.pass(500);
    assert!(began(&bed) && bed.node(1).is_usable(0));
}

#[test]
fn a_foreign_target_is_fenced_after_a_lifetime_a_probe_and_another_look() {
    let mut bed = Bed::new(1, |config| config.targets = vec![TargetKind::Foreign]);
    bed.until_together(&[1]);
    let kinds: Vec<_> = bed
        .asked
        .iter()
        .map(|(_, request)| match request {
            Request::Reserve { by_epoch, .. } => format!("set {by_epoch}"),
            Request::List { .. } => "list".into(),
            Request::Probe { .. } => "probe".into(),
            other => format!("{other:?}"),
        })
        .collect();
    assert_eq!(kinds, ["set false", "list", "probe", "list"]);
    let at = |wanted: fn(&Event) -> bool| {
        bed.events
            .iter()
            .find(|(_, event, _)| wanted(event))
            .expect("told")
            .2
    };
    let waited = at(|event| matches!(event, Event::TargetFenced { .. }))
        .saturating_since(at(|event| matches!(event, Event::View(_))));
    assert!(waited >= Settings::default().frame_lifetime, "{waited:?}");
    // It forgets, and is told again.
    bed.list.clear();
    bed.pass(1200);
    assert!(bed.saw(1, Event::TargetForgot { target: 0 }));
    assert_eq!(bed.list, [mac(1, 0), mac(1, 1)]);
}

#[test]
fn a_silent_target_is_offline_and_holds_nobody_up_that_has_another() {
    let mut bed = Bed::new(1, |_| ());
    bed.mood = Mood::Silent;
    bed.pass(4500);
    let epoch = bed.node(1).view().epoch;
    assert!(bed.saw(1, Event::TargetOffline { epoch, target: 0 }));
    assert!(
        !bed.saw(1, Event::RecoveryMayBegin { epoch }),
        "who fenced nothing is cut off itself"
    );
    bed.mood = Mood::Well;
    bed.pass(300);
    assert!(bed.saw(1, Event::TargetFenced { epoch, target: 0 }));
    assert!(bed.node(1).is_usable(0));
}

#[test]
fn the_loser_of_a_race_stops_itself() {
    let mut bed = Bed::new(1, |_| ());
    bed.mood = Mood::Stale(99);
    bed.pass(1500);
    assert_eq!(bed.node(1).end(), Some(End::Fenced));
    assert!(!bed.node(1).lease_valid(bed.now));
    // Refused by a target that was never ours, it waits for an operator; by one that was, it has lost.
    let mut bed = Bed::new(1, |config| config.targets = vec![TargetKind::Foreign]);
    bed.mood = Mood::Refusing;
    bed.pass(2000);
    assert!(bed.saw(1, Event::TargetHeld { target: 0 }));
    assert_eq!(bed.node(1).end(), None);
    bed.mood = Mood::Well;
    bed.until_together(&[1]);
    bed.mood = Mood::Refusing;
    bed.list = vec![mac(9, 0)];
    bed.pass(1500);
    assert_eq!(bed.node(1).end(), Some(End::Fenced));
}

#[test]
fn who_leaves_is_told_when_it_is_out() {
    let mut bed = Bed::new(2, |_| ());
    bed.until_together(&[1, 2]);
    let now = bed.now;
    bed.nodes[0].as_mut().unwrap().leave(now);
    bed.until_together(&[2]);
    assert!(bed.saw(1, Event::Over(End::Left)));
    bed.nodes[1].as_mut().unwrap().leave(now);
    bed.pass(1);
    assert!(
        bed.saw(2, Event::Over(End::Left)),
        "the last one has nobody to wait for"
    );
}

#[test]
fn an_incarnation_that_is_not_new_is_refused() {
    let mut bed = Bed::new(2, |_| ());
    bed.until_together(&[1, 2]);
    let again = Cluster::new(config(2, 2), Incarnation(1), 7, bed.now).unwrap();
    bed.nodes[1] = Some(again);
    bed.pass(100);
    assert!(bed.saw(2, Event::Over(End::AnotherLife)));
    // A new one is let in once the old one is out.
    bed.nodes[1] = Some(Cluster::new(config(2, 2), Incarnation(2), 7, bed.now).unwrap());
    bed.until_together(&[1, 2]);
    assert_eq!(
        bed.node(1)
            .view()
            .members
            .of(NodeId(2))
            .unwrap()
            .incarnation,
        Incarnation(2)
    );
}

#[test]
fn damaged_blocks_are_counted_and_not_believed() {
    let mut bed = Bed::new(2, |_| ());
    bed.until_together(&[1, 2]);
    for area in &mut bed.areas {
        // The part of a node that is not there any more, all of it damaged.
        for sector in area[2 * 64 * SECTOR..].chunks_mut(SECTOR) {
            sector[400] ^= 1;
            sector[40..48].fill(0xff);
        }
    }
    bed.pass(120);
    assert!(bed.node(1).stat().blocks_unreadable > 0);
    assert!(bed.is_together(&[1, 2]));
}

#[test]
fn frames_that_are_not_for_us_are_counted_by_reason() {
    let mut bed = Bed::new(1, |_| ());
    let mut stranger = {
        let mut config = config(2, 2);
        config.cluster = ClusterId(2);
        Cluster::new(config, Incarnation(1), 3, bed.now).unwrap()
    };
    let machine = bed.nodes[0].as_mut().unwrap();
    assert!(matches!(
        machine.handle_frame(bed.now, b"SH"),
        Err(FrameError::Codec(_))
    ));
    assert_eq!(machine.stat().frames_unreadable, 1);
    // The stranger speaks once it has read its areas.
    stranger.handle_timeout(bed.now);
    while let Some((id, request)) = stranger.poll_request() {
        if let Request::Read { count, .. } = request {
            stranger.handle_area(
                bed.now,
                id,
                AreaAnswer::Read(&vec![0; count as usize * SECTOR]),
            );
        }
    }
    bed.now = bed.now + Duration::from_millis(20);
    stranger.handle_timeout(bed.now);
    let mut frame = [0; 300];
    let len = stranger.poll_transmit(&mut frame).expect("a heartbeat");
    assert_eq!(
        machine.handle_frame(bed.now, &frame[..len]),
        Err(FrameError::OtherCluster)
    );
    assert_eq!(machine.stat().frames_foreign, 1);
}

/// A way to spoil a configuration, and what must be said of it.
type Lie = (fn(&mut Config), ConfigError);

#[test]
fn configurations_that_lie_are_refused() {
    let lies: [Lie; 11] = [
        (
            |config| config.node = NodeId(9),
            ConfigError::NotListed(NodeId(9)),
        ),
        (
            |config| config.nodes[1].node = NodeId(1),
            ConfigError::NodeTwice(NodeId(1)),
        ),
        (
            |config| config.nodes[1].node = NodeId(64),
            ConfigError::NodeNumber(NodeId(64)),
        ),
        (
            |config| config.nodes[1].macs[0] = mac(1, 1),
            ConfigError::MacTwice(mac(1, 1)),
        ),
        (
            |config| config.nodes[0].macs.clear(),
            ConfigError::NoMac(NodeId(1)),
        ),
        (|config| config.areas = 2, ConfigError::Areas(2)),
        (|config| config.areas = 0, ConfigError::Areas(0)),
        (|config| config.targets.clear(), ConfigError::Targets(0)),
        (|config| config.settings.missed_max = 1, ConfigError::Missed),
        (
            |config| config.settings.sectors_per_node = 50,
            ConfigError::Rotation,
        ),
        (
            |config| config.settings.lease = Duration::from_millis(100),
            ConfigError::Lease,
        ),
    ];
    assert_eq!(config(1, 2).check(), Ok(()));
    for (lie, error) in lies {
        let mut config = config(1, 2);
        lie(&mut config);
        assert_eq!(config.check(), Err(error));
    }
}
