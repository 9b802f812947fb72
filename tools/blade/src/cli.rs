//! The command line.

use std::path::PathBuf;

use anyhow::Result;
use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::control::protocol::Way;
use crate::settings::{
    Export, HUGE_PAGES, IDLES, LINKS, LOCKS, Origin, PACKET_MODES, Refused, Settings, read_file,
};

/// What the help ends with.
const AFTER_HELP: &str = "\
Exports:
  e7.3=ram:4G                     memory; gone with the process
  e7.4=/dev/sdb                   a block device or a file
  e7.5=/srv/disk,create=10G       a file, made of this size if it is missing
  followed by any of, with commas between them:
    offset=SIZE, length=SIZE      only these bytes of the file
    read-only                     writes are refused
    direct=auto|on|off            past the page cache, where it can (auto)
    durability=volatile|flush|write-through
                                  what an acknowledged write survives: nothing; the process's kill, and with a flush
                                  the machine's (unless told otherwise); the machine's
    power-cut                     holds unflushed writes in memory, and loses them with the process: for drills
    sessions=optional|required    whether initiators without a session may write
    force-set=until-epoch|allow|refuse
                                  whether an AoE FORCE-SET may take a reservation away: unless an epoch is in force;
                                  even then; never
    sectors-max=N                 the most sectors of one command, told to initiators
    model=TEXT, serial=TEXT       what IDENTIFY says
    home=N                        which of the cores serves it, counted from 0; in turn unless told

Exit codes:
  0  ended as asked, by SIGTERM or SIGINT, everything flushed
  1  something failed while it ran
  2  the arguments or the configuration make no sense
  3  the environment: interface, privilege, memory, files, state folder

docs/blade.md has the reference of the configuration file, the control socket and the drills.";

/// An AoE target that keeps its promises.
///
/// Serves files, block devices and memory as AoE disks, straight on Ethernet interfaces past the kernel's network
/// stack. What it promises of a write it keeps: see --export.
#[derive(Debug, Parser)]
#[command(
    name = "sandrail-blade",
    version,
    after_help = AFTER_HELP,
    arg_required_else_help = true,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) serve: ServeArgs,
    #[command(subcommand)]
    pub(crate) verb: Option<Verb>,
}

/// Reads one setting's text as the file would have it.
fn setting(key: &'static str) -> impl Fn(&str) -> Result<String, String> + Clone + Send + Sync {
    move |text| {
        Settings::default().set(key, text)?;
        Ok(text.to_owned())
    }
}

fn export(text: &str) -> Result<Export, String> {
    Export::parse(text).map_err(|refused| format!("{}: {}", refused.key, refused.problem))
}

fn names<T>(words: &'static [(&'static str, T)]) -> PossibleValuesParser {
    PossibleValuesParser::new(words.iter().map(|(name, _)| *name))
}

