//! `textgen backup` and `textgen restore`, with charges under way.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use crate::harness::{
    LoadRecord, Outcome, Proxy, Server, Signal, TestDb, Upstream, Way, assert_books_agree, done, refused, run, soon,
    textgen,
};

/// A folder of a test, removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        Folder(std::env::temp_dir().join(format!("textgen-{name}-{}", textgen::usage::new_id())))
    }

    fn text(&self) -> &str {
        self.0.to_str().unwrap()
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn command(name: &str, db: &TestDb, folder: &Folder, journal: &Folder) -> Outcome {
    run(&[name, folder.text()], &[("DATABASE_URL", &db.url()), ("JOURNAL_DIR", journal.text())], "")
}

fn serve(url: &str, upstream: &Upstream, journal: &Folder) -> Server {
    let settings = [("INFERENCE_URL", upstream.url.as_str()), ("JOURNAL_DIR", journal.text())];
    let server = Server::spawn(url, &settings);
    server.wait_until_ready();
    server
}

fn journals(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).map(|all| all.flatten().collect::<Vec<_>>()).unwrap_or_default();
    entries.iter().filter(|entry| entry.path().extension().is_some_and(|suffix| suffix == "journal")).count()
}

#[test]
fn a_backup_under_load_has_every_charge_that_was_answered_before_it() {
    let (db, upstream) = (TestDb::new(), Upstream::counting());
    let (journal, backup, other_journal) = (Folder::new("journal"), Folder::new("backup"), Folder::new("other"));
    let proxy = Proxy::to(&db);
    let steady = serve(&db.url(), &upstream, &journal);
    // Its charges go to a journal while its database is away, and it is killed with them.
    let unlucky = serve(&proxy.url(), &upstream, &journal);
    let users = ["ann@example.com", "bob@example.com"].map(|email| steady.sign_up(email));
    let ids: Vec<&str> = users.iter().map(|user| user.id.as_str()).collect();
    unlucky.wait_until_listening();
    let load = LoadRecord::default();
    let answered = thread::scope(|scope| {
        for user in &users {
            for _ in 0..2 {
                scope.spawn(|| load.charge(|| steady.inference.clone(), &user.secret));
            }
        }
        soon("charges", || load.charged() > 20);
        // So that it knows the caller.
        soon("an answer", || load.charge_once(&unlucky.inference, &users[0].secret, Way::Whole) == 200);
        proxy.cut();
        for _ in 0..20 {
            soon("a charge to the journal", || {
                load.charge_once(&unlucky.inference, &users[0].secret, Way::Whole) == 200
            });
        }
        unlucky.signal(Signal::KILL);
        let answered = load.answered();
        let said = done(command("backup", &db, &backup, &journal));
        assert!(said.contains("the ledger has"), "{said}");
        let more = load.charged() + 20;
        soon("charges after the backup", || load.charged() > more);
        load.stop();
        answered
    });
    load.assert_charged(&db, &ids);
    assert_eq!(steady.stop(), 0);

    let copy = TestDb::empty();
    let said = done(command("restore", &copy, &backup, &other_journal));
    assert!(said.contains("the sums agree"), "{said}");
    LoadRecord::assert_holds(&copy, &ids, &answered);
    assert_books_agree(&copy);
    assert_eq!(journals(&other_journal.0), 0, "they are replayed");
    assert_eq!(copy.count("SELECT count(*) FROM lease_holders WHERE ended IS NULL"), 0);

    // It works, and holds what it held.
    let server = serve(&copy.url(), &upstream, &other_journal);
    users[0].program(&server.inference).get("/api/current-user").expect(200);
    assert_eq!(load.charge_once(&server.inference, &users[1].secret, Way::Streamed), 200);
}

#[test]
fn charges_that_only_a_journal_has_are_restored() {
    let (db, upstream) = (TestDb::new(), Upstream::counting());
    let (journal, backup, other_journal) = (Folder::new("journal"), Folder::new("backup"), Folder::new("other"));
    let proxy = Proxy::to(&db);
    let server = serve(&proxy.url(), &upstream, &journal);
    let user = server.sign_up("ann@example.com");
    server.wait_until_listening();
    let load = LoadRecord::default();
    assert_eq!(load.charge_once(&server.inference, &user.secret, Way::Whole), 200);
    proxy.cut();
    for _ in 0..5 {
        soon("a charge to the journal", || load.charge_once(&server.inference, &user.secret, Way::Whole) == 200);
    }
    server.signal(Signal::KILL);
    assert_eq!(server.wait(), -1);
    assert_eq!(journals(&journal.0), 1);
    let answered = load.answered();
    assert_eq!(answered.len(), 6);
    done(command("backup", &db, &backup, &journal));
    assert_eq!(journals(&journal.0), 1, "a backup changes nothing");

    let copy = TestDb::empty();
    let said = done(command("restore", &copy, &backup, &other_journal));
    assert!(said.contains("journals: 5 charges made, 0 that"), "{said}");
    LoadRecord::assert_holds(&copy, &[&user.id], &answered);
    assert_books_agree(&copy);
}

