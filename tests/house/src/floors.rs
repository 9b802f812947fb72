//! Crates import strictly lower floors; what stands on one floor does not know its neighbours.

use std::collections::BTreeMap;

use toml::{Table, Value};

use crate::tree::{Finding, Tree};

/// Every crate and its floor. A crate may depend on those of strictly lower floors.
const FLOORS: &[(&str, u32)] = &[
    ("sandrail-wire", 0),
    ("sandrail-proto", 1),
    ("sandrail-memory", 1),
    ("sandrail-ebpf", 1),
    ("sandrail-link", 2),
    ("sandrail-disk", 2),
    ("sandrail-store", 2),
    ("sandrail-node", 3),
    ("sandrail-report", 4),
    ("sandrail-sim", 4),
    ("sandrail", 5),
    ("sandrail-blade", 5),
    ("sandrail-bench", 5),
    ("sandrail-e2e", 5),
    ("sandrail-fuzz", 5),
    ("sandrail-house", 5),
];

/// The lab stands beside the house: it depends on no crate of ours. Crates above the engine may use it, and so may the
/// tests of any crate (as a dev-dependency), because a link can be tested on a real wire only.
const LAB: &str = "sandrail-lab";
/// The first floor that is above the engine.
const ABOVE_ENGINE: u32 = 4;

/// Checks every manifest of the tree, the workspace's members and the crates it excludes alike.
#[must_use]
pub fn check(tree: &Tree) -> Vec<Finding> {
    let floors: BTreeMap<&str, u32> = FLOORS.iter().copied().collect();
    let shared = tree
        .text("Cargo.toml")
        .and_then(|text| text.parse::<Table>().ok())
        .unwrap_or_default();
    let shared = table_at(&Value::Table(shared), &["workspace", "dependencies"])
        .cloned()
        .unwrap_or_default();
    let mut findings = Vec::new();
    for (path, text) in tree.ending(&["Cargo.toml"]) {
        match text.parse::<Table>() {
            Ok(manifest) => check_manifest(
                path,
                &Value::Table(manifest),
                &shared,
                &floors,
                &mut findings,
            ),
            Err(error) => findings.push(Finding::new(path, 0, format!("not a manifest: {error}"))),
        }
    }
    findings
}

fn check_manifest(
    path: &str,
    manifest: &Value,
    shared: &Table,
    floors: &BTreeMap<&str, u32>,
    findings: &mut Vec<Finding>,
) {
    let Some(package) = table_at(manifest, &["package"]) else {
        return;
    };
    let name = package
        .get("name")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let own = floors.get(name).copied();
    let mut report = |message: String| findings.push(Finding::new(path, 0, message));
    if own.is_none() && name != LAB {
        report(format!(
            "`{name}` has no floor: give it one in tests/house/src/floors.rs and in docs/ARCHITECTURE.md"
        ));
        return;
    }
    // A crate outside the workspace (the fuzz targets) cannot inherit its lints.
    let lints = table_at(manifest, &["lints"])
        .and_then(|lints| lints.get("workspace"))
        .and_then(Value::as_bool);
    if lints != Some(true) && table_at(manifest, &["workspace"]).is_none() {
        report("does not inherit the workspace's lints (`[lints] workspace = true`)".to_owned());
    }
    for (section, dependency) in dependencies(manifest, shared) {
        if dependency == LAB {
            if section != "dev-dependencies" && own.is_none_or(|floor| floor < ABOVE_ENGINE) {
                report(format!(
                    "{section}: the engine does not import `{LAB}`, its tests may"
                ));
            }
            continue;
        }
        match (own, floors.get(dependency.as_str())) {
            (None, Some(_)) => report(format!(
                "{section}: `{LAB}` imports nothing of ours, not `{dependency}`"
            )),
            (Some(own), Some(other)) if *other >= own => report(format!(
                "{section}: `{name}` (floor {own}) imports `{dependency}` (floor {other}), which is not below it"
            )),
            (_, None) if dependency.starts_with("sandrail") => {
                report(format!("{section}: `{dependency}` has no floor"));
            }
            _ => {}
        }
    }
}

