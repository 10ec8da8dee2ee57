//! `textgen doctor`: looks at all that a server needs, and says what to do about what is not as it should be.
//!
//! `database` asks the database, `machine` looks at files, limits and settings, `services` calls model servers and Stripe.
//! Nothing is changed but for a file in the folder of journals that is made and removed. No secret is shown.

mod database;
mod machine;
mod services;

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::config::Config;

/// How long all of it may take; what has not answered by then has failed.
const TIME: Duration = Duration::from_secs(25);

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// It works, but not as well as it should, or not for long.
    Warn,
    /// Something does not work.
    Fail,
}

impl Status {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Warn => "warn",
            Status::Fail => "fail",
        }
    }
}

/// What was found of one thing.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// How it is.
    pub status: Status,
    /// What was found.
    pub detail: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Check {
    fn ok(name: &str, detail: impl Into<String>) -> Check {
        Check { name: name.to_owned(), status: Status::Ok, detail: detail.into(), advice: None }
    }

    fn warn(name: &str, detail: impl Into<String>, advice: impl Into<String>) -> Check {
        Check { name: name.to_owned(), status: Status::Warn, detail: detail.into(), advice: Some(advice.into()) }
    }

    fn fail(name: &str, detail: impl Into<String>, advice: impl Into<String>) -> Check {
        Check { name: name.to_owned(), status: Status::Fail, detail: detail.into(), advice: Some(advice.into()) }
    }

    /// Ok if it is so, else a warning.
    fn wants(is_so: bool, name: &str, detail: impl Into<String>, advice: &str) -> Check {
        if is_so { Check::ok(name, detail) } else { Check::warn(name, detail, advice) }
    }

    /// Ok if it is so, else a failure.
    fn needs(is_so: bool, name: &str, detail: impl Into<String>, advice: &str) -> Check {
        if is_so { Check::ok(name, detail) } else { Check::fail(name, detail, advice) }
    }
}

/// Looks at everything. Takes half a minute at most.
pub fn examine(config: &Config) -> Vec<Check> {
    let until = Instant::now() + TIME;
    let own = config.clone();
    let asked = answers(vec![("database".to_owned(), move || database::examine(&own))], until);
    let (mut checks, mut identity, mut catalogue) = (Vec::new(), None, None);
    for answer in asked {
        match answer {
            Ok(found) => {
                checks.extend(found.checks);
                (identity, catalogue) = (found.identity, found.catalogue);
            }
            Err(silent) => checks.push(silent),
        }
    }
    checks.extend(machine::examine(config, identity.as_deref()));
    checks.extend(services::examine(config, catalogue.as_ref(), until));
    checks
}

/// Does all of this at once, each in a thread of its own. What has no answer in time is a failure.
fn answers<T: Send + 'static>(
    work: Vec<(String, impl FnOnce() -> T + Send + 'static)>,
    until: Instant,
) -> Vec<Result<T, Check>> {
    let (sender, receiver) = mpsc::channel();
    let silent =
        |name: &str| Check::fail(name, "no answer in time", "see whether it, and the way to it, is overloaded");
    let mut found: Vec<Result<T, Check>> = Vec::new();
    for (index, (name, work)) in work.into_iter().enumerate() {
        found.push(Err(silent(&name)));
        let sender = sender.clone();
        let started = thread::Builder::new().spawn(move || {
            // If nobody waits for it any more, it is too late.
            let _ = sender.send((index, work()));
        });
        if let Err(e) = started {
            found[index] =
                Err(Check::fail(&name, format!("no thread: {e}"), "raise the limit of processes (ulimit -u)"));
        }
    }
    drop(sender);
    while let Ok((index, answer)) = receiver.recv_timeout(until.saturating_duration_since(Instant::now())) {
        found[index] = Ok(answer);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_answer_is_a_failure() {
        let work = |millis: u64| move || thread::sleep(Duration::from_millis(millis));
        let began = Instant::now();
        let both = vec![("quick".to_owned(), work(0)), ("slow".to_owned(), work(20_000))];
        let found = answers(both, Instant::now() + Duration::from_secs(2));
        assert!(found[0].is_ok() && began.elapsed() < Duration::from_secs(15));
        let silent = found[1].as_ref().unwrap_err();
        assert_eq!((silent.name.as_str(), silent.status), ("slow", Status::Fail));
    }
}