#[test]
fn what_cannot_be_restored_is_refused() {
    let db = TestDb::new();
    let (backup, journal) = (Folder::new("backup"), Folder::new("journal"));
    done(run(&["user", "create", "ann@example.com"], &[("DATABASE_URL", &db.url())], ""));
    refused(command("restore", &TestDb::empty(), &backup, &journal), "no complete backup");
    refused(command("backup", &db, &backup, &journal), "does not exist: run this where the servers run");
    fs::create_dir(&journal.0).unwrap();
    done(command("backup", &db, &backup, &journal));
    refused(command("backup", &db, &backup, &journal), "not empty");
    refused(command("restore", &db, &backup, &journal), "is not empty");

    let copy = TestDb::empty();
    let mut other: postgres::Config = copy.url().parse().unwrap();
    let held = other.application_name("textgen-web").connect(postgres::NoTls).unwrap();
    refused(command("restore", &copy, &backup, &journal), "in use by textgen-web");
    drop(held);

    let manifest = backup.join("manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    let toc = backup.join("database/toc.dat");
    let bytes = fs::read(&toc).unwrap();
    let mut damaged = bytes.clone();
    damaged[100] ^= 1;
    fs::write(&toc, damaged).unwrap();
    refused(command("restore", &copy, &backup, &journal), "database/toc.dat is damaged");
    fs::write(&toc, bytes).unwrap();
    // The sums are compared.
    assert!(text.contains(r#""value": "1""#), "{text}");
    fs::write(&manifest, text.replacen(r#""value": "1""#, r#""value": "2""#, 1)).unwrap();
    refused(command("restore", &copy, &backup, &journal), "2 in the backup, 1 restored");
    fs::write(&manifest, text.replace("database/toc.dat", "../toc.dat")).unwrap();
    refused(command("restore", &TestDb::empty(), &backup, &journal), "names a file elsewhere");
    fs::write(&manifest, &text).unwrap();

    // As it was, it is restored.
    let nobody = TestDb::empty();
    let mut restore = textgen(&["restore", backup.text()]);
    restore.env("DATABASE_URL", nobody.url()).env("JOURNAL_DIR", journal.text());
    assert!(restore.output().unwrap().status.success());
    let listed = done(run(&["user", "list"], &[("DATABASE_URL", &nobody.url())], ""));
    assert!(listed.contains("ann@example.com"), "{listed}");
}

#[test]
fn the_password_is_in_no_argument() {
    use std::os::unix::fs::PermissionsExt;
    let db = TestDb::new();
    let (backup, journal, home) = (Folder::new("backup"), Folder::new("journal"), Folder::new("bin"));
    fs::create_dir(&home.0).unwrap();
    // In place of pg_dump: it says how it was called.
    let seen = home.join("seen");
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = --version ] && {{ echo 'pg_dump (PostgreSQL) 99.1'; exit; }}\necho \"$@\" > {}\n\
         env | sed -n 's/^\\(PG[A-Z]*\\|DATABASE_URL\\)=.*/\\1/p' >> {}\nexit 3\n",
        seen.display(),
        seen.display()
    );
    let program = home.join("pg_dump");
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", home.text(), std::env::var("PATH").unwrap());
    let settings =
        [("DATABASE_URL", &*db.url()), ("JOURNAL_DIR", journal.text()), ("PATH", &path), ("PGSERVICE", "other")];
    refused(run(&["backup", backup.text(), "--without-journals"], &settings, ""), "pg_dump failed");
    let seen = fs::read_to_string(&seen).unwrap();
    let password = db.url().split(['@', ':']).nth(2).unwrap().to_owned();
    assert!(!seen.contains(&password) && seen.contains("--snapshot="), "{seen}");
    assert!(seen.contains("PGPASSWORD") && !seen.contains("PGSERVICE") && !seen.contains("DATABASE_URL"), "{seen}");
}
