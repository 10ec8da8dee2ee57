//! The tables of the Python system that textgen goes on with: `users` and `documents`. They were made by SQLAlchemy or by
//! Alembic, in several forms, and are brought into one shape before the first migration (`sql/old_system`).

use std::collections::HashMap;

use postgres::Client;

use super::super::Error;
use super::history::Pending;

/// The last migration that such a database may lack: an earlier release of textgen could stop before it.
pub(super) const LAST_MIGRATION: i32 = 2;

const BEGIN: &str = include_str!("../../../sql/old_system/begin.sql");
const USERS: &str = include_str!("../../../sql/old_system/users.sql");
const DOCUMENTS: &str = include_str!("../../../sql/old_system/documents.sql");
const END: &str = include_str!("../../../sql/old_system/end.sql");

/// Where documents are put whose account does not exist.
const ORPHANS: &str = "orphaned_documents";

const TEXT: &[&str] = &["varchar", "text"];
const TIME: &[&str] = &["timestamp", "timestamptz"];
const YES_OR_NO: &[&str] = &["bool"];
const INTEGER: &[&str] = &["int4"];
const TEXT_OR_NUMBER: &[&str] = &["varchar", "text", "int4", "int8"];

/// The columns that a table must have, and the types that they may have.
const COLUMNS: [(&str, &str, &[&str]); 22] = [
    ("users", "id", TEXT),
    ("users", "email", TEXT),
    ("users", "password_hash", TEXT),
    ("users", "created", TIME),
    ("users", "updated", TIME),
    ("users", "name", TEXT),
    ("users", "profile_url", TEXT),
    ("users", "photo_url", TEXT),
    ("users", "is_subscribed", YES_OR_NO),
    ("users", "stripe_id", TEXT),
    ("users", "secret", TEXT),
    ("users", "free_credits", INTEGER),
    // What bigint counted, nobody knows: textgen's counts micro-dollars.
    ("users", "charges_monthly", INTEGER),
    ("users", "num_self_hosted_instances", INTEGER),
    ("users", "cookie_user", INTEGER),
    ("users", "access_token", TEXT),
    ("documents", "id", TEXT_OR_NUMBER),
    ("documents", "title", TEXT),
    ("documents", "content", TEXT),
    ("documents", "user_id", TEXT),
    ("documents", "created", TIME),
    ("documents", "updated", TIME),
];

/// A column that only later forms have.
const IS_PUBLIC: (&str, &str) = ("documents", "is_public");

/// Those that are still to be brought into shape.
pub(super) struct OldTables {
    users: bool,
    documents: bool,
    /// Whether accounts are there, in whichever shape.
    has_users: bool,
}

impl OldTables {
    /// Looks for them.
    ///
    /// # Errors
    /// The database is unavailable.
    pub(super) fn find(client: &mut Client, pending: &[Pending]) -> Result<OldTables, Error> {
        const SQL: &str = "SELECT count(*) FILTER (WHERE relname = 'users') > 0,
            count(*) FILTER (WHERE relname = 'documents') > 0
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = current_schema()";
        let row = client.query_one(SQL, &[])?;
        let lacks = |number: i32| pending.iter().any(|migration| migration.number == number);
        let has_users = row.try_get(0)?;
        let documents: bool = row.try_get(1)?;
        Ok(OldTables { users: has_users && lacks(1), documents: documents && lacks(2), has_users })
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        !self.users && !self.documents
    }

    /// What is done with them, by its name.
    pub(super) fn steps(&self) -> Vec<(&'static str, &'static str)> {
        let mut steps = Vec::new();
        if !self.is_empty() {
            steps.push(("preparing to take over the old tables", BEGIN));
            if self.users {
                steps.push(("taking over users", USERS));
            }
            if self.documents {
                steps.push(("taking over documents", DOCUMENTS));
            }
            steps.push(("tidying up after the old tables", END));
        }
        steps
    }

