//! `textgen check-sharing`: are the three running servers one?

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Failure;
use crate::accounts;
use crate::config::Config;

/// How long a change may take to reach the other servers.
const PATIENCE: Duration = Duration::from_secs(2);

const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Makes an account through the web server, sees it from the other two, changes it, sees that, and cleans up.
pub(super) fn run(config: &Config) -> Result<String, Failure> {
    let check = Check::new(config);
    let email = format!("check-sharing-{}@example.invalid", accounts::random(12)?.to_lowercase());
    let password = accounts::random(24)?;
    let user = check.post(config.web_addr, "/api/signup", None, &json!({"email": email, "password": password}))?;
    let mut secret = text(&user, "secret")?;
    let outcome = check.follow(config, &user, &mut secret);
    // The account goes whatever the outcome.
    let deleted = check.post(config.web_addr, "/api/delete-account", Some(&secret), &json!({"password": password}));
    outcome?;
    deleted?;
    for (name, address) in check.others {
        wait_until(|| Ok(check.user(address, &secret)?.is_none()), &format!("{name} still knows a deleted user"))?;
    }
    Ok("ok: web, inference and audio share one database: an account made, changed and deleted on one \
        is made, changed and deleted on all\n"
        .to_owned())
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

    /// Sees the account from the other servers, rotates its secret, and sees that; `secret` is always the one that
    /// works.
    fn follow(&self, config: &Config, user: &Value, secret: &mut String) -> Result<(), Failure> {
        for (name, address) in self.others {
            let seen = self.user(address, secret)?;
            let seen = seen.ok_or_else(|| Failure(format!("{name} does not know a user made through web")))?;
            if seen["id"] != user["id"] || seen["email"] != user["email"] {
                return Err(Failure(format!("{name} sees another user than web")));
            }
        }
        let keys = self.call(config.web_addr, "/api/keys", secret)?;
        let id = text(&keys["keys"][0], "id")?;
        let rotated = self.post(config.web_addr, "/api/keys/rotate", Some(secret), &json!({"id": id}))?;
        let old = std::mem::replace(secret, text(&rotated, "secret")?);
        for (name, address) in self.others {
            let knows = || Ok(self.user(address, &old)?.is_none() && self.user(address, secret)?.is_some());
            wait_until(knows, &format!("{name} does not see a rotated secret"))?;
        }
        Ok(())
    }

    /// The user a secret stands for at this server, if it does.
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

fn wait_until(mut done: impl FnMut() -> Result<bool, Failure>, failure: &str) -> Result<(), Failure> {
    let began = Instant::now();
    while !done()? {
        if began.elapsed() > PATIENCE {
            return Err(Failure(failure.to_owned()));
        }
        std::thread::sleep(Duration::from_millis(10));
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
