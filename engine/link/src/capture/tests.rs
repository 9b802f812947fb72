//! Captures read back: by a parser of the test's own, and by tshark where that is installed.

#![allow(
    clippy::cast_possible_truncation,
    reason = "numbers of test frames are small"
)]

use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicUsize;

use sandrail_wire::MacAddr;

use super::*;
use crate::sim::{PathFaults, PortConfig, SimLink, SimNet, SimNetConfig};

const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xa]);
const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xb]);

fn at(us: u64) -> Instant {
    Instant::from_nanos(us * 1000)
}

/// A file of its own, removed in the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("sandrail-capture-{}-{n}.pcapng", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    fn config(&self) -> CaptureConfig {
        CaptureConfig {
            clock: CaptureClock::Link,
            ..CaptureConfig::new(&self.0)
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn pair(switch: &Arc<CaptureSwitch>) -> (CaptureLink<SimLink>, CaptureLink<SimLink>) {
    let net = SimNet::new(1, SimNetConfig::default());
    let link = |mac, name: &str| {
        let quick = PathFaults {
            delay_min: Duration::ZERO,
            ..PathFaults::default()
        };
        let port = net.port(PortConfig {
            name: name.to_owned(),
            egress: quick.clone(),
            ingress: quick,
            ..PortConfig::new(mac)
        });
        CaptureLink::new(port.link(), Arc::clone(switch))
    };
    (link(A, "near"), link(B, "far"))
}

/// A block's type, and its body without options; the options.
struct Block {
    kind: u32,
    body: Vec<u8>,
    options: Vec<(u16, Vec<u8>)>,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().unwrap())
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(*bytes[at..].first_chunk().unwrap())
}

/// Reads a file by the draft, written apart from the code that writes it.
fn parse(path: &Path) -> Vec<Block> {
    let bytes = std::fs::read(path).unwrap();
    let (mut blocks, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let (kind, len) = (u32_at(&bytes, at), u32_at(&bytes, at + 4) as usize);
        assert!(len % 4 == 0 && len >= 12 && at + len <= bytes.len());
        assert_eq!(
            u32_at(&bytes, at + len - 4) as usize,
            len,
            "the length stands at both ends"
        );
        let content = &bytes[at + 8..at + len - 4];
        let fixed = match kind {
            0x0a0d_0d0a => 16,
            1 => 8,
            5 => 12,
            6 => 20 + (u32_at(content, 12) as usize).next_multiple_of(4),
            other => panic!("block type {other}"),
        };
        let (mut options, mut o) = (Vec::new(), fixed);
        while o < content.len() {
            let (code, len) = (u16_at(content, o), usize::from(u16_at(content, o + 2)));
            options.push((code, content[o + 4..o + 4 + len].to_vec()));
            o += 4 + len.next_multiple_of(4);
        }
        assert_eq!(o, content.len());
        assert_eq!(options.pop(), Some((0, vec![])), "options end with the end");
        blocks.push(Block {
            kind,
            body: content[..fixed].to_vec(),
            options,
        });
        at += len;
    }
    assert_eq!(blocks[0].kind, 0x0a0d_0d0a);
    assert_eq!(u32_at(&blocks[0].body, 0), 0x1a2b_3c4d);
    blocks
}

impl Block {
    fn option(&self, code: u16) -> Option<&[u8]> {
        let found = self.options.iter().find(|(this, _)| *this == code);
        found.map(|(_, value)| &value[..])
    }

    fn option_u64(&self, code: u16) -> Option<u64> {
        self.option(code)
            .map(|value| u64::from_le_bytes(value.try_into().unwrap()))
    }

    fn time_ns(&self) -> u64 {
        u64::from(u32_at(&self.body, 4)) << 32 | u64::from(u32_at(&self.body, 8))
    }

    fn frame(&self) -> &[u8] {
        &self.body[20..20 + u32_at(&self.body, 12) as usize]
    }
}

fn of(blocks: &[Block], kind: u32) -> Vec<&Block> {
    blocks.iter().filter(|block| block.kind == kind).collect()
}

fn drain(link: &mut impl Link, now: Instant) -> usize {
    link.receive(now, 1000, &mut |_| {})
}

