//! The models that clients may call now: those of the stored catalogue or, while that is empty, those of the servers in
//! the settings.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};

use crate::blocking::{Wait, block_in_place};
use crate::config::Config;
use crate::engine::{self, ListedModel, Protocol, Provider, Timeouts};
use crate::error::{Error, Result};
use crate::store::catalogue::CatalogueRows;

use super::availability::{Availability, ServerCounts};
use super::lists::Lists;
use super::resolved::ResolvedModel;
use super::seal::Sealer;
use super::servers::{self, Found, Listing, Purpose, Servers, Table, described};
use super::snapshot::{Snapshot, SnapshotContext, Unresolved};

/// How long a request waits for servers that have not listed their models yet: most do so in a moment, and the others
/// must not hold it up.
const WAIT_FOR_LISTS: Duration = Duration::from_secs(1);

/// The models, as one process knows them.
pub struct Models {
    servers: [Servers; Purpose::ALL.len()],
    timeouts: Timeouts,
    ca_file: Option<PathBuf>,
    sealer: Option<Sealer>,
    /// What requests look at. `None` until the stored catalogue was read for the first time.
    current: RwLock<Option<Arc<Current>>>,
    /// What the next one is made from.
    state: Mutex<State>,
    /// The state has changed.
    has_changed: Condvar,
}

#[derive(Default)]
struct State {
    /// `None` until it was read for the first time.
    stored: Option<Arc<Snapshot>>,
    lists: Lists,
    tables: [Arc<Table>; Purpose::ALL.len()],
}

/// The models at one time.
struct Current {
    stored: Arc<Snapshot>,
    /// What the settings say, by purpose.
    tables: [Arc<Table>; Purpose::ALL.len()],
}

/// A server that is to be asked for its list of models.
pub(super) struct DueList {
    purpose: Purpose,
    index: usize,
    pub(super) provider: Arc<Provider>,
}

impl Current {
    /// Whether no model is known, as servers have not answered.
    fn is_unanswered(&self) -> bool {
        self.stored.is_empty()
            && self.tables.iter().all(|table| table.listed.is_empty())
            && self.tables.iter().any(|table| table.is_incomplete)
    }
}

impl Models {
    /// With the servers of these settings, none of which is contacted yet, and without the stored catalogue.
    ///
    /// # Errors
    /// What is wrong with a setting, for the operator.
    pub fn new(config: &Config) -> std::result::Result<Arc<Models>, String> {
        let [text, embeddings, transcription, speech, images, rerank, moderations] =
            Purpose::ALL.map(|purpose| Servers::new(config, purpose));
        let servers = [text?, embeddings?, transcription?, speech?, images?, rerank?, moderations?];
        let sealer = config.encryption_key.as_ref().map(|key| Sealer::new(Some(key))).transpose()?;
        let lists = Lists::new(servers.each_ref().map(|servers| servers.providers.len()));
        let models = Models {
            servers,
            timeouts: servers::timeouts(config),
            ca_file: config.upstream_ca_file.clone(),
            sealer,
            current: RwLock::new(None),
            state: Mutex::new(State { lists, ..State::default() }),
            has_changed: Condvar::new(),
        };
        models.update(|state| Purpose::ALL.into_iter().for_each(|purpose| models.rebuild(state, purpose)));
        Ok(Arc::new(models))
    }

    /// Checks that there can be a model for this purpose.
    ///
    /// # Errors
    /// 503 until the stored catalogue was read, or where it is empty and no server is configured.
    pub fn check(&self, purpose: Purpose) -> Result<()> {
        let current = self.current.read();
        let current = current.as_ref().ok_or(Error::Busy)?;
        let servers = &self.servers[purpose as usize];
        match current.stored.is_empty() && servers.providers.is_empty() {
            true => Err(Error::NotConfigured(servers.variable)),
            false => Ok(()),
        }
    }

    /// The model that a request means: the one of exactly this name; without a name, the default model of the settings,
    /// else the first one, of those whose names are allowed. Reads memory only, unless a server of the settings was not
    /// asked for its list of models yet: then it waits for a second.
    ///
    /// # Errors
    /// 404 for an unknown name; those of [`Models::check`]; 503 where the model's providers cannot be called, or a
    /// server that may have the model was not asked yet; 502 where one has not answered.
    pub fn resolve(
        &self,
        purpose: Purpose,
        name: Option<&str>,
        is_allowed: &dyn Fn(&str) -> bool,
    ) -> Result<ResolvedModel> {
        self.resolve_to(purpose, &[purpose.protocol()], name, is_allowed)
    }

