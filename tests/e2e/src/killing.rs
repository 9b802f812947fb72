//! The blade is killed in a storm of writes, again and again.
//!
//! Two targets of one blade are stormed at once: a plain file, whose acknowledged writes survive the process, and one in
//! power-cut mode, which loses what was not flushed. Meanwhile reservation and config string of the plain one are changed as
//! fast as the blade makes them durable. One node lives through many of the blade's lives.

use std::fmt;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use sandrail_lab::{Blade, Side};
use sandrail_node::{BlockingError, Client, RequestError, TargetHandle};
use sandrail_proto::aoe::initiator::{Durability, IoError, PinnedMacs, RestartEvidence};
use sandrail_wire::aoe::{
    ConfigCommand, DirectiveCommand, MASK_DIRECTIVE_BYTES, MaskDirectives, ReserveCommand,
};
use sandrail_wire::{MacAddr, TargetAddr};
use serde_json::Value;

use crate::site::{Setup, Shards, Site, Wire};
use crate::storm::{self, Ledger, Storm};

/// The target in power-cut mode; the plain one is [`crate::site::ADDR`].
const CUT: TargetAddr = TargetAddr { shelf: 7, slot: 4 };
/// Sectors that each storm runs over.
const SECTORS: usize = 8192;
/// Requests of each storm under way.
const DEPTH: usize = 32;
/// For what needs its time on a machine that has none to spare.
const PATIENCE: Duration = Duration::from_secs(60);
/// A MAC that is reserved for, and admitted, and does not exist.
const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x77]);

/// How a blade's life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// SIGKILL.
    Kill,
    /// A power cut: of what was not flushed, a subset stays on the power-cut target's disk, as the seed decides.
    PowerCut(u64),
}

/// What came of some rounds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// Times the blade was killed.
    pub kills: u32,
    /// Requests completed in the storms.
    pub requests: u64,
    /// Flushes of the plain target that succeeded.
    pub flushes: u64,
    /// Changes of reservation and config string that were acknowledged.
    pub changes: u64,
    /// Times that the power-cut target's loss was told.
    pub losses_told: u32,
    /// Its sectors that had lost something acknowledged.
    pub sectors_lost: u64,
}

impl Outcome {
    /// Adds another's.
    pub fn add(&mut self, other: &Self) {
        self.kills += other.kills;
        self.requests += other.requests;
        self.flushes += other.flushes;
        self.changes += other.changes;
        self.losses_told += other.losses_told;
        self.sectors_lost += other.sectors_lost;
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} kills, {} requests, {} flushes, {} changes; power-cut target: loss told {} times, {} sectors lost",
            self.kills,
            self.requests,
            self.flushes,
            self.changes,
            self.losses_told,
            self.sectors_lost
        )
    }
}

/// A site with both targets, over which rounds are played.
pub struct Killing {
    site: Site<Blade>,
    cut: TargetHandle,
    plain_file: File,
    cut_file: File,
    state: PathBuf,
    plain_ledger: Ledger,
    cut_ledger: Ledger,
    seed: u64,
    round: u64,
    /// The latest number of a change that was acknowledged.
    change: u64,
    own: MacAddr,
}

impl Killing {
    /// Builds it. `seed` decides what is written where, and when the blade dies.
    ///
    /// # Errors
    /// Whatever is in the way.
    pub fn new(wire: Wire, shards: Shards, seed: u64) -> Result<Self> {
        Self::with(wire, shards, seed, "")
    }

    /// The same with more settings of the plain target, such as `,power-cut`, with which it breaks its promise.
    ///
    /// # Errors
    /// Whatever is in the way.
    pub fn with(wire: Wire, shards: Shards, seed: u64, settings: &str) -> Result<Self> {
        let mut setup = Setup::new(wire).mtu(9000).shards(shards);
        // Both targets' areas spread over all shards.
        setup.node.stripe_sectors = 128;
        setup.disk_bytes = u64::try_from(SECTORS * 512)?;
        let mut folder = PathBuf::new();
        let site = Site::of_blade(setup, |options, lab, disk| {
            folder = lab.folder()?;
            let cut = folder.join("cut");
            File::create(&cut)?.set_len(disk.len_sectors() * 512)?;
            Ok(options
                .export("e7.3", &format!("{}{settings}", disk.path().display()))
                .export("e7.4", &format!("{},power-cut", cut.display()))
                .state_dir(&folder.join("state")))
        })?;
        let any = PinnedMacs::first_to_answer();
        let cut = site.node.attach(CUT, any, PATIENCE)?;
        let own = site.mac(Side::Initiator);
        let mut client = site.client(1)?;
        let mut mask = vec![0; 2 * MASK_DIRECTIVE_BYTES];
        let add = |mac| (DirectiveCommand::Add, mac);
        MaskDirectives::encode(&[add(own), add(OTHER)], &mut mask).context("two directives fit")?;
        client.mask_edit(site.target, &mask)?;
        drop(client);
        Ok(Self {
            cut,
            plain_file: site.disk.open()?,
            cut_file: File::open(folder.join("cut"))?,
            state: folder.join("state/e7.3.state"),
            plain_ledger: Ledger::new(seed, SECTORS),
            cut_ledger: Ledger::new(seed ^ 0x0c07, SECTORS),
            site,
            seed,
            round: 0,
            change: 0,
            own,
        })
    }