    /// A table that this may create.
    pub(super) fn new_table(&self) -> Option<&'static str> {
        self.documents.then_some(ORPHANS)
    }

    fn names(&self) -> Vec<&'static str> {
        [("users", self.users), ("documents", self.documents)]
            .iter()
            .filter(|(_, is)| *is)
            .map(|(name, _)| *name)
            .collect()
    }

    /// What would have it fail, and what to do about it. Changes nothing.
    ///
    /// # Errors
    /// The database is unavailable.
    pub(super) fn faults(&self, client: &mut Client) -> Result<Vec<String>, Error> {
        let names = self.names();
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let mut faults = Vec::new();
        if !self.has_users {
            faults.push("there is a table documents and none of users: rename it, or restore the accounts".to_owned());
        }
        let types = types(client, &names)?;
        faults.extend(
            COLUMNS.iter().filter(|(table, ..)| names.contains(table)).filter_map(|column| fault(&types, column)),
        );
        if types.contains_key(&owned(IS_PUBLIC)) {
            faults.extend(fault(&types, &(IS_PUBLIC.0, IS_PUBLIC.1, YES_OR_NO)));
        }
        for row in client.query(FAULTS, &[&names])? {
            faults.push(row.try_get(0)?);
        }
        if faults.is_empty() && self.users {
            for row in client.query(NO_ADDRESS, &[])? {
                faults.push(row.try_get(0)?);
            }
        }
        if faults.is_empty() {
            for row in client.query(&odd_times(&names), &[])? {
                faults.push(row.try_get(0)?);
            }
        }
        Ok(faults)
    }

    /// What the operator should know before it begins.
    ///
    /// # Errors
    /// The database is unavailable.
    pub(super) fn warnings(&self, client: &mut Client) -> Result<Vec<String>, Error> {
        const SQL: &str = "SELECT format('other programs are connected to the database: %s. The old system must be stopped',
                string_agg(of_name.name || ' (' || of_name.number || ')', ', ' ORDER BY of_name.name))
            FROM (SELECT coalesce(nullif(application_name, ''), 'unnamed') AS name, count(*) AS number FROM pg_stat_activity
                WHERE datname = current_database() AND backend_type = 'client backend' AND application_name NOT LIKE 'textgen%'
                GROUP BY 1) of_name
            HAVING count(*) > 0";
        if self.is_empty() {
            return Ok(Vec::new());
        }
        let rows = client.query(SQL, &[])?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }
}

type Types = HashMap<(String, String), String>;

fn owned((table, column): (&str, &str)) -> (String, String) {
    (table.to_owned(), column.to_owned())
}

/// The type of each column of these tables.
fn types(client: &mut Client, tables: &[&str]) -> Result<Types, Error> {
    const SQL: &str = "SELECT c.relname::text, a.attname::text, t.typname::text
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = current_schema()
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        JOIN pg_type t ON t.oid = a.atttypid
        WHERE c.relname = ANY ($1)";
    let mut types = Types::new();
    for row in client.query(SQL, &[&tables])? {
        types.insert((row.try_get(0)?, row.try_get(1)?), row.try_get(2)?);
    }
    Ok(types)
}

fn fault(types: &Types, (table, column, allowed): &(&str, &str, &[&str])) -> Option<String> {
    match types.get(&owned((table, column))) {
        None => {
            Some(format!("{table} has no column {column}: it is not the Python system's; rename it, or add the column"))
        }
        Some(found) if !allowed.contains(&found.as_str()) => {
            Some(format!("{table}.{column} has the type {found}: change it to {}", allowed.join(" or ")))
        }
        Some(_) => None,
    }
}

