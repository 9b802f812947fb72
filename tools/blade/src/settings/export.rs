//! One target: its address, what its sectors lie on, and what it promises.

use std::path::PathBuf;

use sandrail_proto::aoe::target::ForceSet;
use sandrail_proto::aoe::target::backing::SECTOR_BYTES;
use sandrail_wire::TargetAddr;

use super::{Origin, Refused, flag, number, unknown_key, word};
use crate::size;

/// What the sectors lie on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Medium {
    /// Memory of this process, in bytes.
    Ram(u64),
    /// A file or a block device.
    File(PathBuf),
}

/// Whether a file is read and written past the page cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Direct {
    /// Where the file system can.
    #[default]
    Auto,
    /// Or the blade does not start.
    On,
    /// Never.
    Off,
}

/// What is promised about acknowledged and flushed writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Promise {
    /// Nothing.
    Volatile,
    /// An acknowledged write survives the process's kill, a flushed one the machine's.
    Flush,
    /// An acknowledged write survives the machine's.
    WriteThrough,
}

/// One target, as asked for.
#[derive(Clone, Debug)]
pub(crate) struct Export {
    /// Where it was asked for.
    pub(crate) origin: Origin,
    pub(crate) addr: TargetAddr,
    pub(crate) medium: Medium,
    pub(crate) offset_bytes: u64,
    pub(crate) length_bytes: Option<u64>,
    pub(crate) create_bytes: Option<u64>,
    pub(crate) read_only: bool,
    pub(crate) direct: Direct,
    pub(crate) promise: Option<Promise>,
    pub(crate) power_cut: bool,
    pub(crate) sessions_required: bool,
    pub(crate) force_set: ForceSet,
    pub(crate) sectors_max: Option<u8>,
    pub(crate) model: Option<String>,
    pub(crate) serial: Option<String>,
    /// Place in the list of cores of the one that serves it; dealt in turn unless set.
    pub(crate) home: Option<usize>,
}

/// Names of an export's settings.
pub(crate) const EXPORT_KEYS: [&str; 16] = [
    "address",
    "ram",
    "file",
    "offset",
    "length",
    "create",
    "read-only",
    "direct",
    "durability",
    "power-cut",
    "sessions",
    "force-set",
    "sectors-max",
    "model",
    "serial",
    "home",
];

/// What each promise is called.
pub(crate) const PROMISES: [(&str, Promise); 3] = [
    ("volatile", Promise::Volatile),
    ("flush", Promise::Flush),
    ("write-through", Promise::WriteThrough),
];

/// An export that is being put together.
#[derive(Debug)]
pub(crate) struct ExportParts {
    origin: Origin,
    addr: Option<TargetAddr>,
    ram: Option<u64>,
    file: Option<PathBuf>,
    rest: Export,
}

impl ExportParts {
    pub(crate) fn new(origin: Origin) -> Self {
        let rest = Export {
            origin: origin.clone(),
            addr: TargetAddr::BROADCAST,
            medium: Medium::Ram(0),
            offset_bytes: 0,
            length_bytes: None,
            create_bytes: None,
            read_only: false,
            direct: Direct::default(),
            promise: None,
            power_cut: false,
            sessions_required: false,
            force_set: ForceSet::default(),
            sectors_max: None,
            model: None,
            serial: None,
            home: None,
        };
        Self {
            origin,
            addr: None,
            ram: None,
            file: None,
            rest,
        }
    }

    /// Sets one of [`EXPORT_KEYS`] from its text.
    pub(crate) fn set(&mut self, key: &str, text: &str) -> Result<(), String> {
        let rest = &mut self.rest;
        match key {
            "address" => self.addr = Some(address(text)?),
            "ram" => self.ram = Some(sectors(text, 1)?),
            "file" if text.is_empty() => return Err("a path must not be empty".to_owned()),
            "file" => self.file = Some(PathBuf::from(text)),
            "offset" => rest.offset_bytes = sectors(text, 0)?,
            "length" => rest.length_bytes = Some(sectors(text, 1)?),
            "create" => rest.create_bytes = Some(sectors(text, 1)?),
            "read-only" => rest.read_only = flag(text)?,
            "direct" => {
                let words = [
                    ("auto", Direct::Auto),
                    ("on", Direct::On),
                    ("off", Direct::Off),
                ];
                rest.direct = word(text, &words)?;
            }
            "durability" => rest.promise = Some(word(text, &PROMISES)?),
            "power-cut" => rest.power_cut = flag(text)?,
            "sessions" => {
                rest.sessions_required = word(text, &[("optional", false), ("required", true)])?;
            }
            "force-set" => {
                let words = [
                    ("until-epoch", ForceSet::UntilEpoch),
                    ("allow", ForceSet::Allow),
                    ("refuse", ForceSet::Refuse),
                ];
                rest.force_set = word(text, &words)?;
            }
            "sectors-max" => rest.sectors_max = Some(number(text, 1, u8::MAX)?),
            "model" => rest.model = Some(ascii(text, 40)?),
            "serial" => rest.serial = Some(ascii(text, 20)?),
            "home" => rest.home = Some(number(text, 0, super::CORES_MAX - 1)?),
            other => return Err(unknown_key(other, &EXPORT_KEYS)),
        }
        Ok(())
    }

