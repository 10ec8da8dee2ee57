//! Whose code a migration would run. SQL that names a function or an operator may find one of any role that may create them
//! in a schema of the search path, and runs it with the rights of the role that migrates, which may be a superuser's.

use postgres::{Client, Transaction};

use super::super::Error;

/// Whatever belongs to a role that is neither the one that migrates, nor a superuser, nor, unless the one that migrates is a
/// superuser, one whose rights it has. Members of extensions that superusers made belong to these.
const STRANGERS: &str = "
    WITH me AS (SELECT oid, rolname, rolsuper FROM pg_roles WHERE rolname = current_user),
    trusted AS (SELECT r.oid FROM pg_roles r, me
        WHERE r.oid = me.oid OR r.rolsuper OR r.oid = 10 OR NOT me.rolsuper AND pg_has_role(r.oid, 'USAGE')),
    places AS (SELECT oid, nspname, nspowner FROM pg_namespace WHERE nspname = ANY ($1)),
    code AS (
        SELECT p.proowner AS owner, 'the function ' || p.oid::regprocedure::text AS what
        FROM pg_proc p JOIN places n ON n.oid = p.pronamespace
        UNION ALL
        SELECT o.oprowner, 'the operator ' || o.oid::regoperator::text
        FROM pg_operator o JOIN places n ON n.oid = o.oprnamespace
        UNION ALL
        SELECT p.proowner, format('the trigger %I on %s', t.tgname, t.tgrelid::regclass)
        FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN places n ON n.oid = c.relnamespace
        JOIN pg_proc p ON p.oid = t.tgfoid
        WHERE NOT t.tgisinternal
        UNION ALL
        SELECT c.relowner, 'the table ' || c.oid::regclass::text
        FROM pg_class c JOIN places n ON n.oid = c.relnamespace, me
        WHERE me.rolsuper AND c.relname IN ('users', 'documents', 'refinery_schema_history')
        UNION ALL
        SELECT n.nspowner, format('the schema %I', n.nspname) FROM places n, me, pg_database d
        WHERE me.rolsuper AND d.datname = current_database() AND n.nspowner <> d.datdba
            AND n.nspowner <> coalesce((SELECT oid FROM pg_roles WHERE rolname = 'pg_database_owner'), 0))
    SELECT format('the role %I could have its code run with the rights of %I, as these belong to it: %s%s: migrate as their '
            || 'owner, or drop them or change their owner',
        pg_get_userbyid(code.owner), me.rolname, array_to_string((array_agg(code.what ORDER BY code.what))[1:5], ', '),
        CASE WHEN count(*) > 5 THEN format(', and %s others', count(*) - 5) END)
    FROM code, me WHERE code.owner NOT IN (SELECT oid FROM trusted)
    GROUP BY code.owner, me.rolname ORDER BY 1";

/// Looks for what is not trusted. Comes before all statements that name functions or operators without their schema.
///
/// # Errors
/// [`Error::NotMigratable`] with what was found; the database is unavailable.
pub(super) fn check(client: &mut Client) -> Result<(), Error> {
    let rows = safely(client, |transaction, schemas| Ok(transaction.query(STRANGERS, &[&schemas])?))?;
    let mut found = Vec::new();
    for row in rows {
        found.push(row.try_get::<_, String>(0)?);
    }
    if found.is_empty() { Ok(()) } else { Err(Error::NotMigratable(found.join("; "))) }
}

/// Reads something while names mean only what PostgreSQL itself calls so, and whatever is not has its schema. Gives the schemas
/// of the search path; new tables are made in the first of them.
///
/// # Errors
/// Those of the work; the database is unavailable.
pub(super) fn safely<T>(
    client: &mut Client,
    work: impl FnOnce(&mut Transaction<'_>, &[String]) -> Result<T, Error>,
) -> Result<T, Error> {
    let mut transaction = client.transaction()?;
    let schemas = transaction.query_one("SELECT pg_catalog.current_schemas(false)::pg_catalog.text[]", &[])?;
    let schemas: Vec<String> = schemas.try_get(0)?;
    transaction.batch_execute("SET LOCAL search_path = pg_catalog")?;
    let outcome = work(&mut transaction, &schemas)?;
    transaction.rollback()?;
    Ok(outcome)
}
