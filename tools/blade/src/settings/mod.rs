//! What the blade is told at its start: arguments and a TOML file, read by the same rules.
//!
//! Every setting has one name and one reader of its text, whether it comes from an argument or from the file, so both
//! allow the same and complain in the same words. Arguments win over the file.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use sandrail_link::packet::PacketMode;
use sandrail_memory::HugePages;
use sandrail_node::Idle;
use sandrail_wire::VlanTag;

mod check;
mod copies;
mod export;
mod file;
mod netif;

pub(crate) use check::{CheckedExport, check};
pub(crate) use copies::Copies;
pub(crate) use export::{Direct, Export, Medium, Promise};
pub(crate) use file::read_file;

/// Frames of a burst at most, and what `--buffer-count` tells initiators unless set.
pub(crate) const BUFFER_COUNT: u16 = 128;
/// Threads that one blade may have.
pub(crate) const CORES_MAX: usize = 64;
/// Targets that one blade may serve.
pub(crate) const EXPORTS_MAX: usize = 1024;

/// How frames are to travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum LinkWay {
    /// AF_XDP where the interface has it, packet sockets otherwise.
    #[default]
    Auto,
    /// AF_XDP in the mode that suits the driver.
    Xdp,
    /// AF_XDP in the driver.
    XdpNative,
    /// AF_XDP in the network stack.
    XdpGeneric,
    /// Packet sockets.
    Packet,
}

/// Whether memory is to be kept from being swapped out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum LockMemory {
    /// Where the machine allows it; the status tells whether it did.
    #[default]
    Auto,
    /// Or the blade does not start.
    On,
    /// Not tried.
    Off,
}

/// Everything that holds for the whole process.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) interfaces: Vec<String>,
    pub(crate) exports: Vec<Export>,
    pub(crate) link: LinkWay,
    /// How packet sockets are used, where they are.
    pub(crate) packet_mode: PacketMode,
    /// One thread for each, pinned to it; `None`: one thread that the scheduler may move.
    pub(crate) cores: Option<Vec<usize>>,
    pub(crate) idle: Idle,
    pub(crate) buffer_count: u16,
    pub(crate) initiators_max: u16,
    pub(crate) frame_lifetime: Duration,
    /// Writes that each core remembers; `None`: as the machine's memory allows.
    pub(crate) duplicates_max: Option<u32>,
    pub(crate) vlan: Option<VlanTag>,
    pub(crate) queues_max: u32,
    pub(crate) disk_depth: u32,
    pub(crate) state_dir: Option<PathBuf>,
    pub(crate) control: Option<PathBuf>,
    pub(crate) force_interface: bool,
    pub(crate) mtu_bytes_min: Option<usize>,
    pub(crate) huge_pages: HugePages,
    pub(crate) lock_memory: LockMemory,
    pub(crate) seed: Option<u64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            interfaces: Vec::new(),
            exports: Vec::new(),
            link: LinkWay::default(),
            packet_mode: PacketMode::default(),
            cores: None,
            idle: Idle::default(),
            buffer_count: BUFFER_COUNT,
            initiators_max: 32,
            frame_lifetime: Duration::from_secs(2),
            duplicates_max: None,
            vlan: None,
            queues_max: 16,
            disk_depth: 256,
            state_dir: None,
            control: None,
            force_interface: false,
            mtu_bytes_min: None,
            huge_pages: HugePages::default(),
            lock_memory: LockMemory::default(),
            seed: None,
        }
    }
}

/// Where a setting came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// An argument, as it was written.
    Argument(String),
    /// A line of a file.
    Line {
        file: PathBuf,
        /// Counted from 1.
        line: usize,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Argument(text) => f.write_str(text),
            Self::Line { file, line } => write!(f, "{}:{line}", file.display()),
        }
    }
}

/// A setting that cannot be used: where it stands, its name, and what is allowed.
#[derive(Debug, thiserror::Error)]
#[error("{origin}: {key}: {problem}")]
pub(crate) struct Refused {
    pub(crate) origin: Origin,
    pub(crate) key: String,
    pub(crate) problem: String,
}

impl Refused {
    pub(crate) fn new(origin: &Origin, key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            origin: origin.clone(),
            key: key.into(),
            problem: problem.into(),
        }
    }
}