/// What to serve, and how.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Interface of the SAN; several for several paths
    #[arg(short, long, value_name = "NAME", value_parser = setting("interface"))]
    pub(crate) interface: Vec<String>,
    /// A target: shelf.slot, what its sectors lie on, and settings (see below); several for several targets
    #[arg(short, long, value_name = "SHELF.SLOT=FILE", value_parser = export)]
    pub(crate) export: Vec<Export>,
    /// Settings from a TOML file; arguments win over it, and its exports come first
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// How frames travel: AF_XDP in the driver or in the network stack, or packet sockets [default: auto]
    #[arg(long, value_name = "WAY", value_parser = names(&LINKS))]
    pub(crate) link: Option<String>,
    /// How packet sockets are used: rings shared with the kernel, or a system call a burst each way [default: ring]
    #[arg(long, value_name = "HOW", value_parser = names(&PACKET_MODES))]
    pub(crate) packet_mode: Option<String>,
    /// One pinned thread on each of these cores; one unpinned thread unless given
    #[arg(long, value_name = "N,N", value_parser = setting("cores"))]
    pub(crate) cores: Option<String>,
    /// What a thread does when there is nothing to do [default: sleep, after a while of yielding]
    #[arg(long, value_name = "HOW", value_parser = PossibleValuesParser::new(IDLES))]
    pub(crate) idle: Option<String>,
    /// Requests of one initiator that are taken at a time, told to initiators [default: 128]
    #[arg(long, value_name = "N", value_parser = setting("buffer-count"))]
    pub(crate) buffer_count: Option<String>,
    /// Initiators whose requests are under way at a time [default: 32]
    #[arg(long, value_name = "N", value_parser = setting("initiators-max"))]
    pub(crate) initiators_max: Option<String>,
    /// Longest time that a frame may spend in the network, in milliseconds [default: 2000]
    #[arg(long, value_name = "MS", value_parser = setting("frame-lifetime-ms"))]
    pub(crate) frame_lifetime_ms: Option<String>,
    /// Writes that each core remembers, to answer copies of them without executing them again
    ///
    /// Each is remembered for twice the frame lifetime; a core that gets more in that time drops them, and their initiators ask
    /// again. So N / (2 x lifetime) is the rate that it bears: 1048576 at 2 s are 262144 writes a second. Each takes 72 bytes (72
    /// MiB for 1048576). N is rounded up to a power of two. Unless given, there is room for a million a second, or as many as 1/32
    /// of the free memory holds for all cores together, but never less than 1048576.
    #[arg(long, value_name = "N", value_parser = setting("duplicates-max"))]
    pub(crate) duplicates_max: Option<String>,
    /// VLAN tag of the SAN's frames, with an optional priority
    #[arg(long, value_name = "ID[:PRIORITY]", value_parser = setting("vlan"))]
    pub(crate) vlan: Option<String>,
    /// Receive queues of an interface that are served over AF_XDP at most [default: 16]
    #[arg(long, value_name = "N", value_parser = setting("queues-max"))]
    pub(crate) queues_max: Option<String>,
    /// Operations of one target that its disk is given at a time [default: 256]
    #[arg(long, value_name = "N", value_parser = setting("disk-depth"))]
    pub(crate) disk_depth: Option<String>,
    /// Where config strings, masks and reservations are kept over a restart
    #[arg(long, value_name = "DIR", value_parser = setting("state-dir"))]
    pub(crate) state_dir: Option<String>,
    /// Listens on this Unix socket for `sandrail-blade ctl`
    #[arg(long, value_name = "SOCKET", value_parser = setting("control"))]
    pub(crate) control: Option<String>,
    /// Use an interface even though it carries the default route
    #[arg(long)]
    pub(crate) force_interface: bool,
    /// Does not start unless every interface carries at least this MTU
    #[arg(long, value_name = "BYTES", value_parser = setting("mtu-check"))]
    pub(crate) mtu_check: Option<String>,
    /// Whether memory comes from 2 MiB pages [default: prefer]
    #[arg(long, value_name = "WHEN", value_parser = names(&HUGE_PAGES))]
    pub(crate) hugepages: Option<String>,
    /// Whether memory is kept from being swapped out [default: auto]
    #[arg(long, value_name = "WHEN", value_parser = names(&LOCKS))]
    pub(crate) lock_memory: Option<String>,
    /// Seed of all randomness, faults included; drawn anew unless given
    #[arg(long, value_name = "N", value_parser = setting("seed"))]
    pub(crate) seed: Option<String>,
    /// Checks arguments, configuration, files and state, says what would be served, and ends
    #[arg(long)]
    pub(crate) check: bool,
    /// Says more (-v: events, -vv: everything); RUST_LOG overrides
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

impl ServeArgs {
    /// The file's settings, and over them the arguments'.
    pub(crate) fn settings(&self) -> Result<Settings> {
        let mut settings = Settings::default();
        if let Some(path) = &self.config {
            read_file(path, &mut settings)?;
        }
        settings.exports.extend(self.export.iter().cloned());
        let interfaces = (!self.interface.is_empty()).then(|| self.interface.join(","));
        let force = self.force_interface.then(|| "true".to_owned());
        for (key, text) in [
            ("interface", &interfaces),
            ("link", &self.link),
            ("packet-mode", &self.packet_mode),
            ("cores", &self.cores),
            ("idle", &self.idle),
            ("buffer-count", &self.buffer_count),
            ("initiators-max", &self.initiators_max),
            ("frame-lifetime-ms", &self.frame_lifetime_ms),
            ("duplicates-max", &self.duplicates_max),
            ("vlan", &self.vlan),
            ("queues-max", &self.queues_max),
            ("disk-depth", &self.disk_depth),
            ("state-dir", &self.state_dir),
            ("control", &self.control),
            ("force-interface", &force),
            ("mtu-check", &self.mtu_check),
            ("hugepages", &self.hugepages),
            ("lock-memory", &self.lock_memory),
            ("seed", &self.seed),
        ] {
            let Some(text) = text else { continue };
            let origin = Origin::Argument(format!("--{key} {text}"));
            settings
                .set(key, text)
                .map_err(|problem| Refused::new(&origin, key, problem))?;
        }
        Ok(settings)
    }
}

/// What else there is to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Speaks to a blade that runs, over its control socket
    Ctl(CtlArgs),
    /// Writes the manual pages into a folder
    #[command(hide = true)]
    Man {
        /// The folder
        directory: PathBuf,
    },
    /// Prints completions for a shell
    #[command(hide = true)]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Whom, and what.
