use core::time::Duration;

use sandrail_wire::lock::{
    ClusterId, Endpoint, FrameWriter, LOCK_HEADER_BYTES, LockFeatures, LockHeader, MacKey, Sequence,
};

use super::*;

const KEY: MacKey = MacKey([3; 16]);
const NEAR: Peer = peer(1);
const FAR: Peer = peer(2);

const fn peer(node: u16) -> Peer {
    Peer {
        node: NodeId(node),
        core: CoreId(0),
    }
}

const fn micros(us: u64) -> Duration {
    Duration::from_micros(us)
}

fn start() -> Instant {
    Instant::from_nanos(1_000_000_000)
}

fn config(own: Peer, incarnation: u64) -> TransportConfig {
    let mut config =
        TransportConfig::new(ClusterId(1), own.node, own.core, Incarnation(incarnation));
    config.channels_max = 4;
    config.window_slots = 64;
    config
}

fn transport(config: TransportConfig, other: Peer, now: Instant) -> (Transport, ChannelId) {
    let mut transport = Transport::new(config, Epoch(5)).expect("sound");
    let channel = transport.add_peer(now, other).expect("room");
    (transport, channel)
}

/// All frames that are to be sent now.
fn frames(transport: &mut Transport, now: Instant) -> Vec<Vec<u8>> {
    let mut out = [0; 4000];
    let mut frames = Vec::new();
    while let Some(sent) = transport.poll_transmit(now, &mut out) {
        frames.push(out[..sent.len_bytes].to_vec());
    }
    frames
}

fn feed(transport: &mut Transport, now: Instant, frames: &[Vec<u8>]) {
    for frame in frames {
        transport.handle_frame(now, frame);
    }
}

fn events(transport: &mut Transport) -> Vec<TransportEvent> {
    core::iter::from_fn(|| transport.poll_event()).collect()
}

/// The first bytes of all records that came.
fn fetch(transport: &mut Transport) -> Vec<u8> {
    core::iter::from_fn(|| transport.poll_message().map(|received| received.record[0])).collect()
}

/// Two ends that know each other, with nothing under way.
struct Pair {
    near: Transport,
    far: Transport,
    to_far: ChannelId,
    to_near: ChannelId,
    now: Instant,
}

impl Pair {
    fn new(change: impl Fn(&mut TransportConfig)) -> Self {
        let mut configs = [config(NEAR, 10), config(FAR, 20)];
        configs.iter_mut().for_each(change);
        let [near, far] = configs;
        let now = start();
        let (near, to_far) = transport(near, FAR, now);
        let (far, to_near) = transport(far, NEAR, now);
        let mut pair = Self {
            near,
            far,
            to_far,
            to_near,
            now,
        };
        pair.exchange();
        assert!(pair.near.info(to_far).is_some_and(|info| info.is_open));
        assert!(pair.far.info(to_near).is_some_and(|info| info.is_open));
        events(&mut pair.near);
        events(&mut pair.far);
        pair
    }

    /// Frames go back and forth in no time until there are none.
    fn exchange(&mut self) {
        for _ in 0..20 {
            let there = frames(&mut self.near, self.now);
            feed(&mut self.far, self.now, &there);
            let back = frames(&mut self.far, self.now);
            feed(&mut self.near, self.now, &back);
            if there.is_empty() && back.is_empty() {
                return;
            }
        }
        panic!("frames without end");
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.near.handle_timeout(self.now);
        self.far.handle_timeout(self.now);
    }

    fn send(&mut self, first: u8) {
        self.near
            .send(self.now, self.to_far, &[first; 64])
            .expect("room");
    }
}

