//! Databases of the Python system, in each form that it left behind, are migrated whole, or refused and left as they are.

use std::process::{Command, Stdio};
use std::sync::{LazyLock, OnceLock};

use serde_json::json;

use crate::harness::{Outcome, Process, Server, TestDb, done, refused, run, wait_until};
use crate::quotas::assert_totals_are_right;

const PEPPER: &str = "old pepper";
const PASSWORD: &str = "an old password";
const ANN: &str = "annSecret0123456789ABCDEFabcdefg";
const BOB: &str = "bobSecret0123456789ABCDEFabcdefg";

/// The accounts, in every form. The address is not as people write it.
const USERS: &str = "
    CREATE TABLE users (
        id varchar NOT NULL, email varchar NOT NULL, password_hash varchar, created timestamp, updated timestamp,
        name varchar, profile_url varchar, photo_url varchar, is_subscribed boolean, stripe_id varchar,
        secret varchar NOT NULL, free_credits integer, charges_monthly integer, num_self_hosted_instances integer,
        cookie_user integer, access_token varchar, PRIMARY KEY (id), UNIQUE (email));";

/// What `create_all` makes, and what Alembic's migrations suppose.
const OTHERS: &str = "
    CREATE TABLE ai_characters (
        id varchar PRIMARY KEY, name varchar NOT NULL, user_id varchar NOT NULL REFERENCES users (id));
    CREATE TABLE chat_rooms (
        id varchar PRIMARY KEY, name varchar NOT NULL, user_id varchar NOT NULL REFERENCES users (id),
        ai_character_id varchar REFERENCES ai_characters (id), created_at timestamp);
    CREATE TABLE chat_messages (
        id varchar PRIMARY KEY, chat_room_id varchar NOT NULL REFERENCES chat_rooms (id),
        user_id varchar REFERENCES users (id), content text NOT NULL, message_metadata json);
    CREATE TABLE save_games (
        id varchar PRIMARY KEY, user_id varchar NOT NULL REFERENCES users (id), game_state json NOT NULL);
    CREATE TABLE voices (id varchar PRIMARY KEY, name varchar NOT NULL);";

const NUMBERED: &str = "
    CREATE TABLE documents (
        id serial NOT NULL, user_id varchar NOT NULL, title varchar, content text, created timestamp, updated timestamp,
        PRIMARY KEY (id));";

const NAMED: &str = "
    CREATE TABLE documents (
        id varchar NOT NULL, user_id varchar NOT NULL REFERENCES users (id), title varchar, content text,
        created timestamp, updated timestamp, PRIMARY KEY (id));";

/// The tables of one form, and whether its documents are numbered.
fn tables(form: &str) -> (String, bool) {
    let before = "CREATE TABLE voices (id varchar PRIMARY KEY, user__id varchar);
        CREATE TABLE ai_characters (id varchar PRIMARY KEY, user__id varchar, name varchar, url_name varchar UNIQUE);";
    let version = |number: &str| {
        format!(
            "CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
            INSERT INTO alembic_version VALUES ('{number}');"
        )
    };
    let keys = "ALTER TABLE documents ADD FOREIGN KEY (user_id) REFERENCES users (id);
        ALTER TABLE voices ADD FOREIGN KEY (user__id) REFERENCES users (id);";
    let is_public = "ALTER TABLE documents ADD COLUMN is_public boolean;";
    let drip = "ALTER TABLE users ADD COLUMN email_unsubscribed boolean DEFAULT false,
            ADD COLUMN email_unsubscribe_token varchar, ADD COLUMN drip_email_sent integer DEFAULT 0,
            ADD COLUMN drip_email_last_sent_at timestamp;
        CREATE UNIQUE INDEX ix_users_email_unsubscribe_token ON users (email_unsubscribe_token);";
    match form {
        "create_all" => {
            let documents = "CREATE TABLE documents (
                id varchar NOT NULL, title varchar NOT NULL, content text, user_id varchar NOT NULL,
                created timestamp, updated timestamp, is_public boolean, PRIMARY KEY (id),
                FOREIGN KEY (user_id) REFERENCES users (id));";
            (format!("{USERS}{documents}{OTHERS}"), false)
        }
        "001" => (format!("{USERS}{NUMBERED}{}", version("001")), true),
        "b6440a1a2294" => (format!("{USERS}{NUMBERED}{before}{keys}{}", version(form)), true),
        "64d0b89464da" => (format!("{USERS}{NAMED}{before}{}", version(form)), false),
        "8bbcba31ad4a" => (format!("{USERS}{NAMED}{is_public}{OTHERS}{}", version(form)), false),
        "c3f1a2b4d5e6" => (format!("{USERS}{NAMED}{is_public}{drip}{OTHERS}{}", version(form)), false),
        // Made by hand after one of them: other types of the same meaning.
        "by hand" => {
            let documents = NUMBERED.replace("serial", "bigint GENERATED ALWAYS AS IDENTITY");
            let other =
                "ALTER TABLE users ALTER email TYPE varchar(24), ALTER secret TYPE text, ALTER secret DROP NOT NULL,
                    ALTER created TYPE timestamptz USING created AT TIME ZONE 'UTC', ALTER created SET DEFAULT now(),
                    ALTER charges_monthly SET DEFAULT 0;
                ALTER TABLE documents ADD COLUMN is_public boolean NOT NULL DEFAULT false,
                    ALTER updated TYPE timestamptz, ALTER updated SET DEFAULT now(), ALTER user_id DROP NOT NULL;";
            (format!("{USERS}{documents}{other}"), true)
        }
        _ => unreachable!("{form}"),
    }
}

