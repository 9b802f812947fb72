//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use sandrail_node::links::QueuePlan;
use sandrail_wire::{MacAddr, TargetAddr, VlanTag};

use crate::fault::EXIT_CODES;
use crate::size::Size;

/// The operator of a SAN: discover, read, write and examine AoE disks from user space.
///
/// Works straight on an Ethernet interface, past the kernel's block layer and network stack: each call runs a small
/// node of its own, over AF_XDP where the interface has it and over packet sockets where not.
#[derive(Debug, Parser)]
#[command(name = "sandrail", version, after_help = EXIT_CODES, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// How frames are to travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LinkChoice {
    /// AF_XDP where it works, in the better of its modes; packet sockets otherwise
    Auto,
    /// AF_XDP, in the driver or in the network stack
    Xdp,
    /// AF_XDP in the driver
    XdpNative,
    /// AF_XDP in the network stack: works with any driver
    XdpGeneric,
    /// Packet sockets (AF_PACKET)
    Packet,
}

impl LinkChoice {
    /// As it is written on the command line.
    pub(crate) fn word(self) -> String {
        sandrail_node::links::LinkChoice::from(self).to_string()
    }
}

impl From<LinkChoice> for sandrail_node::links::LinkChoice {
    fn from(choice: LinkChoice) -> Self {
        match choice {
            LinkChoice::Auto => Self::Auto,
            LinkChoice::Xdp => Self::Xdp,
            LinkChoice::XdpNative => Self::XdpNative,
            LinkChoice::XdpGeneric => Self::XdpGeneric,
            LinkChoice::Packet => Self::Packet,
        }
    }
}

/// What all verbs understand.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Options of all verbs")]
pub(crate) struct Global {
    /// Interface of the SAN; several for several paths
    #[arg(short, long, global = true, value_name = "NAME")]
    pub(crate) interface: Vec<String>,
    /// How frames travel
    #[arg(long, global = true, value_enum, default_value = "auto")]
    pub(crate) link: LinkChoice,
    /// Threads, each with its own rings and its share of the sectors
    #[arg(long, global = true, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub(crate) shards: u8,
    /// Receive queues of AF_XDP shards: `shared[:QUEUE]`, one for all, or `each[:FIRST]`, one for each. The second is right only
    /// where an answer comes in by the queue that its request left by
    #[arg(long, global = true, value_name = "PLAN", default_value = "shared:0", value_parser = queue_plan)]
    pub(crate) queues: QueuePlan,
    /// VLAN tag of the SAN's frames, with an optional priority
    #[arg(long, global = true, value_name = "ID[:PRIORITY]", value_parser = vlan)]
    pub(crate) vlan: Option<VlanTag>,
    /// The target's address is only believed from this MAC; several for several paths
    #[arg(long, global = true, value_name = "MAC")]
    pub(crate) mac: Vec<MacAddr>,
    /// Use the interface even though it carries the default route
    #[arg(long, global = true)]
    pub(crate) force_default_route: bool,
    /// Gives up a request, or the search for a target, after this long
    #[arg(long, global = true, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub(crate) timeout: Duration,
    /// One JSON object on standard output instead of text
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Writes every frame that this process sends or receives to a pcapng file
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) capture: Option<PathBuf>,
    /// Where marks of addresses in use lie: they tell the next process of writes that may still be on their way
    #[arg(long, global = true, value_name = "DIR", default_value = sandrail_node::clean::RUN_DIR)]
    pub(crate) run_dir: PathBuf,
    /// Says more (-v: what is done, -vv: everything)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Lists the targets that answer
    Discover(DiscoverArgs),
    /// Attaches a target and tells its size, paths, timings and what its flush is worth
    Stat(TargetArgs),
    /// Shows what a target says of itself (ATA IDENTIFY)
    Identify(IdentifyArgs),
    /// Reads sectors to a file or a pipe
    Read(ReadArgs),
    /// Writes a file or a pipe to sectors
    Write(WriteArgs),
    /// Reads, tests or sets a target's config string
    Config(ConfigArgs),
    /// Reads or edits a target's MAC mask list (not a fence: see its help)
    Mask(MaskArgs),
    /// Shows, sets or releases a target's reservation
    Reserve(ReserveArgs),
    /// Listens on an interface and writes the SAN's frames to a pcapng file
    Capture(CaptureArgs),
    /// Examines this machine and an interface: each finding with its remedy
    Doctor(DoctorArgs),
    /// Shows measured latencies and comparisons: tables, plots, a page, a picture
    Report(ReportArgs),
    /// Writes and reads back random data on a real target in network namespaces, with latencies
    Demo(DemoArgs),
    /// Writes the manual pages into a folder
    #[command(hide = true)]
    Man { directory: PathBuf },
    /// Prints completions for a shell
    #[command(hide = true)]
    Completions { shell: clap_complete::Shell },
    /// One run of the demo's job on an interface; prints its measurements as JSON
    #[command(hide = true)]
    Job(JobArgs),
}