/// AoE frames as they occur: a discovery by broadcast, its answer behind a VLAN tag, a read of one sector and its answer.
fn conversation() -> [Vec<u8>; 4] {
    let ethernet =
        |to: MacAddr, from: MacAddr, tag: &[u8]| [&to.0[..], &from.0, tag, &[0x88, 0xa2]].concat();
    let padded = |mut bytes: Vec<u8>| {
        bytes.resize(bytes.len().max(60), 0);
        bytes
    };
    let query = [
        0x10, 0, 0xff, 0xff, 0xff, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0x10, 0, 0,
    ];
    let config = [
        0x18, 0, 0, 7, 3, 1, 0, 0, 0, 1, 0, 16, 0x40, 0x19, 2, 0x10, 0, 0,
    ];
    let read = [
        0x10, 0, 0, 7, 3, 0, 0, 0, 0, 2, 0x40, 0, 1, 0x24, 5, 0, 0, 0, 0, 0, 0, 0,
    ];
    let data = [
        0x18, 0, 0, 7, 3, 0, 0, 0, 0, 2, 0x40, 0, 0, 0x40, 5, 0, 0, 0, 0, 0, 0, 0,
    ];
    [
        padded([ethernet(MacAddr([0xff; 6]), A, &[]), query.to_vec()].concat()),
        padded([ethernet(A, B, &[0x81, 0, 0, 7]), config.to_vec()].concat()),
        padded([ethernet(B, A, &[]), read.to_vec()].concat()),
        [ethernet(A, B, &[]), data.to_vec(), vec![0x5a; 512]].concat(),
    ]
}

/// Captures the conversation on both ends.
fn captured(config: impl FnOnce(&mut CaptureConfig)) -> (Scratch, CaptureSummary) {
    let (scratch, switch) = (Scratch::new(), CaptureSwitch::new());
    let (mut near, mut far) = pair(&switch);
    let mut settings = scratch.config();
    config(&mut settings);
    let frames = conversation();
    near.transmit(at(1), &frames[2], &[]).unwrap();
    assert_eq!(drain(&mut far, at(1)), 1, "before the capture");
    switch.start(settings).unwrap();
    for (n, frame) in frames.iter().enumerate() {
        let now = at(10 + n as u64);
        let (from, to) = if n % 2 == 0 {
            (&mut near, &mut far)
        } else {
            (&mut far, &mut near)
        };
        from.transmit(now, &frame[..36], &frame[36..]).unwrap();
        from.flush(now);
        assert_eq!(drain(to, now), 1);
    }
    let summary = switch.stop().unwrap().unwrap();
    near.transmit(at(30), &frames[2], &[]).unwrap();
    assert_eq!(drain(&mut far, at(30)), 1, "after the capture");
    (scratch, summary)
}

#[test]
fn a_capture_holds_every_frame_of_both_ends() {
    let (scratch, summary) = captured(|_| {});
    let expected = CaptureSummary {
        written_frames: 8,
        dropped_frames: 0,
    };
    assert_eq!(summary, expected);
    let blocks = parse(&scratch.0);
    let interfaces = of(&blocks, 1);
    assert_eq!(interfaces.len(), 2);
    assert_eq!(interfaces[0].option(2), Some(&b"near"[..]));
    assert_eq!(interfaces[1].option(6), Some(&B.0[..]));
    assert_eq!(interfaces[0].option(9), Some(&[9][..]));
    let packets = of(&blocks, 6);
    let conversation = conversation();
    for (n, packet) in packets.iter().enumerate() {
        assert_eq!(packet.frame(), conversation[n / 2]);
        assert_eq!(packet.time_ns(), at(10 + n as u64 / 2).as_nanos());
        let sender = n as u32 / 2 % 2;
        let outbound = n % 2 == 0;
        assert_eq!(
            u32_at(&packet.body, 0),
            if outbound { sender } else { 1 - sender }
        );
        let reception = if n < 2 { 3 << 2 } else { 1 << 2 };
        let flags = reception | if outbound { 2 } else { 1 };
        assert_eq!(packet.option(2), Some(&u32::to_le_bytes(flags)[..]));
        assert_eq!(packet.option(4), None);
    }
    let statistics = of(&blocks, 5);
    assert_eq!(statistics.len(), 2);
    assert!(
        statistics
            .iter()
            .all(|s| s.option_u64(4) == Some(4) && s.option_u64(5) == Some(0))
    );
}

