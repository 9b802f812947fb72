//! What a production blade did, judged from two places apart from it: the frames that went in and out, read by byte
//! offsets, and the operations that reached its disk. Sectors name the write that they belong to, so that each can be
//! traced to the frames that asked for it.
//!
//! - S6: no write is carried out again once another has replaced it, nor more often than there were requests for it;
//! - order: of overlapping writes that came one after the other, the earlier reaches the disk first;
//! - S5: nothing is carried out for a session that was void before its first frame came, and no session is given to two
//!   within a lifetime;
//! - S8 to S10: once a SET was answered, no write of those it removed reaches the disk or ends there, not over a
//!   restart either, and no later answer tells an older epoch or another list of the same;
//! - masks: whoever asks after the mask that shuts it out was answered is not answered;
//! - persistence: a config string that is told is the last one acknowledged, or one asked for since.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::bytes::{self, Fields, Mac};
use crate::stamp::{self, SECTOR_BYTES, Stamp};
use crate::violation::{Promise, Violation};

mod admission;

/// One request for a write: session, source, tag without the copy's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Request {
    session: u16,
    mac: Mac,
    tag: u32,
    /// The first and the last copy that was delivered, in the order of all deliveries.
    first: u64,
    last: u64,
    /// When the last one came, and the longest time between two.
    last_ns: u64,
    gap_ns: u64,
    /// The blade's life in which the first came.
    life: u32,
}

/// The sectors of one write that one frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Part {
    pub(crate) stamp: Stamp,
    pub(crate) lba: u64,
    pub(crate) sectors: u64,
}

impl Part {
    const fn overlaps(&self, other: &Self) -> bool {
        self.lba < other.lba + other.sectors && other.lba < self.lba + self.sectors
    }
}

#[derive(Debug, Default)]
struct Asked {
    requests: Vec<Request>,
    /// Carried out, or being carried out.
    executions: u32,
}

/// A write that reached the disk, with the first delivery of any copy of it.
#[derive(Clone, Copy, Debug)]
struct Executed {
    part: Part,
    first: u64,
}

#[derive(Clone, Debug)]
struct SessionBooks {
    incarnation: u64,
    shard: u8,
    macs: Vec<Mac>,
    /// All MACs of the process that attached, as it told, those above included.
    stations: Vec<Mac>,
    /// When it became void, by time and by delivery.
    void: Option<(u64, u64)>,
}

/// An attach: who it is of, and all MACs of its process.
#[derive(Clone, Debug)]
struct Attaching {
    incarnation: u64,
    shard: u8,
    stations: Vec<Mac>,
    /// It names its birth, or asks for one.
    births: bool,
    /// When it came, the last time.
    moment: u64,
}

/// A reservation that was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Members {
    epoch: u64,
    macs: Vec<Mac>,
}

impl Members {
    fn admits(&self, mac: Mac) -> bool {
        self.macs.is_empty() || self.macs.contains(&mac)
    }
}

/// The books of one target.
#[derive(Debug, Default)]
pub(crate) struct Books {
    /// By sector: the writes that were carried out on it, in order.
    history: Vec<Vec<Stamp>>,
    asked: HashMap<Part, Asked>,
    recent: Vec<Executed>,
    sessions: BTreeMap<u16, SessionBooks>,
    /// Attaches that are to be answered, by source and tag.
    attaching: HashMap<(Mac, u32), Attaching>,
    /// By MAC and incarnation of lives that were let in: when the attach came, the last time.
    let_in: HashMap<(Mac, u64), u64>,
    /// Those of them that a reservation has removed which was acknowledged since, and when that was.
    fenced: HashMap<(Mac, u64), u64>,
    /// By reservation: when it was asked for first.
    set_at: Vec<(Members, u64)>,
    /// The reservation that was acknowledged last, and those asked for since.
    in_force: Members,
    asked_for: Vec<Members>,
    /// Whether a reservation was ever acknowledged with an epoch.
    config: Vec<u8>,
    configs_asked: Vec<Vec<u8>>,
    /// The mask as it was acknowledged, since which delivery; `None` while one is asked for.
    mask: Option<(Vec<Mac>, u64)>,
    /// By source and tag: the last delivery.
    asked_at: HashMap<(Mac, u32), u64>,
    /// Writes at work on the disk.
    at_work: Vec<Part>,
    life: u32,
    /// By write and session: the parts that it came in.
    cut: HashMap<(Stamp, u16), Vec<(Part, u32)>>,
    /// Writes that came within one session under two tags, or cut in two ways. To a target these are different requests.
    retagged: HashSet<Stamp>,
    /// SETs answered as done.
    pub(crate) sets_done: u64,
    /// Writes of MACs that were removed that came after the SET's answer: how often the fence was tried.
    pub(crate) fenced_tries: u64,
    /// Copies of writes that had been carried out and came again.
    pub(crate) copies_late: u64,
}