/// A database in this form, with the same rows as in every other.
fn old_database(form: &str) -> TestDb {
    let db = TestDb::empty();
    // Sessions of the old system were in no particular zone.
    db.run(&format!("ALTER DATABASE {} SET timezone = 'America/New_York'", db.name()));
    let (tables, is_numbered) = tables(form);
    db.run(&tables);
    // The lowest cost there is, to keep the tests fast.
    static HASH: LazyLock<String> = LazyLock::new(|| bcrypt::hash(format!("{PASSWORD}{PEPPER}"), 4).unwrap());
    let hash = HASH.as_str();
    db.run(&format!(
        "SET timezone = 'UTC';
        INSERT INTO users (id, email, password_hash, created, updated, is_subscribed, secret, charges_monthly) VALUES
        ('ann', E'\\tAnn@Example.com\\n', '{hash}', '2024-05-06 07:08:09.5', NULL, NULL, '{ANN}', 12),
        ('annToo', E'ann@example.com', NULL, '2024-06-06', '2024-06-07', false, 'annTooSecret0123456789ABCDEFabcd', 0),
        ('bob', 'bob@x', NULL, NULL, '2024-05-07', true, '{BOB}', NULL),
        ('carl', E'carl@x\\u3000', NULL, '2023-01-01', '2023-01-01', false, '', 2000000000);"
    ));
    let id = |n: i32| if is_numbered { n.to_string() } else { format!("'doc_{n}'") };
    let given = if form == "by hand" { "OVERRIDING SYSTEM VALUE" } else { "" };
    db.run(&format!(
        "SET timezone = 'UTC';
        INSERT INTO documents (id, user_id, title, content, created, updated) {given} VALUES
        ({}, 'ann', 'First', 'text', '2024-05-06 07:08:09', NULL),
        ({}, 'bob', 'Second', NULL, NULL, '2024-05-07');",
        id(1),
        id(17)
    ));
    db
}

fn migrate(db: &TestDb) -> String {
    let outcome = run(&["migrate"], &[("DATABASE_URL", &db.url())], "");
    assert_eq!((outcome.code, outcome.err.as_str()), (0, ""), "{outcome:?}");
    outcome.out
}

fn text(db: &TestDb, sql: &str) -> String {
    db.connect().query_one(sql, &[]).unwrap().get::<_, Option<String>>(0).unwrap_or_default()
}

