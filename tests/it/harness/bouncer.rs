//! PgBouncer in transaction mode, in front of a test's database.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::cluster::free_port;
use super::signals::{self, Signal};
use super::{TestDb, is_root, wait_until};

/// A running PgBouncer; killed when dropped.
pub struct Bouncer {
    folder: PathBuf,
    port: u16,
    child: Child,
    url: String,
}

impl Bouncer {
    /// Starts one in front of `db`, with at most `connections` to it.
    pub fn to(db: &TestDb, connections: u32) -> Bouncer {
        let program = installed();
        let folder = std::env::temp_dir().join(format!("textgen-bouncer-{}", textgen::usage::new_id()));
        std::fs::create_dir(&folder).unwrap();
        let config: postgres::Config = db.url().parse().unwrap();
        let (user, name) = (config.get_user().unwrap(), config.get_dbname().unwrap());
        let password = String::from_utf8(config.get_password().unwrap().to_vec()).unwrap();
        let (port, server) = (free_port(), config.get_ports()[0]);
        let users = folder.join("users");
        std::fs::write(&users, format!("\"{user}\" \"{password}\"\n")).unwrap();
        std::fs::write(
            folder.join("pgbouncer.ini"),
            format!(
                "[databases]\n{name} = host=127.0.0.1 port={server}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
                 listen_port = {port}\nunix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {}\n\
                 pool_mode = transaction\ndefault_pool_size = {connections}\nmax_client_conn = 1000\n",
                users.display()
            ),
        )
        .unwrap();
        let url = format!("postgresql://{user}:{password}@127.0.0.1:{port}/{name}");
        let child = launch(&program, &folder);
        let bouncer = Bouncer { folder, port, child, url };
        bouncer.wait();
        bouncer
    }

    fn wait(&self) {
        let log = || std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        wait_until("PgBouncer", || {
            assert!(!log().contains("FATAL"), "{}", log());
            TcpStream::connect(("127.0.0.1", self.port)).is_ok()
        });
    }

    /// The database's URL through PgBouncer.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// Sends it a signal. After `STOP`, connections to it succeed and nothing answers on them, until `CONT`.
    pub fn signal(&self, signal: Signal) {
        signals::send(self.child.id(), signal);
    }

    /// Kills it and starts it again.
    pub fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = launch(&installed(), &self.folder);
        self.wait();
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// It refuses to run as root, so root starts it as `nobody`.
fn launch(program: &Path, folder: &Path) -> Child {
    let log = std::fs::File::create(folder.join("log")).unwrap();
    let mut command = Command::new(program);
    if is_root() {
        command.args(["-u", "nobody"]);
    }
    command.arg(folder.join("pgbouncer.ini")).stdin(Stdio::null());
    command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

/// The path of the program. `make test` installs it.
fn installed() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // On Debian an ordinary user's PATH does not include this folder.
    let mut folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    let program = folders.find_map(|folder| Some(folder.join("pgbouncer")).filter(|program| program.exists()));
    program.expect("pgbouncer is missing: run scripts/install-tools pgbouncer")
}
