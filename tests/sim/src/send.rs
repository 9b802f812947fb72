//! Frames out of a host: what they must be, and when they leave.

use sandrail_proto::aoe::initiator::InterfaceId;
use sandrail_proto::time::Instant;

use crate::bytes::{self, DATA};
use crate::host::TRANSMIT_FRAMES;
use crate::net::{FrameId, Owner};
use crate::stamp::{self, SECTOR_BYTES};
use crate::violation::{Promise, Violation};
use crate::watch::WriteFrame;
use crate::world::{World, describe};

/// Frames shorter than this are padded by the link.
const FRAME_BYTES_MIN: usize = 60;

impl World {
    /// Sends what there is to send; whether a ring was full.
    pub(crate) fn transmit(&mut self, index: usize) -> bool {
        let mut full = false;
        if self.now_ns < self.hosts[index].transmit_blocked_until_ns {
            return false;
        }
        for interface in 0..self.hosts[index].rings.len() {
            loop {
                if self.violation.is_some() {
                    return false;
                }
                let host = &mut self.hosts[index];
                if host.rings[interface].reports.len() >= TRANSMIT_FRAMES {
                    full = true;
                    break;
                }
                let Some(initiator) = &mut host.initiator else {
                    return false;
                };
                let Some(transmit) = initiator.poll_transmit(
                    Instant::from_nanos(self.now_ns),
                    InterfaceId(interface as u8),
                ) else {
                    break;
                };
                let id = self.pool.take();
                let frame = &mut self.pool.get_mut(id).bytes;
                let header_fits = transmit.header.len() <= 64;
                match host.spec.interfaces[interface].vlan {
                    Some(vlan)
                        if transmit.header[12..14] == [0x81, 0]
                            && transmit.header[14..16] == vlan.to_be_bytes() =>
                    {
                        frame.extend_from_slice(&transmit.header[..12]);
                        frame.extend_from_slice(&transmit.header[16..]);
                    }
                    // Without the tag that it should have, the frame is left as it is and judged so.
                    _ => frame.extend_from_slice(transmit.header),
                }
                frame.extend_from_slice(transmit.payload);
                let len_bytes = frame.len();
                if len_bytes < FRAME_BYTES_MIN {
                    frame.resize(FRAME_BYTES_MIN, 0);
                }
                self.insist(header_fits, Promise::Frame, || {
                    "a header exceeds 64 bytes".into()
                });
                self.send(index, interface, id, len_bytes);
            }
        }
        full
    }

    fn send(&mut self, index: usize, interface: usize, id: FrameId, len_bytes: usize) {
        let now_ns = self.now_ns;
        self.tally.frames += 1;
        self.note_frame("sent", id);
        let write = match self.judge_frame(index, interface, id, len_bytes) {
            Ok(judged) => judged,
            Err(violation) => {
                self.accuse(violation);
                self.pool.give(id);
                return;
            }
        };
        let Some(fields) = bytes::parse(&self.pool.get(id).bytes) else {
            return;
        };
        match self
            .watch
            .sent(now_ns, index, interface, fields.tag, fields.dst, write)
        {
            Ok(copy) => self.pool.get_mut(id).copy = copy,
            Err(violation) => {
                self.accuse(violation);
                self.pool.give(id);
                return;
            }
        }
        let host = &mut self.hosts[index];
        let target = self.blades.iter().position(|blade| {
            let spec = &blade.target.spec;
            spec.macs.contains(&fields.dst)
                && (spec.shelf, spec.slot) == (fields.shelf, fields.slot)
        });
        if let Some(target) = target {
            let since = &mut host.attachments[target].unanswered_since_ns;
            *since = since.or(Some(now_ns));
        }
        let (hold_ns, report_ns) = (host.spec.transmit_delay_ns, host.spec.report_delay_ns);
        let mut up_to = |most_ns: u64| {
            if most_ns == 0 {
                0
            } else {
                self.rng.u64(..=most_ns)
            }
        };
        let (hold_ns, report_ns) = (up_to(hold_ns), up_to(report_ns));
        let rings = &mut host.rings[interface];
        // 10 Gbit/s, in order.
        let wire_ns = len_bytes as u64 * 4 / 5;
        let left_ns = (now_ns + hold_ns)
            .max(rings.free_at_ns)
            .max(rings.stalled_until_ns)
            + wire_ns;
        rings.free_at_ns = left_ns;
        let reported_ns = (left_ns + report_ns).max(rings.reports.back().copied().unwrap_or(0));
        rings.reports.push_back(reported_ns);
        let port = rings.port;
        self.pool.get_mut(id).sent = Some((index as u8, left_ns));
        self.launch(id, port, left_ns);
    }

    /// Whether a frame that an initiator sends is what the protocol allows.
    fn judge_frame(
        &mut self,
        index: usize,
        interface: usize,
        id: FrameId,
        len_bytes: usize,
    ) -> Result<Option<WriteFrame>, Violation> {
        let spec = &self.hosts[index].spec.interfaces[interface];
        let frame = &self.pool.get(id).bytes;
        let fault = |promise, text: &str| {
            let frame =
                bytes::parse(frame).map_or("no AoE".into(), |fields| describe(fields, len_bytes));
            Err(Violation::new(promise, format!("{text}: {frame}")))
        };
        let Some(fields) = bytes::parse(frame) else {
            return fault(Promise::Frame, "not AoE, or of another VLAN");
        };
        if fields.src != spec.mac || frame[14] != 0x10 || frame[15] != 0 {
            return fault(Promise::Frame, "not a request of this interface");
        }
        if len_bytes > spec.mtu_bytes + 14 {
            return fault(Promise::Frame, "longer than the interface's MTU");
        }
        if fields.command == 1 {
            self.tally.query_frames += 1;
        }
        let target = match self.net.owner_of(fields.dst) {
            Some(Owner::Target { target, .. }) => target,
            Some(Owner::Machine { .. }) => {
                match self.target_at(fields.dst, fields.shelf, fields.slot) {
                    Some(target) => target,
                    None => return fault(Promise::Address, "for a target that is not there"),
                }
            }
            None if fields.dst == [0xff; 6] && fields.command == 1 => return Ok(None),
            _ => return fault(Promise::Address, "to a station that is no target"),
        };
        let target_spec = &self.blades[usize::from(target)].target.spec;
        if (fields.shelf, fields.slot) != (target_spec.shelf, target_spec.slot) {
            return fault(Promise::Address, "for another target than the station's");
        }
        let Some((lba, sectors)) = fields.write_request() else {
            return Ok(None);
        };
        self.tally.write_frames += 1;
        if sectors == 0
            || sectors > u64::from(target_spec.count_max)
            || len_bytes != DATA + sectors as usize * SECTOR_BYTES
        {
            return fault(
                Promise::Frame,
                "WRITE with another length than its count says",
            );
        }
        let Ok(stamp) = stamp::read(&frame[DATA..DATA + SECTOR_BYTES], target, lba) else {
            return fault(
                Promise::Buffer,
                "WRITE with data of another sector, or torn",
            );
        };
        if !stamp::intact(&frame[DATA..len_bytes], stamp, target, lba) {
            return fault(Promise::Buffer, "WRITE with data of several writes");
        }
        Ok(Some(WriteFrame {
            target,
            queue: self.blades[usize::from(target)].queue_to(fields.dst),
            lba,
            sectors,
            stamp,
        }))
    }
}
