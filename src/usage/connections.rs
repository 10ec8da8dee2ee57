//! A meter's own connections: charges wait for no request that holds one, and no request waits for charges.

use std::time::Duration;

use crate::db::{self, Database, Session};

/// How long the database may take to respond before charges go to the journal. Whether it commits them nevertheless
/// does not matter: the ids prevent charging twice.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The ways to the database for a meter.
pub struct Connections {
    /// One connection whose commits return before they are durable, for a slow disk; a commit of
    /// [`Connections::durable`] that begins later makes them so. No row stays locked while the disk syncs.
    fast: Database,
    /// Four connections: one for charges, one that makes fast commits durable, the others for charges that met a failure
    /// and for the work in the background.
    durable: Database,
}

impl Connections {
    /// To the database of this URL, made in the background. `name` is what the database sees, such as
    /// `textgen-web-charges`.
    ///
    /// # Errors
    /// The URL is not understood.
    pub fn new(url: &str, name: &str) -> Result<Connections, String> {
        // One plan for the one statement, by the indexes: it does not depend on the values, and making one takes as
        // long as following it. Only nested loops change the rows in the order that all writers keep to.
        const PLAN: &str = "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c enable_hashjoin=off \
            -c enable_mergejoin=off";
        let with = |size, options: &str| {
            let mut config = db::config(url, name)?;
            let given = config.get_options().unwrap_or_default().to_owned();
            config.options(&format!("{PLAN} {given} {options}"));
            Ok::<_, String>(Database::new(config, true, size))
        };
        Ok(Connections { fast: with(1, "-c synchronous_commit=off")?, durable: with(4, "")? })
    }

    /// A session on which requests wait.
    pub(super) fn fast(&self) -> Result<Session, db::Error> {
        interactive(&self.fast)
    }

    /// The same on one whose commits are durable.
    pub(super) fn durable(&self) -> Result<Session, db::Error> {
        interactive(&self.durable)
    }

    /// A session for work that nobody waits for.
    pub(super) fn background(&self) -> Result<Session, db::Error> {
        self.durable.session()
    }

    /// The tables are there.
    pub(super) fn open(&self) {
        self.fast.open();
        self.durable.open();
    }

    /// Whether they are.
    pub(super) fn is_open(&self) -> bool {
        self.durable.is_open()
    }
}

fn interactive(db: &Database) -> Result<Session, db::Error> {
    let mut session = db.session()?;
    session.set_timeout(RESPONSE_TIMEOUT);
    Ok(session)
}
