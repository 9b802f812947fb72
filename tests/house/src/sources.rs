//! What source files may hold: where `unsafe` lives, how long a file is, what a module is called, which words are out.

use crate::rust::{code_only, is_word, words};
use crate::tree::{Finding, Tree};

/// The folders in which `unsafe` may stand, and why.
const UNSAFE_ROOMS: &[(&str, &str)] = &[
    ("engine/memory/", "maps memory and hands out parts of it"),
    ("engine/link/", "shares rings and frames with the kernel"),
    ("engine/disk/", "hands buffers to io_uring"),
    (
        "ebpf/",
        "reads and writes structures that the kernel shares",
    ),
    ("tools/lab/", "joins namespaces and sends signals"),
];

/// Single files elsewhere in which `unsafe` may stand, and why no safe form would do.
const UNSAFE_FILES: &[(&str, &str)] = &[
    (
        "engine/node/src/os.rs",
        "eventfd, ppoll, clocks and scheduling have no safe form in the standard library",
    ),
    (
        "tools/blade/src/os.rs",
        "waiting for signals, locking memory and _exit have no safe form in the standard library",
    ),
    (
        "engine/node/tests/doorbell_loom.rs",
        "loom's cells, which tell a race from an ordered access, are read through pointers",
    ),
];

/// The most lines that a source file may have.
const LINES_MAX: usize = 800;

/// Names that say nothing about what a module holds.
const EMPTY_NAMES: &[&str] = &["common", "util", "utils", "helper", "helpers", "misc"];

/// Finds `unsafe` outside the rooms it is kept in.
#[must_use]
pub fn check_unsafe(tree: &Tree) -> Vec<Finding> {
    check_unsafe_except(tree, UNSAFE_FILES)
}

fn check_unsafe_except(tree: &Tree, files: &[(&str, &str)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.ending(&[".rs"]) {
        let in_room = UNSAFE_ROOMS.iter().any(|(room, _)| path.starts_with(room));
        if in_room || files.iter().any(|(file, _)| *file == path) {
            continue;
        }
        for (number, line) in code_only(text).lines().enumerate() {
            if words(line, "unsafe").next().is_some() {
                let message = "`unsafe` outside its rooms: move it to one of them, or give its reason in \
                               tests/house/src/sources.rs";
                findings.push(Finding::new(path, number + 1, message));
            }
        }
    }
    // An exception that nothing needs any more would let the next one in unseen.
    for (file, _) in files {
        let used = tree
            .text(file)
            .is_some_and(|text| words(&code_only(text), "unsafe").next().is_some());
        if !used {
            findings.push(Finding::new(
                file,
                0,
                "is excepted for its `unsafe`, and has none",
            ));
        }
    }
    findings
}

/// Finds source files that have grown too long.
#[must_use]
pub fn check_lengths(tree: &Tree) -> Vec<Finding> {
    let long = tree
        .ending(&[".rs", ".c", ".h"])
        .map(|(path, text)| (path, text.lines().count()));
    long.filter(|(_, lines)| *lines > LINES_MAX)
        .map(|(path, lines)| {
            Finding::new(
                path,
                0,
                format!("{lines} lines, more than {LINES_MAX}: split it"),
            )
        })
        .collect()
}

/// Finds modules with a name that says nothing.
#[must_use]
pub fn check_module_names(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.ending(&[".rs"]) {
        let parts = path.trim_end_matches(".rs").split('/');
        for part in parts.filter(|part| EMPTY_NAMES.contains(part)) {
            findings.push(Finding::new(
                path,
                0,
                format!("a module called `{part}` says nothing of what it holds"),
            ));
        }
        for (number, line) in code_only(text).lines().enumerate() {
            let inline =
                words(line, "mod").filter_map(|at| line[at + 3..].split(|c| !is_word(c)).nth(1));
            for name in inline.filter(|name| EMPTY_NAMES.contains(name)) {
                let message = format!("a module called `{name}` says nothing of what it holds");
                findings.push(Finding::new(path, number + 1, message));
            }
        }
    }
    findings
}

/// Finds what is unfinished, left over from debugging, switched off, or true of one machine only.
#[must_use]
pub fn check_words(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.files() {
        for (number, line) in text.lines().enumerate() {
            for folder in machine_folders()
                .iter()
                .filter(|folder| mentions(line, folder))
            {
                findings.push(Finding::new(
                    path,
                    number + 1,
                    format!("`{folder}` is a path of one machine"),
                ));
            }
        }
    }
    for (path, text) in tree.ending(&[".rs"]) {
        for (number, line) in code_only(text).lines().enumerate() {
            for name in ["todo", "dbg", "unimplemented"] {
                if words(line, name).any(|at| line[at + name.len()..].starts_with('!')) {
                    findings.push(Finding::new(
                        path,
                        number + 1,
                        format!("`{name}!` is left in the code"),
                    ));
                }
            }
            if words(line, "ignore").any(|at| line[..at].trim_end().ends_with("#[")) {
                findings.push(Finding::new(
                    path,
                    number + 1,
                    "a test that is switched off: mend it or remove it",
                ));
            }
        }
    }
    for (path, text) in tree.ending(&[".rs", ".c", ".h", ".sh", "run", ".toml"]) {
        for (number, line) in text.lines().enumerate() {
            for mark in unfinished_marks()
                .iter()
                .filter(|mark| words(line, mark).next().is_some())
            {
                findings.push(Finding::new(
                    path,
                    number + 1,
                    format!("`{mark}` marks something unfinished"),
                ));
            }
        }
    }
    findings
}

/// Folders that exist on somebody's machine. Put together here, so that this file does not find itself.
fn machine_folders() -> [String; 3] {
    ["work", "home", "Users"].map(|name| format!("/{name}/"))
}

fn unfinished_marks() -> [String; 3] {
    [["FIX", "ME"], ["X", "XX"], ["TO", "DO"]].map(|halves| halves.concat())
}

/// Whether an absolute path into `folder` stands in the line: `a/home/b` is relative and does not count.
fn mentions(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| is_word(c) || matches!(c, '.' | '-' | '}' | ')'))
    })
}