#[test]
fn ends_meet_and_carry_records_both_ways() {
    let mut pair = Pair::new(|_| {});
    let now = pair.now;
    pair.near.send(now, pair.to_far, &[1; 64]).expect("room");
    pair.near.send(now, pair.to_far, &[2; 128]).expect("room");
    pair.far.send(now, pair.to_near, &[3; 64]).expect("room");
    pair.exchange();
    let first = pair.far.poll_message().expect("the first");
    assert_eq!((first.record, first.peer), (&[1; 64][..], NEAR));
    assert_eq!(first.incarnation, Incarnation(10));
    let second = pair.far.poll_message().expect("the second");
    assert_eq!(second.record, [2; 128]);
    assert_eq!(fetch(&mut pair.far), []);
    assert_eq!(fetch(&mut pair.near), [3]);
    for length in [0, 63, 65, 192] {
        let sent = pair.near.send(now, pair.to_far, &vec![0; length]);
        assert_eq!(sent, Err(SendError::Length(length)));
    }
}

#[test]
fn records_of_one_turn_share_a_frame_and_no_turn_waits() {
    let mut pair = Pair::new(|_| {});
    for record in 0..22 {
        pair.send(record);
    }
    let sent = frames(&mut pair.near, pair.now);
    assert_eq!(sent.len(), 1, "22 slots fit 1500 bytes");
    assert!(sent[0].len() <= 1500 && sent[0].len() > 1400);
    pair.send(22);
    let next = frames(&mut pair.near, pair.now);
    assert_eq!(next.len(), 1, "a later turn's record does not wait");
    assert_eq!(next[0].len(), LOCK_HEADER_BYTES + 64 + 4);
}

#[test]
fn an_acknowledgement_waits_for_a_record_but_not_long() {
    let mut pair = Pair::new(|_| {});
    pair.send(1);
    let asked = frames(&mut pair.near, pair.now);
    feed(&mut pair.far, pair.now, &asked);
    assert!(frames(&mut pair.far, pair.now).is_empty(), "it waits");
    assert_eq!(pair.far.poll_timeout(), Some(pair.now + micros(20)));
    pair.far
        .send(pair.now, pair.to_near, &[2; 64])
        .expect("room");
    let answered = frames(&mut pair.far, pair.now);
    assert_eq!(answered.len(), 1, "it travels with the answer");
    feed(&mut pair.near, pair.now, &answered);
    assert_eq!(fetch(&mut pair.near), [2]);
    // The answer's own acknowledgement has no company.
    pair.pass(micros(20));
    let bare = frames(&mut pair.near, pair.now);
    assert_eq!((bare.len(), bare[0].len()), (1, LOCK_HEADER_BYTES + 4));
    feed(&mut pair.far, pair.now, &bare);
    pair.pass(Duration::from_millis(100));
    assert!(frames(&mut pair.near, pair.now).is_empty());
    assert!(frames(&mut pair.far, pair.now).is_empty());
    assert_eq!(
        pair.near.counters().tx_again + pair.far.counters().tx_again,
        0
    );
}

#[test]
fn what_is_lost_is_sent_again_ever_more_rarely() {
    let mut pair = Pair::new(|_| {});
    for record in 0..40 {
        pair.send(record);
        pair.exchange();
        fetch(&mut pair.far);
        pair.pass(micros(20));
        pair.exchange();
    }
    pair.send(99);
    let mut sent_at = Vec::new();
    for _ in 0..6000 {
        if !frames(&mut pair.near, pair.now).is_empty() {
            sent_at.push(pair.now);
        }
        pair.pass(micros(5));
    }
    let gaps: Vec<_> = sent_at
        .windows(2)
        .map(|two| two[1].saturating_since(two[0]).as_micros())
        .collect();
    // Round trips of 20 us and less (the acknowledgement's delay) make the shortest wait but one.
    assert!(gaps[0] >= 50 && gaps[0] <= 90, "{gaps:?}");
    for two in gaps.windows(2) {
        let (first, second) = (two[0], two[1]);
        let doubled = second.abs_diff(2 * first) <= 10;
        assert!(doubled || second.abs_diff(20_000) <= 5, "{gaps:?}");
    }
    assert!(
        pair.near.counters().timeouts >= 7,
        "{:?}",
        pair.near.counters()
    );
    pair.exchange();
    pair.pass(Duration::from_millis(20));
    pair.exchange();
    assert_eq!(fetch(&mut pair.far), [99]);
}