/// All of it.
#[derive(Debug)]
pub struct Ledger {
    targets: Vec<Books>,
    deliveries: u64,
    lifetime_ns: u64,
    now_ns: u64,
    violation: Option<Violation>,
}

fn wrong(promise: Promise, text: String) -> Violation {
    Violation::new(promise, text)
}

impl Ledger {
    /// For targets of so many sectors each.
    #[must_use]
    pub fn new(disks: &[u64], lifetime_ns: u64) -> Self {
        let books = |sectors: &u64| Books {
            history: vec![vec![Stamp::INITIAL]; *sectors as usize],
            mask: Some((Vec::new(), 0)),
            ..Books::default()
        };
        Self {
            targets: disks.iter().map(books).collect(),
            deliveries: 0,
            lifetime_ns,
            now_ns: 0,
            violation: None,
        }
    }

    pub(crate) const fn at(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
    }

    /// What was found to be wrong since it was last asked.
    pub(crate) const fn violation(&mut self) -> Option<Violation> {
        self.violation.take()
    }

    pub(crate) fn accuse(&mut self, promise: Promise, text: String) {
        if self.violation.is_none() {
            self.violation = Some(wrong(promise, text));
        }
    }

    /// A request is handed to the blade.
    pub(crate) fn delivered(&mut self, target: u8, frame: &[u8], fields: &Fields) {
        self.deliveries += 1;
        let (moment, now_ns) = (self.deliveries, self.now_ns);
        let books = &mut self.targets[usize::from(target)];
        books.asked_at.insert((fields.src, fields.tag), moment);
        if let Some((lba, sectors)) = fields.write_request() {
            books.write_delivered((moment, now_ns), frame, fields, (lba, sectors));
        }
        match fields.command {
            1 => books.config_delivered(frame),
            2 => {
                books.mask = books
                    .mask
                    .take()
                    .filter(|_| frame.get(ARGS_MASK_COMMAND) == Some(&0))
            }
            bytes::VENDOR => {
                if let Some(vendor) = bytes::vendor(frame) {
                    books.vendor_delivered(moment, fields, vendor);
                }
            }
            _ => {}
        }
    }

    /// A frame leaves the blade.
    pub(crate) fn answered(&mut self, target: u8, frame: &[u8], fields: &Fields) {
        let (moment, now_ns, lifetime_ns) = (self.deliveries, self.now_ns, self.lifetime_ns);
        let books = &mut self.targets[usize::from(target)];
        let result = books.judge_mask(fields).and_then(|()| {
            if fields.refused {
                return Ok(());
            }
            match fields.command {
                1 if fields.dst != [0xff; 6] => books.config_answered(frame),
                2 => {
                    books.mask_answered(frame, moment);
                    Ok(())
                }
                3 => books.plain_reserve_answered(frame),
                bytes::VENDOR => match bytes::vendor(frame) {
                    Some(vendor) => {
                        books.vendor_answered(moment, now_ns, lifetime_ns, fields, &vendor)
                    }
                    None => Err(wrong(
                        Promise::Frame,
                        "an answer to the vendor command that is none".into(),
                    )),
                },
                _ => Ok(()),
            }
        });
        if let Err(violation) = result
            && self.violation.is_none()
        {
            self.violation = Some(violation);
        }
    }

    /// A write reaches the disk. Returns the part that it is of.
    pub(crate) fn started(&mut self, target: u8, lba: u64, data: &[u8]) -> Option<Part> {
        let now_ns = self.now_ns;
        let books = &mut self.targets[usize::from(target)];
        let lifetime_ns = self.lifetime_ns;
        match books.start(target, now_ns, lifetime_ns, lba, data) {
            Ok(part) => Some(part),
            Err(violation) => {
                if self.violation.is_none() {
                    self.violation = Some(violation);
                }
                None
            }
        }
    }

    /// And ends there.
    pub(crate) fn ended(&mut self, target: u8, part: Part, ok: bool) {
        let now_ns = self.now_ns;
        let books = &mut self.targets[usize::from(target)];
        if let Some(place) = books.at_work.iter().position(|at_work| *at_work == part) {
            books.at_work.swap_remove(place);
        }
        let result = books.judge_fence(target, part, now_ns, "ended");
        if !ok && let Some(asked) = books.asked.get_mut(&part) {
            // It may be asked for again under another tag; a copy of this request is not.
            asked.executions = asked.executions.saturating_sub(1);
        }
        if let Err(violation) = result
            && self.violation.is_none()
        {
            self.violation = Some(violation);
        }
    }

