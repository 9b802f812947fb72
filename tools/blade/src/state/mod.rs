//! What a target must remember over a restart: config string, mask, reservation, epoch, and who must not come back.
//!
//! Each target has a file of its own in the state folder, `e7.3.state`: a line that names format and version, one JSON
//! object, and a line with its length and checksum. A new state is written beside it, synced, renamed over it, and the
//! folder is synced: whenever the machine stops, one whole state is there.
//!
//! A file that is damaged, of a newer version or of another target keeps the blade from starting. An empty reservation
//! admits everyone (S11), so "as if empty" would be the one wrong guess.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use sandrail_proto::aoe::target::PersistentState;
use sandrail_wire::{MacAddr, TargetAddr};
use serde::{Deserialize, Serialize};

pub(crate) mod keeper;

/// What the first line says before the version.
const MAGIC: &str = "sandrail-blade state ";
/// The version written, and the newest that is read.
const VERSION: u32 = 2;
/// No state is longer: 255 addresses on each list, a config string, fenced incarnations.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Marks the folder as in use.
const LOCK_FILE: &str = "lock";

/// The JSON object.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    target: String,
    /// In hexadecimal: it may be any bytes.
    config_string: String,
    mask: Vec<String>,
    reserved: Vec<String>,
    epoch: u64,
    forced: bool,
    fenced: Vec<(String, u64)>,
    session_next: u16,
    // Version 1 has none of these: it numbered no lives.
    #[serde(default)]
    birth_next: u32,
    #[serde(default)]
    removed: Vec<(String, u32)>,
    #[serde(default)]
    removed_others: u32,
}

/// Why a state can't be had or kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    #[error("{action} {path}: {source}", path = path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(
        "{path} is damaged ({problem}). The blade does not start without it, since a reservation that is forgotten \
         admits everyone: put a copy in its place, or remove the file to forget what {addr} knew",
        path = path.display()
    )]
    Damaged {
        path: PathBuf,
        addr: TargetAddr,
        problem: String,
    },
    #[error(
        "{path} is of version {version}, this program reads up to {VERSION}: use the newer program that wrote it",
        path = path.display()
    )]
    Newer { path: PathBuf, version: u32 },
    #[error("{path} is the state of {found}, not of {addr}: it was renamed or copied", path = path.display())]
    Foreign {
        path: PathBuf,
        addr: TargetAddr,
        found: String,
    },
    #[error("{dir} is in use by another sandrail-blade", dir = dir.display())]
    InUse { dir: PathBuf },
}

/// The folder of states, held by this process alone.
#[derive(Debug)]
pub(crate) struct StateDir {
    dir: PathBuf,
    /// Locked while the process lives; `None`: only looked at.
    _lock: Option<File>,
}

impl StateDir {
    /// Makes the folder if it is missing, and locks it.
    pub(crate) fn open(dir: &Path) -> Result<Self, StateError> {
        let io = |action, path: &Path| {
            let path = path.to_owned();
            move |source| StateError::Io {
                action,
                path,
                source,
            }
        };
        make_folder(dir).map_err(io("cannot make the state folder", dir))?;
        let path = dir.join(LOCK_FILE);
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(io("cannot open", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                return Err(StateError::InUse {
                    dir: dir.to_owned(),
                });
            }
            Err(fs::TryLockError::Error(source)) => return Err(io("cannot lock", &path)(source)),
        }
        Ok(Self {
            dir: dir.to_owned(),
            _lock: Some(lock),
        })
    }

    /// The folder, without making or locking it: for a look.
    pub(crate) fn look(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            _lock: None,
        }
    }

    fn path(&self, addr: TargetAddr) -> PathBuf {
        self.dir.join(format!("{addr}.state"))
    }

    /// What the target knew; `None` if it has never been served from here.
    pub(crate) fn load(&self, addr: TargetAddr) -> Result<Option<PersistentState>, StateError> {
        let path = self.path(addr);
        let io = |source| StateError::Io {
            action: "cannot read",
            path: path.clone(),
            source,
        };
        let bytes = match fs::metadata(&path) {
            Ok(meta) if meta.len() > FILE_BYTES_MAX => {
                let problem = format!("{} bytes are too long", meta.len());
                return Err(StateError::Damaged {
                    path,
                    addr,
                    problem,
                });
            }
            Ok(_) => fs::read(&path).map_err(io)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io(error)),
        };
        decode(&path, addr, &bytes).map(Some)
    }

    /// Replaces what is kept; durable when this returns.
    pub(crate) fn store(
        &self,
        addr: TargetAddr,
        state: &PersistentState,
    ) -> Result<(), StateError> {
        let path = self.path(addr);
        let new = self.dir.join(format!("{addr}.state.new"));
        let io = |action, path: &Path| {
            let path = path.to_owned();
            move |source| StateError::Io {
                action,
                path,
                source,
            }
        };
        let mut file = File::create(&new).map_err(io("cannot create", &new))?;
        file.write_all(&encode(addr, state))
            .map_err(io("cannot write", &new))?;
        file.sync_all().map_err(io("cannot sync", &new))?;
        fs::rename(&new, &path).map_err(io("cannot replace", &path))?;
        let dir = File::open(&self.dir).map_err(io("cannot open", &self.dir))?;
        dir.sync_all().map_err(io("cannot sync", &self.dir))
    }
}

