//! The blade's program, as built from the sources that are there now.
//!
//! Cargo builds no other package's programs for a test. `./run test` builds the whole workspace first, but `cargo test` of
//! this package alone would find none, or worse, an old one. So what lies beside the running program is taken only if
//! nothing that it was made from is newer; else it is built first.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;

use anyhow::{Context, Result, anyhow, bail, ensure};
use sandrail_lab::BLADE_VARIABLE;

const PACKAGE: &str = "sandrail-blade";

/// Where it is; built if it is missing or old. `SANDRAIL_BLADE` names another.
///
/// # Errors
/// It cannot be built here.
pub fn blade() -> Result<PathBuf> {
    static BLADE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let found = BLADE.get_or_init(|| find().map_err(|error| format!("{error:#}")));
    found.clone().map_err(|error| anyhow!(error))
}

fn find() -> Result<PathBuf> {
    if let Some(program) = std::env::var_os(BLADE_VARIABLE) {
        return Ok(program.into());
    }
    let own = std::env::current_exe()?;
    // `target/debug/wire` or `target/debug/deps/blade-0123456789abcdef`.
    let mut folder = own.parent().context("a program lies in a folder")?;
    if folder.ends_with("deps") {
        folder = folder
            .parent()
            .context("`deps` lies in a profile's folder")?;
    }
    let program = folder.join(PACKAGE);
    if let Err(reason) = is_current(&program) {
        build(folder).with_context(|| format!("{}: {reason:#}", program.display()))?;
        ensure!(
            program.is_file(),
            "{} was not built where it was looked for",
            program.display()
        );
    }
    Ok(program)
}

fn changed_at(path: &Path) -> Result<SystemTime> {
    let metadata = std::fs::metadata(path).with_context(|| path.display().to_string())?;
    Ok(metadata.modified()?)
}

/// Whether nothing is newer that the program was made from, as the compiler listed it beside the program.
fn is_current(program: &Path) -> Result<()> {
    let built = changed_at(program)?;
    let list = program.with_extension("d");
    let list = std::fs::read_to_string(&list).with_context(|| list.display().to_string())?;
    let sources = sources_in(&list);
    ensure!(
        !sources.is_empty(),
        "nothing is listed that it was made from"
    );
    for source in sources {
        if changed_at(&source)? > built {
            bail!("older than {}", source.display());
        }
    }
    Ok(())
}

/// The paths behind the colon; a space in one is written `\ `.
fn sources_in(list: &str) -> Vec<PathBuf> {
    let (_, paths) = list.split_once(": ").unwrap_or_default();
    let paths = paths.trim_end().replace("\\ ", "\0");
    let paths = paths.split(' ').filter(|path| !path.is_empty());
    paths
        .map(|path| PathBuf::from(path.replace('\0', " ")))
        .collect()
}

/// Has cargo build it with the profile whose folder this is.
fn build(folder: &Path) -> Result<()> {
    let cargo = std::env::var_os("CARGO").context("not run by cargo, which could build it")?;
    ensure!(
        std::env::var_os("SUDO_UID").is_none(),
        "build it first, as yourself: cargo build -p {PACKAGE}; root's builds would be in your way later"
    );
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some(profile) => profile,
        None => bail!("{} has no name", folder.display()),
    };
    let output = Command::new(cargo)
        .args(["build", "-q", "-p", PACKAGE, "--profile", profile])
        .arg("--target-dir")
        .arg(folder.parent().context("a profile's folder lies in one")?)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()?;
    ensure!(
        output.status.success(),
        "cargo build -p {PACKAGE}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compiler_s_list_is_read() {
        let paths = sources_in("/t/debug/p: /a/b.rs /c\\ d/e.rs\n");
        assert_eq!(paths, [PathBuf::from("/a/b.rs"), "/c d/e.rs".into()]);
        assert_eq!(sources_in(""), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_program_is_old_when_a_source_is_newer_or_gone() {
        let folder = std::env::temp_dir().join(format!("sandraile2e-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let [program, source, list] = ["p", "s.rs", "p.d"].map(|name| folder.join(name));
        std::fs::write(&source, "").unwrap();
        std::fs::write(
            &list,
            format!("{}: {}\n", program.display(), source.display()),
        )
        .unwrap();
        assert!(is_current(&program).is_err(), "there is none");
        let write_at = |path: &Path, seconds| {
            let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            let file = std::fs::File::create(path).unwrap();
            file.set_modified(at).unwrap();
        };
        write_at(&program, 1000);
        write_at(&source, 999);
        assert!(is_current(&program).is_ok());
        write_at(&source, 1001);
        let error = is_current(&program).unwrap_err();
        assert!(error.to_string().contains("older than"), "{error}");
        std::fs::remove_file(&source).unwrap();
        assert!(is_current(&program).is_err());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
