//! A small AoE target in memory, for machines that cannot have a real one. One frame after the other, like vblade.

use std::collections::VecDeque;

use sandrail_link::Link;
use sandrail_proto::time::Instant;
use sandrail_wire::aoe::{
    ATA_HEADER_BYTES, AtaRepr, Body, ConfigCommand, ConfigRepr, ErrorCode, Repr, VERSION,
};
use sandrail_wire::ata::{
    self, ERROR_ABRT, ERROR_IDNF, Identify, IdentifyString, SECTOR_BYTES, STATUS_DRDY, STATUS_ERR,
};
use sandrail_wire::ethernet::EthernetRepr;
use sandrail_wire::{EtherType, FrameRef, MacAddr, TargetAddr};

/// Messages that it says it queues, as vblade does by default.
const BUFFER_COUNT: u16 = 16;
/// Frames taken and given a turn.
const BURST_FRAMES: usize = 64;

/// An answer that waits to be sent.
struct Answer {
    header: Vec<u8>,
    payload: Vec<u8>,
}

/// The target.
pub(super) struct RamTarget<L> {
    link: L,
    mac: MacAddr,
    addr: TargetAddr,
    disk: Vec<u8>,
    sectors_max: u8,
    answers: VecDeque<Answer>,
}

impl<L: Link> RamTarget<L> {
    /// A disk of so many sectors, full of zeros, answering on `link`.
    pub(super) fn new(link: L, addr: TargetAddr, sectors: usize) -> Self {
        let fit = sandrail_wire::aoe::sectors_by_mtu(link.info().mtu_bytes);
        Self {
            mac: link.info().mac,
            link,
            addr,
            disk: vec![0; sectors * SECTOR_BYTES],
            sectors_max: u8::try_from(fit).unwrap_or(u8::MAX),
            answers: VecDeque::new(),
        }
    }

    /// The disk's content.
    pub(super) fn disk(&self) -> &[u8] {
        &self.disk
    }

    /// Takes frames in and sends answers; whether there was anything to do.
    pub(super) fn turn(&mut self, now: Instant) -> bool {
        let Self {
            link,
            mac,
            addr,
            disk,
            sectors_max,
            answers,
        } = self;
        let received = link.receive(now, BURST_FRAMES, &mut |frame: FrameRef<'_>| {
            let mut bytes = vec![0; frame.len_bytes()];
            if frame.copy_to(0, &mut bytes) {
                answers.extend(answer(&bytes, *mac, *addr, disk, *sectors_max));
            }
        });
        let mut sent = 0;
        while let Some(next) = answers.front() {
            if link.transmit(now, &next.header, &next.payload).is_err() {
                break;
            }
            answers.pop_front();
            sent += 1;
        }
        link.flush(now);
        received + sent > 0
    }
}

/// The answer to a frame, if it gets one.
fn answer(
    frame: &[u8],
    mac: MacAddr,
    own: TargetAddr,
    disk: &mut [u8],
    sectors_max: u8,
) -> Option<Answer> {
    let (ethernet, header_bytes) = EthernetRepr::parse(frame).ok()?;
    let bytes = frame.get(header_bytes..)?;
    let request = Repr::parse(bytes).ok()?;
    let ours = ethernet.ethertype == EtherType::AOE && request.addr.matches(own);
    if request.response || !ours {
        return None;
    }
    let mut error = None;
    let mut payload = Vec::new();
    let body = match request.body {
        Body::Config(config) if config.command == ConfigCommand::Read => Body::Config(ConfigRepr {
            buffer_count: BUFFER_COUNT,
            firmware: 1,
            sectors_max,
            aoe_version: VERSION,
            command: ConfigCommand::Read,
            string: b"",
        }),
        Body::Ata(ata) if ata.count > sectors_max => {
            error = Some(ErrorCode::BadArgument);
            Body::Ata(ata)
        }
        Body::Ata(ata) => {
            let data = bytes.get(ATA_HEADER_BYTES..).unwrap_or_default();
            Body::Ata(execute(ata, data, disk, &mut payload))
        }
        other => {
            error = Some(ErrorCode::BadCommand);
            other
        }
    };
    let response = Repr {
        version: VERSION,
        response: true,
        error,
        addr: own,
        tag: request.tag,
        body,
    };
    let ethernet = EthernetRepr {
        dst: ethernet.src,
        src: mac,
        ..ethernet
    };
    let mut header = vec![0; ethernet.header_len() + response.len_bytes()];
    let length = ethernet.emit(&mut header).ok()?;
    response.emit(&mut header[length..]).ok()?;
    Some(Answer { header, payload })
}