/// Finds dependencies that do not come from crates.io, and settings that would make them come from elsewhere.
#[must_use]
pub fn check_registries(tree: &Tree) -> Vec<Finding> {
    const CRATES_IO: &str = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
    let mut findings = Vec::new();
    for (path, text) in tree.ending(&["Cargo.lock"]) {
        for (number, line) in text.lines().enumerate() {
            if line.starts_with("source = ") && line != CRATES_IO {
                findings.push(Finding::new(
                    path,
                    number + 1,
                    format!("not from crates.io: {line}"),
                ));
            }
        }
    }
    for (path, text) in tree.ending(&[".cargo/config.toml", ".cargo/config"]) {
        for (number, line) in text.lines().enumerate() {
            if ["[source", "[registr", "replace-with"]
                .iter()
                .any(|word| line.trim_start().starts_with(word))
            {
                findings.push(Finding::new(
                    path,
                    number + 1,
                    "sends cargo to a registry of one machine",
                ));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(findings: &[Finding]) -> Vec<(&str, usize)> {
        findings
            .iter()
            .map(|finding| (finding.path.as_str(), finding.line))
            .collect()
    }

    #[test]
    fn unsafe_is_found_outside_its_rooms_only() {
        let block = "fn f() {\n    unsafe { g() }\n}\n";
        let tree = Tree::of(&[
            ("engine/memory/src/lib.rs", block),
            ("tools/lab/src/lib.rs", block),
            ("engine/proto/src/lib.rs", block),
            (
                "engine/wire/src/lib.rs",
                "#![forbid(unsafe_code)]\n// unsafe in words\nconst S: &str = \"unsafe\";\n",
            ),
        ]);
        assert_eq!(
            places(&check_unsafe_except(&tree, &[])),
            [("engine/proto/src/lib.rs", 2)]
        );
    }

    #[test]
    fn an_exception_holds_while_it_is_needed() {
        let tree = Tree::of(&[
            ("bench/a.rs", "unsafe fn f() {}"),
            ("bench/b.rs", "fn f() {}"),
        ]);
        assert_eq!(
            places(&check_unsafe_except(&tree, &[("bench/a.rs", "why")])),
            []
        );
        let both = [("bench/a.rs", "why"), ("bench/b.rs", "why")];
        assert_eq!(
            places(&check_unsafe_except(&tree, &both)),
            [("bench/b.rs", 0)]
        );
    }

    #[test]
    fn long_files_are_found() {
        let (long, full) = ("x\n".repeat(LINES_MAX + 1), "x\n".repeat(LINES_MAX));
        let tree = Tree::of(&[
            ("a.rs", &long),
            ("b.rs", &full),
            ("c.c", &long),
            ("d.md", &long),
        ]);
        assert_eq!(places(&check_lengths(&tree)), [("a.rs", 0), ("c.c", 0)]);
    }

    #[test]
    fn empty_names_are_found_as_files_folders_and_modules() {
        let tree = Tree::of(&[
            ("a/src/util.rs", ""),
            ("a/tests/common/mod.rs", ""),
            ("a/src/lib.rs", "mod frame;\n\npub(crate) mod helpers {}\n"),
            ("a/src/utility.rs", "// mod util\n"),
        ]);
        let expected = [
            ("a/src/lib.rs", 3),
            ("a/src/util.rs", 0),
            ("a/tests/common/mod.rs", 0),
        ];
        assert_eq!(places(&check_module_names(&tree)), expected);
    }

    #[test]
    fn words_that_are_out_are_found() {
        let [work, home, _] = machine_folders();
        let [mark, ..] = unfinished_marks();
        let text = format!(
            "// see {work}x\nfn f() {{\n    todo!()\n}}\n#[ignore = \"slow\"]\nfn g() {{ dbg!(1); }}\n// {mark}: later\n\
             // \"todo!\" in words, tests{home}x is relative, and ignore too\n"
        );
        let tree = Tree::of(&[("a.rs", &text), ("b.md", &format!("in `{home}me`\n"))]);
        let mut found = check_words(&tree);
        found.sort();
        assert_eq!(
            places(&found),
            [
                ("a.rs", 1),
                ("a.rs", 3),
                ("a.rs", 5),
                ("a.rs", 6),
                ("a.rs", 7),
                ("b.md", 1)
            ]
        );
    }

    #[test]
    fn foreign_registries_are_found() {
        let lock = "[[package]]\nsource = \"registry+https://github.com/rust-lang/crates.io-index\"\n\
                    [[package]]\nsource = \"registry+https://mirror.example/index\"\n";
        let config = "[build]\njobs = 2\n[source.crates-io]\nreplace-with = \"mirror\"\n";
        let tree = Tree::of(&[("Cargo.lock", lock), (".cargo/config.toml", config)]);
        let expected = [
            ("Cargo.lock", 4),
            (".cargo/config.toml", 3),
            (".cargo/config.toml", 4),
        ];
        assert_eq!(places(&check_registries(&tree)), expected);
    }
}