/// All dependencies of a manifest under their packages' real names, with the kind of section each stands in. Those of
/// one platform count as well.
fn dependencies(manifest: &Value, shared: &Table) -> Vec<(&'static str, String)> {
    let mut holders = vec![manifest];
    holders.extend(
        table_at(manifest, &["target"])
            .into_iter()
            .flat_map(Table::values),
    );
    let mut found = Vec::new();
    for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
        for entries in holders
            .iter()
            .filter_map(|holder| table_at(holder, &[section]))
        {
            for (key, value) in entries {
                let inherited = value.get("workspace").and_then(Value::as_bool) == Some(true);
                let source = if inherited {
                    shared.get(key).unwrap_or(value)
                } else {
                    value
                };
                let package = source.get("package").and_then(Value::as_str);
                found.push((section, package.unwrap_or(key).to_owned()));
            }
        }
    }
    found
}

fn table_at<'a>(value: &'a Value, keys: &[&str]) -> Option<&'a Table> {
    keys.iter()
        .try_fold(value, |value, key| value.get(*key))
        .and_then(Value::as_table)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(name: &str, rest: &str) -> Vec<String> {
        let manifest = format!("[package]\nname = \"{name}\"\n[lints]\nworkspace = true\n{rest}");
        let root =
            "[workspace.dependencies]\nsneaky = { package = \"sandrail-node\", path = \"x\" }\n";
        let tree = Tree::of(&[("Cargo.toml", root), ("some/Cargo.toml", &manifest)]);
        check(&tree)
            .into_iter()
            .map(|finding| finding.message)
            .collect()
    }

    #[test]
    fn lower_floors_and_strangers_are_fine() {
        let fine = "[dependencies]\nsandrail-wire.workspace = true\nsandrail-memory.workspace = true\nlibc = \"0.2\"\n\
                    [dev-dependencies]\nsandrail-lab.workspace = true\n";
        assert_eq!(messages("sandrail-link", fine), Vec::<String>::new());
        assert_eq!(
            messages(
                "sandrail",
                "[dependencies]\nsandrail-lab = { path = \"x\" }\n"
            ),
            Vec::<String>::new()
        );
    }

    #[test]
    fn higher_floors_and_siblings_are_found_in_every_section() {
        for section in [
            "dependencies",
            "dev-dependencies",
            "build-dependencies",
            "target.'cfg(unix)'.dependencies",
            "target.'cfg(unix)'.dev-dependencies",
        ] {
            for above in ["sandrail-node", "sandrail-memory"] {
                let found = messages(
                    "sandrail-proto",
                    &format!("[{section}]\n{above}.workspace = true\n"),
                );
                assert!(
                    found.len() == 1 && found[0].contains("not below"),
                    "{section} {above}: {found:?}"
                );
            }
        }
    }

    #[test]
    fn another_name_does_not_hide_a_crate() {
        for rest in [
            "x = { package = \"sandrail-node\", path = \"x\" }",
            "sneaky.workspace = true",
        ] {
            let found = messages("sandrail-wire", &format!("[dependencies]\n{rest}\n"));
            assert!(
                found.len() == 1 && found[0].contains("sandrail-node"),
                "{rest}: {found:?}"
            );
        }
    }

    #[test]
    fn the_lab_stays_beside_the_house() {
        let found = messages(
            "sandrail-lab",
            "[dependencies]\nsandrail-wire.workspace = true\n",
        );
        assert!(
            found.len() == 1 && found[0].contains("imports nothing"),
            "{found:?}"
        );
        let found = messages(
            "sandrail-node",
            "[dependencies]\nsandrail-lab.workspace = true\n",
        );
        assert!(
            found.len() == 1 && found[0].contains("its tests may"),
            "{found:?}"
        );
        let found = messages(
            "sandrail-node",
            "[build-dependencies]\nsandrail-lab.workspace = true\n",
        );
        assert_eq!(found.len(), 1, "{found:?}");
    }

    #[test]
    fn a_crate_without_a_floor_or_lints_is_found() {
        assert!(messages("sandrail-attic", "")[0].contains("has no floor"));
        assert!(
            messages("sandrail-node", "[dependencies]\nsandrail-attic = \"1\"\n")[0]
                .contains("has no floor")
        );
        let tree = Tree::of(&[("a/Cargo.toml", "[package]\nname = \"sandrail-wire\"\n")]);
        assert!(check(&tree)[0].message.contains("lints"));
        let tree = Tree::of(&[("a/Cargo.toml", "[package\n")]);
        assert!(check(&tree)[0].message.contains("not a manifest"));
    }
}
