//! PostgreSQL's own programs: where they are, and how they reach the database. The password is handed over in the
//! environment, never as an argument, which everybody on the machine can read.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use postgres::config::{ChannelBinding, Host, SslNegotiation, TargetSessionAttrs};

use super::Failure;
use crate::config::database::{self, Authorities, SslMode};

/// Variables of libpq and of its programs begin so. None but those that are set here applies.
const PREFIX: &str = "PG";

/// A program of PostgreSQL, in a version that works with the server.
pub(super) struct Program {
    path: PathBuf,
}

impl Program {
    /// The program of this name, of the server's major version or a later one: of those in `PATH` and where packages put
    /// them, the first.
    ///
    /// # Errors
    /// There is none; with the package to install.
    pub(super) fn find(name: &str, server: u32) -> Result<Program, Failure> {
        let mut outdated = None;
        for path in candidates(name) {
            match major_version(&path) {
                Some(version) if version >= server => return Ok(Program { path }),
                Some(version) => outdated = outdated.or(Some((path, version))),
                None => {}
            }
        }
        let found = outdated.map_or_else(
            || format!("{name} is not installed"),
            |(path, version)| format!("{} has version {version}, and the server {server}", path.display()),
        );
        Err(format!(
            "{found}: install PostgreSQL's client programs in version {server} or later (postgresql-client-{server} on \
             Debian and Ubuntu, postgresql{server} on Red Hat and Fedora)"
        )
        .into())
    }

