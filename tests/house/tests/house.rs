//! Runs every check of the house on this repository.

use std::path::Path;

use sandrail_house::{CHECKS, Tree};

#[test]
fn the_house_is_in_order() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let tree = Tree::read(&root).expect("the repository can be read");
    assert!(
        tree.has("Cargo.toml") && tree.has("engine/wire/src/lib.rs"),
        "this is not the repository: {}",
        root.display()
    );
    let mut report = String::new();
    for (name, check) in CHECKS {
        for finding in check(&tree) {
            report.push_str(&format!("  {name}: {finding}\n"));
        }
    }
    assert!(report.is_empty(), "\n{report}");
}