/// Makes a folder and those above it, and has their names made durable: a state that is synced into a folder which a power cut
/// takes away is none.
fn make_folder(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let above = match dir.parent() {
        Some(above) if !above.as_os_str().is_empty() => above,
        _ => Path::new("."),
    };
    make_folder(above)?;
    match fs::create_dir(dir) {
        // Somebody was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
        other => other?,
    }
    File::open(above)?.sync_all()
}

fn encode(addr: TargetAddr, state: &PersistentState) -> Vec<u8> {
    let texts = |macs: &[MacAddr]| macs.iter().map(MacAddr::to_string).collect();
    let body = Body {
        target: addr.to_string(),
        config_string: state
            .config_string
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect(),
        mask: texts(&state.mask),
        reserved: texts(&state.reserved),
        epoch: state.epoch,
        forced: state.forced,
        fenced: state
            .fenced
            .iter()
            .map(|(mac, incarnation)| (mac.to_string(), *incarnation))
            .collect(),
        session_next: state.session_next,
        birth_next: state.birth_next,
        removed: state
            .removed
            .iter()
            .map(|(mac, at)| (mac.to_string(), *at))
            .collect(),
        removed_others: state.removed_others,
    };
    let json = serde_json::to_string(&body).expect("texts and numbers make JSON");
    let mut text = format!("{MAGIC}{VERSION}\n{json}\n");
    let check = format!(
        "{} bytes, crc32c {:08x}\n",
        text.len(),
        crc32c(text.as_bytes())
    );
    text.push_str(&check);
    text.into_bytes()
}

fn decode(path: &Path, addr: TargetAddr, bytes: &[u8]) -> Result<PersistentState, StateError> {
    let damaged = |problem: &str| StateError::Damaged {
        path: path.to_owned(),
        addr,
        problem: problem.to_owned(),
    };
    let text = std::str::from_utf8(bytes).map_err(|_| damaged("it is no text"))?;
    let (first, rest) = text
        .split_once('\n')
        .ok_or_else(|| damaged("it has no lines"))?;
    let version = first
        .strip_prefix(MAGIC)
        .ok_or_else(|| damaged("its first line is not that of a state"))?;
    let version: u32 = version
        .parse()
        .map_err(|_| damaged("its version is no number"))?;
    // The checksum of a newer version may lie elsewhere.
    if version > VERSION {
        return Err(StateError::Newer {
            path: path.to_owned(),
            version,
        });
    }
    let (json, check) = rest
        .split_once('\n')
        .ok_or_else(|| damaged("it is cut off"))?;
    let whole = &text[..text.len() - check.len()];
    let expected = format!(
        "{} bytes, crc32c {:08x}\n",
        whole.len(),
        crc32c(whole.as_bytes())
    );
    if check != expected {
        return Err(damaged("length or checksum are wrong"));
    }
    let body: Body = serde_json::from_str(json).map_err(|error| damaged(&error.to_string()))?;
    if body.target != addr.to_string() {
        return Err(StateError::Foreign {
            path: path.to_owned(),
            addr,
            found: body.target,
        });
    }
    state_of(&body).ok_or_else(|| damaged("an address or the config string makes no sense"))
}

fn state_of(body: &Body) -> Option<PersistentState> {
    let macs = |texts: &[String]| {
        texts
            .iter()
            .map(|text| text.parse().ok())
            .collect::<Option<Vec<_>>>()
    };
    let fenced = |(mac, incarnation): &(String, u64)| Some((mac.parse().ok()?, *incarnation));
    let removed = |(mac, at): &(String, u32)| Some((mac.parse().ok()?, *at));
    Some(PersistentState {
        config_string: bytes_of(&body.config_string)?,
        mask: macs(&body.mask)?,
        reserved: macs(&body.reserved)?,
        epoch: body.epoch,
        forced: body.forced,
        fenced: body.fenced.iter().map(fenced).collect::<Option<_>>()?,
        session_next: body.session_next,
        birth_next: body.birth_next,
        removed: body.removed.iter().map(removed).collect::<Option<_>>()?,
        removed_others: body.removed_others,
    })
}