#[test]
fn a_hole_is_filled_without_waiting_and_nothing_else_is_sent_again() {
    let mut pair = Pair::new(|_| {});
    let mut sent = Vec::new();
    for record in 0..6 {
        pair.send(record);
        sent.extend(frames(&mut pair.near, pair.now));
        pair.now = pair.now + micros(1);
    }
    sent.remove(1);
    feed(&mut pair.far, pair.now, &sent);
    assert_eq!(fetch(&mut pair.far), [0]);
    let told = frames(&mut pair.far, pair.now);
    assert_eq!(told.len(), 1, "a hole is told at once");
    feed(&mut pair.near, pair.now, &told);
    let again = frames(&mut pair.near, pair.now);
    assert_eq!(again.len(), 1);
    feed(&mut pair.far, pair.now, &again);
    assert_eq!(fetch(&mut pair.far), [1, 2, 3, 4, 5]);
    let counters = pair.near.counters();
    assert_eq!(
        (counters.tx_again, counters.slots_lost, counters.timeouts),
        (1, 1, 0)
    );
    assert_eq!(pair.far.counters().rx_duplicates, 0);
}

#[test]
fn without_credits_the_sender_waits_and_is_told_when_to_go_on() {
    let mut pair = Pair::new(|_| {});
    for record in 0..64 {
        pair.send(record);
    }
    let full = pair.near.send(pair.now, pair.to_far, &[64; 64]);
    assert_eq!(full, Err(SendError::Wait));
    pair.exchange();
    pair.pass(micros(20));
    pair.exchange();
    // All has arrived, and nobody fetches it.
    assert_eq!(
        pair.near.info(pair.to_far).map(|info| info.room_slots),
        Some(0)
    );
    assert_eq!(events(&mut pair.near), []);
    for _ in 0..3 {
        pair.far.poll_message().expect("one of 64");
    }
    let granted = frames(&mut pair.far, pair.now);
    assert_eq!(granted.len(), 1);
    // The word of it is lost. The sender asks.
    let mut asked = 0;
    for _ in 0..200 {
        pair.pass(micros(50));
        asked += frames(&mut pair.near, pair.now).len();
    }
    assert!((2..=8).contains(&asked), "{asked} questions in 10 ms");
    pair.pass(Duration::from_millis(20));
    pair.exchange();
    let channel = pair.to_far;
    assert_eq!(
        events(&mut pair.near),
        [TransportEvent::Writable { channel }]
    );
    for record in [64, 65, 66] {
        pair.send(record);
    }
    assert_eq!(
        pair.near.send(pair.now, channel, &[67; 64]),
        Err(SendError::Wait)
    );
    assert_eq!(pair.near.counters().waits, 2);
    pair.exchange();
    let expected: Vec<u8> = (3..67).collect();
    assert_eq!(fetch(&mut pair.far), expected);
    // A peer that had to wait is told at once.
    pair.exchange();
    assert_eq!(
        events(&mut pair.near),
        [TransportEvent::Writable { channel }]
    );
}

#[test]
fn the_smaller_window_counts() {
    let mut pair = Pair::new(|config| {
        if config.node == FAR.node {
            config.window_slots = 256;
        }
    });
    let (now, to_far, to_near) = (pair.now, pair.to_far, pair.to_near);
    let taken = |end: &mut Transport, channel| {
        let fits = |record: &u8| end.send(now, channel, &[*record; 64]).is_ok();
        (0..=u8::MAX).take_while(fits).count()
    };
    assert_eq!(taken(&mut pair.near, to_far), 64, "what it can keep");
    assert_eq!(taken(&mut pair.far, to_near), 64, "what the other can keep");
    pair.exchange();
    events(&mut pair.near);
    events(&mut pair.far);
    let all: Vec<u8> = (0..64).collect();
    assert_eq!(
        (fetch(&mut pair.near), fetch(&mut pair.far)),
        (all.clone(), all)
    );
}

