//! Documents: links that lead somewhere, nothing that cannot be found, and safety rules that exist.

use std::collections::{BTreeMap, BTreeSet};

use crate::rust::is_word;
use crate::tree::{Finding, Tree};

/// Where reading begins.
const README: &str = "README.md";
/// The safety contract.
const SAFETY: &str = "docs/safety.md";

/// Finds relative links to files or headings that do not exist.
#[must_use]
pub fn check_links(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.ending(&[".md"]) {
        for (line, target) in links(text) {
            let (file, heading) = target.split_once('#').unwrap_or((&target, ""));
            let Some(file) = resolve(path, file) else {
                findings.push(Finding::new(
                    path,
                    line,
                    format!("`{target}` leads out of the repository"),
                ));
                continue;
            };
            if !tree.has(&file) {
                findings.push(Finding::new(
                    path,
                    line,
                    format!("`{target}` leads nowhere"),
                ));
            } else if let Some(text) = tree
                .text(&file)
                .filter(|_| !heading.is_empty() && file.ends_with(".md"))
                && !headings(text).any(|slug| slug == heading)
            {
                findings.push(Finding::new(
                    path,
                    line,
                    format!("`{target}`: no such heading"),
                ));
            }
        }
    }
    findings
}

/// Finds documents that no path of links leads to from the README.
#[must_use]
pub fn check_reachable(tree: &Tree) -> Vec<Finding> {
    let mut reached = BTreeSet::from([README.to_owned()]);
    let mut open = vec![README.to_owned()];
    while let Some(path) = open.pop() {
        for (_, target) in links(tree.text(&path).unwrap_or_default()) {
            let file = target.split('#').next().unwrap_or_default();
            if let Some(file) = resolve(&path, file).filter(|file| file.ends_with(".md"))
                && tree.has(&file)
                && reached.insert(file.clone())
            {
                open.push(file);
            }
        }
    }
    let documents = tree.ending(&[".md"]).map(|(path, _)| path);
    documents
        .filter(|path| path.starts_with("docs/") && !reached.contains(*path))
        .map(|path| Finding::new(path, 0, "no link leads here from README.md"))
        .collect()
}

/// Finds citations of safety rules (an `S` and a number) that the contract does not have, and rules that are missing
/// or stand twice in it. A rule is a heading of `docs/safety.md` that begins with its number.
#[must_use]
pub fn check_safety_rules(tree: &Tree) -> Vec<Finding> {
    let contract = tree.text(SAFETY).unwrap_or_default();
    let mut rules: BTreeMap<u32, usize> = BTreeMap::new();
    let mut findings = Vec::new();
    for (number, line) in contract.lines().enumerate() {
        let Some(title) = line
            .strip_prefix('#')
            .map(|rest| rest.trim_start_matches('#').trim_start())
        else {
            continue;
        };
        if let Some(rule) = citations(title).next().filter(|_| title.starts_with('S'))
            && rules.insert(rule, number + 1).is_some()
        {
            findings.push(Finding::new(
                SAFETY,
                number + 1,
                format!("S{rule} stands here a second time"),
            ));
        }
    }
    let last = rules.keys().next_back().copied().unwrap_or_default();
    for missing in (1..=last).filter(|rule| !rules.contains_key(rule)) {
        findings.push(Finding::new(SAFETY, 0, format!("S{missing} is missing")));
    }
    for (path, text) in tree.ending(&[".rs", ".c", ".h", ".md", ".toml", ".sh"]) {
        for (number, line) in text.lines().enumerate() {
            for rule in citations(line).filter(|rule| !rules.contains_key(rule)) {
                findings.push(Finding::new(
                    path,
                    number + 1,
                    format!("S{rule} is not in {SAFETY}"),
                ));
            }
        }
    }
    findings
}

/// The rules that a line cites: `S` and one or two digits, as a word of its own.
fn citations(line: &str) -> impl Iterator<Item = u32> + '_ {
    line.split(|c| !is_word(c)).filter_map(|word| {
        let digits = word.strip_prefix('S')?;
        let number =
            (1..=2).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
        if number { digits.parse().ok() } else { None }
    })
}