/// Whom.
#[derive(Clone, Debug, Args)]
pub(crate) struct TargetArgs {
    /// The target: shelf.slot, such as e7.3 or 7.3
    pub(crate) target: TargetAddr,
}

#[derive(Debug, Args)]
pub(crate) struct DiscoverArgs {
    /// Also attaches each target and tells its size
    #[arg(long)]
    pub(crate) identify: bool,
    /// Listens this long for answers
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub(crate) wait: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct IdentifyArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// The 512 bytes, in hexadecimal
    #[arg(long)]
    pub(crate) raw: bool,
}

/// How requests are cut and how many are under way.
#[derive(Clone, Debug, Args)]
pub(crate) struct FlowArgs {
    /// Requests under way at a time
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) depth: u16,
    /// Length of each request, a multiple of 512
    #[arg(long, value_name = "SIZE", default_value = "64K")]
    pub(crate) block: Size,
}

#[derive(Debug, Args)]
pub(crate) struct ReadArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// First sector
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) lba: u64,
    /// Number of sectors; to the end of the device unless given
    #[arg(long, value_name = "N", conflicts_with = "bytes")]
    pub(crate) sectors: Option<u64>,
    /// Length, a multiple of 512
    #[arg(long, value_name = "SIZE")]
    pub(crate) bytes: Option<Size>,
    /// Where to write it; `-` for standard output, and then the report goes to standard error
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub(crate) output: PathBuf,
    #[command(flatten)]
    pub(crate) flow: FlowArgs,
}

#[derive(Debug, Args)]
pub(crate) struct WriteArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// First sector
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) lba: u64,
    /// What to write; `-` for standard input
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub(crate) file: PathBuf,
    /// Reads everything back and compares
    #[arg(long)]
    pub(crate) verify: bool,
    /// Flushes at the end and tells what that is worth; writes again what a restarted target may have lost
    #[arg(long)]
    pub(crate) flush: bool,
    /// With --flush: fails unless the target claims to make flushed data durable
    #[arg(long, requires = "flush")]
    pub(crate) require_durable: bool,
    /// Fills the last sector with zeros
    #[arg(long)]
    pub(crate) pad: bool,
    #[command(flatten)]
    pub(crate) flow: FlowArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    #[command(subcommand)]
    pub(crate) action: ConfigAction,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum ConfigAction {
    /// Shows it
    Get,
    /// Tells whether it is exactly this
    Test {
        /// The string
        string: String,
    },
    /// Tells whether it begins with this
    Prefix {
        /// The string
        string: String,
    },
    /// Sets it if it is empty
    Set {
        /// The string
        string: String,
    },
    /// Sets it, whatever it is
    ForceSet {
        /// The string; an empty one clears it
        string: String,
    },
}

/// What must be said about mask lists.
pub(crate) const MASK_WARNING: &str = "\
A mask list is no fence. vblade answers edits with success and goes on serving the MAC, or ends itself; other targets \
forget the list when they restart. To keep a node from writing, use `sandrail reserve`. This verb reads the list \
after each edit and fails if the edit is not on it, which still does not prove that the target obeys it.";

