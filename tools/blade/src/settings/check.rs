//! What only shows when all settings are seen together, and the files and interfaces with them.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use sandrail_wire::TargetAddr;

use super::{EXPORTS_MAX, Export, Medium, Origin, Refused, Settings, netif};

/// An export whose range of bytes is known.
#[derive(Clone, Debug)]
pub(crate) struct CheckedExport {
    pub(crate) export: Export,
    /// The core that serves it, by its place in the list.
    pub(crate) home: usize,
}

/// Which file, whatever it is called: device and inode, or the block device's own number.
type FileKey = (bool, u64, u64);

/// Checks everything that can be checked without opening anything.
///
/// # Errors
/// The first thing that is not allowed.
pub(crate) fn check(settings: &Settings) -> Result<Vec<CheckedExport>, Refused> {
    let argument = |key: &str| Origin::Argument(format!("--{key}"));
    let refuse = |key: &str, problem: String| Err(Refused::new(&argument(key), key, problem));
    if settings.interfaces.is_empty() {
        return refuse("interface", "name at least one".to_owned());
    }
    for (place, name) in settings.interfaces.iter().enumerate() {
        if settings.interfaces[..place].contains(name) {
            return refuse("interface", format!("{name} is named twice"));
        }
        if let Some(problem) = netif::problem(name, settings.force_interface) {
            return refuse("interface", format!("{name} {problem}"));
        }
    }
    if let Some(dir) = &settings.state_dir
        && fs::metadata(dir).is_ok_and(|meta| !meta.is_dir())
    {
        return refuse("state-dir", format!("{} is no folder", dir.display()));
    }
    check_exports(settings)
}

fn check_exports(settings: &Settings) -> Result<Vec<CheckedExport>, Refused> {
    let exports = &settings.exports;
    if exports.is_empty() || exports.len() > EXPORTS_MAX {
        return Err(Refused::new(
            &Origin::Argument("--export".to_owned()),
            "export",
            format!("{} targets: name 1 to {EXPORTS_MAX}", exports.len()),
        ));
    }
    let cores = settings.cores.as_ref().map_or(1, Vec::len);
    let mut checked: Vec<CheckedExport> = Vec::new();
    let mut ranges: Vec<(FileKey, u64, u64, TargetAddr, bool)> = Vec::new();
    for (place, export) in exports.iter().enumerate() {
        let refuse = |key: &str, problem: String| Err(Refused::new(&export.origin, key, problem));
        if let Some(other) = checked
            .iter()
            .find(|other| other.export.addr == export.addr)
        {
            let addr = export.addr;
            return refuse(
                "address",
                format!("{addr} is served already, by {}", other.export.origin),
            );
        }
        let home = export.home.unwrap_or(place % cores);
        if home >= cores {
            return refuse(
                "home",
                format!("{home} is no core: there are {cores}, counted from 0"),
            );
        }
        if let Medium::File(path) = &export.medium {
            let (key, from, to) = range(path, export)?;
            let overlap = ranges.iter().find(|(other, start, end, _, read_only)| {
                *other == key && *start < to && from < *end && !(*read_only && export.read_only)
            });
            if let Some((.., addr, _)) = overlap {
                return refuse(
                    "file",
                    format!(
                        "{} overlaps with what {addr} serves: each sector has one target",
                        path.display()
                    ),
                );
            }
            ranges.push((key, from, to, export.addr, export.read_only));
        }
        checked.push(CheckedExport {
            export: export.clone(),
            home,
        });
    }
    if let Some(idle) = (0..cores).find(|core| checked.iter().all(|one| one.home != *core)) {
        let problem = format!("core {idle} of {cores}, counted from 0, would serve no target");
        return Err(Refused::new(
            &Origin::Argument("--cores".to_owned()),
            "cores",
            problem,
        ));
    }
    Ok(checked)
}

/// The file, and the bytes of it that are served.
fn range(path: &Path, export: &Export) -> Result<(FileKey, u64, u64), Refused> {
    let refuse = |key: &str, problem: String| Err(Refused::new(&export.origin, key, problem));
    let shown = path.display();
    let from = export.offset_bytes;
    let meta = match fs::metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let Some(create) = export.create_bytes else {
                return refuse(
                    "file",
                    format!("{shown} does not exist; create=SIZE would make it"),
                );
            };
            let Some(to) = served_end(export, create) else {
                let problem = format!("offset and length go past the {create} bytes to create");
                return refuse("length", problem);
            };
            // A file that does not exist yet is known by the folder that it will be in, and its name.
            let parent = path
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty());
            let Ok(folder) = fs::metadata(parent.unwrap_or(Path::new("."))) else {
                return refuse("file", format!("the folder of {shown} does not exist"));
            };
            let name = path
                .file_name()
                .map_or(0, |name| fingerprint(name.as_encoded_bytes()));
            return Ok((
                (true, folder.ino() ^ folder.dev().rotate_left(32), name),
                from,
                to,
            ));
        }
        Err(error) => return refuse("file", format!("{shown}: {error}")),
    };
    let kind = meta.file_type();
    if kind.is_block_device() {
        // Its size is known once it is open.
        let to = export
            .length_bytes
            .map_or(u64::MAX, |length| from.saturating_add(length));
        return Ok(((false, u64::MAX, meta.rdev()), from, to));
    }
    if !kind.is_file() {
        return refuse(
            "file",
            format!("{shown} is neither a file nor a block device"),
        );
    }
    let size = meta.len();
    let Some(to) = served_end(export, size) else {
        let problem =
            format!("offset and length go past the end of {shown}, which has {size} bytes");
        return refuse("length", problem);
    };
    Ok(((false, meta.dev(), meta.ino()), from, to))
}

