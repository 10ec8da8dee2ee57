//! From a credential to its caller: the cache, then one query however many requests miss at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::cache::{Key, Kind, Look, Stamp};
use super::{Cache, Caller, Digest, LastUsed, Via};
use crate::blocking;
use crate::db::{self, Database};
use crate::error::{Error, Result};
use crate::store::{api_keys, sessions};

/// The longest a request waits for another's query: a checkout and a statement at their limits.
const FLIGHT_TIMEOUT: Duration = Duration::from_secs(12);

/// Longer ones are no credentials of ours and are refused unhashed.
const LONGEST_CREDENTIAL: usize = 512;

/// Resolves credentials.
pub struct Resolver {
    db: Database,
    cache: Arc<Cache>,
    last_used: Arc<LastUsed>,
    grace: Duration,
    flights: Mutex<HashMap<Key, Arc<Flight>>>,
}

/// A query under way, and those who wait for it.
#[derive(Default)]
struct Flight {
    landed: Mutex<Option<Landed>>,
    arrival: Condvar,
}

/// What a query found: a caller, nobody, or that the database is away.
#[derive(Clone)]
struct Landed {
    found: std::result::Result<Option<Arc<Caller>>, Outage>,
    stamp: Stamp,
}

#[derive(Clone, Copy)]
enum Outage {
    Unavailable,
    Fault,
}

impl Resolver {
    /// Believes the cache, and stale entries for `grace` while the database is away.
    pub fn new(db: Database, cache: Arc<Cache>, last_used: Arc<LastUsed>, grace: Duration) -> Resolver {
        Resolver { db, cache, last_used, grace, flights: Mutex::new(HashMap::new()) }
    }

    /// The caller this secret or session token stands for; `None` when it is not valid.
    ///
    /// # Errors
    /// The database is away and the caller is not known. Never an error for a credential that is not valid.
    pub fn resolve(&self, kind: Kind, credential: &str) -> Result<Option<Arc<Caller>>> {
        if credential.is_empty() || credential.len() > LONGEST_CREDENTIAL {
            return Ok(None);
        }
        let (key, now) = ((kind, Digest::of(credential)), Instant::now());
        match self.cache.look(&key, now) {
            Look::Hit(caller, record) => {
                if record {
                    self.last_used.record(&caller);
                }
                Ok(Some(caller))
            }
            Look::Unknown => Ok(None),
            Look::Miss => self.load(key),
            Look::Stale(caller, loaded) => match self.load(key) {
                Err(e) if is_outage(&e) && now.saturating_duration_since(loaded) < self.grace => Ok(Some(caller)),
                done => done,
            },
        }
    }

    fn load(&self, key: Key) -> Result<Option<Arc<Caller>>> {
        loop {
            let (flight, mine) = self.board(key);
            if mine {
                return self.fly(key, &flight);
            }
            let landed = blocking::block_in_place(|| flight.wait())?.ok_or(Error::Busy)?;
            match landed.found {
                // Its row was read before a change that this request may already have been told of.
                Ok(Some(caller)) if !self.cache.is_current(&caller.user.id, landed.stamp) => {}
                Ok(found) => return Ok(found),
                Err(outage) => return Err(outage.into()),
            }
        }
    }

    /// Joins the query under way for this key, or begins one: then it is ours to make.
    fn board(&self, key: Key) -> (Arc<Flight>, bool) {
        let mut flights = self.flights.lock();
        if let Some(flight) = flights.get(&key) {
            return (flight.clone(), false);
        }
        let flight = Arc::new(Flight::default());
        flights.insert(key, flight.clone());
        (flight, true)
    }

    fn fly(&self, key: Key, flight: &Flight) -> Result<Option<Arc<Caller>>> {
        let _landing = Landing { resolver: self, key, flight };
        let stamp = self.cache.stamp();
        self.cache.counters.misses.fetch_add(1, Ordering::Relaxed);
        let found = self.query(&key);
        if let Ok(found) = &found {
            let now = Instant::now();
            match found {
                Some(caller) => self.cache.insert(key, caller, stamp, now),
                None => self.cache.insert_unknown(key, now),
            }
        }
        let shared = found.as_ref().map(Clone::clone).map_err(|e| match e.is_outage() {
            true => Outage::Unavailable,
            false => Outage::Fault,
        });
        *flight.landed.lock() = Some(Landed { found: shared, stamp });
        if let Ok(Some(caller)) = &found {
            self.last_used.record(caller);
        }
        found.map_err(Error::from)
    }

    fn query(&self, key: &Key) -> std::result::Result<Option<Arc<Caller>>, db::Error> {
        let mut session = self.db.session()?;
        let digest = &key.1.0;
        let caller = match key.0 {
            Kind::Key => api_keys::by_digest(&mut session, digest)?
                .map(|found| Caller::new(found.user, Via::Key { id: found.id, expires: found.expires })),
            Kind::Session => sessions::by_digest(&mut session, digest)?.map(|found| {
                let sessions::SessionMatch { user, id, created, expires, renewed } = found;
                Caller::new(user, Via::Session { id, created, expires, renewed })
            }),
        };
        Ok(caller.map(Arc::new))
    }
}

impl Flight {
    fn wait(&self) -> Option<Landed> {
        let mut landed = self.landed.lock();
        let end = Instant::now() + FLIGHT_TIMEOUT;
        while landed.is_none() {
            if self.arrival.wait_until(&mut landed, end).timed_out() {
                break;
            }
        }
        landed.clone()
    }
}

/// Takes the flight off the board and wakes who waits, also when the query panicked.
struct Landing<'r> {
    resolver: &'r Resolver,
    key: Key,
    flight: &'r Flight,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        self.resolver.flights.lock().remove(&self.key);
        let mut landed = self.flight.landed.lock();
        if landed.is_none() {
            *landed = Some(Landed { found: Err(Outage::Fault), stamp: self.resolver.cache.stamp() });
        }
        drop(landed);
        self.flight.arrival.notify_all();
    }
}

impl From<Outage> for Error {
    fn from(outage: Outage) -> Error {
        match outage {
            Outage::Unavailable => Error::Busy,
            Outage::Fault => Error::Internal("the look-up of a credential failed for another request".to_owned()),
        }
    }
}

fn is_outage(e: &Error) -> bool {
    e.status() == 503
}
