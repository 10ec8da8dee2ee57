//! Connections to the database over TLS: what each `sslmode` accepts, and that a server works as without.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use serde_json::json;
use textgen::db::{ConnectConfig, Database, Executor, migrate};

use crate::documents::save;
use crate::harness::{Authority, Certified, Cluster, Server, TestDb, Upstream, charges, refused_soon, wait_until};

/// Roles by how `pg_hba.conf` admits them. The last rule that each meets admits nobody.
const RULES: &str = "\
host      all  either     127.0.0.1/32  scram-sha-256
hostssl   all  encrypted  127.0.0.1/32  scram-sha-256
hostnossl all  clear      127.0.0.1/32  scram-sha-256
hostssl   all  certified  127.0.0.1/32  scram-sha-256  clientcert=verify-ca
hostssl   all  asked      127.0.0.1/32  password
host      all  either,encrypted,clear,certified,asked  all  reject";

/// A PostgreSQL with these roles, and the files of an authority and its clients.
struct Site {
    cluster: Cluster,
    folder: PathBuf,
    authority: Authority,
}

impl Site {
    /// Without TLS.
    fn new() -> Site {
        let cluster = Cluster::start();
        drop(TestDb::existing(&cluster.url()));
        let mut client = cluster.connect();
        for role in ["either", "encrypted", "clear", "certified", "asked"] {
            let statements = format!(
                "CREATE ROLE {role} LOGIN PASSWORD 'hunter2'; GRANT ALL ON ALL TABLES IN SCHEMA public TO {role};
                 GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}"
            );
            client.batch_execute(&statements).unwrap();
        }
        cluster.admit(RULES);
        let folder = std::env::temp_dir().join(format!("textgen-tls-{}", textgen::usage::new_id()));
        fs::create_dir(&folder).unwrap();
        Site { cluster, folder, authority: Authority::new() }
    }

    /// With a certificate for `localhost`.
    fn encrypting() -> Site {
        let site = Site::new();
        site.file("ca.pem", &site.authority.pem);
        site.file("other-ca.pem", &Authority::new().pem);
        for (name, authority) in [("client", &site.authority), ("stranger", &Authority::new())] {
            let client = authority.sign(name);
            site.file(&format!("{name}.pem"), &client.certificate);
            site.file(&format!("{name}.key"), &client.key);
        }
        site.cluster.write("root.crt", &site.authority.pem);
        site.cluster.set("ssl_ca_file = 'root.crt'");
        site.serve(&site.authority.sign("localhost"));
        site
    }

    /// Makes PostgreSQL use this certificate.
    fn serve(&self, certified: &Certified) {
        self.cluster.write("server.crt", &certified.certificate);
        self.cluster.write("server.key", &certified.key);
        self.cluster.set("ssl = on");
        let trusted = self.file("serving.pem", &certified.certificate);
        let uses = |settings: &str| self.try_connecting("either", settings).is_ok();
        // It shows the new certificate once it has read it.
        wait_until("PostgreSQL to use the certificate", || {
            uses(&format!("sslmode=verify-ca sslrootcert={}", trusted.display()))
        });
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// The connection string for a role. `@` in the settings stands for the folder of the files.
    fn url(&self, role: &str, settings: &str) -> String {
        let place = self.cluster.url();
        let port = place.rsplit_once(':').unwrap().1.split_once('/').unwrap().0;
        let name = place.rsplit_once('/').unwrap().1;
        let files = format!("{}/", self.folder.display());
        let host = if settings.contains("host=") { "" } else { "host=localhost" };
        format!(
            "hostaddr=127.0.0.1 port={port} dbname={name} user={role} password=hunter2 {host} {}",
            settings.replace('@', &files)
        )
    }

    fn try_connecting(&self, role: &str, settings: &str) -> Result<usize, String> {
        let config = ConnectConfig::new(&self.url(role, settings), "test")?;
        migrate::migrate(&config).map_err(|e| e.to_string())
    }

    /// Whether a connection is encrypted, and the name in the client's certificate.
    #[track_caller]
    fn connected(&self, role: &str, settings: &str) -> (bool, Option<String>) {
        self.try_connecting(role, settings).unwrap_or_else(|e| panic!("{role} {settings}: {e}"));
        let db = Database::new(ConnectConfig::new(&self.url(role, settings), "test").unwrap(), true, 1);
        db.open();
        let ssl = "SELECT ssl, client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        let row = db.session().unwrap().query_one(ssl, &[]).unwrap();
        (row.get(0), row.get(1))
    }

    #[track_caller]
    fn is_encrypted(&self, role: &str, settings: &str) -> bool {
        self.connected(role, settings).0
    }

    /// Checks that there is no connection, and that the reason has these words and no password.
    #[track_caller]
    fn refused(&self, role: &str, settings: &str, words: &str) {
        let why = self.try_connecting(role, settings).unwrap_err();
        assert!(why.contains(words) && !why.contains("hunter2"), "{role} {settings}: {why}");
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn each_mode_accepts_what_it_promises() {
    let site = Site::encrypting();
    for (settings, encrypted) in [
        ("", false),
        ("sslmode=disable", false),
        ("sslmode=allow", false),
        ("sslmode=prefer", true),
        ("sslmode=require", true),
        ("sslmode=require sslrootcert=@ca.pem", true),
        ("sslmode=verify-ca sslrootcert=@ca.pem", true),
        ("sslmode=verify-ca sslrootcert=@ca.pem host=127.0.0.1", true),
        ("sslmode=verify-full sslrootcert=@ca.pem", true),
    ] {
        assert_eq!(site.is_encrypted("either", settings), encrypted, "{settings}");
    }
    let authority = "signed by no authority that sslrootcert names";
    site.refused("either", "sslmode=require sslrootcert=@other-ca.pem", authority);
    site.refused("either", "sslmode=verify-ca sslrootcert=@other-ca.pem", authority);
    site.refused("either", "sslmode=verify-full sslrootcert=@other-ca.pem", authority);
    site.refused("either", "sslmode=verify-ca sslrootcert=@none.pem", "No such file");
    site.refused("either", "sslmode=verify-ca sslrootcert=@client.key", "holds no certificate");
    // A certificate of another host.
    site.serve(&site.authority.sign("db.example.com"));
    site.refused("either", "sslmode=verify-full sslrootcert=@ca.pem", "for another host");
    assert!(site.is_encrypted("either", "sslmode=verify-ca sslrootcert=@ca.pem"));
    assert!(site.is_encrypted("either", "sslmode=require"));
    // One that no authority has signed is trusted where it is named itself.
    site.serve(&Certified::own("localhost"));
    site.refused("either", "sslmode=verify-ca sslrootcert=@ca.pem", authority);
    assert!(site.is_encrypted("either", "sslmode=verify-full sslrootcert=@serving.pem"));
}

#[test]
fn a_database_without_tls_is_used_only_if_that_is_allowed() {
    let site = Site::new();
    site.file("ca.pem", &site.authority.pem);
    for settings in ["", "sslmode=disable", "sslmode=allow", "sslmode=prefer"] {
        assert!(!site.is_encrypted("either", settings), "{settings}");
    }
    for mode in ["require", "verify-ca sslrootcert=@ca.pem", "verify-full sslrootcert=@ca.pem"] {
        site.refused("either", &format!("sslmode={mode}"), "does not encrypt, which sslmode demands");
    }
    site.refused("either", "channel_binding=require", "channel binding");
}

#[test]
fn rules_for_encrypted_and_other_connections_are_met() {
    let site = Site::encrypting();
    assert!(site.is_encrypted("encrypted", ""));
    assert!(site.is_encrypted("encrypted", "sslmode=allow"));
    assert!(site.is_encrypted("encrypted", "sslmode=require"));
    site.refused("encrypted", "sslmode=disable", "pg_hba.conf rejects");
    assert!(!site.is_encrypted("clear", "sslmode=disable"));
    assert!(!site.is_encrypted("clear", "sslmode=prefer"));
    site.refused("clear", "sslmode=require", "pg_hba.conf rejects");
}

#[test]
fn a_client_certificate_is_shown_to_a_database_that_demands_one() {
    let site = Site::encrypting();
    let own = "sslmode=verify-full sslrootcert=@ca.pem sslcert=@client.pem sslkey=@client.key";
    assert_eq!(site.connected("certified", own), (true, Some("/CN=client".to_owned())));
    site.refused("certified", "sslmode=require", "valid client certificate");
    site.refused("certified", "sslmode=require sslcert=@stranger.pem sslkey=@stranger.key", "certificate in sslcert");
    site.refused(
        "certified",
        "sslmode=require sslcert=@client.pem sslkey=@stranger.key",
        "sslkey is not the key of sslcert",
    );
    site.refused("certified", "sslmode=require sslcert=@client.pem sslkey=@client.pem", "no private key");
}

#[test]
fn a_log_in_is_bound_to_the_channel() {
    let site = Site::encrypting();
    for settings in ["sslmode=require", "sslmode=verify-full sslrootcert=@ca.pem"] {
        assert!(site.is_encrypted("either", &format!("{settings} channel_binding=require")));
        assert!(site.is_encrypted("either", &format!("{settings} channel_binding=disable")));
    }
    // A server that asks for the password itself binds nothing.
    site.refused("asked", "sslmode=require channel_binding=require", "channel binding");
    assert!(site.is_encrypted("asked", "sslmode=require"));
}

#[test]
fn a_server_over_tls_hears_of_revocations_and_outlives_its_connections() {
    let site = Site::encrypting();
    let db = TestDb::existing(&site.cluster.url());
    let settings = "sslmode=verify-full sslrootcert=@ca.pem channel_binding=require";
    let server = Server::spawn(&site.url("encrypted", settings), &[("INFERENCE_URL", &Upstream::counting().url)]);
    server.wait_until_listening();
    let (user, other) = (server.sign_up("ann@example.com"), server.sign_up("bob@example.com"));
    // Each connection is encrypted.
    let count = |is_encrypted| {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity a JOIN pg_stat_ssl s USING (pid)
             WHERE a.application_name LIKE 'textgen-all%' AND s.ssl = {is_encrypted}"
        );
        db.count(&sql)
    };
    assert!(count(true) >= 2 && count(false) == 0, "{} {}", count(true), count(false));
    // A revocation by somebody else.
    let revoked = other.program(&server.inference);
    revoked.get("/api/current-user").expect(200);
    db.run(&format!("UPDATE api_keys SET revoked = now() WHERE user_id = '{}'", other.id));
    refused_soon(&revoked);
    // A connection is ended in the middle of a request.
    let id = save(&user.browser, &json!({"content": "text"}));
    let mut locker = db.connect();
    let mut lock = locker.transaction().unwrap();
    lock.execute("SELECT 1 FROM documents FOR UPDATE", &[]).unwrap();
    thread::scope(|scope| {
        let held = scope.spawn(|| user.browser.post("/api/docs/save", &json!({"id": id, "content": "lost"})));
        server.wait_until("the save to wait", || db.has_waiting());
        db.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'");
        held.join().unwrap().expect(503);
    });
    lock.rollback().unwrap();
    server.wait_until("writes", || {
        user.browser.post("/api/docs/save", &json!({"id": id, "content": "more"})).status == 200
    });
    // PostgreSQL is killed and comes back.
    site.cluster.kill();
    let save = || user.browser.post("/api/docs/autosave", &json!({"id": id, "content": "again"})).status;
    server.wait_until("the loss to be felt", || save() == 503);
    site.cluster.launch();
    server.wait_until("writes", || save() == 200);
    server.wait_until_listening();
    assert!(count(true) >= 2 && count(false) == 0, "{} {}", count(true), count(false));
    assert!(!server.log().contains("hunter2"), "{}", server.log());
}

#[test]
fn clear_text_over_a_network_is_warned_of() {
    let site = Site::new();
    // Names that are not known to mean this machine.
    for (settings, warned) in [("sslmode=prefer", true), ("sslmode=allow", true), ("sslmode=disable", false)] {
        let url =
            site.url("either", settings).replace("hostaddr=127.0.0.1 ", "").replace("host=localhost", "host=127.1");
        let server = Server::spawn(&url, &[]);
        server.wait_until_ready();
        let lines = server.log().lines().filter(|line| line.contains("clear text")).count();
        assert_eq!(lines, usize::from(warned), "{settings}: {}", server.log());
        assert!(!server.log().contains("hunter2"), "{}", server.log());
    }
    let server = Server::spawn(&site.url("either", ""), &[]);
    server.wait_until_ready();
    assert!(!server.log().contains("clear text"), "{}", server.log());
}
