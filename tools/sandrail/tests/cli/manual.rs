//! Manual pages and completions are those of the command as it is.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::run::sandrail;
use crate::san::Folder;

fn pages(folder: &Path) -> BTreeMap<String, String> {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read_to_string(entry.path()).unwrap())
        })
        .collect()
}

#[test]
fn the_manual_pages_are_up_to_date() {
    let folder = Folder::new();
    let made = folder.file("man");
    sandrail(&["man", &made]).exits(0);
    let made = pages(Path::new(&made));
    let kept = pages(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/man"));
    assert!(made.contains_key("sandrail.1") && made.contains_key("sandrail-write.1"));
    for (name, text) in &made {
        assert!(
            kept.get(name) == Some(text),
            "docs/man/{name} is out of date: cargo run -p sandrail -- man docs/man"
        );
    }
    let strangers: Vec<_> = kept
        .keys()
        // The blade's pages are its own tests' concern.
        .filter(|name| !made.contains_key(*name) && !name.starts_with("sandrail-blade"))
        .collect();
    assert!(
        strangers.is_empty(),
        "docs/man has pages of verbs that are gone: {strangers:?}"
    );
}

#[test]
fn the_exit_codes_are_in_the_help_and_in_the_manual() {
    let help = sandrail(&["--help"]).exits(0).text();
    let folder = Folder::new();
    let made = folder.file("man");
    sandrail(&["man", &made]).exits(0);
    let page = fs::read_to_string(Path::new(&made).join("sandrail.1")).unwrap();
    for text in [help, page] {
        assert!(
            text.contains("Exit codes:") && text.contains("default route"),
            "{text}"
        );
    }
    let mask = sandrail(&["mask", "--help"]).exits(0).text();
    assert!(mask.contains("no fence"), "{mask}");
}

#[test]
fn completions_know_the_verbs_and_not_the_hidden_ones() {
    for shell in ["bash", "zsh", "fish"] {
        let text = sandrail(&["completions", shell]).exits(0).text();
        assert!(
            text.contains("discover") && text.contains("reserve"),
            "{shell}"
        );
    }
    let help = sandrail(&["--help"]).exits(0).text();
    assert!(
        !help.contains("completions") && !help.contains("  job"),
        "{help}"
    );
}
