//! Manual pages and completions are those of the command as it is.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::bed::blade;

fn pages(folder: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read_to_string(entry.path()).unwrap())
        })
        .filter(|(name, _)| name.starts_with("sandrail-blade"))
        .collect()
}

#[test]
fn the_manual_pages_are_up_to_date() {
    let folder = std::env::temp_dir().join(format!("sandrail-blade-man-{}", std::process::id()));
    assert!(blade(&["man", folder.to_str().unwrap()]).status.success());
    let made = pages(&folder);
    fs::remove_dir_all(&folder).unwrap();
    let kept = pages(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/man"));
    assert!(
        made.contains_key("sandrail-blade.1") && made.contains_key("sandrail-blade-ctl-fault.1")
    );
    for (name, text) in &made {
        assert!(
            kept.get(name) == Some(text),
            "docs/man/{name} is out of date: cargo run -p sandrail-blade -- man docs/man"
        );
    }
    let strangers: Vec<_> = kept
        .keys()
        .filter(|name| !made.contains_key(*name))
        .collect();
    assert!(
        strangers.is_empty(),
        "docs/man has pages of verbs that are gone: {strangers:?}"
    );
}

#[test]
fn help_and_completions_know_exports_and_verbs() {
    let help = String::from_utf8(blade(&["--help"]).stdout).unwrap();
    for words in [
        "durability=volatile|flush|write-through",
        "power-cut",
        "Exit codes:",
        "--state-dir",
    ] {
        assert!(help.contains(words), "no `{words}` in {help}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let text = String::from_utf8(blade(&["completions", shell]).stdout).unwrap();
        assert!(
            text.contains("fault-disk") && text.contains("state-dir"),
            "{shell}"
        );
    }
}