/// What every form becomes.
#[track_caller]
fn assert_migrated(form: &str, db: &TestDb) {
    let users = text(
        db,
        "SELECT string_agg(concat_ws(' ', id, email, secret, charges_monthly, is_subscribed, created AT TIME ZONE 'UTC',
            updated AT TIME ZONE 'UTC'), E'\\n' ORDER BY id) FROM users",
    );
    let expected = "ann ann@example.com annSec… 12000 f 2024-05-06 07:08:09.5 2024-05-06 07:08:09.5\n\
        annToo duplicate-anntoo-of-ann@example.com annToo… 0 f 2024-06-06 00:00:00 2024-06-07 00:00:00\n\
        bob bob@x bobSec… 0 t 2024-05-07 00:00:00 2024-05-07 00:00:00\n\
        carl carl@x  2000000000000 f 2023-01-01 00:00:00 2023-01-01 00:00:00";
    assert_eq!(users, expected, "{form}");
    let keys = text(
        db,
        &format!(
            "SELECT string_agg(u.id, ' ' ORDER BY u.id) FROM api_keys k JOIN users u ON u.id = k.user_id
            WHERE is_default AND revoked IS NULL AND prefix = u.secret AND digest IN
                (sha256('{ANN}'), sha256('{BOB}'), sha256('annTooSecret0123456789ABCDEFabcd'))"
        ),
    );
    assert_eq!(keys, "ann annToo bob", "{form}");
    let documents = text(
        db,
        "SELECT string_agg(concat_ws(' ', id, user_id, title, coalesce(content, 'no text'), created AT TIME ZONE 'UTC',
            updated AT TIME ZONE 'UTC', is_public, version), E'\\n' ORDER BY id) FROM documents",
    );
    let expected = "doc_1 ann First text 2024-05-06 07:08:09 2024-05-06 07:08:09 f 1\n\
        doc_17 bob Second no text 2024-05-07 00:00:00 2024-05-07 00:00:00 f 1";
    assert_eq!(documents, expected, "{form}");
    assert_totals_are_right(db);
    let left = "SELECT (SELECT count(*) FROM pg_proc WHERE proname LIKE 'textgen_old%')
        + (SELECT count(*) FROM pg_class WHERE relname LIKE 'textgen_old%' OR relname = 'documents_id_seq')";
    assert_eq!(db.count(left), 0, "{form}: something is left of the way");
    // As a new database has them, whatever they were.
    let columns = "SELECT string_agg(concat_ws(' ', table_name, column_name, udt_name, is_nullable), E'\\n'
            ORDER BY table_name, column_name)
        FROM information_schema.columns WHERE table_name IN ('users', 'documents') AND column_name NOT LIKE '%email_%'";
    static EXPECTED: OnceLock<String> = OnceLock::new();
    assert_eq!(&text(db, columns), EXPECTED.get_or_init(|| text(&TestDb::new(), columns)), "{form}");
}

#[test]
fn every_form_of_the_old_database_is_migrated() {
    for form in ["create_all", "b6440a1a2294", "64d0b89464da", "8bbcba31ad4a", "c3f1a2b4d5e6"] {
        let db = old_database(form);
        let out = migrate(&db);
        assert_migrated(form, &db);
        for line in ["taking over users: done in ", "taking over documents: done in ", "committing: done in "] {
            assert_eq!(out.matches(line).count(), 1, "{out}");
        }
        let newest = db.count("SELECT max(version)::bigint FROM refinery_schema_history");
        for number in 1..=newest {
            let line = format!("migration {number} of {newest} (");
            assert!(out.lines().any(|l| l.starts_with(&line) && l.contains("): done in ")), "{number}: {out}");
        }
        assert!(out.contains("1 accounts had the address of another one"), "{out}");
        assert!(out.ends_with(&format!("the database is up to date: {newest} migrations applied\n")), "{out}");
    }
}

