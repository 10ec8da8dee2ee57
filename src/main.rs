//! The binary: parses the command line, runs it, maps errors to exit codes. The only place that exits.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use textgen::call::Role;
use textgen::cli::{self, Cli, Command};
use textgen::config::Config;
use textgen::{logging, serve};

/// The command could not do its work.
const FAILED: u8 = 1;
/// The command line or the environment makes no sense.
const MISUSED: u8 = 2;

fn main() -> ExitCode {
    let command = Cli::parse().command;
    let config = match Config::from_env() {
        Ok(config) => config,
        Err(e) => return fail(MISUSED, &e.to_string()),
    };
    match command {
        Command::Serve { role, demo_engine } => serve(Config { demo_engine, ..config }, role.map(Role::from)),
        command => match cli::run(&command, &config) {
            // A reader that left early has seen enough.
            Ok(text) => std::io::stdout().write_all(text.as_bytes()).map_or(ExitCode::SUCCESS, |()| ExitCode::SUCCESS),
            Err(e) => fail(FAILED, &e.to_string()),
        },
    }
}

fn serve(config: Config, role: Option<Role>) -> ExitCode {
    let lines = match logging::start(config.log_level, config.log_format) {
        Ok(lines) => lines,
        Err(e) => return fail(FAILED, &e),
    };
    let roles = role.map_or(Role::ALL.to_vec(), |role| vec![role]);
    let outcome = serve::run(config, &roles);
    lines.flush_now();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => fail(FAILED, &e),
    }
}

fn fail(code: u8, text: &str) -> ExitCode {
    // Nobody is left to tell if this fails.
    let _ = writeln!(std::io::stderr(), "textgen: {text}");
    ExitCode::from(code)
}