    /// The same, for a request that can be sent in several protocols: the model has routes for one of them, and is asked
    /// in the first for which it has some.
    ///
    /// # Errors
    /// As there.
    pub fn resolve_to(
        &self,
        purpose: Purpose,
        protocols: &[Protocol],
        name: Option<&str>,
        is_allowed: &dyn Fn(&str) -> bool,
    ) -> Result<ResolvedModel> {
        let mut found = self.find(purpose, protocols, name, is_allowed)?;
        if matches!(found, Found::Pending) {
            block_in_place(Wait::Database, || self.wait_for_lists(&[purpose]))?;
            found = self.find(purpose, protocols, name, is_allowed)?;
        }
        match found {
            Found::Model(model) => {
                let requested = name.filter(|name| *name != model.name).map(Arc::from);
                let protocol = model.first_usable(protocols).unwrap_or(purpose.protocol());
                Ok(ResolvedModel { model, protocol, requested })
            }
            Found::Pending => Err(Error::Busy),
            Found::Unreachable => Err(Error::Upstream(502, engine::UNREACHABLE)),
            Found::Nothing => Err(Error::ModelNotFound(name.map(str::to_owned))),
        }
    }

    fn find(
        &self,
        purpose: Purpose,
        protocols: &[Protocol],
        name: Option<&str>,
        is_allowed: &dyn Fn(&str) -> bool,
    ) -> Result<Found> {
        let current = self.current.read();
        let current = current.as_ref().ok_or(Error::Busy)?;
        let servers = &self.servers[purpose as usize];
        if current.stored.is_empty() {
            return match servers.providers.is_empty() {
                true => Err(Error::NotConfigured(servers.variable)),
                false => Ok(match name {
                    Some(name) => current.tables[purpose as usize].named(name),
                    None => current.tables[purpose as usize].first(is_allowed),
                }),
            };
        }
        let resolve = |name: &str| current.stored.resolve(protocols, name);
        let resolved = if let Some(name) = name {
            resolve(name)
        } else {
            let default = servers.default_model.as_deref().map(resolve);
            match default.filter(|default| default.is_ok_and(|model| is_allowed(&model.name))) {
                Some(default) => default,
                None => current.stored.first(protocols, is_allowed),
            }
        };
        match resolved {
            Ok(model) => Ok(Found::Model(Arc::clone(model))),
            Err(Unresolved::Unknown) => Ok(Found::Nothing),
            Err(Unresolved::Unavailable) => Err(Error::Busy),
        }
    }

    /// Whether there is a model of exactly this name. Where servers take every name, only those that are known count.
    ///
    /// # Errors
    /// Those of [`Models::check`].
    pub fn has(&self, purpose: Purpose, name: &str) -> Result<bool> {
        let has = |current: &Current| match current.stored.is_empty() {
            true => current.tables[purpose as usize].has(name),
            false => current.stored.named(name).is_some_and(|model| model.has(purpose.protocol())),
        };
        Ok(has(&*self.current()?) || self.ask(&[purpose], has)?)
    }

    /// [`Models::has`], or no server lists its models and one takes every name.
    ///
    /// # Errors
    /// Those of [`Models::check`].
    pub fn takes(&self, purpose: Purpose, name: &str) -> Result<bool> {
        let takes_all = |current: &Current| current.stored.is_empty() && current.tables[purpose as usize].takes_all();
        Ok(self.has(purpose, name)? || takes_all(&*self.current()?))
    }

    /// The names of the models for a purpose, the default one first where no catalogue is stored.
    ///
    /// # Errors
    /// Those of [`Models::check`].
    pub fn names(&self, purpose: Purpose) -> Result<Vec<String>> {
        self.check(purpose)?;
        self.ask(&[purpose], |current| {
            if current.stored.is_empty() {
                return current.tables[purpose as usize].names();
            }
            let models = current.stored.models().iter().filter(|model| model.has(purpose.protocol()));
            models.map(|model| model.name.clone()).collect()
        })
    }