    /// The process is gone: its sessions are void, what was at work is over.
    pub(crate) fn restarted(&mut self) {
        let (moment, now_ns) = (self.deliveries, self.now_ns);
        for books in &mut self.targets {
            books.life += 1;
            books.at_work.clear();
            books.attaching.clear();
            books.recent.clear();
            for session in books.sessions.values_mut() {
                session.void.get_or_insert((now_ns, moment));
            }
        }
    }

    /// Whether an initiator sent one of these writes again as another request within one session, of which S6 knows nothing:
    /// then only S3 stands between its late copies and what is newer.
    #[must_use]
    pub fn retagged(&self, writes: &[Stamp]) -> bool {
        let any = |books: &Books| writes.iter().any(|stamp| books.retagged.contains(stamp));
        self.targets.iter().any(any)
    }

    /// Writes of the books for a summary.
    #[must_use]
    pub fn counts(&self) -> [u64; 3] {
        let sum = |of: fn(&Books) -> u64| self.targets.iter().map(of).sum();
        [
            sum(|books| books.copies_late),
            sum(|books| books.sets_done),
            sum(|books| books.fenced_tries),
        ]
    }
}

/// Where a mask request's command lies: 0 reads, 1 edits.
const ARGS_MASK_COMMAND: usize = bytes::ARGS + 1;

impl Books {
    fn write_delivered(
        &mut self,
        (moment, now_ns): (u64, u64),
        frame: &[u8],
        fields: &Fields,
        (lba, sectors): (u64, u64),
    ) {
        let Some(data) = frame.get(bytes::DATA..bytes::DATA + sectors as usize * SECTOR_BYTES)
        else {
            return;
        };
        let first = data.get(..SECTOR_BYTES).map(stamp::name);
        let Some(stamp) = first else { return };
        let part = Part {
            stamp,
            lba,
            sectors,
        };
        let session = fields.ata.map_or(0, |ata| ata.session);
        let (mac, tag, life) = (fields.src, fields.tag >> 4, self.life);
        if self.in_force.epoch > 0
            && !self.in_force.admits(mac)
            && !self.asked_for.iter().any(|members| members.admits(mac))
        {
            self.fenced_tries += 1;
        }
        let cuts = self.cut.entry((stamp, session)).or_default();
        if !cuts.contains(&(part, tag)) {
            if cuts.iter().any(|(other, _)| other.overlaps(&part)) {
                self.retagged.insert(stamp);
            }
            cuts.push((part, tag));
        }
        let asked = self.asked.entry(part).or_default();
        if asked.executions > 0 {
            self.copies_late += 1;
        }
        let known = asked
            .requests
            .iter_mut()
            .find(|request| (request.session, request.mac, request.tag) == (session, mac, tag));
        match known {
            Some(request) => {
                request.last = moment;
                request.gap_ns = request.gap_ns.max(now_ns - request.last_ns);
                request.last_ns = now_ns;
            }
            None => asked.requests.push(Request {
                session,
                mac,
                tag,
                first: moment,
                last: moment,
                last_ns: now_ns,
                gap_ns: 0,
                life,
            }),
        }
    }

    fn start(
        &mut self,
        target: u8,
        now_ns: u64,
        lifetime_ns: u64,
        lba: u64,
        data: &[u8],
    ) -> Result<Part, Violation> {
        let sectors = (data.len() / SECTOR_BYTES) as u64;
        let stamp = stamp::name(&data[..SECTOR_BYTES]);
        if !stamp::intact(data, stamp, target, lba) {
            return Err(wrong(
                Promise::ReadContent,
                format!(
                    "target {target}: what is written at {lba}+{sectors} is torn or not of these sectors"
                ),
            ));
        }
        let part = Part {
            stamp,
            lba,
            sectors,
        };
        let Some(asked) = self.asked.get_mut(&part) else {
            return Err(wrong(
                Promise::ReadContent,
                format!("target {target}: {part:?} is written, which nobody asked for"),
            ));
        };
        asked.executions += 1;
        let foreign = asked.requests.iter().any(|request| request.session == 0);
        // Copies that are further apart than a frame lives are beyond what a target must remember.
        let remembered = asked
            .requests
            .iter()
            .all(|request| request.gap_ns <= lifetime_ns);
        // Under a new session an unanswered write is another request, and may come again after what overlapped with it.
        let too_often = !foreign && asked.executions as usize > asked.requests.len();
        if too_often && remembered {
            return Err(wrong(
                Promise::Duplicate,
                format!(
                    "target {target}: {part:?} is carried out {} times for {} requests: {:x?}",
                    asked.executions,
                    asked.requests.len(),
                    asked.requests
                ),
            ));
        }
        self.at_work.push(part);
        self.judge_order(target, part)?;
        self.judge_sessions(target, part)?;
        self.judge_fence(target, part, now_ns, "begun")?;
        for (lba, history) in (lba..).zip(&mut self.history[lba as usize..][..sectors as usize]) {
            let replaced = history
                .iter()
                .position(|earlier| *earlier == stamp)
                .is_some_and(|place| place + 1 < history.len());
            if replaced && too_often {
                return Err(wrong(
                    Promise::Duplicate,
                    format!(
                        "target {target} sector {lba}: {stamp} is written again after {} had replaced it",
                        history[history.len() - 1]
                    ),
                ));
            }
            if history.last() != Some(&stamp) {
                history.push(stamp);
            }
        }
        Ok(part)
    }

