//! This machine: the folder of journals, the limits of the process, and settings that do not go together.

use std::fs::{self, OpenOptions};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::Check;
use crate::config::{Config, MetricsAddress};
use crate::system_limits;
use crate::usage::{folder, new_id};

/// Bytes without which the journal cannot even be made.
const LEAST_ROOM: u64 = 64 << 20;

/// `identity` is that of the database, if it is known.
pub(super) fn examine(config: &Config, identity: Option<&str>) -> Vec<Check> {
    let mut checks = journal(config);
    checks.extend(identity.and_then(|identity| waiting(&config.journal_dir, identity)));
    checks.extend(limits(config));
    checks.push(proxy(config));
    checks.extend(addresses(config));
    checks
}

fn journal(config: &Config) -> Vec<Check> {
    const NAME: &str = "journal";
    let folder = &config.journal_dir;
    let shown = folder.display();
    if let Err(e) = is_writable(folder) {
        let advice = "create the directory for the user that textgen runs as, with mode 0700, or set JOURNAL_DIR";
        return vec![Check::fail(NAME, format!("{shown} cannot be written to: {e}"), advice)];
    }
    let mut checks = Vec::new();
    if let Ok(metadata) = fs::metadata(folder) {
        let (mode, owner) = (metadata.mode() & 0o777, metadata.uid());
        let is_open = mode & 0o077 != 0;
        let is_own = owner == rustix::process::geteuid().as_raw();
        checks.push(Check::wants(
            !is_open && is_own,
            NAME,
            format!("{shown} has mode {mode:04o} and belongs to user {owner}"),
            "run doctor as the user of the servers; the directory should be theirs, with mode 0700, as it holds charges",
        ));
    }
    let Some(free) = system_limits::free_space(folder) else { return checks };
    let (detail, wanted) = (format!("{} MB are free for journals", free >> 20), config.journal_max_bytes);
    checks.push(if free < LEAST_ROOM {
        Check::fail("disk", detail, "make room: otherwise work is refused while the database is down")
    } else {
        let advice = "make room for JOURNAL_MAX_BYTES, or lower it";
        Check::wants(free >= wanted, "disk", format!("{detail}, of which one may take {} MB", wanted >> 20), advice)
    });
    checks
}

/// Makes a file in it and removes it, and the folder if that was not there: servers make it.
fn is_writable(folder: &Path) -> io::Result<()> {
    let was_there = folder.is_dir();
    if !was_there {
        fs::create_dir_all(folder)?;
    }
    let path = folder.join(format!("doctor-{}", new_id()));
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    let done = written.and_then(|file| file.sync_all()).and_then(|()| fs::remove_file(&path));
    if !was_there {
        // Its parents, if they were made, stay.
        let _ = fs::remove_dir(folder);
    }
    done
}

/// Charges in the folder that the database does not have.
fn waiting(journals: &Path, identity: &str) -> Option<Check> {
    const NAME: &str = "charges";
    let found = match folder::look(journals, identity) {
        Ok(found) => found,
        Err(e) => return Some(Check::fail(NAME, format!("{}: {e}", journals.display()), "see who owns it")),
    };
    let detail = format!(
        "{} journals, {} of them of processes that died; {} charges and {} journals were put aside",
        found.journals, found.orphans, found.rejected, found.aside
    );
    let advice = "look at rejected.jsonl and at the files that end in .damaged and .unsigned: they are not charged";
    Some(Check::wants(found.rejected == 0 && found.aside == 0, NAME, detail, advice))
}

fn limits(config: &Config) -> Vec<Check> {
    let (calls, threads) = (system_limits::of_calls(), system_limits::of_threads());
    let check = |name: &str, wanted: usize, limit: system_limits::Limit, setting: &str| {
        let most = if limit.waiting == usize::MAX { "any number of".to_owned() } else { limit.waiting.to_string() };
        let detail = format!("{most} requests may wait at once by {}, {setting} asks for {wanted}", limit.source);
        let advice = format!("raise it (LimitNOFILE=, TasksMax= in systemd), or lower {setting}");
        Check::wants(limit.waiting >= wanted, name, detail, &advice)
    };
    vec![
        check("descriptors", config.max_model_calls, calls, "MAX_MODEL_CALLS"),
        check("threads", config.max_model_calls, threads, "MAX_MODEL_CALLS"),
    ]
}

fn proxy(config: &Config) -> Check {
    const NAME: &str = "proxy";
    let url = &config.public_url;
    if config.is_https() && config.trusted_proxies.is_empty() {
        return Check::warn(
            NAME,
            format!("PUBLIC_URL is {url}, and TRUSTED_PROXIES is not set: all clients count as one"),
            "set TRUSTED_PROXIES to the addresses of the proxies that X-Forwarded-For is taken from",
        );
    }
    if !config.is_https() && !config.web_addr.ip().is_loopback() {
        return Check::warn(
            NAME,
            format!(
                "the web server listens on {} without https, so passwords and cookies can be read",
                config.web_addr
            ),
            "put a proxy with a certificate in front of it, and set PUBLIC_URL to its https:// address",
        );
    }
    Check::ok(
        NAME,
        if url.is_empty() { "PUBLIC_URL is not set, as on a machine for trial".to_owned() } else { url.clone() },
    )
}

fn addresses(config: &Config) -> Option<Check> {
    let MetricsAddress::At(address) = config.metrics_addr else { return None };
    let is_public = match address.ip() {
        IpAddr::V4(ip) => !(ip.is_loopback() || ip.is_private() || ip.is_link_local()),
        IpAddr::V6(ip) => !(ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local()),
    };
    let advice = "set METRICS_ADDR to a loopback or private address: everybody is answered there";
    Some(Check::wants(!is_public, "metrics", address.to_string(), advice))
}