/// Carries a command out; the registers of its outcome.
fn execute(request: AtaRepr, data: &[u8], disk: &mut [u8], payload: &mut Vec<u8>) -> AtaRepr {
    let done = AtaRepr {
        command_status: STATUS_DRDY,
        error_feature: 0,
        count: 0,
        ..request
    };
    let failed = |error| AtaRepr {
        command_status: STATUS_DRDY | STATUS_ERR,
        error_feature: error,
        ..request
    };
    let bytes = usize::from(request.count) * SECTOR_BYTES;
    let start = usize::try_from(request.lba().0)
        .unwrap_or(usize::MAX)
        .saturating_mul(SECTOR_BYTES);
    match request.command_status {
        ata::COMMAND_IDENTIFY => {
            payload.extend(identify(disk.len() / SECTOR_BYTES));
            done
        }
        ata::COMMAND_READ | ata::COMMAND_READ_EXT => {
            match disk.get(start..start.saturating_add(bytes)) {
                Some(found) => {
                    payload.extend(found);
                    done
                }
                None => failed(ERROR_IDNF),
            }
        }
        ata::COMMAND_WRITE | ata::COMMAND_WRITE_EXT => {
            match (
                disk.get_mut(start..start.saturating_add(bytes)),
                data.get(..bytes),
            ) {
                (Some(place), Some(data)) => {
                    place.copy_from_slice(data);
                    done
                }
                (None, _) => failed(ERROR_IDNF),
                (_, None) => failed(ERROR_ABRT),
            }
        }
        // Memory is as durable as this target gets; IDENTIFY does not claim more.
        ata::COMMAND_FLUSH | ata::COMMAND_FLUSH_EXT => done,
        _ => failed(ERROR_ABRT),
    }
}

fn identify(sectors: usize) -> [u8; SECTOR_BYTES] {
    let mut data = [0; SECTOR_BYTES];
    Identify {
        sectors: u64::try_from(sectors).unwrap_or(0),
        lba48: true,
        flush: false,
        flush_ext: false,
        write_cache: false,
        power_management: false,
        trim_blocks_max: None,
        sandrail: None,
        model: IdentifyString::new("Sandrail simulated disk").expect("plain ASCII that fits"),
        serial: IdentifyString::new("SIM0").expect("plain ASCII that fits"),
        firmware: IdentifyString::new("1").expect("plain ASCII that fits"),
    }
    .emit(&mut data);
    data
}

#[cfg(test)]
mod tests {
    use sandrail_wire::{Lba, Tag};

    use super::*;

    const OWN: TargetAddr = TargetAddr { shelf: 7, slot: 3 };
    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

    fn ask(
        ata: AtaRepr,
        data: &[u8],
        disk: &mut [u8],
        addr: TargetAddr,
    ) -> Option<(AtaRepr, Option<ErrorCode>, Vec<u8>)> {
        let ethernet = EthernetRepr {
            dst: MAC,
            src: MacAddr([2, 0, 0, 0, 0, 2]),
            vlans: [None; 2],
            ethertype: EtherType::AOE,
        };
        let request = Repr {
            version: VERSION,
            response: false,
            error: None,
            addr,
            tag: Tag(7),
            body: Body::Ata(ata),
        };
        let mut frame = vec![0; ethernet.header_len() + request.len_bytes()];
        let length = ethernet.emit(&mut frame).unwrap();
        request.emit(&mut frame[length..]).unwrap();
        frame.extend(data);
        let answer = answer(&frame, MAC, OWN, disk, 17)?;
        let (_, length) = EthernetRepr::parse(&answer.header).unwrap();
        let response = Repr::parse(&answer.header[length..]).unwrap();
        assert!(response.response && response.tag == Tag(7) && response.addr == OWN);
        let Body::Ata(ata) = response.body else {
            panic!("{response:?}")
        };
        Some((ata, response.error, answer.payload))
    }

    #[test]
    fn what_is_written_is_read_and_what_is_past_the_end_is_refused() {
        let mut disk = vec![0; 8 * SECTOR_BYTES];
        let data = vec![7; 2 * SECTOR_BYTES];
        let (wrote, error, _) = ask(AtaRepr::write_ext(Lba(6), 2), &data, &mut disk, OWN).unwrap();
        assert!(ata::status_ok(wrote.command_status) && error.is_none());
        let (_, _, back) = ask(AtaRepr::read_ext(Lba(6), 2), &[], &mut disk, OWN).unwrap();
        assert_eq!(back, data);
        let (past, _, none) = ask(AtaRepr::read_ext(Lba(7), 2), &[], &mut disk, OWN).unwrap();
        assert_eq!((past.error_feature, none.len()), (ERROR_IDNF, 0));
        let (short, _, _) =
            ask(AtaRepr::write_ext(Lba(0), 2), &data[..512], &mut disk, OWN).unwrap();
        assert_eq!(short.error_feature, ERROR_ABRT);
        let (_, error, _) = ask(AtaRepr::read_ext(Lba(0), 18), &[], &mut disk, OWN).unwrap();
        assert_eq!(error, Some(ErrorCode::BadArgument));
    }

    #[test]
    fn frames_for_others_get_no_answer() {
        let mut disk = vec![0; SECTOR_BYTES];
        let other = TargetAddr { shelf: 7, slot: 4 };
        assert!(ask(AtaRepr::identify(), &[], &mut disk, other).is_none());
    }
}
