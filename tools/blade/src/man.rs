//! Manual pages and completions, made from the definitions of the command line.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context, Result};
use clap::{Command, CommandFactory};

use crate::cli::Cli;

/// Writes `sandrail-blade.1` and a page for each verb, and for each verb's verbs.
pub(crate) fn pages(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    let mut command = Cli::command();
    command.build();
    page(&command, "sandrail-blade", directory)
}

fn page(command: &Command, name: &str, directory: &Path) -> Result<()> {
    let path = directory.join(format!("{name}.1"));
    let mut file = Vec::new();
    // Without a date: the pages change when the command does, and only then.
    clap_mangen::Man::new(command.clone().display_name(name.to_owned()))
        .title(name.to_owned())
        .date("")
        .source(concat!("sandrail-blade ", env!("CARGO_PKG_VERSION")))
        .manual("Sandrail")
        .render(&mut file)?;
    fs::write(&path, file).with_context(|| format!("writing {}", path.display()))?;
    for verb in command.get_subcommands() {
        // Every verb that has verbs has a `help` among them, which explains itself.
        if !verb.is_hide_set() && verb.get_name() != "help" {
            page(verb, &format!("{name}-{}", verb.get_name()), directory)?;
        }
    }
    Ok(())
}

/// Prints a shell's completions.
pub(crate) fn completions(shell: clap_complete::Shell) {
    clap_complete::generate(
        shell,
        &mut Cli::command(),
        "sandrail-blade",
        &mut io::stdout(),
    );
}