#[test]
fn a_new_life_ends_the_channel() {
    let mut pair = Pair::new(|_| {});
    pair.send(1);
    let late = frames(&mut pair.near, pair.now);
    pair.far
        .send(pair.now, pair.to_near, &[2; 64])
        .expect("room");
    // The far end dies and comes back.
    let (far, to_near) = transport(config(FAR, 21), NEAR, pair.now);
    let old_life = frames(&mut pair.far, pair.now);
    pair.far = far;
    pair.to_near = to_near;
    pair.exchange();
    events(&mut pair.far);
    pair.far.send(pair.now, to_near, &[4; 64]).expect("room");
    pair.exchange();
    let channel = pair.to_far;
    let (old, new) = (Incarnation(20), Incarnation(21));
    assert!(pair.near.poll_message().is_none(), "events go first");
    assert_eq!(
        events(&mut pair.near),
        [
            TransportEvent::Restarted { channel, old, new },
            TransportEvent::Opened {
                channel,
                incarnation: new
            }
        ]
    );
    assert_eq!(pair.near.counters().restarts, 1);
    // What was said to and by the old life is not heard.
    feed(&mut pair.far, pair.now, &late);
    assert_eq!(pair.far.counters().refused(FrameRefusal::OtherLife), 1);
    feed(&mut pair.near, pair.now, &old_life);
    assert_eq!(
        pair.near.counters().refused(FrameRefusal::OldIncarnation),
        1
    );
    assert_eq!(
        (fetch(&mut pair.near), fetch(&mut pair.far)),
        (vec![4], vec![])
    );
    pair.send(3);
    pair.exchange();
    assert_eq!(fetch(&mut pair.far), [3]);
}

#[test]
fn ends_that_know_only_old_lives_of_each_other_still_meet() {
    let mut pair = Pair::new(|_| {});
    let old_near = frames_of_life(10);
    let old_far = {
        let (mut far, _) = transport(config(FAR, 20), NEAR, pair.now);
        frames(&mut far, pair.now)
    };
    let (near, to_far) = transport(config(NEAR, 11), FAR, pair.now);
    let (far, to_near) = transport(config(FAR, 21), NEAR, pair.now);
    (pair.near, pair.to_far, pair.far, pair.to_near) = (near, to_far, far, to_near);
    // Late greetings of lives that are over come first.
    feed(&mut pair.near, pair.now, &old_far);
    feed(&mut pair.far, pair.now, &old_near);
    pair.exchange();
    for _ in 0..3 {
        pair.pass(Duration::from_millis(1));
        pair.exchange();
    }
    let lives = [
        pair.near.info(pair.to_far).expect("known"),
        pair.far.info(pair.to_near).expect("known"),
    ];
    assert!(lives.iter().all(|info| info.is_open), "{lives:?}");
    assert_eq!(lives.map(|info| info.incarnation.0), [21, 11]);
}

/// The greeting of the near end in another life.
fn frames_of_life(incarnation: u64) -> Vec<Vec<u8>> {
    let (mut near, _) = transport(config(NEAR, incarnation), FAR, start());
    frames(&mut near, start())
}

#[test]
fn a_removed_peer_is_met_again_in_a_new_life_only() {
    let mut pair = Pair::new(|_| {});
    pair.far
        .send(pair.now, pair.to_near, &[1; 64])
        .expect("room");
    let late = frames(&mut pair.far, pair.now);
    pair.near.remove_peer(pair.to_far);
    feed(&mut pair.near, pair.now, &late);
    assert_eq!(pair.near.counters().refused(FrameRefusal::RemovedPeer), 1);
    assert_eq!(
        pair.near.send(pair.now, pair.to_far, &[0; 64]),
        Err(SendError::NoPeer)
    );
    assert!(frames(&mut pair.near, pair.now).is_empty());
    assert_eq!(
        pair.near.add_peer(pair.now, FAR),
        Ok(pair.to_far),
        "its old place"
    );
    feed(&mut pair.near, pair.now, &late);
    assert_eq!(
        pair.near.counters().refused(FrameRefusal::OldIncarnation),
        1
    );
    (pair.far, pair.to_near) = transport(config(FAR, 21), NEAR, pair.now);
    pair.exchange();
    assert!(pair.near.info(pair.to_far).is_some_and(|info| info.is_open));
    assert_eq!(
        pair.near.add_peer(pair.now, FAR),
        Err(AddPeerError::Known(FAR))
    );
    assert_eq!(pair.near.add_peer(pair.now, NEAR), Err(AddPeerError::Own));
    for node in 3..6 {
        pair.near
            .add_peer(pair.now, peer(node))
            .expect("room for four");
    }
    assert_eq!(
        pair.near.add_peer(pair.now, peer(9)),
        Err(AddPeerError::Full)
    );
}

