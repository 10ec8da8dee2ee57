//! The meter's own connections, so that charges and requests do not wait for each other's connections.

use std::time::Duration;

use crate::db::{self, ConnectConfig, Database, Session};

/// How long the database may take to respond before charges go to the journal. Whether it commits them nevertheless
/// does not matter: the ids prevent charging twice.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The database connections of a meter.
pub struct Connections {
    /// One connection with asynchronous commit, for slow disks, so that no row stays locked while the disk syncs. A
    /// later commit on [`Connections::durable`] makes its commits durable.
    fast: Database,
    /// Four connections: one for charges, new or retried, one to make asynchronous commits durable, one for
    /// maintenance, and one to ask for leases.
    durable: Database,
    /// For claims to keys, and their ends, of which many may come at once.
    claims: Database,
}

impl Connections {
    /// Connects to the database at this URL, in the background. `name` is the `application_name`, such as
    /// `textgen-web-charges`.
    ///
    /// # Errors
    /// The URL is invalid.
    pub fn new(url: &str, name: &str) -> Result<Connections, String> {
        // Planning takes as long as executing, and the best plan does not depend on the values, so a generic plan is
        // forced. Only nested loops update rows in the order on which all writers have agreed.
        const PLAN: &str = "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c enable_hashjoin=off \
            -c enable_mergejoin=off";
        let with = |size, options: &str| {
            let mut config = ConnectConfig::new(url, name)?;
            let given = config.driver().get_options().unwrap_or_default().to_owned();
            config.set_options(&format!("{PLAN} {given} {options}"));
            Ok::<_, String>(Database::new(config, true, size))
        };
        Ok(Connections {
            fast: with(1, "-c synchronous_commit=off")?,
            durable: with(4, "")?,
            claims: with(3, "-c synchronous_commit=off")?,
        })
    }

    /// A session for charges that requests are waiting for, with asynchronous commits.
    pub(super) fn fast(&self) -> Result<Session, db::Error> {
        interactive(&self.fast)
    }

    /// Like [`Connections::fast`], with durable commits.
    pub(super) fn durable(&self) -> Result<Session, db::Error> {
        interactive(&self.durable)
    }

    /// A session for work that no request is waiting for.
    pub(super) fn background(&self) -> Result<Session, db::Error> {
        self.durable.session()
    }

    /// The pool whose connection leases are asked for on.
    pub(super) fn for_limits(&self) -> Database {
        self.durable.clone()
    }

    /// The pool whose connections keys are claimed on. Claims are not durable.
    pub fn for_claims(&self) -> Database {
        self.claims.clone()
    }

    /// Notes that the tables exist.
    pub(super) fn open(&self) {
        self.fast.open();
        self.durable.open();
        self.claims.open();
    }

    /// Whether the tables exist.
    pub(super) fn is_open(&self) -> bool {
        self.durable.is_open()
    }
}

fn interactive(db: &Database) -> Result<Session, db::Error> {
    let mut session = db.session()?;
    session.set_timeout(RESPONSE_TIMEOUT);
    Ok(session)
}
