//! A database per test, cloned from a migrated template.

use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use postgres::{Client, NoTls};

/// Held while the template is made, as several test binaries may run at once.
const LOCK: i64 = 7_461_205;

static TEMPLATE: OnceLock<String> = OnceLock::new();
static COUNT: AtomicU32 = AtomicU32::new(0);

/// A database of this test's own, dropped with it.
pub struct TestDb {
    name: String,
    /// Where it is, if it is not the tests' own.
    elsewhere: Option<String>,
}

impl TestDb {
    /// With the tables of the newest migration, and no rows.
    pub fn new() -> TestDb {
        TestDb::create(&format!("TEMPLATE {}", TEMPLATE.get_or_init(make_template))).unwrap()
    }

    /// With nothing at all in it.
    pub fn empty() -> TestDb {
        TestDb::create("TEMPLATE template0").unwrap()
    }

    /// As [`TestDb::new`], but with texts in the order of words, as many databases have it: "a" before "B". PostgreSQL 14
    /// and builds without ICU have the order of the cluster.
    pub fn with_linguistic_collation() -> TestDb {
        let words = "TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'";
        let db = TestDb::create(words).or_else(|_| TestDb::create("TEMPLATE template0")).unwrap();
        textgen::db::migrate::migrate(&db.url().parse().unwrap()).unwrap();
        db
    }

    fn create(template: &str) -> Result<TestDb, postgres::Error> {
        let name = format!("test_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let mut admin = admin();
        admin.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).unwrap();
        admin.batch_execute(&format!("CREATE DATABASE {name} {template} STRATEGY file_copy")).or_else(|_| {
            // PostgreSQL 14 knows no strategy.
            admin.batch_execute(&format!("CREATE DATABASE {name} {template}"))
        })?;
        Ok(TestDb { name, elsewhere: None })
    }

    /// An empty database on another server, migrated and not dropped.
    pub fn existing(url: &str) -> TestDb {
        textgen::db::migrate::migrate(&url.parse().unwrap()).unwrap();
        TestDb { name: String::new(), elsewhere: Some(url.to_owned()) }
    }

    /// Its address, for the binary.
    pub fn url(&self) -> String {
        self.elsewhere.clone().unwrap_or_else(|| url_of(&self.name))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A connection to it, past the binary.
    pub fn connect(&self) -> Client {
        Client::connect(&self.url(), NoTls).unwrap()
    }

    /// One number, past the binary.
    pub fn count(&self, sql: &str) -> i64 {
        self.connect().query_one(sql, &[]).unwrap().get(0)
    }

    /// Whether anybody waits for a lock.
    pub fn has_waiting(&self) -> bool {
        let waiting = "SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock'";
        self.count(waiting) > 0
    }

    /// Runs statements, past the binary.
    pub fn run(&self, sql: &str) {
        self.connect().batch_execute(sql).unwrap();
    }
}

impl Drop for TestDb {
    fn drop(&mut self) {
        if self.elsewhere.is_some() {
            return;
        }
        // Without a panic, which would hide that of a failed test and end the whole run.
        if let Ok(mut admin) = Client::connect(&admin_url(), NoTls) {
            let _ = admin.batch_execute(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name));
        }
    }
}

/// The server the tests run on. `make test` starts it.
fn admin_url() -> String {
    std::env::var("TEST_DATABASE_URL")
        .expect("TEST_DATABASE_URL is not set: run `make test`, or set it to a PostgreSQL superuser's URL")
}

pub fn admin() -> Client {
    Client::connect(&admin_url(), NoTls).expect("the PostgreSQL of TEST_DATABASE_URL does not answer")
}

fn url_of(name: &str) -> String {
    let url = admin_url();
    let base = url.rsplit_once('/').expect("TEST_DATABASE_URL ends in /database").0;
    format!("{base}/{name}")
}

/// A migrated database for each state of the migrations, made once and kept.
fn make_template() -> String {
    let mut admin = admin();
    let name = format!("textgen_template_{:016x}", digest_of_migrations());
    admin.execute("SELECT pg_advisory_lock($1)", &[&LOCK]).unwrap();
    let there = admin.query_opt("SELECT 1 FROM pg_database WHERE datname = $1", &[&name]).unwrap().is_some();
    if !there {
        let draft = format!("{name}_draft");
        admin.batch_execute(&format!("DROP DATABASE IF EXISTS {draft} WITH (FORCE)")).unwrap();
        admin.batch_execute(&format!("CREATE DATABASE {draft} TEMPLATE template0")).unwrap();
        let migrated = Command::new(env!("CARGO_BIN_EXE_textgen"))
            .arg("migrate")
            .env("DATABASE_URL", url_of(&draft))
            .status()
            .unwrap();
        assert!(migrated.success(), "textgen migrate failed");
        admin.batch_execute(&format!("ALTER DATABASE {draft} RENAME TO {name}")).unwrap();
    }
    admin.execute("SELECT pg_advisory_unlock($1)", &[&LOCK]).unwrap();
    name
}

fn digest_of_migrations() -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let folder = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/sql/migrations")).unwrap();
    let mut files: Vec<_> = folder.map(|f| f.unwrap().path()).collect();
    files.sort();
    let mut hasher = DefaultHasher::new();
    for file in files {
        (file.file_name(), std::fs::read(&file).unwrap()).hash(&mut hasher);
    }
    hasher.finish()
}