#[test]
fn frames_are_cut_at_the_snaplen() {
    let (scratch, _) = captured(|config| config.snaplen_bytes = 100);
    let blocks = parse(&scratch.0);
    assert_eq!(u32_at(&of(&blocks, 1)[0].body, 4), 100);
    let long = of(&blocks, 6)[6];
    assert_eq!(long.frame(), &conversation()[3][..100]);
    assert_eq!(u32_at(&long.body, 16), 36 + 512);
}

#[test]
fn tshark_reads_it_without_complaint() {
    let installed = Command::new("tshark").arg("--version").output();
    if !sandrail_lab::may_run("capture: read by tshark", installed.map(drop)) {
        return;
    }
    let (scratch, _) = captured(|_| {});
    let tshark = |arguments: &[&str]| {
        let output = Command::new("tshark")
            .arg("-r")
            .arg(&scratch.0)
            .args(arguments)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !errors.contains("cut short") && !errors.contains("appears to"),
            "{errors}"
        );
        String::from_utf8(output.stdout).unwrap()
    };
    let text = tshark(&["-V"]);
    assert!(
        !text.contains("Malformed") && !text.contains("[Expert Info (Error"),
        "{text}"
    );
    assert_eq!(text.matches("ATA over Ethernet").count(), 8, "{text}");
    let fields = [
        "frame.interface_name",
        "frame.len",
        "frame.packet_flags_direction",
        "frame.time_epoch",
        "vlan.id",
    ];
    let arguments: Vec<&str> = ["-T", "fields"]
        .into_iter()
        .chain(fields.iter().flat_map(|f| ["-e", f]))
        .collect();
    let rows: Vec<String> = tshark(&arguments).lines().map(str::to_owned).collect();
    let cells = |row: usize| rows[row].split('\t').collect::<Vec<_>>();
    assert_eq!(rows.len(), 8);
    assert_eq!(cells(0), ["near", "60", "0x00000002", "0.000010000", ""]);
    assert_eq!(cells(2), ["far", "60", "0x00000002", "0.000011000", "7"]);
    assert_eq!(cells(7), ["near", "548", "0x00000001", "0.000013000", ""]);
}

#[test]
fn frames_without_a_buffer_are_counted_where_they_are_missing() {
    let (scratch, switch) = (Scratch::new(), CaptureSwitch::new());
    let (mut near, _far) = pair(&switch);
    let mut config = scratch.config();
    config.buffer_frames = 3;
    // A session whose thread does not run yet: the writer has fallen behind.
    let session = Arc::new(Session::new(config, switch.lock().interfaces.clone()));
    near.tap.session = Some(Arc::clone(&session));
    let mut send = |n: u64| near.transmit(at(n), &[n as u8; 60], &[]).unwrap();
    (0..10).for_each(&mut send);
    let freed = session.full.pop().unwrap();
    session.free.push(freed).map_err(drop).unwrap();
    send(10);
    send(11);
    session.stop.store(true, Ordering::Release);
    session
        .write_all(File::create(&scratch.0).unwrap())
        .unwrap();
    let blocks = parse(&scratch.0);
    let packets = of(&blocks, 6);
    let seen: Vec<_> = packets
        .iter()
        .map(|packet| (packet.frame()[0], packet.option_u64(4)))
        .collect();
    assert_eq!(seen, [(1, None), (2, None), (10, Some(7))]);
    let statistics = of(&blocks, 5)[0];
    assert_eq!(
        (statistics.option_u64(4), statistics.option_u64(5)),
        (Some(3 + 8), Some(8))
    );
    assert_eq!(session.summary().dropped_frames, 8);
}

