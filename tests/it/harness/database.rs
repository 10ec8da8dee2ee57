//! A database per test, cloned from a migrated template.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use postgres::{Client, NoTls};
use textgen::db::ConnectConfig;

/// An advisory lock, held while the template is created: several test binaries may run at once.
const LOCK: i64 = 7_461_205;

static TEMPLATE: OnceLock<String> = OnceLock::new();
static COUNT: AtomicU32 = AtomicU32::new(0);

/// A database for one test, dropped at its end.
pub struct TestDb {
    name: String,
    /// Its URL, if it is on another server.
    elsewhere: Option<String>,
    /// What [`TestDb::count`] asks: tests wait by asking again and again, and to connect costs far more than to ask.
    counter: Mutex<Option<Client>>,
}

impl TestDb {
    /// With all migrations applied and no rows.
    pub fn new() -> TestDb {
        TestDb::create(&format!("TEMPLATE {}", TEMPLATE.get_or_init(make_template))).unwrap()
    }

    /// Without any tables.
    pub fn empty() -> TestDb {
        TestDb::create("TEMPLATE template0").unwrap()
    }

    /// Without any tables, in the locale C.
    pub fn in_locale_c() -> TestDb {
        TestDb::create("TEMPLATE template0 LOCALE 'C'").unwrap()
    }

    /// Like [`TestDb::new`], but with a linguistic collation, which sorts "a" before "B". PostgreSQL 14 and builds
    /// without ICU use the cluster's collation.
    pub fn with_linguistic_collation() -> TestDb {
        let words = "TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'";
        let db = TestDb::create(words).or_else(|_| TestDb::create("TEMPLATE template0")).unwrap();
        migrate(&db.url());
        db
    }

    /// A copy of another one, to which nobody else is connected.
    pub fn copy_of(other: &TestDb) -> TestDb {
        other.end_session();
        super::wait_until("the end of its sessions", || other.sessions() == 0);
        TestDb::create(&format!("TEMPLATE {}", other.name)).unwrap()
    }

    /// How many sessions there are on it.
    pub fn sessions(&self) -> i64 {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1";
        admin().query_one(sql, &[&self.name]).unwrap().get(0)
    }

    fn create(template: &str) -> Result<TestDb, postgres::Error> {
        let name = format!("test_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let mut admin = admin();
        admin.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).unwrap();
        admin.batch_execute(&format!("CREATE DATABASE {name} {template} STRATEGY file_copy")).or_else(|_| {
            // PostgreSQL 14 does not have the option.
            admin.batch_execute(&format!("CREATE DATABASE {name} {template}"))
        })?;
        Ok(TestDb { name, elsewhere: None, counter: Mutex::default() })
    }

    /// An existing database on another server. It is migrated, and not dropped.
    pub fn existing(url: &str) -> TestDb {
        migrate(url);
        TestDb { name: String::new(), elsewhere: Some(url.to_owned()), counter: Mutex::default() }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        self.elsewhere.clone().unwrap_or_else(|| url_of(&self.name))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A direct connection to it.
    pub fn connect(&self) -> Client {
        Client::connect(&self.url(), NoTls).unwrap()
    }

    /// The result of a query for one number.
    pub fn count(&self, sql: &str) -> i64 {
        let mut counter = self.counter.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = counter.as_mut() {
            match client.query_one(sql, &[]) {
                Ok(row) => return row.get(0),
                // The test may have stopped PostgreSQL, or ended all its sessions.
                Err(error) => assert!(client.is_closed(), "{sql}: {error}"),
            }
        }
        counter.insert(self.connect()).query_one(sql, &[]).unwrap().get(0)
    }

    /// Ends the session that [`TestDb::count`] keeps.
    pub fn end_session(&self) {
        *self.counter.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether any session is waiting for a lock.
    pub fn has_waiting(&self) -> bool {
        let waiting = "SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock'";
        self.count(waiting) > 0
    }

    /// Runs statements.
    pub fn run(&self, sql: &str) {
        self.connect().batch_execute(sql).unwrap();
    }
}

impl Drop for TestDb {
    fn drop(&mut self) {
        if self.elsewhere.is_some() {
            return;
        }
        // No panic: during the panic of a failed test it would abort the whole run.
        if let Ok(mut admin) = Client::connect(&admin_url(), NoTls) {
            let _ = admin.batch_execute(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name));
        }
    }
}

fn migrate(url: &str) {
    textgen::db::migrate::migrate(&ConnectConfig::new(url, "test").unwrap()).unwrap();
}

/// Where servers of a test put their data: in memory, if `scripts/postgres` found that there is plenty of it.
pub fn data_folder() -> PathBuf {
    let found = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/.postgres/test/where"));
    let in_memory = found.is_ok_and(|folder| folder.starts_with("/dev/shm/"));
    if in_memory { PathBuf::from("/dev/shm") } else { std::env::temp_dir() }
}

/// The server that the tests run on. `make test` starts it.
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

/// A migrated database to clone, made once for each version of the migrations and kept.
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
