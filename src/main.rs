//! The binary: parses the command line, runs the command, and maps errors to exit codes. Nothing else exits.

use std::io::Write;
use std::process::ExitCode;

use textgen::call::Role;
use textgen::cli::{self, Cli, Command};
use textgen::config::Config;
use textgen::{logging, memory, startup};

/// The exit code when a command fails.
const FAILURE: u8 = 1;
/// The exit code for a mistake on the command line or in the environment.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    memory::configure_allocator();
    let Cli { config, command } = match Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(e) => {
            // If this fails there is nowhere to report it.
            let _ = e.print();
            return if e.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match command {
        Command::Serve { role, demo_engine } => serve(Config { demo_engine, ..config }, role.map(Role::from)),
        command => match cli::run(&command, &config) {
            Ok(done) => {
                // A closed pipe is no failure: the reader has seen enough.
                let _ = std::io::stdout().write_all(done.text.as_bytes());
                if done.is_ok { ExitCode::SUCCESS } else { ExitCode::from(FAILURE) }
            }
            Err(e) => fail(&e.to_string()),
        },
    }
}

fn serve(config: Config, role: Option<Role>) -> ExitCode {
    let lines = match logging::start(config.log_level, config.log_format) {
        Ok(lines) => lines,
        Err(e) => return fail(&e),
    };
    let roles = role.map_or(Role::ALL.to_vec(), |role| vec![role]);
    let outcome = startup::run(config, &roles);
    lines.flush_now();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => fail(&e),
    }
}

fn fail(text: &str) -> ExitCode {
    // If this fails there is nowhere to report it.
    let _ = writeln!(std::io::stderr(), "textgen: {text}");
    ExitCode::from(FAILURE)
}