    /// One life of the blade: a storm, its end, a restart, and the storm goes on.
    ///
    /// # Errors
    /// A promise was broken, or something failed.
    pub fn round(&mut self, end: End) -> Result<Outcome> {
        self.round += 1;
        let mut rng = fastrand::Rng::with_seed(self.seed << 20 ^ self.round);
        let (seed, node) = (rng.u64(..), &self.site);
        let ledger = |ledger: &mut Ledger| std::mem::take(ledger);
        let plain = Storm::start(
            node.client(DEPTH)?,
            node.target,
            ledger(&mut self.plain_ledger),
            false,
            seed,
        )?;
        let cut = Storm::start(
            node.client(DEPTH)?,
            self.cut,
            ledger(&mut self.cut_ledger),
            true,
            seed ^ 1,
        )?;
        let changes = Changes::start(node.client(1)?, node.target, self.own, self.change)?;
        let plain = plain.wait_for(rng.usize(300..900), PATIENCE)?;
        let cut = cut.wait_for(rng.usize(1..300), PATIENCE)?;
        std::thread::sleep(Duration::from_micros(rng.u64(..3000)));

        // From before the end on, reads may find that something is gone.
        cut.with(|ledger| ledger.lost_until(u32::MAX));
        let acknowledged = self.end(end, &changes)?;
        plain
            .with(|ledger| storm::check_file(&self.plain_file, ledger))
            .context("of the plain target, after the end")?;
        let unflushed = cut.with(|ledger| {
            let last = ledger.pass();
            ledger.lost_until(last);
            storm::check_file(&self.cut_file, ledger).map(|()| ledger.unflushed())
        });
        let unflushed = unflushed.context("of the power-cut target, after the end")?;
        self.check_state(acknowledged)?;

        self.site.blade.restart().context("the next life")?;
        let plain = plain.wait_for(300, PATIENCE).context("after the restart")?;
        let cut = cut.wait_for(300, PATIENCE).context("after the restart")?;
        let (plain, cut) = (plain.stop(), cut.stop());
        let changes = changes.stop()?;
        let mut outcome = Outcome {
            kills: 1,
            changes: changes - self.change,
            ..Outcome::default()
        };
        self.change = changes;
        self.check_plain(plain.context("the plain target's storm")?, &mut outcome)
            .context("the plain target")?;
        self.check_cut(
            cut.context("the power-cut target's storm")?,
            &unflushed,
            &mut outcome,
        )
        .context("the power-cut target")?;
        self.check_kept().context("what is kept")?;
        Ok(outcome)
    }

