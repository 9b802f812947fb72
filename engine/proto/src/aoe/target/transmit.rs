//! What to send next, and its bytes.

use sandrail_wire::aoe::{AtaRepr, Body, ConfigCommand, Repr, VERSION};
use sandrail_wire::{MacAddr, Tag};

use super::backing::Backing;
use super::operation::{Answer, Payload, Stage};
use super::stations::Share;
use super::{Blade, InterfaceId, Transmit, io_of};
use crate::time::Instant;

/// What a link takes as a header; a longer answer goes on in the payload.
pub(super) const HEADER_BYTES_MAX: usize = 64;

/// What the last call of `poll_transmit` lent out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HandedOut {
    Nothing,
    /// A disk's data.
    Operation(u32),
    /// A place in the pool of answers.
    Answer(u32),
}

/// What was decided to be sent.
enum Decided {
    Advertisement(usize),
    Answer(u32),
    Operation(u32),
}

impl<D: Backing> Blade<D> {
    /// The next frame for `interface`. Its payload is lent until the next call, by which it must have been copied.
    #[inline]
    pub fn poll_transmit(&mut self, now: Instant, interface: InterfaceId) -> Option<Transmit<'_>> {
        let _ = now;
        self.take_back();
        match self.decide(usize::from(interface.0))? {
            Decided::Operation(place) => Some(self.send_operation(place)),
            Decided::Answer(slot) => Some(self.send_answer(slot)),
            Decided::Advertisement(number) => Some(self.send_advertisement(interface.0, number)),
        }
    }

    /// Throws the answers away that wait for an interface, since it is gone; they are counted.
    pub fn drop_answers(&mut self, now: Instant, interface: InterfaceId) {
        while self.poll_transmit(now, interface).is_some() {
            self.counters.tx_frames -= 1;
            self.counters.tx_dropped += 1;
        }
    }

    fn take_back(&mut self) {
        match core::mem::replace(&mut self.handed_out, HandedOut::Nothing) {
            HandedOut::Nothing => {}
            HandedOut::Answer(slot) => self.answers.give_back(slot),
            HandedOut::Operation(place) => {
                let number = usize::from(self.operations[place as usize].target);
                let target = &mut self.targets[number];
                let io = io_of(target, place);
                target.backing.release(io);
                self.free(place);
            }
        }
    }

    fn decide(&mut self, interface: usize) -> Option<Decided> {
        let entry = self.interfaces.get_mut(interface)?;
        if entry.advertise_left > 0 {
            let due = entry.advertise.iter().position(|due| *due);
            let number = due.expect("some are left");
            entry.advertise[number] = false;
            entry.advertise_left -= 1;
            self.counters.tx_frames += 1;
            self.counters.tx_advertisements += 1;
            return Some(Decided::Advertisement(number));
        }
        let decided = match self.answers.next(interface) {
            Some(slot) => Decided::Answer(slot),
            None => Decided::Operation(entry.answered.pop(&mut self.operations)?),
        };
        self.counters.tx_frames += 1;
        Some(decided)
    }

    fn send_answer(&mut self, slot: u32) -> Transmit<'_> {
        let station = self.answers.station(slot);
        self.stations.leave(station, Share::Control);
        self.handed_out = HandedOut::Answer(slot);
        let frame = self.answers.frame(slot);
        let (header, payload) = frame.split_at(frame.len().min(HEADER_BYTES_MAX));
        Transmit { header, payload }
    }

    #[inline]
    fn send_operation(&mut self, place: u32) -> Transmit<'_> {
        let operation = self.operations[place as usize];
        assert!(
            operation.stage == Stage::Answered,
            "only what is over is told"
        );
        // With the answer on its way the sender may send another.
        self.stations.leave(operation.station, Share::Request);
        let number = usize::from(operation.target);
        let (error, registers) = match operation.answer {
            Answer::Refused(code) => (Some(code), operation.request),
            Answer::Outcome(registers) => (
                None,
                AtaRepr {
                    error_feature: registers.error,
                    count: registers.count,
                    command_status: registers.status,
                    lba_bytes: registers.lba_bytes,
                    ..operation.request
                },
            ),
        };
        let repr = Repr {
            version: VERSION,
            response: true,
            error,
            addr: self.targets[number].addr,
            tag: operation.tag,
            body: Body::Ata(registers),
        };
        let header_bytes = self.write_header(operation.interface, operation.mac, &repr);
        if operation.payload == Payload::Disk {
            self.handed_out = HandedOut::Operation(place);
        } else {
            self.free(place);
        }
        let target = &self.targets[number];
        Transmit {
            header: &self.scratch[..header_bytes],
            payload: match operation.payload {
                Payload::Nothing => &[],
                Payload::Identify => &target.identify[..],
                Payload::Disk => {
                    let len_bytes = usize::from(operation.request.count) * super::SECTOR_BYTES;
                    &target.backing.data(io_of(target, place))[..len_bytes]
                }
            },
        }
    }

    /// Writes an ATA answer's headers into the scratch memory; they take at most 44 bytes.
    fn write_header(&mut self, interface: u8, mac: MacAddr, repr: &Repr<'_>) -> usize {
        let ethernet = self.ethernet(interface, mac);
        let at = ethernet
            .emit(&mut self.scratch)
            .expect("room for the longest header");
        let len_bytes = repr
            .emit(&mut self.scratch[at..])
            .expect("room for the longest header");
        at + len_bytes
    }

    fn send_advertisement(&mut self, interface: u8, number: usize) -> Transmit<'_> {
        let ethernet = self.ethernet(interface, MacAddr::BROADCAST);
        let sectors_max = self.sectors_told(number, interface);
        let target = &self.targets[number];
        let string = &target.state.config_string;
        let repr = Repr {
            version: VERSION,
            response: true,
            error: None,
            addr: target.addr,
            tag: Tag(0),
            body: Body::Config(self.config_answer(ConfigCommand::Read, sectors_max, string)),
        };
        let mut frame = core::mem::take(&mut self.scratch);
        let at = ethernet.emit(&mut frame).expect("room for any header");
        let len_bytes = repr.emit(&mut frame[at..]).expect("room for any answer");
        self.scratch = frame;
        let frame = &self.scratch[..at + len_bytes];
        let (header, payload) = frame.split_at(frame.len().min(HEADER_BYTES_MAX));
        Transmit { header, payload }
    }
}
