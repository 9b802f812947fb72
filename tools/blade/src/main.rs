//! An AoE target that keeps its promises.
//!
//! `docs/blade.md` tells how it is configured, what it promises and how its faults are used.

mod cli;
mod control;
mod cores;
mod disk;
mod drill;
mod events;
mod man;
mod notify;
mod os;
mod plane;
mod ports;
mod serve;
mod settings;
mod size;
mod state;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::cli::{Cli, ServeArgs, Verb};
use crate::serve::Plan;
use crate::settings::Refused;

/// Exit codes beside those of [`ExitCode`]: the arguments make no sense, the environment does not allow it.
const USAGE: u8 = 2;
const ENVIRONMENT: u8 = 3;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.verb {
        None => serve(&cli.serve),
        Some(Verb::Ctl(args)) => control::client::run(args),
        Some(Verb::Man { directory }) => man::pages(directory).map(|()| ExitCode::SUCCESS),
        Some(Verb::Completions { shell }) => {
            man::completions(*shell);
            Ok(ExitCode::SUCCESS)
        }
    };
    result.unwrap_or_else(|error| {
        eprintln!("sandrail-blade: {}", chain(&error));
        let serving = cli.verb.is_none();
        match error.chain().any(|cause| cause.is::<Refused>()) {
            true => USAGE.into(),
            false if serving => ENVIRONMENT.into(),
            false => ExitCode::FAILURE,
        }
    })
}

fn serve(args: &ServeArgs) -> Result<ExitCode> {
    log(args.verbose);
    let plan = Plan::new(args.settings()?, args.check)?;
    if args.check {
        println!("{}", plan.describe());
        return Ok(ExitCode::SUCCESS);
    }
    serve::run(plan)
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
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_target(verbose > 1)
        .init();
}

/// The chain of causes, without those whose words the one before has said already.
fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let words = cause.to_string();
        if text.contains(&words) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&words);
    }
    text
}