    /// Runs it with these arguments, and the connection in the environment. Returns its output.
    ///
    /// # Errors
    /// It cannot be run, or fails; with the last lines that it wrote.
    pub(super) fn run(&self, args: &[OsString], connection: &[(&'static str, OsString)]) -> Result<String, Failure> {
        let mut command = Command::new(&self.path);
        for (name, _) in std::env::vars_os() {
            // Nor does it need to know our own secrets.
            let text = name.to_string_lossy();
            if text.starts_with(PREFIX) || crate::config::is_own_secret(&text) {
                command.env_remove(&name);
            }
        }
        command.args(args).envs(connection.iter().map(|(name, value)| (name, value))).stdin(Stdio::null());
        let shown = self.path.display();
        let output = command.output().map_err(|e| Failure::Other(format!("{shown} cannot be run: {e}")))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let last = lines[lines.len().saturating_sub(3)..].join("; ");
        Err(format!("{shown} failed ({}): {last}", output.status).into())
    }
}

/// Where a program may be, in the order of preference.
fn candidates(name: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::env::var_os("PATH")
        .map(|path| std::env::split_paths(&path).map(|folder| folder.join(name)).collect())
        .unwrap_or_default();
    for (home, rest) in [("/usr/lib/postgresql", "bin"), ("/usr", "bin"), ("/usr/local/opt", "bin")] {
        let Ok(entries) = std::fs::read_dir(home) else { continue };
        let folders = entries.flatten().map(|entry| entry.path());
        let mut folders: Vec<PathBuf> = folders.filter(|path| home != "/usr" || is_versioned(path)).collect();
        folders.sort();
        found.extend(folders.into_iter().rev().map(|folder| folder.join(rest).join(name)));
    }
    found.into_iter().filter(|path| path.is_file()).collect()
}

/// Such as `/usr/pgsql-16`.
fn is_versioned(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("pgsql-"))
}

/// 15 of `pg_dump (PostgreSQL) 15.4`.
fn major_version(path: &Path) -> Option<u32> {
    let output = Command::new(path).arg("--version").stdin(Stdio::null()).output().ok()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let (_, version) = said.split_once(") ")?;
    version.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok()
}

/// The variables with which libpq connects to the database of this URL.
///
/// # Errors
/// The URL is invalid.
pub(super) fn connection(url: &str) -> Result<Vec<(&'static str, OsString)>, Failure> {
    let (config, tls) = database::parse(url)?;
    let mut variables: Vec<(&'static str, OsString)> = Vec::new();
    let mut set = |name, value: String| {
        if !value.is_empty() {
            variables.push((name, value.into()));
        }
    };
    let join = |list: Vec<String>| list.join(",");
    let host = |host: &Host| match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(path) => path.display().to_string(),
    };
    set("PGHOST", join(config.get_hosts().iter().map(host).collect()));
    set("PGHOSTADDR", join(config.get_hostaddrs().iter().map(ToString::to_string).collect()));
    set("PGPORT", join(config.get_ports().iter().map(ToString::to_string).collect()));
    let user = config.get_user().unwrap_or_default().to_owned();
    // As in the driver.
    set("PGDATABASE", config.get_dbname().map_or_else(|| user.clone(), str::to_owned));
    set("PGUSER", user);
    set("PGOPTIONS", config.get_options().unwrap_or_default().to_owned());
    set("PGCONNECT_TIMEOUT", "10".to_owned());
    let mode = match tls.mode {
        SslMode::Disable => "disable",
        SslMode::Allow => "allow",
        SslMode::Prefer => "prefer",
        SslMode::Require => "require",
        SslMode::VerifyCa => "verify-ca",
        SslMode::VerifyFull => "verify-full",
    };
    set("PGSSLMODE", mode.to_owned());
    match tls.authorities {
        Some(Authorities::System) => set("PGSSLROOTCERT", "system".to_owned()),
        Some(Authorities::File(path)) => set("PGSSLROOTCERT", path),
        None => {}
    }
    if let Some(client) = tls.client {
        set("PGSSLCERT", client.certificate);
        set("PGSSLKEY", client.key);
    }
    match config.get_channel_binding() {
        ChannelBinding::Disable => set("PGCHANNELBINDING", "disable".to_owned()),
        ChannelBinding::Require => set("PGCHANNELBINDING", "require".to_owned()),
        _ => {}
    }
    if config.get_ssl_negotiation() == SslNegotiation::Direct {
        set("PGSSLNEGOTIATION", "direct".to_owned());
    }
    match config.get_target_session_attrs() {
        TargetSessionAttrs::ReadWrite => set("PGTARGETSESSIONATTRS", "read-write".to_owned()),
        TargetSessionAttrs::ReadOnly => set("PGTARGETSESSIONATTRS", "read-only".to_owned()),
        _ => {}
    }
    if let Some(password) = config.get_password() {
        use std::os::unix::ffi::OsStringExt;
        variables.push(("PGPASSWORD", OsString::from_vec(password.to_vec())));
    }
    Ok(variables)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(url: &str) -> Vec<String> {
        let all = connection(url).unwrap();
        all.into_iter().map(|(name, value)| format!("{name}={}", value.to_string_lossy())).collect()
    }

    #[test]
    fn a_url_becomes_variables() {
        let said =
            of("postgresql://me:p%40ss@a:1,b:2/books?options=-c%20x%3D1&channel_binding=require&sslmode=require");
        let expected = [
            "PGHOST=a,b",
            "PGPORT=1,2",
            "PGDATABASE=books",
            "PGUSER=me",
            "PGOPTIONS=-c x=1",
            "PGCONNECT_TIMEOUT=10",
            "PGSSLMODE=require",
            "PGCHANNELBINDING=require",
            "PGPASSWORD=p@ss",
        ];
        assert_eq!(said, expected);
    }

    #[test]
    fn sockets_and_certificates_are_kept() {
        let said = of("host=/run/pg user=me");
        assert!(["PGHOST=/run/pg", "PGDATABASE=me"].iter().all(|line| said.contains(&(*line).to_owned())), "{said:?}");
        let said = of("host=db user=me sslmode=verify-full sslrootcert=/ca.pem sslcert=/c.pem sslkey=/k.pem");
        let expected = ["PGSSLMODE=verify-full", "PGSSLROOTCERT=/ca.pem", "PGSSLCERT=/c.pem", "PGSSLKEY=/k.pem"];
        assert!(expected.iter().all(|line| said.contains(&(*line).to_owned())), "{said:?}");
    }

    #[test]
    fn a_program_that_is_missing_names_its_package() {
        let missing = Program::find("pg_nothing", 15).map(|_| ()).unwrap_err().to_string();
        assert!(
            missing.contains("pg_nothing is not installed") && missing.contains("postgresql-client-15"),
            "{missing}"
        );
    }
}
