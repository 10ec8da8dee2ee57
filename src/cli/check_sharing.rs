//! `textgen check-sharing`: checks that the three running servers share one database.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Failure;
use crate::accounts;
use crate::config::Config;

/// How long a change may take to reach the other servers.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(2);

const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Creates an account on the web server, checks that the other two know it, rotates its secret `rounds` times, checks
/// that they see that, measures how long it takes, and deletes the account.
pub(super) fn run(config: &Config, rounds: u32) -> Result<String, Failure> {
    let check = Check::new(config);
    let email = format!("check-sharing-{}@example.invalid", accounts::random(12)?.to_lowercase());
    let password = accounts::random(24)?;
    let user = check.post(config.web_addr, "/api/signup", None, &json!({"email": email, "password": password}))?;
    let mut secret = text(&user, "secret")?;
    let outcome = check.follow(config, &user, &mut secret, rounds);
    // Delete the account whatever the outcome. Only the newest secret works.
    let deleted = check.post(config.web_addr, "/api/delete-account", Some(&secret), &json!({"password": password}));
    let delays = outcome?;
    deleted?;
    for (name, address) in check.others {
        wait_until(|| Ok(check.user(address, &secret)?.is_none()), &format!("{name} still accepts a deleted user"))?;
    }
    Ok(format!(
        "ok: web, inference and audio share one database: they all saw an account being created, changed and deleted\n{}",
        summary(delays)
    ))
}

struct Check {
    agent: ureq::Agent,
    others: [(&'static str, SocketAddr); 2],
}

impl Check {
    fn new(config: &Config) -> Check {
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(CALL_TIMEOUT))
            .http_status_as_error(false)
            .proxy(None)
            .build()
            .new_agent();
        Check { agent, others: [("inference", config.inference_addr), ("audio", config.audio_addr)] }
    }

    /// Checks that the other servers see the account and the rotations of its secret. Returns how long each rotation
    /// took to reach both. `secret` is always left as the one that works.
    fn follow(
        &self,
        config: &Config,
        user: &Value,
        secret: &mut String,
        rounds: u32,
    ) -> Result<Vec<Duration>, Failure> {
        for (name, address) in self.others {
            let seen = self.user(address, secret)?;
            let seen = seen.ok_or_else(|| Failure(format!("{name} does not know a user created on web")))?;
            if seen["id"] != user["id"] || seen["email"] != user["email"] {
                return Err(Failure(format!("{name} returns a different user from web")));
            }
        }
        let keys = self.call(config.web_addr, "/api/keys", secret)?;
        let mut id = text(&keys["keys"][0], "id")?;
        let mut delays = Vec::new();
        for _ in 0..rounds {
            let rotated = self.post(config.web_addr, "/api/keys/rotate", Some(secret), &json!({"id": id}))?;
            let rotated_at = Instant::now();
            let old = std::mem::replace(secret, text(&rotated, "secret")?);
            id = text(&rotated, "id")?;
            for (name, address) in self.others {
                let refuses = || Ok(self.user(address, &old)?.is_none());
                wait_until(refuses, &format!("{name} does not see a rotated secret"))?;
            }
            delays.push(rotated_at.elapsed());
            for (name, address) in self.others {
                // Have the new secret cached before the next rotation.
                self.user(address, secret)?.ok_or_else(|| Failure(format!("{name} does not know a new secret")))?;
            }
        }
        Ok(delays)
    }

    /// The user with this secret, according to this server.
    fn user(&self, address: SocketAddr, secret: &str) -> Result<Option<Value>, Failure> {
        let url = format!("http://{address}/api/current-user");
        let reply = self.agent.get(&url).header("secret", secret).call();
        let mut reply = reply.map_err(|e| Failure(format!("{url}: {e}")))?;
        match reply.status().as_u16() {
            200 => Ok(Some(reply.body_mut().read_json().map_err(|e| Failure(format!("{url}: {e}")))?)),
            401 => Ok(None),
            status => Err(Failure(format!("{url} answered {status}"))),
        }
    }

    fn call(&self, address: SocketAddr, path: &str, secret: &str) -> Result<Value, Failure> {
        let url = format!("http://{address}{path}");
        read(&url, self.agent.get(&url).header("secret", secret).call())
    }

    fn post(&self, address: SocketAddr, path: &str, secret: Option<&str>, body: &Value) -> Result<Value, Failure> {
        let url = format!("http://{address}{path}");
        let mut request = self.agent.post(&url).header("Accept", "application/json");
        if let Some(secret) = secret {
            request = request.header("secret", secret);
        }
        read(&url, request.send_json(body))
    }
}

fn summary(mut delays: Vec<Duration>) -> String {
    delays.sort();
    let at = |percent: usize| delays.get((delays.len() * percent / 100).min(delays.len().saturating_sub(1)));
    match (at(50), at(99), delays.last()) {
        (Some(median), Some(p99), Some(longest)) => format!(
            "both other servers refused a rotated secret after {median:.1?} (median), {p99:.1?} (p99), {longest:.1?} \
             (longest of {})\n",
            delays.len()
        ),
        _ => String::new(),
    }
}

fn wait_until(mut done: impl FnMut() -> Result<bool, Failure>, failure: &str) -> Result<(), Failure> {
    let start = Instant::now();
    while !done()? {
        if start.elapsed() > CHANGE_TIMEOUT {
            return Err(Failure(failure.to_owned()));
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

fn read(url: &str, reply: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Value, Failure> {
    let mut reply = reply.map_err(|e| Failure(format!("{url}: {e}")))?;
    let status = reply.status().as_u16();
    if status != 200 {
        return Err(Failure(format!("{url} answered {status}")));
    }
    reply.body_mut().read_json().map_err(|e| Failure(format!("{url}: {e}")))
}

fn text(value: &Value, key: &str) -> Result<String, Failure> {
    value[key].as_str().map(str::to_owned).ok_or_else(|| Failure(format!("a reply has no {key}")))
}
