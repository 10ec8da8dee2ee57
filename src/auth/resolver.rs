//! From a credential to its caller: looks in the cache, then in the database, with one query for all requests that miss
//! the same credential at the same time.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::cache::Lookup;
use super::credential::{Key, Kind};
use super::epochs::Stamp;
use super::single_flight::{Guard, Joined, NotShared, SingleFlight};
use super::{Cache, Caller, Digest, LastUsed, Validity, Via};
use crate::blocking::{self, Wait};
use crate::db::{self, Database};
use crate::error::{Error, Result};
use crate::store::{api_keys, sessions};

/// How long a request waits for another request's query: the timeouts of a connection and of a statement together.
const SHARED_QUERY_TIMEOUT: Duration = Duration::from_secs(12);

/// How often a credential that could not be looked up again is tried.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Bytes of a credential. Ours are shorter; longer ones are refused without hashing them.
const MAX_CREDENTIAL: usize = 512;

/// Resolves credentials.
pub struct Resolver {
    db: Database,
    cache: Arc<Cache>,
    last_used: Arc<LastUsed>,
    grace: Duration,
    flights: SingleFlight<Key, Shared>,
}

/// What is known now of a credential that was valid.
pub enum Standing {
    /// Nothing of its account has changed, or the database is down.
    Unchanged,
    /// It is valid, and something of its account may have changed.
    Changed(Arc<Caller>),
    /// It is not valid any more.
    Invalid,
}

/// What one query found, for the other requests that wait for it.
#[derive(Clone)]
struct Shared {
    found: std::result::Result<Option<Arc<Caller>>, Failure>,
    stamp: Stamp,
}

#[derive(Clone, Copy)]
enum Failure {
    /// The database is down.
    Outage,
    /// Anything else.
    Fault,
}

impl Resolver {
    /// A resolver that uses stale entries of the cache for up to `grace` while the database is down.
    pub fn new(db: Database, cache: Arc<Cache>, last_used: Arc<LastUsed>, grace: Duration) -> Resolver {
        Resolver { db, cache, last_used, grace, flights: SingleFlight::new() }
    }

    /// The caller with this secret or session token; `None` if it is not valid.
    ///
    /// # Errors
    /// 503 if the database is down and the caller is not cached. An invalid credential is never an error.
    pub fn resolve(&self, kind: Kind, credential: &str) -> Result<Option<Arc<Caller>>> {
        if credential.is_empty() || credential.len() > MAX_CREDENTIAL {
            return Ok(None);
        }
        let (key, now) = ((kind, Digest::of(credential)), Instant::now());
        match self.cache.lookup(&key, now) {
            Lookup::Hit(caller, record) => {
                if record {
                    self.last_used.record(&caller);
                }
                Ok(Some(caller))
            }
            Lookup::Invalid => Ok(None),
            Lookup::Miss => self.load(key),
            Lookup::Stale(caller, loaded) => match self.load(key) {
                Err(e) if is_outage(&e) && now.saturating_duration_since(loaded) < self.grace => Ok(Some(caller)),
                result => result,
            },
        }
    }

    /// What is known now of a credential that was valid. It is looked up again only if something of its account has
    /// changed since; while the database is down, it stays valid.
    pub fn standing(&self, validity: &mut Validity) -> Standing {
        let Some((key, bucket, stamp)) = validity.read else { return Standing::Unchanged };
        let is_current = self.cache.is_bucket_current(bucket, stamp);
        if is_current || validity.failed.is_some_and(|failed| failed.elapsed() < RETRY_INTERVAL) {
            return Standing::Unchanged;
        }
        let found = match self.cache.lookup(&key, Instant::now()) {
            Lookup::Hit(caller, _) => Ok(Some(caller)),
            Lookup::Invalid => Ok(None),
            Lookup::Miss | Lookup::Stale(..) => self.load(key),
        };
        match found {
            Ok(Some(caller)) => {
                *validity = caller.validity.clone();
                Standing::Changed(caller)
            }
            Ok(None) => Standing::Invalid,
            Err(_) => {
                validity.failed = Some(Instant::now());
                Standing::Unchanged
            }
        }
    }

    fn load(&self, key: Key) -> Result<Option<Arc<Caller>>> {
        loop {
            let flight = match self.flights.join(key) {
                Joined::Leader(guard) => return self.run(key, guard),
                Joined::Follower(flight) => flight,
            };
            let shared = blocking::block_in_place(Wait::Database, || flight.wait(SHARED_QUERY_TIMEOUT))??;
            match shared.found {
                // The query began before this request, and the user has changed since: the client may know of that.
                Ok(Some(caller)) if !self.cache.is_current(&caller.user.id, shared.stamp) => {}
                Ok(found) => return Ok(found),
                Err(failure) => return Err(failure.into()),
            }
        }
    }

    /// Queries the database, caches what was found, and shares it.
    fn run(&self, key: Key, guard: Guard<'_, Key, Shared>) -> Result<Option<Arc<Caller>>> {
        let stamp = self.cache.stamp();
        self.cache.counters.misses.fetch_add(1, Ordering::Relaxed);
        let found = self.query(&key, stamp);
        if let Ok(found) = &found {
            let now = Instant::now();
            match found {
                Some(caller) => self.cache.insert(key, caller, stamp, now),
                None => self.cache.insert_invalid(key, now),
            }
        }
        let shared = found.as_ref().map(Clone::clone).map_err(|e| match e.is_outage() {
            true => Failure::Outage,
            false => Failure::Fault,
        });
        guard.complete(Shared { found: shared, stamp });
        if let Ok(Some(caller)) = &found {
            self.last_used.record(caller);
        }
        found.map_err(Error::from)
    }

    fn query(&self, key: &Key, stamp: Stamp) -> std::result::Result<Option<Arc<Caller>>, db::Error> {
        let mut session = self.db.session()?;
        let digest = &key.1.0;
        let caller = match key.0 {
            Kind::Key => api_keys::by_digest(&mut session, digest)?.map(|found| {
                let api_keys::KeyMatch { user, id, expires, budget_id, rate_id, scope } = found;
                let caller = Caller::new(user, Via::Key { id, expires });
                caller.with_limits(budget_id.as_deref(), rate_id.as_deref(), scope)
            }),
            Kind::Session => sessions::by_digest(&mut session, digest)?.map(|found| {
                let sessions::SessionMatch { user, id, created, expires, renewed } = found;
                Caller::new(user, Via::Session { id, created, expires, renewed })
            }),
        };
        Ok(caller.map(|mut caller| {
            caller.validity.read = Some((*key, self.cache.bucket(&caller.user.id), stamp));
            Arc::new(caller)
        }))
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        match failure {
            Failure::Outage => Error::Busy,
            Failure::Fault => Error::Internal("looking up a credential failed for another request".to_owned()),
        }
    }
}

impl From<NotShared> for Error {
    fn from(e: NotShared) -> Error {
        match e {
            NotShared::TimedOut => Error::Busy,
            NotShared::Abandoned => Failure::Fault.into(),
        }
    }
}

fn is_outage(e: &Error) -> bool {
    e.status() == 503
}