/// The first form has no foreign keys, and one was changed by hand to have no secrets.
#[test]
fn documents_without_accounts_and_accounts_without_secrets_are_migrated() {
    let db = old_database("001");
    db.run("INSERT INTO documents (id, user_id, title, content) VALUES (99, 'gone', 'Lost', 'text of nobody')");
    let server = Server::start_with(&db, &[("BCRYPT_PEPPER", PEPPER)]);
    assert_migrated("001", &db);
    let said = "1 documents of accounts that do not exist were moved to the table orphaned_documents";
    assert!(server.log().contains(said), "{}", server.log());
    assert!(server.log().contains("migration 1 of "), "{}", server.log());
    let orphan = text(&db, "SELECT concat_ws(' ', id, user_id, title, content) FROM orphaned_documents");
    assert_eq!(orphan, "doc_99 gone Lost text of nobody");

    let ann = server.inference.with_secret(ANN).get("/api/current-user").expect(200).json();
    assert_eq!((&ann["id"], &ann["charges_monthly"]), (&json!("ann"), &json!(12000)));
    let form = json!({"email": "ann@example.com", "password": PASSWORD});
    let session = server.web.anonymous().post("/api/login", &form).expect(200).session_token();
    let browser = server.web.with_cookie(&session);
    let document = browser.get("/api/docs/get?id=doc_1").expect(200).json();
    assert_eq!((&document["title"], &document["content"]), (&json!("First"), &json!("text")));
    browser.post("/api/docs/save", &json!({"id": "doc_1", "content": "new text"})).expect(200);

    let db = old_database("by hand");
    db.run(
        "UPDATE users SET secret = NULL WHERE id = 'carl';
        INSERT INTO documents (id, user_id, title) OVERRIDING SYSTEM VALUE VALUES (99, NULL, 'Of nobody')",
    );
    migrate(&db);
    assert_migrated("by hand", &db);
    assert_eq!(db.count("SELECT count(*) FROM orphaned_documents WHERE title = 'Of nobody'"), 1);
}

/// As what people type at log-in is brought into the same form.
#[test]
fn addresses_are_brought_into_the_form_in_which_they_are_looked_up() {
    let db = TestDb::in_locale_c();
    let space: String = ('\0'..=char::MAX).filter(|c| c.is_whitespace()).collect();
    assert!(space.chars().count() > 20, "{space:?}");
    let typed = [format!("{space}Eva@x{space}"), "JÖRG@Ähre.de".to_owned(), "ΑΒΓ@x".to_owned(), "éa@x ".to_owned()];
    db.run(USERS);
    for email in &typed {
        let sql = "INSERT INTO users (id, email, secret) VALUES ($1, $1, '')";
        db.connect().execute(sql, &[email]).unwrap();
    }
    migrate(&db);
    let mut expected = typed.map(|email| textgen::accounts::email::normalise(&email));
    expected.sort();
    let found = text(&db, "SELECT string_agg(email, ' ' ORDER BY email COLLATE \"C\") FROM users");
    assert_eq!(found, expected.join(" "));
}

/// Applies the first migrations, as an earlier release did.
fn apply_first(db: &TestDb, number: usize) {
    let folder = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/sql/migrations")).unwrap();
    let mut files: Vec<_> = folder.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for file in &files[..number] {
        db.run(&std::fs::read_to_string(file).unwrap());
    }
    let rows = format!(
        "SELECT string_agg(format('(%s, %L, %L, %L)', version, name, applied_on, checksum), ', ')
        FROM refinery_schema_history WHERE version <= {number}"
    );
    db.run(&format!(
        "CREATE TABLE refinery_schema_history (version int4 PRIMARY KEY, name varchar(255), applied_on varchar(255),
            checksum varchar(255));
        INSERT INTO refinery_schema_history VALUES {}",
        text(&TestDb::new(), &rows)
    ));
}

