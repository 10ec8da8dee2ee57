//! What must be so before migrations change anything.

use std::collections::BTreeSet;

use postgres::Client;

use super::super::Error;
use super::history::Pending;
use super::old_system::OldTables;

/// Looks for whatever would have the migrations fail. Changes nothing.
///
/// # Errors
/// [`Error::NotMigratable`] with all that was found and what to do about it; the database is unavailable.
pub(super) fn check(client: &mut Client, pending: &[Pending], old: &OldTables) -> Result<(), Error> {
    let mut faults = of_the_database(client, pending, old)?;
    faults.extend(old.faults(client)?);
    match faults.len() {
        0 => Ok(()),
        1 => Err(Error::NotMigratable(faults.remove(0))),
        _ => {
            let numbered = faults.iter().zip(1..).map(|(fault, n)| format!("({n}) {fault}"));
            Err(Error::NotMigratable(numbered.collect::<Vec<_>>().join("; ")))
        }
    }
}

fn of_the_database(client: &mut Client, pending: &[Pending], old: &OldTables) -> Result<Vec<String>, Error> {
    const SQL: &str = "
        SELECT 'PostgreSQL is ' || current_setting('server_version') || ': upgrade it to 14 or later'
        WHERE current_setting('server_version_num')::int < 140000
        UNION ALL
        SELECT 'the encoding is ' || current_setting('server_encoding') || ': create a database with ENCODING ''UTF8'' and '
            || 'restore a dump of this one into it'
        WHERE current_setting('server_encoding') <> 'UTF8'
        UNION ALL
        SELECT 'no schema of the search_path exists, so there is no place for tables: CREATE SCHEMA public'
        WHERE current_schema() IS NULL
        UNION ALL
        SELECT format('the role %I may not create tables: GRANT CREATE ON SCHEMA %I TO %1$I', current_user, current_schema())
        WHERE NOT has_schema_privilege(current_schema(), 'CREATE')
        UNION ALL
        (SELECT format('there is a %I already, which is not textgen''s: rename it', c.relname)
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = current_schema()
        WHERE c.relname = ANY ($1) ORDER BY c.relname)
        UNION ALL
        SELECT format('the tables of the Python system are in the schema %I, and new ones would be made in %I: '
            || 'ALTER DATABASE %I SET search_path = %1$I', n.nspname, current_schema(), current_database())
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'charges_monthly' AND a.atttypid = 'int4'::regtype
        WHERE $2 AND c.relname = 'users' AND n.nspname <> current_schema()
            AND (n.nspname = ANY (current_schemas(false)) OR n.nspname = 'public')";
    let mut names: Vec<&str> = new_tables(pending).into_iter().collect();
    names.extend(new_indexes(pending));
    names.extend(old.new_table());
    let is_new = pending.first().is_some_and(|first| first.number == 1);
    let mut faults = Vec::new();
    for row in client.query(SQL, &[&names, &is_new])? {
        faults.push(row.try_get(0)?);
    }
    Ok(faults)
}

/// The tables that migrations make, but for those that may be there already.
fn new_tables(pending: &[Pending]) -> BTreeSet<&str> {
    let lines = pending.iter().flat_map(|migration| migration.sql.lines());
    let named = lines.filter_map(|line| line.strip_prefix("CREATE TABLE ")?.split([' ', '(']).next());
    named.filter(|name| *name != "IF").collect()
}

/// The indexes that migrations would not make if there were something else of the name.
fn new_indexes(pending: &[Pending]) -> impl Iterator<Item = &str> {
    let lines = pending.iter().flat_map(|migration| migration.sql.lines());
    lines.filter_map(|line| {
        let (create, name) = line.split_once(" INDEX IF NOT EXISTS ")?;
        if create.starts_with("CREATE") { name.split(' ').next() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::super::history;
    use super::*;

    #[test]
    fn new_tables_are_found() {
        let all = history::all().unwrap();
        let tables = new_tables(&all);
        for name in ["sessions", "api_keys", "usage_events", "usage_events_default", "webhook_deliveries"] {
            assert!(tables.contains(name), "{tables:?}");
        }
        assert!(!tables.contains("users") && !tables.contains("documents"), "{tables:?}");
        let made: usize = all.iter().map(|migration| migration.sql.matches("\nCREATE TABLE ").count()).sum();
        assert!(tables.len() >= made - 2, "{} of {made}", tables.len());
        assert_eq!(new_indexes(&all).collect::<Vec<_>>(), ["users_email_unique", "users_created"]);
    }
}