fn bytes_of(hexadecimal: &str) -> Option<Vec<u8>> {
    if !hexadecimal.is_ascii() || !hexadecimal.len().is_multiple_of(2) {
        return None;
    }
    let pairs = (0..hexadecimal.len()).step_by(2);
    pairs
        .map(|at| u8::from_str_radix(&hexadecimal[at..at + 2], 16).ok())
        .collect()
}

/// CRC-32C (RFC 3720, appendix B.4), bit by bit: a state has a few hundred bytes.
fn crc32c(bytes: &[u8]) -> u32 {
    let crc = bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg())
        })
    });
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDR: TargetAddr = TargetAddr { shelf: 7, slot: 3 };

    fn mac(last: u8) -> MacAddr {
        MacAddr([2, 0, 0, 0, 0, last])
    }

    fn known() -> PersistentState {
        PersistentState {
            config_string: vec![0, b'a', 0xff],
            mask: vec![mac(1)],
            reserved: vec![mac(2), mac(3)],
            epoch: u64::MAX,
            forced: true,
            fenced: vec![(mac(4), 1 << 63)],
            session_next: 4711,
            birth_next: 815,
            removed: vec![(mac(3), 0), (mac(5), 77)],
            removed_others: 12,
        }
    }

    fn read(bytes: &[u8]) -> Result<PersistentState, StateError> {
        decode(Path::new("e7.3.state"), ADDR, bytes)
    }

    #[test]
    fn the_checksum_is_that_of_the_rfc() {
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_state_is_read_back() {
        for state in [PersistentState::default(), known()] {
            assert_eq!(read(&encode(ADDR, &state)).unwrap(), state);
        }
    }

    #[test]
    fn a_state_of_the_first_version_is_read() {
        let text = concat!(
            "sandrail-blade state 1\n",
            r#"{"target":"e7.3","config_string":"00","mask":[],"reserved":["02:00:00:00:00:0a"],"epoch":41,"#,
            r#""forced":false,"fenced":[["02:00:00:00:00:0b",9]],"session_next":4857}"#,
            "\n",
        );
        let check = crc32c(text.as_bytes());
        let whole = format!("{text}{} bytes, crc32c {check:08x}\n", text.len());
        let expected = PersistentState {
            config_string: vec![0],
            reserved: vec![mac(10)],
            epoch: 41,
            fenced: vec![(mac(11), 9)],
            session_next: 4857,
            ..PersistentState::default()
        };
        assert_eq!(read(whole.as_bytes()).unwrap(), expected);
    }

    #[test]
    fn no_damaged_bit_and_no_cut_passes() {
        let good = encode(ADDR, &known());
        for len in 0..good.len() {
            assert!(read(&good[..len]).is_err(), "cut off at {len}");
        }
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                assert!(read(&bad).is_err(), "byte {at}, bit {bit}");
            }
        }
        assert!(read(&[good.as_slice(), b"x"].concat()).is_err());
        assert!(matches!(read(b""), Err(StateError::Damaged { .. })));
    }

    #[test]
    fn newer_versions_and_other_targets_are_told_apart_from_damage() {
        let text = String::from_utf8(encode(ADDR, &known())).unwrap();
        let newer = text.replacen("state 2", "state 3", 1);
        assert!(matches!(
            read(newer.as_bytes()),
            Err(StateError::Newer { version: 3, .. })
        ));
        let other = encode(TargetAddr { shelf: 7, slot: 4 }, &known());
        assert!(matches!(read(&other), Err(StateError::Foreign { .. })));
    }

    #[test]
    fn folders_above_are_made_as_well() {
        let top = std::env::temp_dir().join(format!("sandrail-blade-made-{}", std::process::id()));
        make_folder(&top.join("a/b")).unwrap();
        make_folder(&top.join("a/b")).unwrap();
        assert!(top.join("a/b").is_dir());
        fs::write(top.join("file"), "").unwrap();
        make_folder(&top.join("file")).unwrap_err();
        make_folder(&top.join("file/c")).unwrap_err();
        fs::remove_dir_all(&top).unwrap();
    }

    #[test]
    fn the_folder_keeps_states_and_serves_one_process() {
        let dir = std::env::temp_dir().join(format!("sandrail-blade-state-{}", std::process::id()));
        let states = StateDir::open(&dir).unwrap();
        assert_eq!(states.load(ADDR).unwrap(), None);
        states.store(ADDR, &PersistentState::default()).unwrap();
        states.store(ADDR, &known()).unwrap();
        assert_eq!(states.load(ADDR).unwrap(), Some(known()));
        assert!(matches!(
            StateDir::open(&dir),
            Err(StateError::InUse { .. })
        ));
        // What a crash before the rename leaves is not looked at.
        fs::write(dir.join("e7.3.state.new"), "half").unwrap();
        assert_eq!(states.load(ADDR).unwrap(), Some(known()));
        drop(states);
        StateDir::open(&dir).unwrap();
        fs::remove_dir_all(&dir).unwrap();
    }
}
