//! Manual pages and completions, made from the definitions of the command line.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context, Result};
use clap::{Command, CommandFactory};

use crate::cli::Cli;
use crate::fault::Exit;

/// Writes `sandrail.1` and a page for each verb.
pub(crate) fn pages(directory: &Path) -> Result<Exit> {
    fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    let mut command = Cli::command();
    command.build();
    page(&command, "sandrail", directory)?;
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        if verb.get_name() != "help" {
            let name = format!("sandrail-{}", verb.get_name());
            page(verb, &name, directory)?;
        }
    }
    Ok(Exit::Done)
}

fn page(command: &Command, name: &str, directory: &Path) -> Result<()> {
    let path = directory.join(format!("{name}.1"));
    let mut file = Vec::new();
    // Without a date: the pages change when the command does, and only then.
    clap_mangen::Man::new(command.clone().display_name(name.to_owned()))
        .title(name.to_owned())
        .date("")
        .manual("Sandrail")
        .render(&mut file)?;
    fs::write(&path, file).with_context(|| format!("writing {}", path.display()))
}

/// Prints a shell's completions.
pub(crate) fn completions(shell: clap_complete::Shell) -> Result<Exit> {
    clap_complete::generate(shell, &mut Cli::command(), "sandrail", &mut io::stdout());
    Ok(Exit::Done)
}