#[test]
fn epochs_separate_and_come_together_again() {
    let mut pair = Pair::new(|_| {});
    pair.send(1);
    let old = frames(&mut pair.near, pair.now);
    assert!(pair.far.set_epoch(pair.now, Epoch(6)));
    assert!(!pair.far.set_epoch(pair.now, Epoch(6)) && !pair.far.set_epoch(pair.now, Epoch(5)));
    feed(&mut pair.far, pair.now, &old);
    assert_eq!(pair.far.counters().refused(FrameRefusal::OldEpoch), 1);
    let newer = frames(&mut pair.far, pair.now);
    assert!(!newer.is_empty(), "the epoch is announced");
    feed(&mut pair.near, pair.now, &newer);
    feed(&mut pair.near, pair.now, &newer);
    assert_eq!(pair.near.counters().refused(FrameRefusal::NewerEpoch), 2);
    let (channel, epoch) = (pair.to_far, Epoch(6));
    let told = [TransportEvent::EpochAhead { channel, epoch }];
    assert_eq!(events(&mut pair.near), told, "once for each epoch");
    assert_eq!(fetch(&mut pair.far), []);
    // No timer has to run out once both know.
    pair.near.set_epoch(pair.now, epoch);
    pair.exchange();
    assert_eq!(fetch(&mut pair.far), [1]);
    assert_eq!(pair.near.counters().timeouts, 0);
}

#[test]
fn silence_is_told_once_and_so_is_its_end() {
    let mut pair = Pair::new(|config| {
        config.keepalive = Some(Duration::from_millis(2));
        config.silent_after = Some(Duration::from_millis(5));
    });
    // Idle, and asked now and then: no silence.
    for _ in 0..20 {
        pair.pass(Duration::from_millis(1));
        pair.exchange();
    }
    assert_eq!(events(&mut pair.near), []);
    assert!(pair.near.counters().tx_bare > 5, "it asks");
    let mut told = Vec::new();
    for _ in 0..30 {
        pair.pass(Duration::from_millis(1));
        frames(&mut pair.near, pair.now);
        told.extend(events(&mut pair.near));
    }
    let channel = pair.to_far;
    let [TransportEvent::Silent { since, .. }] = told[..] else {
        panic!("{told:?}");
    };
    assert!(since < pair.now);
    pair.pass(Duration::from_millis(20));
    pair.exchange();
    assert_eq!(events(&mut pair.near), [TransportEvent::Heard { channel }]);
}

#[test]
fn settings_out_of_bounds_are_named() {
    type Change = fn(&mut TransportConfig);
    let changes: [(&str, Change); 9] = [
        ("incarnation", |config| config.incarnation.0 = 0),
        ("mtu_bytes", |config| config.mtu_bytes = MTU_BYTES_MIN - 1),
        ("channels_max", |config| config.channels_max = 0),
        ("channels_max", |config| config.channels_max = 4097),
        ("window_slots", |config| config.window_slots = 96),
        ("window_slots", |config| config.window_slots = 2048),
        ("rto", |config| config.rto_min = Duration::ZERO),
        ("rto", |config| config.rto_max = micros(1)),
        ("keepalive", |config| {
            config.keepalive = Some(Duration::ZERO)
        }),
    ];
    for (setting, change) in changes {
        let mut config = config(NEAR, 1);
        change(&mut config);
        let error = Transport::new(config, Epoch(1)).expect_err(setting);
        assert_eq!(error.setting, setting);
    }
}