/// The relative links of a document, `[text](target)`, with their lines. Code is left out.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (line, content) in prose(text) {
        for (at, _) in content.match_indices("](") {
            let target = content[at + 2..]
                .split([')', ' '])
                .next()
                .unwrap_or_default();
            let elsewhere = target.contains("://") || target.starts_with("mailto:");
            if !elsewhere && !target.is_empty() {
                found.push((line, target.to_owned()));
            }
        }
    }
    found
}

/// The lines of a document outside code blocks, without their inline code, with their numbers from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, String)> + '_ {
    let mut in_code = false;
    text.lines().enumerate().filter_map(move |(number, line)| {
        let fence = line.trim_start().starts_with("```");
        in_code ^= fence;
        // Every second part between backticks is code.
        (!fence && !in_code).then(|| {
            (
                number + 1,
                line.split('`').step_by(2).collect::<Vec<_>>().join("``"),
            )
        })
    })
}

/// The anchors that GitHub gives to a document's headings.
fn headings(text: &str) -> impl Iterator<Item = String> + '_ {
    let mut in_code = false;
    let lines = text.lines().filter(move |line| {
        in_code ^= line.trim_start().starts_with("```");
        !in_code && line.starts_with('#')
    });
    lines.map(|line| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title
            .chars()
            .filter(|c| is_word(*c) || matches!(c, ' ' | '-'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    })
}

/// The path from the root of what `target` means in the document at `path`; `None` if it leads out of the tree.
fn resolve(path: &str, target: &str) -> Option<String> {
    if target.is_empty() {
        return Some(path.to_owned());
    }
    if target.starts_with('/') {
        return None;
    }
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    for part in target.trim_end_matches('/').split('/') {
        match part {
            "." => {}
            ".." => {
                parts.pop()?;
            }
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
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

    /// A citation that this very file's check does not see.
    fn rule(number: u32) -> String {
        format!("S{number}")
    }

    #[test]
    fn links_that_lead_nowhere_are_found() {
        let readme = "[a](docs/a.md) [web](https://example.org/x)\n[gone](docs/gone.md)\n```\n[code](nowhere)\n```\n\
                      `[code](nowhere)` and [out](../x)\n[folder](docs/) [root](/etc)\n";
        let a = "# A title, with: marks\n[up](../README.md) [here](#a-title-with-marks) [no](#missing)\n\
                 [head](a.md#a-title-with-marks)\n";
        let tree = Tree::of(&[("README.md", readme), ("docs/a.md", a)]);
        let expected = [
            ("README.md", 2),
            ("README.md", 6),
            ("README.md", 7),
            ("docs/a.md", 2),
        ];
        assert_eq!(places(&check_links(&tree)), expected);
    }

    #[test]
    fn documents_that_nothing_leads_to_are_found() {
        let tree = Tree::of(&[
            ("README.md", "[a](docs/a.md#x)\n"),
            ("docs/a.md", "[b](deep/b.md)\n"),
            ("docs/deep/b.md", "[a](../a.md)\n"),
            ("docs/lost.md", "[a](a.md)\n"),
            ("notes.md", ""),
        ]);
        assert_eq!(places(&check_reachable(&tree)), [("docs/lost.md", 0)]);
    }

    #[test]
    fn rules_that_do_not_exist_are_found() {
        let contract = format!("# Contract\n### {}. One\n### {}. Two\n", rule(1), rule(2));
        let code = format!(
            "// by {} and {}\n// {} is none, x{} and {}x are words\n",
            rule(1),
            rule(2),
            rule(77),
            rule(9),
            rule(9)
        );
        let tree = Tree::of(&[("docs/safety.md", &contract), ("a.rs", &code)]);
        assert_eq!(places(&check_safety_rules(&tree)), [("a.rs", 2)]);
    }

    #[test]
    fn a_contract_with_holes_or_doubles_is_found() {
        let contract = format!(
            "### {}. One\n### {}. Three\n### {}. Again\n",
            rule(1),
            rule(3),
            rule(3)
        );
        let tree = Tree::of(&[("docs/safety.md", &contract)]);
        assert_eq!(
            places(&check_safety_rules(&tree)),
            [("docs/safety.md", 3), ("docs/safety.md", 0)]
        );
        let tree = Tree::of(&[("a.rs", &format!("// {}\n", rule(1)))]);
        assert_eq!(places(&check_safety_rules(&tree)), [("a.rs", 1)]);
    }
}