    /// What can be said of the models for a purpose at once, for the operator.
    pub fn availability(&self, purpose: Purpose) -> Availability {
        let Ok(current) = self.current() else { return Availability::Unknown };
        if !current.stored.is_empty() {
            let models = current.stored.models().iter().filter(|model| model.has(purpose.protocol()));
            return Availability::Catalogue { models: models.count() };
        }
        let servers = &self.servers[purpose as usize];
        if servers.providers.is_empty() {
            return Availability::NotConfigured;
        }
        let state = self.state.lock();
        let mut found = ServerCounts { models: state.tables[purpose as usize].listed.len(), ..ServerCounts::default() };
        for (index, listing) in state.lists.of(purpose).iter().enumerate() {
            let name = &servers.providers[index].spec().name;
            match (listing, state.lists.problem(purpose, index)) {
                (Listing::Pending, _) => found.pending += 1,
                (_, Some(problem)) => found.problems.push((name.clone(), problem)),
                (Listing::Missing, None) => found.without_list += 1,
                (_, None) => {}
            }
        }
        Availability::Servers(found)
    }

    /// Shows each provider with its name, or why it is not used: those of the stored catalogue or, while that is empty, the
    /// servers of the settings, of which one may serve several purposes.
    pub(super) fn each_provider(&self, mut each: impl FnMut(&str, std::result::Result<&Arc<Provider>, &str>)) {
        match self.current() {
            Ok(current) if !current.stored.is_empty() => {
                current.stored.providers().for_each(|(name, provider)| each(name, provider));
            }
            _ => self.servers.iter().flat_map(|servers| &servers.providers).for_each(|provider| {
                each(&provider.spec().name, Ok(provider));
            }),
        }
    }

    /// What keeps this process from calling a provider of the stored catalogue now, if anything does; for the operator.
    pub fn problem_of(&self, provider: &str) -> Option<String> {
        match self.current() {
            Ok(current) => current.stored.problem_of(provider),
            Err(_) => Some("the catalogue could not be read yet".to_owned()),
        }
    }

    /// All models that can be called, as OpenAI's API lists them. Of servers that do not answer, those that they last
    /// listed.
    ///
    /// # Errors
    /// 503 until the stored catalogue was read, or where it is empty and no server is configured; 502 where no server
    /// has answered so far.
    pub fn list(&self) -> Result<Vec<ListedModel>> {
        self.check_any()?;
        let (listed, is_unanswered) = self.ask(&Purpose::ALL, |current| {
            if !current.stored.is_empty() {
                let models = current.stored.models().iter();
                return (models.map(|model| described(&model.name)).collect::<Vec<_>>(), false);
            }
            let mut seen = std::collections::HashSet::new();
            let listed = current.tables.iter().flat_map(|table| &table.listed);
            let listed = listed.filter(|model| seen.insert(&model.id)).cloned().collect();
            (listed, current.is_unanswered())
        })?;
        if is_unanswered { Err(Error::Upstream(502, engine::UNREACHABLE)) } else { Ok(listed) }
    }

    /// One entry of [`Models::list`]: that of the model with this name or alias.
    ///
    /// # Errors
    /// 404 if there is none; those of [`Models::list`].
    pub fn describe(&self, name: &str) -> Result<ListedModel> {
        let find = |current: &Current| {
            if !current.stored.is_empty() {
                return current.stored.named(name).map(|model| described(&model.name));
            }
            let mut listed = current.tables.iter().flat_map(|table| &table.listed);
            listed.find(|model| model.id == name).cloned()
        };
        if let Some(entry) = find(&*self.current()?) {
            return Ok(entry);
        }
        self.check_any()?;
        match self.ask(&Purpose::ALL, |current| (find(current), current.is_unanswered()))? {
            (Some(entry), _) => Ok(entry),
            (None, true) => Err(Error::Upstream(502, engine::UNREACHABLE)),
            (None, false) => Err(Error::ModelNotFound(Some(name.to_owned()))),
        }
    }

    /// Checks that there can be a model for any purpose.
    fn check_any(&self) -> Result<()> {
        match Purpose::ALL.into_iter().any(|purpose| self.check(purpose).is_ok()) {
            true => Ok(()),
            false => self.check(Purpose::Text),
        }
    }

