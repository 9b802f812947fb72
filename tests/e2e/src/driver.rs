//! An initiator that works as Linux's own driver does: it knows no sessions, sends a retransmission with a new tag, keeps as
//! many commands under way as the target has buffers, does not pad its frames, and never flushes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use sandrail_lab::{Lab, Side};
use sandrail_wire::aoe::{AtaRepr, Body, ConfigCommand, ConfigRepr, Repr, VERSION};
use sandrail_wire::ethernet::EthernetRepr;
use sandrail_wire::{Lba, MacAddr, Tag, TargetAddr};

use crate::data::Pattern;
use crate::peer::{Peer, frame};

/// Commands under way at most, whatever the target says.
const WINDOW_MAX: usize = 64;
/// An unanswered command is sent again after this long.
const RESEND_AFTER: Duration = Duration::from_millis(100);
/// For what needs its time on a machine that has none to spare.
const PATIENCE: Duration = Duration::from_secs(60);
/// The driver's tags count upwards; the upper half is user space's.
const TAG_MASK: u32 = 0x7fff_ffff;

/// What is to be transferred: so many sectors from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// First sector.
    pub lba: u64,
    /// Sectors.
    pub count: u8,
}

/// What was transferred, and how.
#[derive(Clone, Copy, Debug, Default)]
pub struct Driven {
    /// Commands sent again, with a new tag.
    pub resent: u64,
    /// Answers to commands that an earlier copy's answer had ended.
    pub late: u64,
    /// Answers that were left unheard on purpose.
    pub unheard: u64,
}

/// The station.
pub struct Driver {
    peer: Peer,
    own: MacAddr,
    target: MacAddr,
    addr: TargetAddr,
    tag: u32,
    /// What the target told.
    pub buffer_count: u16,
    /// What the target told.
    pub sectors_max: u8,
}

/// A command under way.
struct Command {
    piece: Piece,
    sent_at: Instant,
}

impl Driver {
    /// Opens the socket on the initiator's side and asks the target what it is.
    ///
    /// # Errors
    /// It does not answer.
    pub fn attach(lab: &Lab, addr: TargetAddr) -> Result<Self> {
        Self::attach_as(lab, addr, MacAddr(lab.mac(Side::Initiator).0))
    }

    /// The same with another MAC than the interface's.
    ///
    /// # Errors
    /// It does not answer.
    pub fn attach_as(lab: &Lab, addr: TargetAddr, own: MacAddr) -> Result<Self> {
        let mut driver = Self {
            peer: Peer::open_unpadded(lab, Side::Initiator)?,
            own,
            target: MacAddr::BROADCAST,
            addr,
            tag: 0,
            buffer_count: 0,
            sectors_max: 0,
        };
        let query = Body::Config(ConfigRepr {
            buffer_count: 0,
            firmware: 0,
            sectors_max: 0,
            aoe_version: 0,
            command: ConfigCommand::Read,
            string: b"",
        });
        let give_up = Instant::now() + PATIENCE;
        loop {
            ensure!(Instant::now() < give_up, "{addr} does not answer");
            let tag = driver.send(query, &[]);
            std::thread::sleep(Duration::from_millis(10));
            for answer in driver.peer.receive() {
                let Some((src, repr, _)) = parse(&answer) else {
                    continue;
                };
                if let Body::Config(config) = repr.body
                    && repr.response
                    && repr.tag == Tag(tag)
                {
                    driver.target = src;
                    driver.buffer_count = config.buffer_count;
                    driver.sectors_max = config.sectors_max;
                    return Ok(driver);
                }
            }
        }
    }

    /// Sends a request; its tag.
    fn send(&mut self, body: Body<'_>, data: &[u8]) -> u32 {
        self.tag = self.tag.wrapping_add(1) & TAG_MASK;
        let repr = Repr {
            version: VERSION,
            response: false,
            error: None,
            addr: self.addr,
            tag: Tag(self.tag),
            body,
        };
        let bytes = frame(self.target, self.own, &repr, data);
        self.peer.send([&bytes[..]]);
        self.tag
    }

    /// Sends a WRITE of the pattern to that sector; its tag.
    pub fn send_write(&mut self, piece: Piece, pattern: Pattern) -> u32 {
        let mut data = vec![0; usize::from(piece.count) * 512];
        pattern.fill(piece.lba, &mut data);
        let write = AtaRepr::write_ext(Lba(piece.lba), piece.count);
        self.send(Body::Ata(write), &data)
    }

