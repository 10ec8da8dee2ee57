//! Which migrations were applied: the table `refinery_schema_history`, as the library refinery keeps it.

use std::fmt;

use postgres::{Client, Transaction};
use refinery::Migration;

use super::super::Error;
use super::MIGRATIONS;
use super::strangers::safely;

/// A migration that was not applied yet.
pub(super) struct Pending {
    pub(super) number: i32,
    pub(super) name: String,
    pub(super) sql: &'static str,
    /// What tells it from another one of the same number.
    checksum: u64,
}

impl Pending {
    /// Whether it is the one with this name and checksum.
    fn is(&self, name: Option<&str>, checksum: Option<&str>) -> bool {
        name == Some(&self.name) && checksum == Some(&self.checksum.to_string())
    }
}

impl fmt::Display for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "migration {} of {} ({})", self.number, MIGRATIONS.len(), self.name)
    }
}

/// The migrations of this version.
pub(super) fn all() -> Result<Vec<Pending>, Error> {
    let read = MIGRATIONS.iter().map(|(name, sql)| {
        let migration = Migration::unapplied(name, sql).map_err(|e| Error::Other(e.to_string()))?;
        let (number, checksum) = (migration.version(), migration.checksum());
        Ok(Pending { number, name: migration.name().to_owned(), sql, checksum })
    });
    read.collect()
}

/// A row: number, name and checksum.
type Applied = (i32, Option<String>, Option<String>);

/// What is there.
struct History {
    schema: String,
    /// In which tables are made.
    place: Option<String>,
    /// In order.
    applied: Vec<Applied>,
}

/// Reads it; `None` if there is none. What the columns are and who made them is not known yet, so nothing is left to the
/// database but to read them.
fn read(client: &mut Client) -> Result<Option<History>, Error> {
    const FIND: &str = "
        SELECT n.nspname::text, c.relkind = 'r', format('%I.%I', n.nspname, c.relname)
        FROM unnest($1::text[]) WITH ORDINALITY s (name, place) JOIN pg_namespace n ON n.nspname = s.name
        JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = 'refinery_schema_history'
        ORDER BY s.place LIMIT 1";
    safely(client, |transaction, schemas| {
        let Some(found) = transaction.query_opt(FIND, &[&schemas])? else { return Ok(None) };
        let table: String = found.try_get(2)?;
        if !found.try_get::<_, bool>(1)? {
            return Err(Error::NotMigratable(format!("{table} is not a table: rename it")));
        }
        let mut applied = Vec::new();
        for row in transaction.query(&format!("SELECT version, name, checksum FROM {table}"), &[])? {
            applied.push((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
        }
        applied.sort();
        Ok(Some(History { schema: found.try_get(0)?, place: schemas.first().cloned(), applied }))
    })
}

/// The migrations that are missing, in order. Changes nothing. A newer version of textgen may have migrated the database:
/// an older one works with its additions.
///
/// # Errors
/// The database is unavailable, or was migrated by something else.
pub(super) fn pending(client: &mut Client) -> Result<Vec<Pending>, Error> {
    let mut pending = all()?;
    let Some(History { schema, place, applied }) = read(client)? else { return Ok(pending) };
    for (number, name, checksum) in &applied {
        let own = pending.iter().find(|own| own.number == *number);
        if let Some(own) = own.filter(|own| !own.is(name.as_deref(), checksum.as_deref())) {
            let name = name.as_deref().unwrap_or_default();
            return Err(Error::NotMigratable(format!(
                "its migration {number} ({name}) is not that of this version ({}): use the version that migrated it, or a later \
                 one",
                own.name
            )));
        }
    }
    pending.retain(|own| applied.iter().all(|(number, ..)| *number != own.number));
    let Some(first) = pending.first() else { return Ok(pending) };
    if let Some((other, name, _)) = applied.iter().find(|(number, ..)| *number > first.number || *number < 1) {
        return Err(Error::NotMigratable(format!(
            "its history has a migration {other} ({}) and lacks {first}: it is another program's, or damaged",
            name.as_deref().unwrap_or_default()
        )));
    }
    if let Some(place) = place.filter(|place| *place != schema && !applied.is_empty()) {
        return Err(Error::NotMigratable(format!(
            "its tables are in the schema {schema}, and new ones would be made in {place}: set the search_path"
        )));
    }
    Ok(pending)
}

/// Notes that a migration was applied.
///
/// # Errors
/// Those of the database.
pub(super) fn record(transaction: &mut Transaction<'_>, migration: &Pending) -> Result<(), postgres::Error> {
    const TABLE: &str = "CREATE TABLE IF NOT EXISTS refinery_schema_history (
        version int4 PRIMARY KEY, name varchar(255), applied_on varchar(255), checksum varchar(255))";
    const SQL: &str = r#"INSERT INTO refinery_schema_history (version, name, applied_on, checksum)
        VALUES ($1, $2, to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), $3)"#;
    if migration.number == 1 {
        transaction.batch_execute(TABLE)?;
    }
    transaction.execute(SQL, &[&migration.number, &migration.name, &migration.checksum.to_string()]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_are_named_as_the_databases_know_them() {
        let all = all().unwrap();
        let names: Vec<_> = [0, 9, 16].map(|n: usize| (all[n].number, all[n].name.as_str())).into();
        assert_eq!(names, [(1, "users"), (10, "retention"), (17, "unit_defaults")]);
        // Databases have them with these, and refuse others.
        assert_eq!((all[0].checksum, all[16].checksum), (13_781_776_727_871_899_443, 13_423_073_254_386_232_516));
    }
}
