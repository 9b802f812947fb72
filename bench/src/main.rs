//! Benchmarks that need a network namespace, a target or much time; see `docs/performance.md`.

mod block;
mod cache_command;
mod initiator;
mod kicks;
mod load_command;
mod packet;
mod solo;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use sandrail_bench::awake::Awake;
use sandrail_bench::machine;
use sandrail_bench::site::{Direction, Site, Way};

/// Load generator and rivals
#[derive(Debug, Parser)]
#[command(name = "sandrail-bench", max_term_width = 120)]
struct Command {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// The initiator and our target against the floor and the rivals, in interleaved rounds
    Block(block::Options),
    /// The buffer cache: hits, misses and hit ratios, beside quick_cache, simulations and the raw read
    Cache(cache_command::Options),
    /// The engine against a bare polled loop, both on a real vblade, in interleaved rounds
    Initiator(initiator::Options),
    /// System calls, polls and yields an I/O; fails when they exceed sane bounds
    Kicks(kicks::Options),
    /// A load of any make-up on any target
    Load(Box<load_command::Options>),
    /// AF_PACKET: rings against sendmmsg and recvmmsg, on a bare echo
    Packet(packet::Options),
    /// One contender alone, for a profiler
    Solo(solo::Options),
}

/// Where things run.
#[derive(Debug, Clone, Args)]
struct Cores {
    /// Core of the shard, or of the rival's loop
    #[arg(long, default_value_t = 1)]
    shard_core: usize,
    /// Core of the target, and of a client on a thread of its own
    #[arg(long, default_value_t = 0)]
    target_core: usize,
    /// Lets the target's core halt when it has nothing to do, instead of keeping it awake with a yielding thread
    #[arg(long)]
    let_halt: bool,
}

impl Cores {
    fn words(&self) -> String {
        format!(
            "loops under test on core {}, vblade and everything else on core {}{}",
            self.shard_core,
            self.target_core,
            if self.let_halt {
                ""
            } else {
                ", which a yielding thread keeps from halting and where vblade runs as SCHED_BATCH"
            }
        )
    }

    /// Moves the calling thread, and what it starts from now on, to the target's core, and keeps that awake.
    fn settle(&self) -> anyhow::Result<Option<Awake>> {
        machine::pin(self.target_core)?;
        if self.let_halt {
            Ok(None)
        } else {
            Awake::keep().map(Some)
        }
    }

    /// A target in the class that goes with an awake core.
    fn site(&self) -> anyhow::Result<Site> {
        if self.let_halt {
            Site::new()
        } else {
            Site::without_wakeup_interrupts()
        }
    }

    /// Runs `work` on a thread that stays on the shard's core.
    fn on_shard_core<T: Send>(
        &self,
        work: impl FnOnce() -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        let core = self.shard_core;
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                machine::pin(core)?;
                work()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

/// Combinations to run.
#[derive(Debug, Clone, Args)]
struct Mix {
    /// Ways through the kernel
    #[arg(
        long = "link",
        value_delimiter = ',',
        default_value = "xdp-generic,xdp-native,packet"
    )]
    links: Vec<Way>,
    /// I/Os under way
    #[arg(long = "depth", value_delimiter = ',', default_value = "1,32")]
    depths: Vec<usize>,
    /// Which way the data goes
    #[arg(long, default_value = "read")]
    direction: Direction,
    /// Seed of the blocks' choice
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Where results are written.
#[derive(Debug, Clone, Args)]
struct Out {
    /// Directory for the JSON file and the picture
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
}

fn main() -> anyhow::Result<()> {
    match Command::parse().bench {
        Bench::Block(options) => block::run(&options),
        Bench::Cache(options) => cache_command::run(&options),
        Bench::Initiator(options) => initiator::run(&options),
        Bench::Kicks(options) => kicks::run(&options),
        Bench::Load(options) => {
            load_command::settle(&options)?;
            load_command::run(&options)
        }
        Bench::Packet(options) => packet::run(&options),
        Bench::Solo(options) => solo::run(&options),
    }
}
