//! A PostgreSQL of the test's own, which it may stop, kill and fill, and a standby of it.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use postgres::{Client, NoTls};

use super::signals;

/// A server with data of its own, removed with it. Its commits are durable as far as a killed process goes.
pub struct Cluster {
    folder: PathBuf,
    url: String,
}

/// A copy of a [`Cluster`] that follows it until it is promoted; it goes with the cluster.
pub struct Standby<'c> {
    cluster: &'c Cluster,
    data: PathBuf,
    port: u16,
}

impl Cluster {
    /// Makes one and starts it.
    pub fn start() -> Cluster {
        let folder = std::env::temp_dir().join(format!("textgen-cluster-{}", textgen::usage::new_id()));
        std::fs::create_dir(&folder).unwrap();
        let mut cluster = Cluster { folder, url: String::new() };
        cluster.url = cluster.launch();
        let has_data = cluster.data().join("postmaster.pid").exists();
        assert!(
            has_data,
            "PostgreSQL's own programs are missing, without which none can be killed: install PostgreSQL"
        );
        cluster.set("synchronous_commit = on");
        cluster
    }

    /// Its address. It stays the same from start to start.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// `user:password@`, `host:port` and the database's name.
    fn parts(&self) -> (&str, &str, &str) {
        let (credentials, rest) = self.url.rsplit_once('@').unwrap();
        let (place, name) = rest.split_once('/').unwrap();
        (credentials, place, name)
    }

    /// Starts it again; its address.
    pub fn launch(&self) -> String {
        let output = self.script(&["start"]).stderr(Stdio::piped()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Stops it as an operator does: connections are ended.
    pub fn stop(&self) {
        assert!(self.script(&["stop"]).stderr(Stdio::null()).status().unwrap().success());
    }

    /// Kills all its processes at once.
    pub fn kill(&self) {
        kill(&self.data());
    }

    /// Changes a setting, as `name = value`.
    pub fn set(&self, setting: &str) {
        let mut client = self.connect();
        client.batch_execute(&format!("ALTER SYSTEM SET {setting}")).unwrap();
        client.batch_execute("SELECT pg_reload_conf()").unwrap();
    }

    pub fn connect(&self) -> Client {
        Client::connect(&self.url, NoTls).unwrap()
    }

    fn data(&self) -> PathBuf {
        let moved = std::fs::read_to_string(self.folder.join("where"));
        let home = moved.map_or_else(|_| self.folder.clone(), |path| PathBuf::from(path.trim()));
        home.join("cluster/data")
    }

    fn script(&self, args: &[&str]) -> Command {
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/postgres"));
        command.arg("--test").args(args).env("TEXTGEN_PG_DIR", &self.folder).stdin(Stdio::null());
        command
    }

    #[track_caller]
    fn run(&self, args: &[&str]) {
        // A server that is started here must not hold the test's own output open.
        let log = std::fs::File::create(self.folder.join("run.log")).unwrap();
        let mut command = self.script(&[&["run"], args].concat());
        let status = command.stdout(log.try_clone().unwrap()).stderr(log).status().unwrap();
        let said = std::fs::read_to_string(self.folder.join("run.log")).unwrap();
        assert!(status.success(), "{args:?}: {said}");
    }

    /// Makes a copy that follows. From now on a commit returns when the copy has it, too.
    pub fn standby(&self) -> Standby<'_> {
        let data = self.data().with_file_name("standby");
        let (place, port) = (data.to_string_lossy().into_owned(), free_port());
        self.run(&["pg_basebackup", "-d", &self.url, "-D", &place, "-R", "-X", "stream", "-c", "fast"]);
        let log = format!("{place}.log");
        // It has nobody to wait for when it is promoted.
        let options = format!("-p {port} -c synchronous_standby_names=");
        self.run(&["pg_ctl", "start", "-w", "-D", &place, "-l", &log, "-o", &options]);
        self.set("synchronous_standby_names = '*'");
        let standby = Standby { cluster: self, data, port };
        super::wait_until("the standby to be waited for", || {
            let sync = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
            self.connect().query_one(sync, &[]).unwrap().get::<_, i64>(0) == 1
        });
        standby
    }
}

impl Standby<'_> {
    /// Its address.
    pub fn url(&self) -> String {
        let (credentials, _, name) = self.cluster.parts();
        format!("{credentials}@127.0.0.1:{}/{name}", self.port)
    }

    /// The address of whichever of the two can be written to.
    pub fn either_url(&self) -> String {
        let (credentials, place, name) = self.cluster.parts();
        format!("{credentials}@{place},127.0.0.1:{}/{name}?target_session_attrs=read-write", self.port)
    }

    /// Makes it the one that is written to.
    pub fn promote(&self) {
        self.cluster.run(&["pg_ctl", "promote", "-w", "-D", &self.data.to_string_lossy()]);
    }
}

impl Drop for Standby<'_> {
    fn drop(&mut self) {
        kill(&self.data);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        kill(&self.data());
        if let Some(home) = self.data().parent() {
            let _ = std::fs::remove_dir_all(home);
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Kills the server that works in this folder, with all its processes, and waits for their end. It runs in destructors,
/// so it does not panic.
fn kill(data: &Path) {
    let file = std::fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
    let Some(parent) = file.lines().next().and_then(|line| line.trim().parse::<u32>().ok()) else { return };
    for _ in 0..200 {
        let alive = signals::family(parent, "postgres");
        if alive.is_empty() {
            return;
        }
        alive.into_iter().for_each(signals::kill);
        thread::sleep(Duration::from_millis(50));
    }
    println!("PostgreSQL in {} still runs although it was killed", data.display());
}

pub(super) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