/// What a transport knows, but for what it has counted.
fn state(transport: &Transport) -> String {
    format!("{:?} {:?}", transport.channels, transport.deadline)
}

/// The header of a frame that the near end could send to the far end next.
fn header() -> LockHeader {
    LockHeader {
        features: LockFeatures::NONE,
        wants_answer: true,
        cluster: ClusterId(1),
        from: Endpoint {
            node: NEAR.node,
            core: NEAR.core,
            incarnation: Incarnation(10),
        },
        to: Endpoint {
            node: FAR.node,
            core: FAR.core,
            incarnation: Incarnation(20),
        },
        epoch: Epoch(5),
        sequence: Sequence(3),
        ack: Sequence(0),
        credits: 60,
    }
}

fn frame(header: &LockHeader, sacks: &[u64], slots: usize, key: Option<MacKey>) -> Vec<u8> {
    let mut out = vec![0; 4000];
    let seal = Seal::new(crc32c::crc32c, key);
    let mut writer = FrameWriter::new(&mut out, header, sacks, &seal).expect("room");
    for _ in 0..slots {
        assert!(writer.push(&[7; 64]));
    }
    let len = writer.finish();
    out.truncate(len);
    out
}

/// A frame that must be refused for the reason, by an end that got three records and has four slots under way, of which the
/// second and third are one record.
fn hostile() -> Vec<(FrameRefusal, Vec<u8>)> {
    let changed = |change: fn(&mut LockHeader), slots| {
        let mut header = header();
        change(&mut header);
        frame(&header, &[], slots, Some(KEY))
    };
    let bytes = |at: usize, value: u8| {
        let mut bytes = frame(&header(), &[], 1, Some(KEY));
        bytes[at] = value;
        let end = bytes.len() - 4;
        let crc = crc32c::crc32c(&bytes[..end]);
        bytes[end..].copy_from_slice(&crc.to_be_bytes());
        bytes
    };
    let whole = frame(&header(), &[], 1, Some(KEY));
    let mut damaged = whole.clone();
    damaged[100] ^= 1;
    let sacked = |ack, sacks: &[u64]| {
        let mut header = header();
        header.ack = Sequence(ack);
        frame(&header, sacks, 1, Some(KEY))
    };
    use FrameRefusal as Why;
    vec![
        (Why::Truncated, whole[..whole.len() - 1].to_vec()),
        (Why::Truncated, Vec::new()),
        (Why::NotLock, bytes(0, b'X')),
        (Why::Version, bytes(2, 2)),
        (Why::Layout, bytes(38, 57)),
        (Why::Checksum, damaged),
        (Why::Features, bytes(4, 1)),
        (Why::Forged, bytes(90, 0)),
        (Why::Forged, frame(&header(), &[], 1, None)),
        (Why::Forged, frame(&header(), &[], 1, Some(MacKey([4; 16])))),
        (Why::NoIncarnation, changed(|h| h.from.incarnation.0 = 0, 1)),
        (Why::OtherCluster, changed(|h| h.cluster.0 = 2, 1)),
        (Why::NotForUs, changed(|h| h.to.node.0 = 3, 1)),
        (Why::NotForUs, changed(|h| h.to.core.0 = 1, 1)),
        (Why::UnknownPeer, changed(|h| h.from.node.0 = 3, 1)),
        (Why::UnknownPeer, changed(|h| h.from.core.0 = 1, 1)),
        (Why::RemovedPeer, changed(|h| h.from.node.0 = 4, 1)),
        (
            Why::OldIncarnation,
            changed(|h| h.from.incarnation.0 = 9, 1),
        ),
        (Why::OtherLife, changed(|h| h.to.incarnation.0 = 19, 1)),
        (Why::OtherLife, changed(|h| h.to.incarnation.0 = 21, 1)),
        (Why::OldEpoch, changed(|h| h.epoch.0 = 4, 1)),
        (Why::NoGreeting, changed(|h| h.from.incarnation.0 = 11, 1)),
        (Why::NoGreeting, changed(|h| h.to.incarnation.0 = 0, 1)),
        (Why::ImpossibleAck, sacked(5, &[])),
        (Why::ImpossibleAck, sacked(2, &[])),
        (Why::ImpossibleAck, sacked(0, &[1 << 4])),
        (Why::ImpossibleAck, sacked(0, &[0, 1])),
        (Why::ImpossibleAck, sacked(0, &[1 << 1])),
        (Why::ImpossibleAck, sacked(0, &[1 << 2])),
        (Why::BeyondWindow, changed(|h| h.sequence.0 = 64, 1)),
        (Why::BeyondWindow, changed(|h| h.sequence.0 = 60, 5)),
        (Why::BeyondWindow, changed(|h| h.sequence.0 = 1 << 62, 1)),
    ]
}

