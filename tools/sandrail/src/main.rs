//! `sandrail`: the operator of a SAN.
//!
//! Each verb runs a small node of its own, straight on an interface, and stops it again. `docs/operating.md` shows the
//! verbs at work.

mod cli;
mod demo;
mod fault;
mod flow;
mod links;
mod measure;
mod netif;
mod output;
mod session;
mod size;
mod verbs;

use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::cli::{Cli, Verb};
use crate::fault::Exit;

fn main() -> ExitCode {
    let cli = Cli::parse();
    log(cli.global.verbose);
    match run(&cli) {
        Ok(exit) => exit.into(),
        Err(error) => {
            let data_goes_there =
                matches!(&cli.verb, Verb::Read(args) if verbs::read::to_standard_output(args));
            output::fail(&error, cli.global.json && !data_goes_there)
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<Exit> {
    let global = &cli.global;
    match &cli.verb {
        Verb::Discover(args) => verbs::discover::run(global, args),
        Verb::Stat(args) => verbs::stat::run(global, args),
        Verb::Identify(args) => verbs::identify::run(global, args),
        Verb::Read(args) => verbs::read::run(global, args),
        Verb::Write(args) => verbs::write::run(global, args),
        Verb::Config(args) => verbs::config::run(global, args),
        Verb::Mask(args) => verbs::mask::run(global, args),
        Verb::Reserve(args) => verbs::reserve::run(global, args),
        Verb::Capture(args) => verbs::capture::run(global, args),
        Verb::Doctor(_) => verbs::doctor::run(global),
        Verb::Report(args) => verbs::report::run(global, args),
        Verb::Demo(args) => demo::run(global, args),
        Verb::Man { directory } => verbs::man::pages(directory),
        Verb::Completions { shell } => verbs::man::completions(*shell),
        Verb::Job(args) => demo::job::run(global, args),
    }
}

/// Warnings always, more by `-v`; `RUST_LOG` overrides.
fn log(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .without_time()
        .with_target(verbose > 1)
        .init();
}