#[derive(Debug, Args)]
pub(crate) struct CtlArgs {
    /// The blade's control socket
    pub(crate) socket: PathBuf,
    /// The blade's answer as it came, in JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) verb: CtlVerb,
}

/// What to ask of a running blade.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum CtlVerb {
    /// Shows targets, links, counters and memory
    Status,
    /// Lets frames be lost, doubled, delayed or overtaken from now on
    #[command(arg_required_else_help = true)]
    Fault(FaultArgs),
    /// Lets a target's disk fail, be slow, or hold a write
    FaultDisk {
        /// The target: shelf.slot, such as e7.3
        target: String,
        #[command(subcommand)]
        fault: DiskVerb,
    },
    /// Ends the blade at once, as a crash or a power cut would
    Crash {
        /// What becomes of unflushed writes where `power-cut` holds them back: none, all, or the seed of a subset
        #[arg(long, value_name = "none|all|SEED", default_value = "none")]
        keep: String,
    },
    /// Looks at the sizes of files and devices again
    Refresh,
}

/// Chances, per frame.
#[derive(Clone, Debug, Args)]
pub(crate) struct FaultArgs {
    /// No faults any more
    #[arg(long, exclusive = true)]
    pub(crate) off: bool,
    /// Only on this interface
    #[arg(short, long, value_name = "NAME")]
    pub(crate) interface: Option<String>,
    /// Only this way, as the blade sees it
    #[arg(long, value_enum, value_name = "WAY")]
    pub(crate) direction: Option<WayArg>,
    /// Probability that a frame vanishes
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    pub(crate) drop: f64,
    /// Probability that a second copy of it follows
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    pub(crate) duplicate: f64,
    /// Probability that others overtake it
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    pub(crate) reorder: f64,
    /// Probability that it is delayed
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    pub(crate) delay: f64,
    /// The copy follows within this many microseconds
    #[arg(long, value_name = "US", default_value_t = 200)]
    pub(crate) copy_after_us: u32,
    /// An overtaken frame waits this many microseconds
    #[arg(long, value_name = "US", default_value_t = 200)]
    pub(crate) reorder_us: u32,
    /// A delayed frame waits from so many microseconds to twice that
    #[arg(long, value_name = "US", default_value_t = 1000)]
    pub(crate) delay_us: u32,
}

/// As the blade sees it.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum WayArg {
    /// From the blade
    Transmit,
    /// To the blade
    Receive,
}

impl From<WayArg> for Way {
    fn from(way: WayArg) -> Self {
        match way {
            WayArg::Transmit => Self::Transmit,
            WayArg::Receive => Self::Receive,
        }
    }
}

/// What a disk is to do.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum DiskVerb {
    /// Operations that touch these sectors fail with a medium error
    Fail {
        /// First sector
        lba: u64,
        /// How many
        #[arg(default_value_t = 1)]
        sectors: u64,
        /// Only reads
        #[arg(long, conflicts_with = "writes")]
        reads: bool,
        /// Only writes
        #[arg(long)]
        writes: bool,
    },
    /// Flushes fail
    FailFlushes,
    /// Every operation takes so many microseconds longer
    Slow {
        /// Microseconds
        us: u64,
        /// And up to this many more
        #[arg(long, value_name = "US", default_value_t = 0)]
        jitter_us: u64,
    },
    /// The n-th write from now on is held until `release`
    Hold {
        /// Counted from 1
        #[arg(default_value_t = 1)]
        nth: u64,
    },
    /// The held write goes on
    Release,
    /// No faults any more
    Clear,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::settings::KEYS;

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_setting_has_an_argument() {
        let command = Cli::command();
        for key in KEYS {
            let found = command
                .get_arguments()
                .any(|arg| arg.get_long() == Some(key));
            assert!(found, "--{key} is missing");
        }
    }

    #[test]
    fn arguments_win_over_the_file() {
        let path =
            std::env::temp_dir().join(format!("sandrail-blade-cli-{}.toml", std::process::id()));
        let text =
            "link = \"packet\"\nbuffer-count = 7\n[[export]]\naddress = \"e1.0\"\nram = \"1M\"\n";
        std::fs::write(&path, text).unwrap();
        let line = [
            "blade",
            "-c",
            path.to_str().unwrap(),
            "--link",
            "xdp",
            "-e",
            "e1.1=ram:1M",
        ];
        let settings = Cli::try_parse_from(line).unwrap().serve.settings().unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(settings.link, crate::settings::LinkWay::Xdp);
        assert_eq!(settings.buffer_count, 7);
        let addrs: Vec<String> = settings
            .exports
            .iter()
            .map(|one| one.addr.to_string())
            .collect();
        assert_eq!(addrs, ["e1.0", "e1.1"]);
    }
}