#[derive(Debug, Args)]
#[command(after_help = MASK_WARNING)]
pub(crate) struct MaskArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    #[command(subcommand)]
    pub(crate) action: MaskAction,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum MaskAction {
    /// Shows the list; an empty one admits everybody
    List,
    /// Adds addresses
    #[command(after_help = MASK_WARNING)]
    Add {
        /// The addresses
        #[arg(required = true, value_name = "MAC")]
        macs: Vec<MacAddr>,
    },
    /// Removes addresses
    #[command(after_help = MASK_WARNING)]
    Delete {
        /// The addresses
        #[arg(required = true, value_name = "MAC")]
        macs: Vec<MacAddr>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ReserveArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    #[command(subcommand)]
    pub(crate) action: ReserveAction,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum ReserveAction {
    /// Shows who has the target; nobody: everybody may read and write
    Show,
    /// Reserves the target for these addresses; refused while it is reserved for others
    Set {
        /// The addresses; list those of all nodes that may go on
        #[arg(required = true, value_name = "MAC")]
        macs: Vec<MacAddr>,
        /// Takes the target from whoever has it
        #[arg(long)]
        force: bool,
        /// Replaces whatever list is of an older epoch, whoever made it; for targets that announce epochs
        #[arg(long, value_name = "N", conflicts_with = "force", value_parser = clap::value_parser!(u64).range(1..))]
        epoch: Option<u64>,
    },
    /// Gives the target back; refused while it is reserved for others
    Release {
        /// Also if others have it
        #[arg(long)]
        force: bool,
        /// Also if others have it by an older epoch; for targets that announce epochs
        #[arg(long, value_name = "N", conflicts_with = "force", value_parser = clap::value_parser!(u64).range(1..))]
        epoch: Option<u64>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CaptureArgs {
    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Ends after this long; unless --count is given, after 10 s
    #[arg(long, value_name = "N", value_parser = seconds)]
    pub(crate) seconds: Option<Duration>,
    /// Ends after this many frames
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,
    /// Asks first who is there, so that there is something to see
    #[arg(long)]
    pub(crate) discover: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {}

/// What `report` reads, and how to read what it shows.
pub(crate) const REPORT_HELP: &str = "\
Reads results (.json) of sandrail-bench, interval logs (.hlog) and percentile files (.hgrm) of HdrHistogram. The log \
that a run names is read with it. Values are nanoseconds in logs, milliseconds in percentile files. No interface is \
touched.

With several recordings every one after the first is compared with the first: difference and ratio of each percentile. \
A percentile beyond which there are fewer than ten samples is marked by *.";

#[derive(Clone, Debug, Args)]
#[command(after_help = REPORT_HELP)]
pub(crate) struct ReportArgs {
    /// Results: .json, .hlog or .hgrm
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Also writes a page that needs nothing else: tables, percentile curves, throughput and latency over time
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Also writes all pictures as one SVG file
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// Draws with ASCII alone, as it does unless the locale is UTF-8
    #[arg(long)]
    pub(crate) ascii: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct DemoArgs {
    /// Seed of the data
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// How much data
    #[arg(long, default_value = "64M")]
    pub(crate) size: Size,
    /// MTU of the wire, in bytes
    #[arg(long, default_value_t = 9000, value_parser = clap::value_parser!(u32).range(1500..=9000))]
    pub(crate) mtu: u32,
    /// The simulated SAN even where a real one can be had
    #[arg(long)]
    pub(crate) sim: bool,
    /// Where the report goes
    #[arg(long, value_name = "FILE", default_value = "target/demo/report.html")]
    pub(crate) report: PathBuf,
    /// Requests under way at a time
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) depth: u16,
    /// Length of each request, a multiple of 512
    #[arg(long, value_name = "SIZE", default_value = "4K")]
    pub(crate) block: Size,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct JobArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// Seed of the data
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// How much data
    #[arg(long, default_value = "64M")]
    pub(crate) size: Size,
    #[command(flatten)]
    pub(crate) flow: FlowArgs,
}

fn seconds(text: &str) -> Result<Duration, String> {
    /// A day: what waits longer waits for ever.
    const SECONDS_MAX: f64 = 86_400.0;
    let number: f64 = text
        .parse()
        .map_err(|_| format!("`{text}` is no number of seconds"))?;
    if !(0.001..=SECONDS_MAX).contains(&number) {
        return Err(format!("{text} s is outside 0.001 to {SECONDS_MAX} s"));
    }
    Ok(Duration::from_secs_f64(number))
}

fn vlan(text: &str) -> Result<VlanTag, String> {
    let (id, priority) = text.split_once(':').unwrap_or((text, "0"));
    let tag = id.parse().ok().zip(priority.parse().ok());
    tag.filter(|(id, _)| (1..VlanTag::ID_MAX).contains(id))
        .and_then(|(id, priority)| VlanTag::new(id, priority))
        .ok_or_else(|| {
            format!("`{text}` is no VLAN: 1 to 4094, then perhaps :PRIORITY from 0 to 7")
        })
}

fn queue_plan(text: &str) -> Result<QueuePlan, String> {
    let (plan, queue) = text.split_once(':').unwrap_or((text, "0"));
    match (plan, queue.parse()) {
        ("shared", Ok(queue)) => Ok(QueuePlan::Shared(queue)),
        ("each", Ok(first)) => Ok(QueuePlan::PerShard { first }),
        _ => Err(format!(
            "`{text}` is no plan for queues: shared or each, then perhaps :QUEUE"
        )),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn tags_and_seconds_are_read() {
        assert_eq!(vlan("7").unwrap(), VlanTag::new(7, 0).unwrap());
        assert_eq!(vlan("4094:5").unwrap(), VlanTag::new(4094, 5).unwrap());
        for text in ["0", "4095", "7:8", "x", "7:", "-1"] {
            assert!(vlan(text).is_err(), "{text}");
        }
        assert_eq!(seconds("0.5").unwrap(), Duration::from_millis(500));
        for text in ["0", "-1", "nan", "inf", "1e9", "x"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
