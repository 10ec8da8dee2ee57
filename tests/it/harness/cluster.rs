//! A PostgreSQL server for one test, which may stop or kill it, and a standby of it.

use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use postgres::{Client, NoTls};

use super::signals;

/// A server with its own data, removed when dropped. Its commits survive a killed process, but not a power failure.
pub struct Cluster {
    folder: PathBuf,
    url: String,
}

/// A streaming replica of a [`Cluster`].
pub struct Standby<'c> {
    cluster: &'c Cluster,
    data: PathBuf,
    port: u16,
}

impl Cluster {
    /// Creates and starts one.
    pub fn start() -> Cluster {
        let folder = super::database::data_folder().join(format!("textgen-cluster-{}", textgen::usage::new_id()));
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

    /// Its URL, which stays the same across restarts.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// `user:password@`, `host:port` and the database's name.
    fn parts(&self) -> (&str, &str, &str) {
        let (credentials, rest) = self.url.rsplit_once('@').unwrap();
        let (place, name) = rest.split_once('/').unwrap();
        (credentials, place, name)
    }

    /// Starts it again. Returns its URL.
    pub fn launch(&self) -> String {
        let output = self.script(&["start"]).stderr(Stdio::piped()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Shuts it down as an operator does, which closes all connections.
    pub fn stop(&self) {
        assert!(self.script(&["stop"]).stderr(Stdio::null()).status().unwrap().success());
    }

    /// Kills all its processes with SIGKILL.
    pub fn kill(&self) {
        kill(&self.data());
    }

    /// Changes a setting, given as `name = value`.
    pub fn set(&self, setting: &str) {
        let mut client = self.connect();
        client.batch_execute(&format!("ALTER SYSTEM SET {setting}")).unwrap();
        client.batch_execute("SELECT pg_reload_conf()").unwrap();
    }

    pub fn connect(&self) -> Client {
        Client::connect(&self.url, NoTls).unwrap()
    }

    /// Writes a file into its data folder, which only it can read.
    pub fn write(&self, name: &str, text: &str) {
        let (path, owner) = (self.data().join(name), std::fs::metadata(self.data()).unwrap());
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
    }

    /// Puts lines before those of `pg_hba.conf`.
    pub fn admit(&self, lines: &str) {
        let others = std::fs::read_to_string(self.data().join("pg_hba.conf")).unwrap();
        self.write("pg_hba.conf", &format!("{lines}\n{others}"));
        self.connect().batch_execute("SELECT pg_reload_conf()").unwrap();
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
        // A server started here would otherwise keep the test's output open.
        let log = std::fs::File::create(self.folder.join("run.log")).unwrap();
        let mut command = self.script(&[&["run"], args].concat());
        let status = command.stdout(log.try_clone().unwrap()).stderr(log).status().unwrap();
        let said = std::fs::read_to_string(self.folder.join("run.log")).unwrap();
        assert!(status.success(), "{args:?}: {said}");
    }

    /// Creates a synchronous standby: from now on a commit returns once the standby has it.
    pub fn standby(&self) -> Standby<'_> {
        let data = self.data().with_file_name("standby");
        let (place, port) = (data.to_string_lossy().into_owned(), free_port());
        self.run(&["pg_basebackup", "-d", &self.url, "-D", &place, "-R", "-X", "stream", "-c", "fast"]);
        let log = format!("{place}.log");
        // Once promoted it has no standby to wait for.
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
    /// Its URL.
    pub fn url(&self) -> String {
        let (credentials, _, name) = self.cluster.parts();
        format!("{credentials}@127.0.0.1:{}/{name}", self.port)
    }

    /// A URL that leads to whichever of the two accepts writes.
    pub fn either_url(&self) -> String {
        let (credentials, place, name) = self.cluster.parts();
        format!("{credentials}@{place},127.0.0.1:{}/{name}?target_session_attrs=read-write", self.port)
    }

    /// Promotes it to primary.
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

/// Kills all processes of the server in this data folder and waits until they are gone. Does not panic, as destructors
/// call it.
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
