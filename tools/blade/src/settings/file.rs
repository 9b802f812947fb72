//! The configuration file: TOML, each error with its line.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::export::ExportParts;
use super::{EXPORTS_MAX, KEYS, Origin, Refused, Settings, unknown_key};

/// Reads a file into `settings`.
///
/// # Errors
/// The file cannot be read, is no TOML, or says something that is not allowed: the message names line and key.
pub(crate) fn read_file(path: &Path, settings: &mut Settings) -> Result<()> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("cannot read the configuration {}", path.display()))?;
    read_text(path, &text, settings)?;
    Ok(())
}

fn read_text(path: &Path, text: &str, settings: &mut Settings) -> Result<(), Refused> {
    let at = |offset: usize| Origin::Line {
        file: path.to_owned(),
        line: line_of(text, offset),
    };
    let table = DeTable::parse(text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start);
        Refused::new(&at(offset), "not TOML", error.message())
    })?;
    for (key, value) in table.get_ref() {
        let name: &str = key.get_ref();
        let origin = at(key.span().start);
        if name == "export" {
            exports(value, &at, settings)?;
            continue;
        }
        plain(name, value)
            .and_then(|text| settings.set(name, &text))
            .map_err(|problem| Refused::new(&origin, name, problem))?;
    }
    Ok(())
}

fn exports(
    value: &Spanned<DeValue<'_>>,
    at: &dyn Fn(usize) -> Origin,
    settings: &mut Settings,
) -> Result<(), Refused> {
    let origin = at(value.span().start);
    let DeValue::Array(tables) = value.get_ref() else {
        return Err(Refused::new(
            &origin,
            "export",
            "is a list of tables: begin each with [[export]]",
        ));
    };
    if tables.len() > EXPORTS_MAX {
        let problem = format!(
            "{} of them are too many: at most {EXPORTS_MAX}",
            tables.len()
        );
        return Err(Refused::new(&origin, "export", problem));
    }
    for table in tables.iter() {
        let origin = at(table.span().start);
        let DeValue::Table(entries) = table.get_ref() else {
            return Err(Refused::new(&origin, "export", "must be a table"));
        };
        let mut parts = ExportParts::new(origin);
        for (key, value) in entries {
            let name: &str = key.get_ref();
            let origin = at(key.span().start);
            plain(name, value)
                .and_then(|text| parts.set(name, &text))
                .map_err(|problem| Refused::new(&origin, name, problem))?;
        }
        settings.exports.push(parts.finish()?);
    }
    Ok(())
}

/// A value as the text that an argument would have.
fn plain(name: &str, value: &Spanned<DeValue<'_>>) -> Result<String, String> {
    let one = |value: &DeValue<'_>| match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Some(number.to_string()),
        DeValue::Boolean(yes) => Some(yes.to_string()),
        _ => None,
    };
    let text = match value.get_ref() {
        DeValue::Array(values) => {
            let texts: Option<Vec<String>> =
                values.iter().map(|value| one(value.get_ref())).collect();
            texts.map(|texts| texts.join(","))
        }
        value => one(value),
    };
    text.ok_or_else(|| {
        if KEYS.contains(&name) || super::export::EXPORT_KEYS.contains(&name) {
            "must be a text, a decimal number, true or false, or a list of them".to_owned()
        } else {
            unknown_key(name, &KEYS)
        }
    })
}

/// The line, counted from 1, that holds the byte.
fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{LinkWay, Medium};

    fn read(text: &str) -> Result<Settings, Refused> {
        let mut settings = Settings::default();
        read_text(Path::new("blade.toml"), text, &mut settings)?;
        Ok(settings)
    }

    #[test]
    fn a_whole_file_is_read() {
        let settings = read(
            r#"
            # A blade with two disks.
            interface = ["eth1", "eth2"]
            link = "xdp-generic"
            cores = [1, 2]
            buffer-count = 64
            state-dir = "/var/lib/sandrail-blade"
            force-interface = true

            [[export]]
            address = "e7.4"
            file = "/srv/disk"
            offset = 1048576
            read-only = true

            [[export]]
            address = "e7.3"
            ram = "4G"
            "#,
        )
        .unwrap();
        assert_eq!(settings.interfaces, ["eth1", "eth2"]);
        assert_eq!(settings.link, LinkWay::XdpGeneric);
        assert_eq!(
            (settings.buffer_count, settings.force_interface),
            (64, true)
        );
        assert_eq!(settings.exports.len(), 2);
        assert_eq!(settings.exports[0].offset_bytes, 1 << 20);
        assert!(settings.exports[0].read_only);
        assert_eq!(settings.exports[1].medium, Medium::Ram(4 << 30));
    }

    #[test]
    fn every_error_names_file_line_and_key() {
        for (text, line, key, says) in [
            (
                "link = \"xdp\"\ninterfaces = \"eth1\"\n",
                2,
                "interfaces",
                "`interface`",
            ),
            (
                "\n\nbuffer_count = 12\n",
                3,
                "buffer_count",
                "`buffer-count`",
            ),
            ("buffer-count = 0\n", 1, "buffer-count", "1 to 4096"),
            ("buffer-count = 1.5\n", 1, "buffer-count", "decimal"),
            ("link = \"dpdk\"\n", 1, "link", "xdp-native"),
            ("[server]\nport = 1\n", 1, "server", "no such setting"),
            ("link = \"a\"\nlink = \"b\"\n", 2, "not TOML", "duplicate"),
            ("link = \n", 1, "not TOML", ""),
            ("export = 7\n", 1, "export", "[[export]]"),
            ("[[export]]\nram = \"1M\"\n", 1, "address", "missing"),
            ("[[export]]\naddress = \"e1.1\"\n", 1, "export", "neither"),
            (
                "[[export]]\naddress = \"e1.1\"\nram = \"1M\"\nfile = \"/x\"\n",
                1,
                "ram",
                "exclude",
            ),
            (
                "[[export]]\naddress = \"e1.1\"\nfile = \"/x\"\nread_only = true\n",
                4,
                "read_only",
                "`read-only`",
            ),
            (
                "[[export]]\naddress = \"e1.1\"\nram = { size = 1 }\n",
                3,
                "ram",
                "must be a text",
            ),
        ] {
            let refused = read(text).unwrap_err();
            assert_eq!(
                refused.origin,
                Origin::Line {
                    file: "blade.toml".into(),
                    line
                },
                "{text}: {refused}"
            );
            assert_eq!(refused.key, key, "{refused}");
            let words = refused.to_string();
            assert!(
                words.starts_with(&format!("blade.toml:{line}: {key}")),
                "{words}"
            );
            assert!(words.contains(says), "{words}");
        }
    }
}