    /// Ends the blade; the latest change that was acknowledged by then.
    fn end(&mut self, end: End, changes: &Changes) -> Result<u64> {
        match end {
            End::Kill => self.site.blade.kill()?,
            End::PowerCut(seed) => {
                let crash = format!(r#"{{"verb":"crash","keep":{{"seed":{seed}}}}}"#);
                let answer = self.site.blade.control(&crash)?;
                ensure!(answer.is_empty(), "it lives on: {answer}");
                let status = self.site.blade.wait_for_end()?;
                ensure!(status.code() == Some(9), "{status}");
            }
        }
        Ok(changes.acknowledged())
    }

    fn check_plain(&mut self, stormed: storm::Stormed, outcome: &mut Outcome) -> Result<()> {
        let mut client = self.site.client(8)?;
        outcome.requests += u64::try_from(stormed.completed)?;
        outcome.flushes += stormed.flushes;
        ensure!(!stormed.told, "a flush told of a loss");
        // The loss mark is the same, so nothing that was acknowledged is missing, and nobody is told that it were.
        let durability = client.flush(self.site.target)?;
        ensure!(durability == Durability::Claimed, "{durability:?}");
        let data = storm::read_all(&mut client, self.site.target, &stormed.ledger)?;
        stormed.ledger.check(0, &data).context("read")?;
        storm::check_file(&self.plain_file, &stormed.ledger)?;
        self.plain_ledger = stormed.ledger;
        Ok(())
    }

    fn check_cut(
        &mut self,
        stormed: storm::Stormed,
        unflushed: &[(usize, u32)],
        outcome: &mut Outcome,
    ) -> Result<()> {
        let mut client = self.site.client(8)?;
        let mut ledger = stormed.ledger;
        outcome.requests += u64::try_from(stormed.completed)?;
        let lost = |(sector, pass): &(usize, u32)| !ledger.is_flushed(*sector, *pass);
        let must_tell = stormed.told || unflushed.iter().any(lost);
        let result = client.flush(self.cut);
        if is_told(&result) {
            outcome.losses_told += 1;
            let again = client.flush(self.cut);
            ensure!(is_told(&again), "S7: told once, then {again:?}");
            self.site.node.accept_loss(self.cut)?;
        } else {
            ensure!(!must_tell, "nobody was told of the loss: {result:?}");
            result?;
        }
        let data = storm::read_all(&mut client, self.cut, &ledger)?;
        let lost = ledger.settle(&data).context("after the loss")?;
        outcome.sectors_lost += u64::try_from(lost)?;
        let durability = client.flush(self.cut).context("after note was taken")?;
        ensure!(durability == Durability::Claimed, "{durability:?}");
        storm::check_file(&self.cut_file, &ledger).context("flushed")?;
        self.cut_ledger = ledger;
        Ok(())
    }

    /// Between two lives: what the state's file holds is the last change that was acknowledged, or the next one.
    fn check_state(&self, acknowledged: u64) -> Result<()> {
        if acknowledged == 0 {
            return Ok(());
        }
        let text = std::fs::read_to_string(&self.state)?;
        let line = text.lines().nth(1).context("the second line")?;
        let state: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        let epoch = state["epoch"].as_u64().context("an epoch")?;
        let string = text_of(state["config_string"].as_str().context("a string")?)?;
        let number: u64 = string.strip_prefix("change ").unwrap_or("0").parse()?;
        for (what, kept) in [("epoch", epoch), ("config string", number)] {
            ensure!(
                (acknowledged..=acknowledged + 1).contains(&kept),
                "{what} {kept} is kept, {acknowledged} was acknowledged: {line}"
            );
        }
        let list = Changes::list(self.own, epoch).map(|mac| Value::from(mac.to_string()));
        ensure!(state["reserved"] == Value::from(list.to_vec()), "{line}");
        Ok(())
    }

    /// What the blade says of itself, asked over the wire.
    fn check_kept(&self) -> Result<()> {
        let (target, mut client) = (self.site.target, self.site.client(1)?);
        let list = Changes::list(self.own, self.change);
        let reserved = client.reserve(target, ReserveCommand::Read, &[])?;
        ensure!(reserved == list, "{reserved:?}, not {list:?}");
        let string = client.config(target, ConfigCommand::Read, b"")?;
        ensure!(string == Changes::string(self.change).as_bytes());
        let mask = client.mask_read(target)?;
        ensure!(mask == [self.own, OTHER], "mask {mask:?}");
        // S8: the clock is not turned back.
        let older = client.reserve_by_epoch(target, self.change - 1, &[OTHER]);
        let Err(error) = older else {
            bail!("an older epoch was taken: {older:?}");
        };
        ensure!(
            error.to_string().contains(&self.change.to_string()),
            "{error}"
        );
        Ok(())
    }

    /// Ends node, blade and lab.
    ///
    /// # Errors
    /// Something was left under way.
    pub fn close(self) -> Result<()> {
        self.site.close()
    }
}

fn is_told(result: &Result<Durability, BlockingError>) -> bool {
    matches!(
        result,
        Err(BlockingError::Failed(RequestError::Io(
            IoError::UnflushedLost(RestartEvidence::Session)
        )))
    )
}

/// Hexadecimal digits as the text that they stand for.
fn text_of(hex: &str) -> Result<String> {
    let bytes: Result<Vec<u8>, _> = (0..hex.len() / 2)
        .map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16))
        .collect();
    Ok(String::from_utf8(bytes?)?)
}

/// Changes of a target, one after the other, each of which must be durable before the next: change n sets epoch n with a list of
/// its own, and the config string that names n.
struct Changes {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    thread: JoinHandle<Result<()>>,
}

impl Changes {
    fn start(client: Client, target: TargetHandle, own: MacAddr, from: u64) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU64::new(from));
        let (stopped, last) = (Arc::clone(&stop), Arc::clone(&acknowledged));
        let mut client = client;
        let work = move || {
            // At least one a round. Relaxed: a flag, and a number that nothing is published by.
            loop {
                let number = last.load(Ordering::Relaxed) + 1;
                let list = Self::list(own, number);
                let answer = client.reserve_by_epoch(target, number, &list)?;
                ensure!(answer.epoch == number && answer.macs == list, "{answer:?}");
                let string = Self::string(number);
                client.config(target, ConfigCommand::ForceSet, string.as_bytes())?;
                last.store(number, Ordering::Relaxed);
                if stopped.load(Ordering::Relaxed) {
                    return Ok(());
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("changes".to_owned())
            .spawn(work)?;
        Ok(Self {
            stop,
            acknowledged,
            thread,
        })
    }

    fn list(own: MacAddr, number: u64) -> [MacAddr; 2] {
        let [.., a, b, c] = number.to_be_bytes();
        [own, MacAddr([2, 0, 1, a, b, c])]
    }

    fn string(number: u64) -> String {
        format!("change {number}")
    }

    fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    fn stop(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(result) => result.context("changes of reservation and config string")?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
        Ok(self.acknowledged.load(Ordering::Relaxed))
    }
}

/// The links that rounds take turns over.
pub const WIRES: [Wire; 3] = [Wire::XdpGeneric, Wire::XdpNative, Wire::PacketRing];

/// How the n-th round, counted from 0, ends: every third with a power cut.
#[must_use]
pub fn end_of(round: u64, seed: u64) -> End {
    if round % 3 == 2 {
        End::PowerCut(seed ^ round)
    } else {
        End::Kill
    }
}