#[test]
fn captures_start_and_stop_while_frames_flow() {
    let switch = CaptureSwitch::new();
    let done = Arc::new(AtomicBool::new(false));
    let (started, poller) = std::sync::mpsc::channel();
    let thread = thread::spawn({
        let (switch, done) = (Arc::clone(&switch), Arc::clone(&done));
        move || {
            let (mut near, mut far) = pair(&switch);
            started.send(()).unwrap();
            let mut n = 0_u64;
            while !done.load(Ordering::Relaxed) {
                n += 1;
                let mut header = [0; 60];
                header[..6].copy_from_slice(&B.0);
                header[20..28].copy_from_slice(&n.to_le_bytes());
                near.transmit(at(n), &header, &[]).unwrap();
                assert_eq!(drain(&mut far, at(n)), 1);
                thread::yield_now();
            }
        }
    });
    poller.recv().unwrap();
    let mut frames = 0;
    for round in 0..20 {
        let scratch = Scratch::new();
        let mut config = scratch.config();
        config.buffer_frames = if round % 2 == 0 { 4096 } else { 4 };
        switch.start(config.clone()).unwrap();
        assert!(matches!(switch.start(config), Err(CaptureError::Running)));
        thread::sleep(Duration::from_millis(10));
        let summary = switch.stop().unwrap().unwrap();
        assert_eq!(switch.summary(), None);
        let blocks = parse(&scratch.0);
        assert_eq!(of(&blocks, 6).len() as u64, summary.written_frames);
        frames += summary.written_frames;
        for interface in 0..2 {
            let mut last = None;
            for packet in of(&blocks, 6) {
                if u32_at(&packet.body, 0) != interface {
                    continue;
                }
                let n = u64::from_le_bytes(*packet.frame()[20..].first_chunk().unwrap());
                let missing = packet.option_u64(4).unwrap_or(0);
                assert!(
                    last.is_none_or(|last| n == last + 1 + missing),
                    "{last:?} {missing} {n}"
                );
                last = Some(n);
            }
        }
    }
    done.store(true, Ordering::Relaxed);
    thread.join().unwrap();
    assert!(frames > 1000, "{frames}");
    assert_eq!(switch.stop().unwrap(), None);
}

#[test]
fn wall_clock_stamps_follow_the_links_clock() {
    let before = wall_clock_ns();
    let (scratch, _) = captured(|config| config.clock = CaptureClock::Wall);
    let blocks = parse(&scratch.0);
    let times: Vec<u64> = of(&blocks, 6)
        .iter()
        .map(|packet| packet.time_ns())
        .collect();
    assert!(times[0] >= before && times[7] <= wall_clock_ns() + 1_000_000);
    // Near sees the first and the fifth frame 2 us apart.
    assert_eq!(times[4] - times[0], 2000);
}

#[test]
fn files_that_cannot_be_written_are_told() {
    let switch = CaptureSwitch::new();
    let (mut near, _far) = pair(&switch);
    let missing = CaptureConfig::new("/nonexistent/capture.pcapng");
    let error = switch.start(missing).unwrap_err().to_string();
    assert!(
        error.starts_with("capture file /nonexistent/capture.pcapng: No such file"),
        "{error}"
    );
    let mut nothing = CaptureConfig::new("/dev/null");
    nothing.snaplen_bytes = 0;
    assert!(matches!(
        switch.start(nothing),
        Err(CaptureError::Config(_))
    ));

    switch.start(CaptureConfig::new("/dev/full")).unwrap();
    for n in 0..100 {
        near.transmit(at(n), &[0; 60], &[]).unwrap();
    }
    let error = switch.stop().unwrap_err().to_string();
    assert!(
        error.contains("/dev/full") && error.contains("No space"),
        "{error}"
    );
    switch.start(CaptureConfig::new("/dev/null")).unwrap();
    near.transmit(at(200), &[0; 60], &[]).unwrap();
    assert_eq!(
        switch.stop().unwrap().unwrap().written_frames,
        1,
        "and the next one runs"
    );
}

#[test]
fn a_link_made_after_the_start_waits_for_the_next_capture() {
    let (scratch, switch) = (Scratch::new(), CaptureSwitch::new());
    switch.start(scratch.config()).unwrap();
    let (mut near, _far) = pair(&switch);
    near.transmit(at(1), &[0; 60], &[]).unwrap();
    assert_eq!(switch.stop().unwrap(), Some(CaptureSummary::default()));
    assert_eq!(parse(&scratch.0).len(), 1);
}