    /// The whole, if it makes one.
    pub(crate) fn finish(self) -> Result<Export, Refused> {
        let refuse = |key: &str, problem: &str| Err(Refused::new(&self.origin, key, problem));
        let Some(addr) = self.addr else {
            return refuse("address", "is missing: shelf.slot, such as e7.3");
        };
        let medium = match (self.ram, self.file) {
            (Some(bytes), None) => Medium::Ram(bytes),
            (None, Some(path)) => Medium::File(path),
            (None, None) => return refuse("export", "says neither `file` nor `ram`"),
            (Some(_), Some(_)) => return refuse("ram", "and `file` exclude each other"),
        };
        let export = Export {
            addr,
            medium,
            ..self.rest
        };
        match export.contradiction() {
            Some((key, problem)) => Err(Refused::new(&self.origin, key, problem)),
            None => Ok(export),
        }
    }
}

impl Export {
    /// Two settings that exclude each other, whatever the file is.
    fn contradiction(&self) -> Option<(&'static str, &'static str)> {
        if matches!(self.medium, Medium::Ram(_)) {
            let of_files = [
                ("offset", self.offset_bytes != 0),
                ("length", self.length_bytes.is_some()),
                ("create", self.create_bytes.is_some()),
                ("direct", self.direct != Direct::Auto),
            ];
            if let Some((key, _)) = of_files.into_iter().find(|(_, set)| *set) {
                return Some((key, "is a setting of files; a `ram` export has none"));
            }
            if self
                .promise
                .is_some_and(|promise| promise != Promise::Volatile)
            {
                return Some((
                    "durability",
                    "a `ram` export is volatile: memory is gone with the process",
                ));
            }
            if self.power_cut {
                return Some((
                    "power-cut",
                    "wants a file: memory is gone with the process anyway",
                ));
            }
        }
        if self.power_cut
            && self
                .promise
                .is_some_and(|promise| promise != Promise::Flush)
        {
            return Some((
                "power-cut",
                "holds back what was not flushed, so `durability` can only be flush",
            ));
        }
        if self.read_only && self.create_bytes.is_some() {
            return Some(("create", "and `read-only` exclude each other"));
        }
        if self.read_only && self.power_cut {
            return Some(("power-cut", "and `read-only` exclude each other"));
        }
        None
    }

    /// What it promises, unless told otherwise: what a file keeps anyway.
    pub(crate) fn promise(&self) -> Promise {
        match self.medium {
            Medium::Ram(_) => Promise::Volatile,
            Medium::File(_) => self.promise.unwrap_or(Promise::Flush),
        }
    }

    /// Reads `e7.3=ram:4G,read-only` or `e7.3=/path,offset=1M`.
    pub(crate) fn parse(text: &str) -> Result<Self, Refused> {
        let origin = Origin::Argument(format!("--export {text}"));
        let Some((addr, rest)) = text.split_once('=') else {
            return Err(Refused::new(
                &origin,
                "export",
                "is ADDRESS=FILE or ADDRESS=ram:SIZE, then perhaps ,SETTING=VALUE",
            ));
        };
        let mut parts = ExportParts::new(origin.clone());
        let mut set = |key: &str, value: &str| {
            parts
                .set(key, value)
                .map_err(|problem| Refused::new(&origin, key, problem))
        };
        set("address", addr)?;
        let mut words = rest.split(',');
        let medium = words.next().unwrap_or_default();
        match medium.strip_prefix("ram:") {
            Some(size) => set("ram", size)?,
            None => set("file", medium)?,
        }
        for word in words {
            // A yes needs no value.
            let (key, value) = word.split_once('=').unwrap_or((word, "true"));
            if matches!(key, "address" | "file" | "ram") {
                return Err(Refused::new(&origin, key, "stands before the first comma"));
            }
            set(key, value)?;
        }
        parts.finish()
    }
}

fn address(text: &str) -> Result<TargetAddr, String> {
    let addr: TargetAddr = text
        .parse()
        .map_err(|error| format!("`{text}` is {error}"))?;
    if addr.is_wildcard() {
        return Err(format!(
            "`{text}` means every target: shelf up to 65534, slot up to 254"
        ));
    }
    Ok(addr)
}

