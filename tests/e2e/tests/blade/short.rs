//! Requests shorter than any frame on a real wire, as drivers hand them to the interface and a virtual one passes them on.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sandrail_e2e::peer::{Peer, frame};
use sandrail_e2e::site::{ADDR, Alone};
use sandrail_e2e::{Setup, Status, Wire};
use sandrail_lab::Side;
use sandrail_wire::aoe::{
    AtaRepr, Body, ConfigCommand, ConfigRepr, MacList, MaskRepr, Repr, ReserveCommand, ReserveRepr,
    VERSION,
};
use sandrail_wire::ethernet::{EthernetRepr, HEADER_BYTES};
use sandrail_wire::{Lba, MacAddr, Tag};

use crate::turn;

/// The shortest frame, without its checksum.
const FRAME_BYTES_MIN: usize = 60;
/// For what needs its time on a machine that has none to spare.
const PATIENCE: Duration = Duration::from_secs(30);
/// A lost frame is asked for again after this long.
const AGAIN: Duration = Duration::from_millis(200);

fn config(command: ConfigCommand, string: &[u8]) -> Body<'_> {
    Body::Config(ConfigRepr {
        buffer_count: 0,
        firmware: 0,
        sectors_max: 0,
        aoe_version: 0,
        command,
        string,
    })
}

/// Every kind of request that is short, and how long its answer is before it is padded.
fn requests(string: &[u8]) -> Vec<(Body<'_>, usize)> {
    let told = 32 + string.len();
    vec![
        (config(ConfigCommand::ForceSet, string), told),
        (config(ConfigCommand::Read, b""), told),
        (config(ConfigCommand::TestExact, string), told),
        (Body::MacMask(MaskRepr::read()), 28),
        (
            Body::Reserve(ReserveRepr {
                command: ReserveCommand::Read,
                macs: MacList::default(),
            }),
            26,
        ),
        (Body::Ata(AtaRepr::identify()), 36 + 512),
        (Body::Ata(AtaRepr::read_ext(Lba(3), 1)), 36 + 512),
        (Body::Ata(AtaRepr::flush_ext()), 36),
        (Body::Ata(AtaRepr::check_power()), 36),
    ]
}

/// A station on the initiator's side.
struct Short {
    peer: Peer,
    own: MacAddr,
    target: MacAddr,
    tag: u32,
    sent_frames: u64,
}

impl Short {
    /// Asks until there is an answer; all of it as it came from the wire.
    fn ask(&mut self, body: Body<'_>) -> Result<Vec<u8>> {
        self.tag += 1;
        let repr = Repr {
            version: VERSION,
            response: false,
            error: None,
            addr: ADDR,
            tag: Tag(self.tag),
            body,
        };
        let request = frame(self.target, self.own, &repr, &[]);
        ensure!(request.len() < FRAME_BYTES_MIN, "{} bytes", request.len());
        let give_up = Instant::now() + PATIENCE;
        let mut due = Instant::now();
        while Instant::now() < give_up {
            if Instant::now() >= due {
                due = Instant::now() + AGAIN;
                self.sent_frames += self.peer.send([&request[..]]);
            }
            for answer in self.peer.receive() {
                if self.is_answer(&answer)? {
                    return Ok(answer);
                }
            }
            std::thread::yield_now();
        }
        anyhow::bail!("no answer to {repr:?}")
    }

    fn is_answer(&self, bytes: &[u8]) -> Result<bool> {
        let (ethernet, at) = EthernetRepr::parse(bytes)?;
        let repr = Repr::parse(bytes.get(at..).context("no AoE")?)?;
        Ok(ethernet.src == self.target && repr.response && repr.tag == Tag(self.tag))
    }
}

fn short_requests_are_answered(wire: Wire) -> Result<()> {
    let setup = Setup::new(wire).disk_mib(1);
    let site = Alone::build(&setup, |options, _, disk| {
        Ok(options.export("e7.3", &disk.path().display().to_string()))
    })?;
    let mut station = Short {
        peer: Peer::open_unpadded(&site.lab, Side::Initiator)?,
        own: MacAddr(site.lab.mac(Side::Initiator).0),
        target: MacAddr(site.lab.mac(Side::Target).0),
        tag: 0,
        sent_frames: 0,
    };
    let mut asked = 0;
    // With its string a config query has every length from 33 to 59 bytes.
    for string_bytes in 1..=27 {
        let string = vec![b's'; string_bytes];
        for (body, len_bytes) in requests(&string) {
            let answer = station.ask(body).with_context(|| format!("{wire}"))?;
            let wanted = len_bytes.max(FRAME_BYTES_MIN);
            ensure!(answer.len() == wanted, "{wire}, {body:?}: {answer:x?}");
            let repr = Repr::parse(&answer[HEADER_BYTES..])?;
            ensure!(repr.error.is_none(), "{wire}: {repr:?}");
            ensure!(
                answer[len_bytes.min(wanted)..]
                    .iter()
                    .all(|byte| *byte == 0),
                "{wire}, {body:?}: padded with something, {answer:x?}"
            );
            asked += 1;
        }
    }
    let status = Status::of(&site.blade)?;
    let (frames, bytes) = (
        status.links("counters", "rx_frames"),
        status.links("counters", "rx_bytes"),
    );
    println!("{wire}: {frames} frames of {bytes} bytes in all");
    ensure!(
        (asked..=station.sent_frames).contains(&frames),
        "{frames} of {asked}"
    );
    // Or something on the way has padded them, and nothing was shown.
    ensure!(
        bytes < 48 * frames,
        "{bytes} bytes in {frames} frames are not short"
    );
    for malformed in [
        status.links("counters", "rx_malformed"),
        status.frames("rx_malformed"),
    ] {
        ensure!(malformed == 0, "{malformed} were not understood");
    }
    Ok(())
}

#[test]
fn short_requests_are_answered_with_padded_frames() -> Result<()> {
    for wire in Wire::ALL {
        let Some(_turn) = turn("blade_short", wire) else {
            continue;
        };
        short_requests_are_answered(wire)?;
    }
    Ok(())
}
