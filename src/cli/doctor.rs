//! `textgen doctor`.

use clap::Args;

use super::{Done, Failure};
use crate::config::Config;
use crate::doctor::{self, Check, Status};

/// How the findings are shown.
#[derive(Args)]
pub struct DoctorArguments {
    /// Print one JSON object, for programs
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &DoctorArguments, config: &Config) -> Result<Done, Failure> {
    let checks = doctor::examine(config);
    let worst = checks.iter().map(|check| check.status).max().unwrap_or(Status::Ok);
    let text = match arguments.json {
        true => serde_json::json!({"status": worst, "checks": checks}).to_string() + "\n",
        false => checks.iter().map(line).collect(),
    };
    Ok(Done { text, is_ok: worst < Status::Fail })
}

fn line(check: &Check) -> String {
    let Check { name, status, detail, advice } = check;
    let advice = advice.as_ref().map_or_else(String::new, |advice| format!("\n      -> {advice}"));
    // What others have said may have any form.
    let text = format!("{name}: {detail}{advice}").replace(|c: char| c.is_control() && c != '\n', " ");
    format!("{:<5} {text}\n", status.name())
}