/// Names of the settings that an argument or a line of the file's top level may have, but for `export`.
pub(crate) const KEYS: [&str; 19] = [
    "interface",
    "link",
    "packet-mode",
    "cores",
    "idle",
    "buffer-count",
    "initiators-max",
    "frame-lifetime-ms",
    "duplicates-max",
    "vlan",
    "queues-max",
    "disk-depth",
    "state-dir",
    "control",
    "force-interface",
    "mtu-check",
    "hugepages",
    "lock-memory",
    "seed",
];

/// What each link is called.
pub(crate) const LINKS: [(&str, LinkWay); 5] = [
    ("auto", LinkWay::Auto),
    ("xdp", LinkWay::Xdp),
    ("xdp-native", LinkWay::XdpNative),
    ("xdp-generic", LinkWay::XdpGeneric),
    ("packet", LinkWay::Packet),
];
/// What each way through packet sockets is called.
pub(crate) const PACKET_MODES: [(&str, PacketMode); 2] =
    [("ring", PacketMode::Ring), ("mmsg", PacketMode::Mmsg)];
/// What each way to wait is called.
pub(crate) const IDLES: [&str; 3] = ["sleep", "yield", "spin"];
/// What each choice of hugepages is called.
pub(crate) const HUGE_PAGES: [(&str, HugePages); 3] = [
    ("prefer", HugePages::Prefer),
    ("require", HugePages::Require),
    ("never", HugePages::Never),
];
/// What each choice of locking memory is called.
pub(crate) const LOCKS: [(&str, LockMemory); 3] = [
    ("auto", LockMemory::Auto),
    ("on", LockMemory::On),
    ("off", LockMemory::Off),
];

impl Settings {
    /// Sets one of [`KEYS`] from its text.
    ///
    /// # Errors
    /// What the setting may be.
    pub(crate) fn set(&mut self, key: &str, text: &str) -> Result<(), String> {
        match key {
            "interface" => self.interfaces = interfaces(text)?,
            "link" => self.link = word(text, &LINKS)?,
            "packet-mode" => self.packet_mode = word(text, &PACKET_MODES)?,
            "cores" => self.cores = Some(cores(text)?),
            "idle" => self.idle = idle(text)?,
            "buffer-count" => self.buffer_count = number(text, 1, 4096)?,
            "initiators-max" => self.initiators_max = number(text, 1, 1024)?,
            "frame-lifetime-ms" => {
                self.frame_lifetime = Duration::from_millis(number(text, 10, 60_000)?);
            }
            "duplicates-max" => {
                self.duplicates_max = Some(number(text, copies::LEAST, copies::MOST)?);
            }
            "vlan" => self.vlan = Some(vlan(text)?),
            "queues-max" => self.queues_max = number(text, 1, 256)?,
            "disk-depth" => self.disk_depth = number(text, 1, 4096)?,
            "state-dir" => self.state_dir = Some(path(text)?),
            "control" => self.control = Some(path(text)?),
            "force-interface" => self.force_interface = flag(text)?,
            "mtu-check" => self.mtu_bytes_min = Some(number(text, 68, 65_535)?),
            "hugepages" => self.huge_pages = word(text, &HUGE_PAGES)?,
            "lock-memory" => self.lock_memory = word(text, &LOCKS)?,
            "seed" => self.seed = Some(number(text, 0, u64::MAX)?),
            other => return Err(unknown_key(other, &KEYS)),
        }
        Ok(())
    }
}

/// Reads a whole number within bounds.
pub(crate) fn number<N>(text: &str, least: N, most: N) -> Result<N, String>
where
    N: std::str::FromStr + PartialOrd + fmt::Display,
{
    text.parse()
        .ok()
        .filter(|number| *number >= least && *number <= most)
        .ok_or_else(|| format!("`{text}` is not a number from {least} to {most}"))
}

/// Reads one of a few words.
pub(crate) fn word<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, String> {
    words
        .iter()
        .find(|(name, _)| *name == text)
        .map(|(_, meaning)| *meaning)
        .ok_or_else(|| {
            let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
            format!("`{text}` is not one of {}", names.join(", "))
        })
}

