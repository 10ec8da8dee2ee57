//! What the declaration of the command line is written as, beside its help: completions of shells and manual pages.

use std::path::Path;

use clap::Command;
use clap_complete::{Shell, generate};

use super::Failure;

/// The completions for a shell.
pub(super) fn completions(shell: Shell, command: &Command) -> Result<String, Failure> {
    let mut script = Vec::new();
    generate(shell, &mut command.clone(), "textgen", &mut script);
    String::from_utf8(script).map_err(|e| Failure(e.to_string()))
}

/// Writes the manual pages into a folder.
pub(super) fn manual(folder: &Path, command: Command) -> Result<String, Failure> {
    let written = |e| Failure(format!("{}: {e}", folder.display()));
    let command =
        command.after_help("Each option is also an environment variable, whose name stands in angle brackets.");
    clap_mangen::generate_to(command, folder).map_err(written)?;
    Ok(format!("manual pages were written to {}\n", folder.display()))
}
