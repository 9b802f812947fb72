//! The rules of the house, checked on the tree itself: what a reviewer would otherwise have to remember.
//!
//! Each check takes a [`Tree`] and returns [`Finding`]s. `tests/house.rs` runs all of them on this repository; the unit
//! tests run each on a small tree with one fault in it, so that a check that has gone blind is noticed.

pub mod documents;
pub mod floors;
pub mod rust;
pub mod sources;
mod tree;

pub use tree::{Finding, Tree};

/// A check: everything it finds in a tree.
pub type Check = fn(&Tree) -> Vec<Finding>;

/// Every check of the house, by name.
pub const CHECKS: &[(&str, Check)] = &[
    ("crates import lower floors only", floors::check),
    ("unsafe stays in its rooms", sources::check_unsafe),
    ("files are short", sources::check_lengths),
    ("modules say what they hold", sources::check_module_names),
    (
        "nothing unfinished, nothing of one machine",
        sources::check_words,
    ),
    (
        "dependencies come from crates.io",
        sources::check_registries,
    ),
    ("links lead somewhere", documents::check_links),
    (
        "documents are found from the README",
        documents::check_reachable,
    ),
    (
        "safety rules that are cited exist",
        documents::check_safety_rules,
    ),
];