#[test]
fn what_is_refused_is_counted_and_leaves_no_trace() {
    let mut pair = Pair::new(|config| config.key = Some(KEY));
    for record in 0..3 {
        pair.send(record);
    }
    pair.exchange();
    let now = pair.now;
    for len in [64, 128, 64] {
        pair.far
            .send(now, pair.to_near, &vec![0; len])
            .expect("room");
    }
    frames(&mut pair.far, now);
    let gone = pair.far.add_peer(now, peer(4)).expect("room");
    pair.far.remove_peer(gone);
    let before = state(&pair.far);
    let mut seen = Vec::new();
    for (reason, frame) in hostile() {
        let counted = *pair.far.counters();
        pair.far.handle_frame(now, &frame);
        let counters = pair.far.counters();
        assert_eq!(
            counters.refused(reason),
            counted.refused(reason) + 1,
            "{reason:?}: {counters:?}"
        );
        assert_eq!(
            counters.refused_all(),
            counted.refused_all() + 1,
            "{reason:?}"
        );
        assert_eq!(counters.rx_frames, counted.rx_frames, "{reason:?}");
        assert_eq!(state(&pair.far), before, "{reason:?} left a trace");
        seen.push(reason);
    }
    for reason in FrameRefusal::ALL {
        let elsewhere = reason == FrameRefusal::NewerEpoch;
        assert!(
            elsewhere || seen.contains(&reason),
            "{reason:?} is never seen"
        );
    }
    // The frame that all of them were made of is taken.
    let sound = frame(&header(), &[], 1, Some(KEY));
    pair.far.handle_frame(now, &sound);
    assert_eq!(fetch(&mut pair.far), [0, 1, 2, 7]);
}

#[test]
fn what_is_replayed_is_not_delivered_again() {
    let mut pair = Pair::new(|config| config.key = Some(KEY));
    let mut seen = Vec::new();
    for record in 0..30 {
        pair.send(record);
        pair.far
            .send(pair.now, pair.to_near, &[record; 64])
            .expect("room");
        let there = frames(&mut pair.near, pair.now);
        let back = frames(&mut pair.far, pair.now);
        feed(&mut pair.far, pair.now, &there);
        feed(&mut pair.near, pair.now, &back);
        seen.extend(there.into_iter().zip(back));
        pair.pass(micros(10));
    }
    let all: Vec<u8> = (0..30).collect();
    assert_eq!(fetch(&mut pair.far), all);
    assert_eq!(fetch(&mut pair.near), all);
    pair.exchange();
    for (there, back) in &seen {
        pair.far.handle_frame(pair.now, there);
        pair.near.handle_frame(pair.now, back);
    }
    pair.exchange();
    assert_eq!(
        (fetch(&mut pair.near), fetch(&mut pair.far)),
        (vec![], vec![])
    );
    assert_eq!(pair.far.counters().rx_duplicates, 30);
    assert_eq!(pair.far.counters().rx_records, 30);
    pair.send(31);
    pair.exchange();
    assert_eq!(fetch(&mut pair.far), [31], "it goes on where it was");
}