    /// Sends a READ; its tag.
    pub fn send_read(&mut self, piece: Piece) -> u32 {
        let read = AtaRepr::read_ext(Lba(piece.lba), piece.count);
        self.send(Body::Ata(read), &[])
    }

    /// Waits for the answer with that tag; its data.
    ///
    /// # Errors
    /// None comes, or it is a failure.
    pub fn answer(&mut self, tag: u32) -> Result<Vec<u8>> {
        let give_up = Instant::now() + PATIENCE;
        while Instant::now() < give_up {
            for bytes in self.peer.receive() {
                if let Some((answered, data)) = self.ata_answer(&bytes)?
                    && answered == tag
                {
                    return Ok(data);
                }
            }
            std::thread::yield_now();
        }
        bail!("tag {tag:#x} was never answered")
    }

    /// Tag and data of a frame, if it is an answer to an ATA command of ours.
    fn ata_answer(&self, bytes: &[u8]) -> Result<Option<(u32, Vec<u8>)>> {
        let Some((src, repr, at)) = parse(bytes) else {
            return Ok(None);
        };
        let Body::Ata(ata) = repr.body else {
            return Ok(None);
        };
        if !repr.response || src != self.target || repr.addr != self.addr {
            return Ok(None);
        }
        ensure!(
            repr.error.is_none() && ata.command_status & 0x89 == 0,
            "refused: {repr:?}"
        );
        Ok(Some((repr.tag.0, bytes[at..].to_vec())))
    }

    /// Writes the pattern to all pieces, or reads them and checks them against it. Of the answers to first copies one in
    /// `unheard_every` is not listened to.
    ///
    /// # Errors
    /// A command is refused or never answered, or a sector is not as it should be.
    pub fn transfer(
        &mut self,
        pieces: &[Piece],
        pattern: Pattern,
        writes: bool,
        unheard_every: u64,
    ) -> Result<Driven> {
        let window = WINDOW_MAX.min(usize::from(self.buffer_count));
        let (mut waiting, mut done) = (pieces.iter(), Driven::default());
        let mut under_way: BTreeMap<u32, Command> = BTreeMap::new();
        let (mut answers, mut heard_at) = (0_u64, Instant::now());
        loop {
            while under_way.len() < window
                && let Some(piece) = waiting.next()
            {
                self.start(&mut under_way, *piece, pattern, writes);
            }
            if under_way.is_empty() {
                return Ok(done);
            }
            for bytes in self.peer.receive() {
                let Some((tag, data)) = self.ata_answer(&bytes)? else {
                    continue;
                };
                answers += 1;
                if answers.is_multiple_of(unheard_every) {
                    done.unheard += 1;
                    continue;
                }
                // The answer to a copy that was given up.
                let Some(command) = under_way.remove(&tag) else {
                    done.late += 1;
                    continue;
                };
                heard_at = Instant::now();
                if !writes {
                    let wanted = usize::from(command.piece.count) * 512;
                    let data = data.get(..wanted).context("too short")?;
                    pattern.check(command.piece.lba, data)?;
                }
            }
            let now = Instant::now();
            ensure!(
                now < heard_at + PATIENCE,
                "{} are unanswered",
                under_way.len()
            );
            let due = under_way
                .iter()
                .find(|(_, command)| command.sent_at + RESEND_AFTER <= now)
                .map(|(tag, _)| *tag);
            if let Some(command) = due.and_then(|tag| under_way.remove(&tag)) {
                done.resent += 1;
                self.start(&mut under_way, command.piece, pattern, writes);
            }
            std::thread::yield_now();
        }
    }

    fn start(
        &mut self,
        under_way: &mut BTreeMap<u32, Command>,
        piece: Piece,
        pattern: Pattern,
        writes: bool,
    ) {
        let tag = if writes {
            self.send_write(piece, pattern)
        } else {
            self.send_read(piece)
        };
        let sent_at = Instant::now();
        under_way.insert(tag, Command { piece, sent_at });
    }

    /// Sends `count` READs without listening; how many the interface took.
    pub fn flood(&mut self, count: u32) {
        for lba in 0..u64::from(count) {
            let piece = Piece {
                lba: lba % 64,
                count: 1,
            };
            self.send_read(piece);
        }
        // What comes back is thrown away.
        self.peer.receive();
    }
}

/// Source, AoE part, and where the data of an ATA answer begins.
fn parse(bytes: &[u8]) -> Option<(MacAddr, Repr<'_>, usize)> {
    let (ethernet, start) = EthernetRepr::parse(bytes).ok()?;
    let repr = Repr::parse(bytes.get(start..)?).ok()?;
    let at = start + repr.len_bytes();
    Some((ethernet.src, repr, at))
}