/// Where the served bytes end; `None`: there is not one whole sector, or they go past the end.
fn served_end(export: &Export, size: u64) -> Option<u64> {
    let from = export.offset_bytes;
    let to = match export.length_bytes {
        Some(length) => from.checked_add(length)?,
        None => size - size % 512,
    };
    (to <= size && from < to).then_some(to)
}

/// FNV-1a.
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(std::path::PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("sandrail-blade-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn file(&self, name: &str, len_bytes: usize) -> String {
            let path = self.0.join(name);
            fs::write(&path, vec![0; len_bytes]).unwrap();
            path.to_str().unwrap().to_owned()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn exports(texts: &[String]) -> Result<Vec<CheckedExport>, Refused> {
        exports_on(None, texts)
    }

    fn exports_on(
        cores: Option<Vec<usize>>,
        texts: &[String],
    ) -> Result<Vec<CheckedExport>, Refused> {
        let exports = texts
            .iter()
            .map(|text| Export::parse(text).unwrap())
            .collect();
        check_exports(&Settings {
            exports,
            cores,
            ..Settings::default()
        })
    }

    #[test]
    fn targets_are_dealt_to_the_cores_unless_they_say_where_they_live() {
        let texts = ["e1.0=ram:1M", "e1.1=ram:1M", "e1.2=ram:1M,home=1"].map(str::to_owned);
        let two = || Some(vec![4, 5]);
        let homes: Vec<usize> = exports_on(two(), &texts)
            .unwrap()
            .iter()
            .map(|one| one.home)
            .collect();
        assert_eq!(homes, [0, 1, 1]);
        let refused = exports_on(two(), &["e1.0=ram:1M,home=2".to_owned()]).unwrap_err();
        assert!(refused.to_string().contains("there are 2"), "{refused}");
        let refused = exports_on(two(), &["e1.0=ram:1M".to_owned()]).unwrap_err();
        assert!(refused.to_string().contains("core 1 of 2"), "{refused}");
    }

    #[test]
    fn one_address_is_served_once_and_something_must_be() {
        let refused = exports(&["e1.0=ram:1M", "1.0=ram:2M"].map(str::to_owned)).unwrap_err();
        assert!(
            refused.to_string().contains("--export e1.0=ram:1M"),
            "{refused}"
        );
        assert!(exports(&[]).is_err());
    }

    #[test]
    fn ranges_of_one_file_must_not_overlap_by_whatever_name() {
        let folder = Folder::new("overlap");
        let file = folder.file("disk", 1 << 20);
        let other = folder.0.join("other");
        fs::hard_link(&file, &other).unwrap();
        let other = other.to_str().unwrap();
        let pair = |one: &str, two: &str| exports(&[format!("e1.0={one}"), format!("e1.1={two}")]);
        assert!(
            pair(
                &format!("{file},length=512K"),
                &format!("{other},offset=512K")
            )
            .is_ok()
        );
        assert!(pair(&format!("{file},read-only"), &format!("{other},read-only")).is_ok());
        for (one, two) in [
            (file.clone(), other.to_owned()),
            (format!("{file},read-only"), other.to_owned()),
            (
                format!("{file},length=512K"),
                format!("{other},offset=511K"),
            ),
        ] {
            let refused = pair(&one, &two).unwrap_err();
            assert!(
                refused
                    .to_string()
                    .contains("overlaps with what e1.0 serves"),
                "{refused}"
            );
        }
        let new = folder.0.join("new").to_str().unwrap().to_owned();
        let made = format!("{new},create=1M");
        assert!(
            pair(&made, &made).is_err(),
            "a file that will be made is one file, too"
        );
    }

    #[test]
    fn files_must_be_there_and_long_enough() {
        let folder = Folder::new("files");
        let file = folder.file("disk", 1 << 20);
        let (short, dir) = (folder.file("short", 511), folder.0.to_str().unwrap());
        for (text, says) in [
            (format!("e1.0={dir}/none"), "create=SIZE"),
            (format!("e1.0={dir}/none/none,create=1M"), "folder"),
            (format!("e1.0={dir}/none,create=1M,length=2M"), "to create"),
            (format!("e1.0={dir}"), "neither a file"),
            (format!("e1.0={short}"), "past the end"),
            (format!("e1.0={file},offset=1M"), "past the end"),
            (format!("e1.0={file},offset=512K,length=1M"), "past the end"),
        ] {
            let refused = exports(std::slice::from_ref(&text)).unwrap_err();
            assert!(refused.to_string().contains(says), "{text}: {refused}");
        }
        // What is there is left as it is.
        assert!(exports(&[format!("e1.0={file},create=2M,length=2M")]).is_err());
    }
}