/// What stands in the way of altering the tables.
const FAULTS: &str = "
    WITH old AS (SELECT c.oid, c.relname, c.relkind, c.relowner, c.relrowsecurity
                 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = current_schema()
                 WHERE c.relname = ANY ($1)),
    referring AS (SELECT r.conrelid, r.confrelid, r.conname, o.relname FROM pg_constraint r JOIN old o ON o.oid = r.confrelid
                  WHERE r.contype = 'f')
    SELECT format('%I is not an ordinary table: make it one', relname) FROM old WHERE relkind <> 'r'
    UNION ALL
    SELECT format('%I has row-level security: ALTER TABLE %1$I DISABLE ROW LEVEL SECURITY', relname)
    FROM old WHERE relrowsecurity
    UNION ALL
    SELECT format('%s would run while rows are changed: drop it now, and create it again afterwards',
        pg_describe_object('pg_trigger'::regclass, t.oid, 0))
    FROM old o JOIN pg_trigger t ON t.tgrelid = o.oid WHERE NOT t.tgisinternal
    UNION ALL
    SELECT format('%s would run while rows are changed: drop it now, and create it again afterwards',
        pg_describe_object('pg_rewrite'::regclass, r.oid, 0))
    FROM old o JOIN pg_rewrite r ON r.ev_class = o.oid WHERE o.relkind = 'r'
    UNION ALL
    SELECT format('documents has a column %I already, which is not textgen''s: rename it', a.attname)
    FROM old o JOIN pg_attribute a ON a.attrelid = o.oid AND a.attname = 'version' AND NOT a.attisdropped
    WHERE o.relname = 'documents'
    UNION ALL
    SELECT format('%I.id is not unique: ALTER TABLE %1$I ADD PRIMARY KEY (id)', o.relname) FROM old o
    WHERE o.relkind = 'r' AND NOT EXISTS (
        SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = o.oid AND a.attname = 'id'
        WHERE i.indrelid = o.oid AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL
            AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum)
    UNION ALL
    SELECT format('the role %I does not own the table %I: ALTER TABLE %2$I OWNER TO %1$I, or migrate as its owner',
        current_user, relname)
    FROM old WHERE NOT pg_has_role(relowner, 'USAGE')
    UNION ALL
    SELECT DISTINCT format('the role %I does not own the table %s, which refers to %I: migrate as the owner of both',
        current_user, r.conrelid::regclass, r.relname)
    FROM referring r JOIN pg_class c ON c.oid = r.conrelid
    JOIN pg_roles owner ON owner.oid = c.relowner JOIN pg_roles me ON me.rolname = current_user
    WHERE c.oid NOT IN (SELECT oid FROM old) AND owner.oid <> me.oid AND NOT owner.rolsuper
        AND (me.rolsuper OR NOT pg_has_role(owner.oid, 'USAGE'))
    UNION ALL
    SELECT format('%s refers to documents by their numbers, which change: drop its constraint %I', r.conrelid::regclass,
        r.conname)
    FROM referring r JOIN pg_attribute a ON a.attrelid = r.confrelid AND a.attname = 'id'
    WHERE r.relname = 'documents' AND a.atttypid IN ('int4'::regtype, 'int8'::regtype)
    UNION ALL
    SELECT format('%s depends on %s, which change: drop it now, and create it again afterwards',
        replace(pg_describe_object(d.classid, d.objid, 0), 'rule _RETURN on ', ''),
        string_agg(DISTINCT format('%I.%I', o.relname, a.attname), ', '))
    FROM pg_depend d JOIN old o ON o.oid = d.refobjid
    JOIN pg_attribute a ON a.attrelid = o.oid AND a.attnum = d.refobjsubid
    WHERE d.refclassid = 'pg_class'::regclass
        AND d.classid IN ('pg_rewrite'::regclass, 'pg_policy'::regclass)
        AND (a.attname IN ('email', 'created', 'updated', 'is_subscribed', 'secret', 'free_credits', 'charges_monthly',
                'num_self_hosted_instances', 'title', 'is_public')
            OR o.relname = 'documents' AND a.attname = 'id')
    GROUP BY d.classid, d.objid";

/// The query for times that textgen cannot read.
fn odd_times(tables: &[&str]) -> String {
    let of = |table: &&str| {
        format!(
            "SELECT format('%s rows of {table} have a time of infinity or outside of the years 1 to 9999, such as that with '
                || 'the id %L: set created and updated', count(*), min(id))
            FROM {table} WHERE created NOT BETWEEN '0001-01-02' AND '9999-12-30'
                OR updated NOT BETWEEN '0001-01-02' AND '9999-12-30' HAVING count(*) > 0"
        )
    };
    tables.iter().map(of).collect::<Vec<_>>().join(" UNION ALL ")
}

/// Accounts without an address, which could never be named.
const NO_ADDRESS: &str = "
    SELECT format('%s accounts have no address, such as that with the id %L: set users.email, or delete them',
        count(*), min(id))
    FROM users WHERE email IS NULL HAVING count(*) > 0";