/// A length or an offset in whole sectors; bytes.
fn sectors(text: &str, least: u64) -> Result<u64, String> {
    let sector = u64::try_from(SECTOR_BYTES).unwrap_or(512);
    let bytes = size::parse(text).ok_or_else(|| format!("`{text}` is not {}", size::ALLOWED))?;
    // AoE's extended commands have 48 bits for a sector's number.
    if bytes % sector != 0 || bytes < least || bytes / sector >= 1 << 48 {
        return Err(format!(
            "`{text}` is not a multiple of {sector} bytes{}, below 2^48 sectors",
            if least > 0 { " above zero" } else { "" }
        ));
    }
    Ok(bytes)
}

/// A text that IDENTIFY can carry.
fn ascii(text: &str, len_max: usize) -> Result<String, String> {
    let printable = |byte: u8| (0x20..0x7f).contains(&byte);
    if text.is_empty() || text.len() > len_max || !text.bytes().all(printable) {
        return Err(format!(
            "`{}` is not 1 to {len_max} printable ASCII characters",
            text.escape_debug()
        ));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exports_are_read_from_one_argument() {
        let export = Export::parse("e7.3=ram:4G,read-only,model=Test,home=1").unwrap();
        assert_eq!(export.addr, TargetAddr { shelf: 7, slot: 3 });
        assert_eq!(export.medium, Medium::Ram(4 << 30));
        assert!(export.read_only && !export.power_cut);
        assert_eq!(
            (export.home, export.promise()),
            (Some(1), Promise::Volatile)
        );

        let text = "7.4=/dev/sdb,offset=1M,length=2M,direct=on,durability=write-through,sessions=required,force-set=refuse";
        let export = Export::parse(text).unwrap();
        assert_eq!(export.medium, Medium::File("/dev/sdb".into()));
        assert_eq!(
            (export.offset_bytes, export.length_bytes),
            (1 << 20, Some(2 << 20))
        );
        assert_eq!(
            (export.direct, export.promise()),
            (Direct::On, Promise::WriteThrough)
        );
        assert!(export.sessions_required && export.force_set == ForceSet::Refuse);
        assert_eq!(Export::parse("e1.1=/f").unwrap().promise(), Promise::Flush);
        // Whatever follows the first equals sign is the path.
        let odd = Export::parse("e1.1=/a=b").unwrap();
        assert_eq!(odd.medium, Medium::File("/a=b".into()));
    }

    #[test]
    fn every_refusal_names_the_argument_the_key_and_what_is_allowed() {
        for (text, key, says) in [
            ("e7.3", "export", "ADDRESS=FILE"),
            ("e7=ram:1M", "address", "shelf.slot"),
            ("e65535.1=ram:1M", "address", "65534"),
            ("e1.255=ram:1M", "address", "254"),
            ("e1.1=", "file", "empty"),
            ("e1.1=ram:", "ram", "number with K, M"),
            ("e1.1=ram:0", "ram", "above zero"),
            ("e1.1=ram:1000", "ram", "multiple of 512"),
            ("e1.1=ram:999999T", "ram", "2^48"),
            ("e1.1=/f,ofset=1M", "ofset", "`offset`"),
            ("e1.1=/f,offset=3", "offset", "multiple of 512"),
            ("e1.1=/f,length=0", "length", "above zero"),
            ("e1.1=/f,direct=maybe", "direct", "auto, on, off"),
            ("e1.1=/f,durability=none", "durability", "write-through"),
            ("e1.1=/f,read-only=1", "read-only", "true, false"),
            ("e1.1=/f,sectors-max=0", "sectors-max", "1 to 255"),
            ("e1.1=/f,serial=", "serial", "1 to 20"),
            ("e1.1=/f,model=\u{e9}", "model", "ASCII"),
            ("e1.1=/f,ram=1M", "ram", "first comma"),
            ("e1.1=/f,home=64", "home", "0 to 63"),
            ("e1.1=/f,", "", "no such setting"),
            ("e1.1=ram:1M,offset=512", "offset", "setting of files"),
            ("e1.1=ram:1M,direct=off", "direct", "setting of files"),
            ("e1.1=ram:1M,durability=flush", "durability", "volatile"),
            ("e1.1=ram:1M,power-cut", "power-cut", "file"),
            (
                "e1.1=/f,power-cut,durability=volatile",
                "power-cut",
                "flush",
            ),
            ("e1.1=/f,read-only,create=1M", "create", "read-only"),
            ("e1.1=/f,read-only,power-cut", "power-cut", "read-only"),
        ] {
            let refused = Export::parse(text).unwrap_err();
            assert_eq!(refused.key, key, "{text}: {refused}");
            let words = refused.to_string();
            assert!(words.contains(says), "{text}: {words}");
            assert!(words.contains(&format!("--export {text}")), "{words}");
        }
    }
}