/// Servers of the earlier release are at work meanwhile: no migration holds the locks of those before it.
#[test]
fn an_upgrade_is_a_transaction_for_each_migration() {
    let db = TestDb::empty();
    apply_first(&db, 50);
    db.run(OBSTACLE);
    let applied = || db.count("SELECT max(version)::bigint FROM refinery_schema_history");
    let outcome = run(&["migrate"], &[("DATABASE_URL", &db.url())], "");
    assert_eq!(outcome.code, 1);
    let words = "migration failed, it was undone, and those before it stay: migration 55 of ";
    assert!(outcome.err.contains(words) && outcome.err.lines().count() == 1, "{}", outcome.err);
    assert_eq!((applied(), db.count("SELECT count(*) FROM pg_class WHERE relname = 'document_versions'")), (54, 0));

    db.run("DROP FUNCTION textgen_is_version; CREATE TABLE mails (address text)");
    assert_refused(&db, &db.url(), &["there is a mails already, which is not textgen's: rename it"]);
    db.run("DROP TABLE mails; UPDATE refinery_schema_history SET checksum = '1' WHERE version = 2");
    assert_refused(&db, &db.url(), &["its migration 2 (documents) is not that of this version (documents)"]);
    let right = "SELECT checksum FROM refinery_schema_history WHERE version = 2";
    db.run(&format!(
        "UPDATE refinery_schema_history SET checksum = '{}' WHERE version = 2",
        text(&TestDb::new(), right)
    ));
    let out = migrate(&db);
    assert!(out.starts_with("migration 55 of ") && !out.contains("committing"), "{out}");
    let schema = |db: &TestDb| {
        let dump = dump(db);
        let lines = dump.lines().filter(|line| line.starts_with("CREATE ") || line.starts_with("    ADD "));
        let mut lines: Vec<String> = lines.map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(schema(&db), schema(&TestDb::new()));
}

/// An earlier release stopped after its first migration if documents could not be made public.
#[test]
fn a_database_that_an_earlier_release_left_half_way_is_migrated() {
    let db = old_database("64d0b89464da");
    // That release did not know of white space other than spaces.
    db.run(
        "UPDATE users SET email = 'Carl@x ' WHERE id = 'carl';
        UPDATE users SET email = 'Ann@Example.com' WHERE id = 'ann'",
    );
    apply_first(&db, 1);
    assert_eq!(db.count("SELECT charges_monthly FROM users WHERE id = 'ann'"), 12_000);
    let out = migrate(&db);
    assert!(!out.contains("taking over users") && out.contains("taking over documents"), "{out}");
    assert_migrated("half-way", &db);
}

/// Earlier releases took only spaces off addresses, and left secrets that were NULL.
#[test]
fn addresses_that_an_earlier_release_took_over_with_tabs_are_mended() {
    let db = TestDb::new();
    db.run(
        "DROP TRIGGER users_email_is_normal ON users; DROP FUNCTION textgen_normal_email;
        CREATE TRIGGER users_email_is_normal AFTER INSERT OR UPDATE OF email ON users
            FOR EACH ROW WHEN (NEW.email <> lower(btrim(NEW.email))) EXECUTE FUNCTION textgen_email_is_normal();
        ALTER TABLE users ALTER secret DROP NOT NULL;
        INSERT INTO users (id, email, is_subscribed, secret) VALUES
            ('a', E'\\tann@x', true, ''), ('a2', 'ann@x', false, ''), ('b', E'bob@x\\n', false, NULL),
            ('b2', E'\\tbob@x', true, ''), ('c', 'carl@x', false, '')",
    );
    db.run(include_str!("../../sql/migrations/0060_white_space.sql"));
    let users = text(&db, "SELECT string_agg(concat_ws(' ', id, email, secret || '.'), ', ' ORDER BY id) FROM users");
    assert_eq!(users, "a duplicate-a-of-ann@x ., a2 ann@x ., b duplicate-b-of-bob@x ., b2 bob@x ., c carl@x .");
}

/// All of it, as SQL.
fn dump(db: &TestDb) -> String {
    let output = Command::new("pg_dump").arg(db.url()).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    // Newer releases of pg_dump put a random word there.
    text.lines().filter(|line| !line.contains("restrict ")).collect::<Vec<_>>().join("\n")
}

/// Each of these is refused, with all of its words, and nothing is changed.
#[track_caller]
fn assert_refused(db: &TestDb, url: &str, words: &[&str]) {
    let before = dump(db);
    let outcome = run(&["migrate"], &[("DATABASE_URL", url)], "");
    assert_eq!((outcome.code, outcome.out.as_str()), (1, ""), "{outcome:?}");
    assert_eq!(outcome.err.lines().count(), 1, "{}", outcome.err);
    assert!(
        outcome.err.starts_with("textgen: the database cannot be migrated, and nothing was changed: "),
        "{outcome:?}"
    );
    for words in words {
        assert!(outcome.err.contains(words), "{words} is not in {}", outcome.err);
    }
    assert_eq!(dump(db), before);
}

#[test]
fn what_stands_in_the_way_is_named_before_anything_is_changed() {
    let db = old_database("b6440a1a2294");
    db.run(
        "CREATE VIEW monthly AS SELECT email, charges_monthly FROM users;
        CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
        CREATE TRIGGER charged BEFORE UPDATE OF charges_monthly ON users FOR EACH ROW EXECUTE FUNCTION nothing();
        CREATE TABLE api_keys (key text);
        CREATE TABLE shares (document_id integer REFERENCES documents (id));",
    );
    assert_refused(
        &db,
        &db.url(),
        &[
            "there is a api_keys already, which is not textgen's: rename it",
            "view monthly depends on users.charges_monthly, users.email, which change: drop it now",
            "trigger charged on table users would run while rows are changed: drop it now",
            "shares refers to documents by their numbers, which change: drop its constraint shares_document_id_fkey",
        ],
    );
    db.run("DROP VIEW monthly; DROP TRIGGER charged ON users; DROP TABLE api_keys, shares");
    db.run("ALTER TABLE users ALTER email DROP NOT NULL; UPDATE users SET email = NULL WHERE id = 'annToo'");
    assert_refused(&db, &db.url(), &["1 accounts have no address, such as that with the id 'annToo'"]);
    // A server says the same, and goes on once that is mended.
    let server = Server::spawn(&db.url(), &[]);
    let said =
        "not ready, retrying: the database cannot be migrated, and nothing was changed: 1 accounts have no address";
    server.wait_until("it to say so", || server.log().contains(said));
    server.web.anonymous().get("/readyz").expect(503);
    db.run("UPDATE users SET email = 'ann@example.com' WHERE id = 'annToo'");
    server.wait_until_ready();
    assert_eq!(server.log().matches(said).count(), 1, "{}", server.log());
    assert_migrated("mended", &db);
}

#[test]
fn tables_of_other_programs_are_refused() {
    let db = TestDb::empty();
    db.run("CREATE TABLE users (id integer, email text, charges_monthly bigint)");
    assert_refused(
        &db,
        &db.url(),
        &[
            "users.id has the type int4: change it to varchar or text",
            "users has no column secret",
            "users.charges_monthly has the type int8",
            "users.id is not unique",
        ],
    );
    let db = TestDb::empty();
    db.run(NUMBERED);
    assert_refused(&db, &db.url(), &["there is a table documents and none of users"]);
}

#[test]
fn a_role_that_may_not_change_the_tables_is_refused() {
    let db = old_database("64d0b89464da");
    let role = format!("{}_stranger", db.name());
    db.run(&format!("CREATE ROLE {role} LOGIN PASSWORD 'stranger'; REVOKE CREATE ON SCHEMA public FROM PUBLIC"));
    let (_, place) = db.url().rsplit_once('@').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let url = format!("postgresql://{role}:stranger@{place}");
    let words = [
        format!("the role {role} may not create tables: GRANT CREATE ON SCHEMA public TO {role}"),
        format!("the role {role} does not own the table users: ALTER TABLE users OWNER TO {role}"),
    ];
    assert_refused(&db, &url, &words.each_ref().map(String::as_str));
    db.run(&format!("DROP ROLE {role}"));
}

/// With a superuser's rights.
#[test]
fn code_of_other_roles_does_not_run() {
    let db = old_database("create_all");
    let role = format!("{}_mallory", db.name());
    db.run(&format!(
        "CREATE ROLE {role}; GRANT ALL ON SCHEMA public TO {role}; GRANT ALL ON users TO {role};
        GRANT CREATE ON DATABASE {} TO {role};
        SET ROLE {role};
        CREATE FUNCTION seize() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
            IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
                EXECUTE 'ALTER ROLE {role} SUPERUSER';
            END IF;
        END $$;
        CREATE FUNCTION lower(varchar) RETURNS text LANGUAGE sql AS $$ SELECT public.seize(); SELECT lower($1::text) $$;
        CREATE FUNCTION format(text, name) RETURNS text LANGUAGE sql AS $$ SELECT public.seize(); SELECT '' $$;
        CREATE FUNCTION equal(name, text) RETURNS boolean LANGUAGE sql AS $$ SELECT public.seize(); SELECT true $$;
        CREATE OPERATOR = (LEFTARG = name, RIGHTARG = text, FUNCTION = equal);",
        db.name()
    ));
    let words = |what: &str| {
        format!("the role {role} could have its code run with the rights of postgres, as these belong to it: {what}")
    };
    let refused = |what: &str| {
        assert_refused(&db, &db.url(), &[&words(what)]);
        let outcome = run(&["migrate", "--check"], &[("DATABASE_URL", &db.url())], "");
        assert!(outcome.code == 1 && outcome.err.contains(&words(what)), "{outcome:?}");
        assert_eq!(db.count(&format!("SELECT count(*) FROM pg_roles WHERE rolname = '{role}' AND rolsuper")), 0);
    };
    refused("the function public.equal(name,text), the function public.format(text,name), the function public.lower(");
    // In a schema that is not on the search path, and by means of a table that is there already.
    db.run(&format!(
        "DROP OPERATOR public.= (name, text);
        DROP FUNCTION public.equal(name, text), public.lower(varchar), public.format(text, name);
        SET ROLE {role};
        CREATE SCHEMA {role};
        CREATE FUNCTION {role}.by_trigger() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM public.seize(); RETURN NEW; END $$;
        CREATE TRIGGER seizing BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION {role}.by_trigger();
        RESET ROLE; DROP FUNCTION public.seize()"
    ));
    refused("the trigger seizing on public.users: migrate as");
    db.run(&format!("DROP TRIGGER seizing ON users; ALTER TABLE users OWNER TO {role}"));
    refused("the table public.users: migrate as");
    db.run(&format!(
        "ALTER TABLE users OWNER TO postgres; ALTER TABLE voices OWNER TO {role}; DROP FUNCTION {role}.by_trigger()"
    ));
    db.run("ALTER TABLE voices ADD FOREIGN KEY (name) REFERENCES users (id)");
    assert_refused(&db, &db.url(), &["the role postgres does not own the table voices, which refers to users"]);
    db.run(&format!("ALTER TABLE voices OWNER TO postgres; ALTER SCHEMA {role} RENAME TO postgres"));
    refused("the schema postgres: migrate as");
    db.run(&format!("DROP SCHEMA postgres CASCADE; DROP OWNED BY {role}; DROP ROLE {role}"));
    migrate(&db);
    assert_migrated("mended", &db);
}

#[test]
fn what_would_hide_or_replace_something_is_refused() {
    let db = old_database("create_all");
    db.run(
        "ALTER TABLE documents ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
        CREATE RULE nothing AS ON UPDATE TO users DO ALSO NOTHING;
        CREATE INDEX users_email_unique ON users (email); CREATE VIEW users_created AS SELECT 1 AS one;
        ALTER TABLE documents ADD COLUMN version text;",
    );
    let words = [
        "documents has row-level security: ALTER TABLE documents DISABLE ROW LEVEL SECURITY",
        "rule nothing on table users would run while rows are changed",
        "there is a users_created already, which is not textgen's: rename it",
        "there is a users_email_unique already, which is not textgen's: rename it",
        "documents has a column version already",
    ];
    assert_refused(&db, &db.url(), &words);
    db.run(
        "ALTER TABLE documents DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY, DROP COLUMN version;
        DROP RULE nothing ON users; DROP INDEX users_email_unique; DROP VIEW users_created;
        UPDATE documents SET updated = 'infinity' WHERE id = 'doc_1'",
    );
    let words = "1 rows of documents have a time of infinity or outside of the years 1 to 9999, such as that with the id 'doc_1'";
    assert_refused(&db, &db.url(), &[words]);

    // Limits that are meant for requests do not matter.
    let name = db.name();
    db.run(&format!(
        "UPDATE documents SET updated = NULL WHERE id = 'doc_1';
        ALTER DATABASE {name} SET idle_in_transaction_session_timeout = '1ms';
        ALTER DATABASE {name} SET default_transaction_read_only = on;
        CREATE SCHEMA postgres"
    ));
    let words = "the tables of the Python system are in the schema public, and new ones would be made in postgres: \
                 ALTER DATABASE ";
    assert_refused(&db, &db.url(), &[words]);
    refused(run(&["user", "list"], &[("DATABASE_URL", &db.url())], ""), words);
    let write = |sql: &str| db.run(&format!("SET transaction_read_only = off; {sql}"));
    write("DROP SCHEMA postgres");
    let history = "CREATE TABLE refinery_schema_history (version int4 PRIMARY KEY, name varchar(255),
        applied_on varchar(255), checksum varchar(255));
        INSERT INTO refinery_schema_history VALUES (20230101, 'other', '', '1')";
    write(history);
    let words = "its history has a migration 20230101 (other) and lacks migration 1 of ";
    assert_refused(&db, &db.url(), &[words]);
    write("DROP TABLE refinery_schema_history");
    migrate(&db);
    assert_migrated("mended", &db);

    write("DELETE FROM refinery_schema_history WHERE version = 30");
    let newest = textgen::db::migrate::newest();
    assert_refused(&db, &db.url(), &[") and lacks migration 30 of ", "its history has a migration 31 ("]);
    write(&format!("DELETE FROM refinery_schema_history WHERE version = {newest} OR version > 30"));
    write("CREATE SCHEMA postgres");
    let words = "its tables are in the schema public, and new ones would be made in postgres: set the search_path";
    assert_refused(&db, &db.url(), &[words]);
}

