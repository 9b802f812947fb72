//! A link that takes the session out of ATA commands, so that a target with sessions takes them for a foreign initiator's:
//! what sessions are for shows when they are not there.

use std::os::fd::RawFd;

use sandrail_link::{HEADER_BYTES_MAX, Link, LinkCounters, LinkInfo, TransmitError};
use sandrail_proto::time::Instant;
use sandrail_wire::FrameRef;
use sandrail_wire::ethernet::HEADER_BYTES;

/// Where the session is in an untagged frame (docs/wire.md).
const SESSION: std::ops::Range<usize> = 34..36;
/// Where the AoE command is, behind version and flags, error, shelf and slot.
const COMMAND: usize = HEADER_BYTES + 5;
const ATA: u8 = 0;

/// Any link whose frames carry no VLAN tag; ATA commands leave it without their session.
pub struct StripLink<L> {
    inner: L,
}

impl<L: Link> StripLink<L> {
    /// Takes sessions out of what is sent over `inner`.
    #[must_use]
    pub fn new(inner: L) -> Self {
        Self { inner }
    }
}

fn is_ata(header: &[u8]) -> bool {
    header.len() >= SESSION.end
        && header[12..HEADER_BYTES] == [0x88, 0xa2]
        && header[COMMAND] == ATA
}

impl<L: Link> Link for StripLink<L> {
    fn info(&self) -> &LinkInfo {
        self.inner.info()
    }

    fn receive(
        &mut self,
        now: Instant,
        frames_max: usize,
        sink: &mut dyn FnMut(FrameRef<'_>),
    ) -> usize {
        self.inner.receive(now, frames_max, sink)
    }

    fn transmit_room(&mut self) -> usize {
        self.inner.transmit_room()
    }

    fn transmit(
        &mut self,
        now: Instant,
        header: &[u8],
        payload: &[u8],
    ) -> Result<(), TransmitError> {
        if !is_ata(header) {
            return self.inner.transmit(now, header, payload);
        }
        let mut bare = [0; HEADER_BYTES_MAX];
        let bare = &mut bare[..header.len()];
        bare.copy_from_slice(header);
        bare[SESSION].fill(0);
        self.inner.transmit(now, bare, payload)
    }

    fn flush(&mut self, now: Instant) {
        self.inner.flush(now);
    }

    fn completed(&self) -> u64 {
        self.inner.completed()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.inner.poll_timeout()
    }

    fn wait_fd(&self) -> Option<RawFd> {
        self.inner.wait_fd()
    }

    fn prepare_wait(&mut self) -> bool {
        self.inner.prepare_wait()
    }

    fn counters(&mut self) -> LinkCounters {
        self.inner.counters()
    }
}
