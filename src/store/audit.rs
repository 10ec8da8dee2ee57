//! Table `audit`: what administrators did to accounts and to the catalogue.

use time::OffsetDateTime;

use super::User;
use super::row::{Record, record};
use crate::db::{Error, Executor};

/// Who performs an action.
#[derive(Clone, Copy, Debug)]
pub struct Actor<'a> {
    /// The administrator's account id; empty for the command line.
    pub id: &'a str,
    /// The administrator's e-mail address, or `command line`.
    pub name: &'a str,
    /// The administrator's IP address; empty for the command line.
    pub address: &'a str,
}

/// Someone who runs `textgen` on the machine.
pub const COMMAND_LINE: Actor<'static> = Actor { id: "", name: "command line", address: "" };

record! {
    /// One action.
    #[derive(Clone, Debug)]
    pub struct Entry {
        /// Ascending id.
        pub id: i64 = "id",
        /// When it happened.
        pub at: OffsetDateTime = "at",
        /// Name of the actor.
        pub actor: String = "actor",
        /// What was done, such as `suspend`.
        pub action: String = "action",
        /// Id of the account it was done to; empty if it was done to something else.
        pub user_id: String = "user_id",
        /// E-mail address of that account at that time, or what else it was done to.
        pub user_email: String = "user_email",
        /// Details, such as the reason.
        pub detail: String = "detail",
    }
}

/// Records an action. To be called in the transaction that performs it.
///
/// # Errors
/// See [`Error`].
pub fn insert(db: &mut impl Executor, actor: Actor<'_>, action: &str, user: &User, detail: &str) -> Result<(), Error> {
    insert_row(db, actor, action, (&user.id, &user.email), detail)
}

/// Records an action on what is no account, such as `model gpt-x`. To be called in the transaction that performs it.
///
/// # Errors
/// See [`Error`].
pub fn insert_for(
    db: &mut impl Executor,
    actor: Actor<'_>,
    action: &str,
    target: &str,
    detail: &str,
) -> Result<(), Error> {
    insert_row(db, actor, action, ("", target), detail)
}

/// Records an action on an account that may be gone.
///
/// # Errors
/// See [`Error`].
pub fn insert_for_deleted(
    db: &mut impl Executor,
    actor: Actor<'_>,
    action: &str,
    user_id: &str,
    user_email: &str,
    detail: &str,
) -> Result<(), Error> {
    insert_row(db, actor, action, (user_id, user_email), detail)
}

fn insert_row(
    db: &mut impl Executor,
    actor: Actor<'_>,
    action: &str,
    (user_id, target): (&str, &str),
    detail: &str,
) -> Result<(), Error> {
    const SQL: &str = "INSERT INTO audit (actor_id, actor, address, action, user_id, user_email, detail) \
        VALUES ($1, $2, $3, $4, $5, $6, $7)";
    let Actor { id, name, address } = actor;
    db.execute(SQL, &[&id, &name, &address, &action, &user_id, &target, &detail]).map(drop)
}

/// Which entries are wanted; all by default.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filter<'a> {
    /// Those about this account.
    pub user_id: Option<&'a str>,
    /// Those of the actor of this name.
    pub actor: Option<&'a str>,
    /// Those with this action.
    pub action: Option<&'a str>,
}

/// A page of entries, newest first: those before the entry `before`.
///
/// # Errors
/// See [`Error`].
pub fn page(db: &mut impl Executor, filter: Filter<'_>, before: Option<i64>, limit: i64) -> Result<Vec<Entry>, Error> {
    // Each reads the index of its first condition.
    const ALL: &str = concat!("SELECT ", columns!(), " FROM audit WHERE id < $1 ORDER BY id DESC LIMIT $2");
    const OF_USER: &str = concat!(
        "SELECT ",
        columns!(),
        " FROM audit WHERE id < $1 AND user_id = $3 AND ($4::text IS NULL OR actor = $4)
            AND ($5::text IS NULL OR action = $5) ORDER BY id DESC LIMIT $2"
    );
    const OF_ACTOR: &str = concat!(
        "SELECT ",
        columns!(),
        " FROM audit WHERE id < $1 AND actor = $3 AND ($4::text IS NULL OR action = $4) ORDER BY id DESC LIMIT $2"
    );
    const OF_ACTION: &str =
        concat!("SELECT ", columns!(), " FROM audit WHERE id < $1 AND action = $3 ORDER BY id DESC LIMIT $2");
    let before = before.unwrap_or(i64::MAX);
    let owned = |text: Option<&str>| text.map(str::to_owned);
    let (actor, action) = (owned(filter.actor), owned(filter.action));
    let rows = match filter {
        Filter { user_id: Some(user_id), .. } => {
            db.query_list(OF_USER, &[&before, &limit, &user_id, &actor, &action])?
        }
        Filter { actor: Some(actor), .. } => db.query_list(OF_ACTOR, &[&before, &limit, &actor, &action])?,
        Filter { action: Some(action), .. } => db.query_list(OF_ACTION, &[&before, &limit, &action])?,
        _ => db.query_list(ALL, &[&before, &limit])?,
    };
    rows.iter().map(Entry::from_row).collect()
}