/// Reads a yes or no.
pub(crate) fn flag(text: &str) -> Result<bool, String> {
    word(text, &[("true", true), ("false", false)])
}

/// What to say of a key that does not exist.
pub(crate) fn unknown_key(key: &str, known: &[&str]) -> String {
    let nearest = known
        .iter()
        .map(|candidate| (distance(key, candidate), *candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= candidate.len().div_ceil(3));
    match nearest {
        Some((_, candidate)) => {
            format!("there is no such setting; did you mean `{candidate}`?")
        }
        None => format!("there is no such setting; there are {}", known.join(", ")),
    }
}

/// How many letters must be changed, added or removed to make one word of the other (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (line, a) in one.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, b) in other.bytes().enumerate() {
            let changed = diagonal + usize::from(a != b);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

fn interfaces(text: &str) -> Result<Vec<String>, String> {
    let names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
    if names.iter().any(String::is_empty) {
        return Err(format!(
            "`{text}` is not a list of interface names with commas between them"
        ));
    }
    Ok(names)
}

fn cores(text: &str) -> Result<Vec<usize>, String> {
    let wrong = || {
        format!("`{text}` is not a list of up to {CORES_MAX} different core numbers, such as 1,2")
    };
    let mut numbers = Vec::new();
    for part in text.split(',') {
        let number = part.trim().parse().map_err(|_| wrong())?;
        if numbers.contains(&number) || numbers.len() == CORES_MAX {
            return Err(wrong());
        }
        numbers.push(number);
    }
    Ok(numbers)
}

fn idle(text: &str) -> Result<Idle, String> {
    match text {
        "sleep" => Ok(Idle::default()),
        "yield" => Ok(Idle::YIELD),
        "spin" => Ok(Idle::POLL),
        _ => Err(format!("`{text}` is not one of {}", IDLES.join(", "))),
    }
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

fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() || text.contains('\0') {
        return Err("a path must not be empty".to_owned());
    }
    Ok(PathBuf::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_read_and_every_wrong_text_says_what_is_allowed() {
        let mut settings = Settings::default();
        for (key, good, bad, says) in [
            ("interface", "eth1,eth2", "eth1,,eth2", "list of interface"),
            ("link", "xdp-native", "dpdk", "xdp-generic"),
            ("packet-mode", "mmsg", "tpacket", "ring, mmsg"),
            ("cores", "1, 2", "1,1", "such as 1,2"),
            ("idle", "yield", "nap", "sleep, yield, spin"),
            ("buffer-count", "16", "0", "from 1 to 4096"),
            ("initiators-max", "8", "-1", "from 1 to 1024"),
            ("frame-lifetime-ms", "500", "9", "from 10 to 60000"),
            ("duplicates-max", "1024", "1023", "from 1024 to 16777216"),
            ("vlan", "7:3", "4095", "1 to 4094"),
            ("queues-max", "2", "x", "from 1 to 256"),
            ("disk-depth", "64", "0", "from 1 to 4096"),
            ("state-dir", "/tmp/x", "", "empty"),
            ("control", "/tmp/y", "", "empty"),
            ("force-interface", "true", "yes", "true, false"),
            ("mtu-check", "9000", "12", "from 68 to 65535"),
            ("hugepages", "never", "always", "prefer, require, never"),
            ("lock-memory", "on", "maybe", "auto, on, off"),
            ("seed", "7", "seven", "number"),
        ] {
            assert!(KEYS.contains(&key));
            settings.set(key, good).unwrap();
            let problem = settings.set(key, bad).unwrap_err();
            assert!(problem.contains(says), "{key}: {problem}");
        }
        assert_eq!(settings.interfaces, ["eth1", "eth2"]);
        assert_eq!(settings.cores, Some(vec![1, 2]));
        assert_eq!(settings.mtu_bytes_min, Some(9000));
    }

    #[test]
    fn a_wrong_name_brings_the_nearest_right_one() {
        assert!(unknown_key("buffer_count", &KEYS).contains("`buffer-count`"));
        assert!(unknown_key("interfaces", &KEYS).contains("`interface`"));
        let far = unknown_key("colour", &KEYS);
        assert!(far.contains("there are interface, link"), "{far}");
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
    }
}