    /// All copies of this one had come before the first of another that overlaps it and was begun.
    fn judge_order(&mut self, target: u8, part: Part) -> Result<(), Violation> {
        let Some(asked) = self.asked.get(&part) else {
            return Ok(());
        };
        let (mut first, mut last) = (u64::MAX, 0);
        for request in &asked.requests {
            first = first.min(request.first);
            last = last.max(request.last);
        }
        let overtaken = self.recent.iter().find(|other| {
            other.part.stamp != part.stamp && other.part.overlaps(&part) && last < other.first
        });
        if let Some(other) = overtaken {
            return Err(wrong(
                Promise::Order,
                format!(
                    "target {target}: {:?}, which came later, was begun before {part:?}",
                    other.part
                ),
            ));
        }
        if self.recent.len() == 256 {
            self.recent.remove(0);
        }
        self.recent.push(Executed { part, first });
        Ok(())
    }

    fn config_delivered(&mut self, frame: &[u8]) {
        let Some(args) = frame.get(bytes::ARGS..) else {
            return;
        };
        let (command, len) = (
            args[5] & 0x0f,
            usize::from(u16::from_be_bytes([args[6], args[7]])),
        );
        if matches!(command, 3 | 4)
            && let Some(string) = args.get(8..8 + len)
            && !self.configs_asked.iter().any(|asked| asked == string)
        {
            self.configs_asked.push(string.to_vec());
        }
    }

    fn config_answered(&mut self, frame: &[u8]) -> Result<(), Violation> {
        let args = &frame[bytes::ARGS..];
        let (command, len) = (
            args[5] & 0x0f,
            usize::from(u16::from_be_bytes([args[6], args[7]])),
        );
        let told = args.get(8..8 + len).unwrap_or(&[]);
        if told != self.config && !self.configs_asked.iter().any(|asked| asked == told) {
            return Err(wrong(
                Promise::Persistence,
                format!(
                    "the config string is {:?}, acknowledged was {:?}, asked for since {:?}",
                    String::from_utf8_lossy(told),
                    String::from_utf8_lossy(&self.config),
                    self.configs_asked.len()
                ),
            ));
        }
        // A set was acknowledged. Whoever sets strings here waits a lifetime between two, so that no older one comes late.
        if matches!(command, 3 | 4) {
            self.config = told.to_vec();
            self.configs_asked.retain(|asked| asked == told);
        }
        Ok(())
    }

    fn mask_answered(&mut self, frame: &[u8], moment: u64) {
        let args = &frame[bytes::ARGS..];
        // Reserved, command, error, count, then directives: reserved, directive, MAC.
        if args[1] != 1 || args[2] != 0 {
            return;
        }
        let count = usize::from(args[3]);
        let list = args.get(4..4 + 8 * count).unwrap_or(&[]);
        let macs = list
            .chunks_exact(8)
            .map(|directive| directive[2..].try_into().expect("six bytes"))
            .collect();
        self.mask = Some((macs, moment));
    }

    fn judge_mask(&self, fields: &Fields) -> Result<(), Violation> {
        let Some((mask, since)) = &self.mask else {
            return Ok(());
        };
        if mask.is_empty() || mask.contains(&fields.dst) || fields.dst == [0xff; 6] {
            return Ok(());
        }
        let asked = self.asked_at.get(&(fields.dst, fields.tag)).copied();
        if asked.unwrap_or(0) <= *since {
            return Ok(());
        }
        Err(wrong(
            Promise::Mask,
            format!(
                "an answer to {:x?}, whom the mask {mask:x?} does not admit",
                fields.dst
            ),
        ))
    }
}