/// Migration 55 finds another function of the name of one of its own.
const OBSTACLE: &str = "CREATE FUNCTION textgen_is_version(title text, content text, new_title text, new_content text,
    last_kept timestamptz, asked boolean) RETURNS text LANGUAGE sql AS $$ SELECT '' $$";

/// What cannot be foreseen fails as late as it likes: all is undone.
#[test]
fn a_migration_that_fails_late_leaves_everything_as_it_was() {
    let db = old_database("001");
    db.run(OBSTACLE);
    let before = dump(&db);
    let url = db.url();
    let settings = [("DATABASE_URL", url.as_str())];
    // It is not taken over by the way.
    refused(run(&["user", "list"], &settings, ""), "it is the Python system's: dump it, and run `textgen migrate`");
    let newest = textgen::db::migrate::newest();
    let said = format!("{newest} migrations to apply; nothing stands in the way\n");
    assert_eq!(done(run(&["migrate", "--check"], &settings, "")), said);
    let outcome = run(&["migrate"], &settings, "");
    assert_eq!(outcome.code, 1);
    assert!(outcome.out.contains("migration 54 of "), "{}", outcome.out);
    assert!(outcome.err.contains("migration failed, nothing was changed: migration 55 of "), "{}", outcome.err);
    assert_eq!(outcome.err.lines().count(), 1, "{}", outcome.err);
    assert_eq!(dump(&db), before);
    db.run("DROP FUNCTION textgen_is_version");
    migrate(&db);
    assert_migrated("001", &db);
}

#[test]
fn a_migration_that_waits_says_for_whom() {
    let db = old_database("64d0b89464da");
    let mut other = db.connect();
    other.batch_execute("SET application_name = 'gunicorn'").unwrap();
    let mut transaction = other.transaction().unwrap();
    transaction.execute("UPDATE users SET name = 'Ann' WHERE id = 'ann'", &[]).unwrap();
    let process = Process::start(&["migrate"], &[("DATABASE_URL", &db.url())]);
    let said = "taking over users: running for ";
    wait_until("it to say so", || process.out().contains(said) || !process.err().is_empty());
    let out = process.out();
    assert!(out.contains("waiting for a lock that is held by gunicorn (process "), "{out}");
    assert!(out.contains("other programs are connected to the database: gunicorn (1)"), "{out}");
    transaction.commit().unwrap();
    assert_eq!(process.wait(), 0);
    assert_migrated("64d0b89464da", &db);
}