    /// Looks at the models, once the lists of these purposes were asked for.
    fn ask<T>(&self, purposes: &[Purpose], look: impl FnOnce(&Current) -> T) -> Result<T> {
        let mut current = self.current()?;
        let mut tables = purposes.iter().map(|purpose| &current.tables[*purpose as usize]);
        if current.stored.is_empty() && tables.any(|table| table.is_pending) {
            block_in_place(Wait::Database, || self.wait_for_lists(purposes))?;
            current = self.current()?;
        }
        Ok(look(&current))
    }

    fn current(&self) -> Result<Arc<Current>> {
        self.current.read().clone().ok_or(Error::Busy)
    }

    /// Waits until every server for these purposes was asked for its list, which is so a moment after the start.
    fn wait_for_lists(&self, purposes: &[Purpose]) {
        let until = Instant::now() + WAIT_FOR_LISTS;
        let mut state = self.state.lock();
        while purposes.iter().any(|purpose| state.tables[*purpose as usize].is_pending) {
            if self.has_changed.wait_until(&mut state, until).timed_out() {
                return;
            }
        }
    }

    /// Whether the stored catalogue was read; before, no model can be called.
    pub fn is_known(&self) -> bool {
        self.current.read().is_some()
    }

    /// Takes a catalogue that was read in the place of the current one. Returns what is wrong with its providers, for
    /// the log.
    pub(super) fn set_stored(&self, rows: &CatalogueRows) -> Vec<String> {
        let context = SnapshotContext {
            timeouts: self.timeouts,
            ca_file: self.ca_file.clone(),
            variable: &|name| std::env::var(name).ok(),
            sealer: self.sealer.as_ref(),
        };
        let previous = self.state.lock().stored.clone().unwrap_or_default();
        let (snapshot, faults) = Snapshot::new(rows, &previous, &context);
        self.update(|state| state.stored = Some(Arc::new(snapshot)));
        faults
    }

    /// The servers of the settings that are to be asked for their lists now: none while there is a stored catalogue.
    /// Waits for the first for this time at most.
    pub(super) fn wait_for_due_lists(&self, time: Duration) -> Vec<DueList> {
        let until = Instant::now() + time;
        let mut state = self.state.lock();
        loop {
            let is_used = state.stored.as_ref().is_some_and(|stored| stored.is_empty());
            let due = if is_used { state.lists.due(Instant::now()) } else { Vec::new() };
            if !due.is_empty() || Instant::now() >= until {
                let list = |(purpose, index): (Purpose, usize)| {
                    let provider = Arc::clone(&self.servers[purpose as usize].providers[index]);
                    DueList { purpose, index, provider }
                };
                return due.into_iter().map(list).collect();
            }
            self.has_changed.wait_until(&mut state, until);
        }
    }

    /// Takes a server's answer to the question for its list.
    pub(super) fn listed(&self, list: &DueList, answer: &Result<Option<Vec<ListedModel>>>) {
        let mut recorded = None;
        self.update(|state| {
            let now = recorded.insert(state.lists.record(list.purpose, list.index, answer, Instant::now()));
            if now.has_changed {
                self.rebuild(state, list.purpose);
            }
        });
        let name = &list.provider.spec().name;
        match answer {
            _ if !recorded.is_some_and(|recorded| recorded.is_turn) => {}
            Ok(Some(_)) => log::info!("provider {name} lists its models again"),
            Ok(None) => log::warn!("provider {name} no longer lists its models; using its last list"),
            Err(e) => log::warn!("provider {name} does not list its models; using its last list, if any: {e}"),
        }
    }

    /// Makes the models of the servers for a purpose anew, from what is known of their lists.
    fn rebuild(&self, state: &mut State, purpose: Purpose) {
        let table = self.servers[purpose as usize].table(state.lists.of(purpose));
        state.tables[purpose as usize] = Arc::new(table);
    }

    /// Changes the state, and shows it to requests.
    fn update(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        change(&mut state);
        if let Some(stored) = &state.stored {
            let current = Current { stored: Arc::clone(stored), tables: state.tables.clone() };
            let previous = self.current.write().replace(Arc::new(current));
            drop(state);
            // Not while requests wait for the lock: it may be the last user of many connections.
            drop(previous);
        }
        self.has_changed.notify_all();
    }
}
