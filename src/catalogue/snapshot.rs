//! The catalogue in memory: which model a name means, and the routes to it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::{Hidden, Protocol, Protocols, Provider, ProviderSpec, Route, Routes, Timeouts};
use crate::store::catalogue::{CatalogueRows, ModelRow, ProviderRow, StoredKey};

use super::seal::Sealer;

/// The defaults of providers, and where their secrets are read from.
pub struct SnapshotContext<'a> {
    /// Its time-outs.
    pub timeouts: Timeouts,
    /// The certificates that its own is checked against.
    pub ca_file: Option<PathBuf>,
    /// A variable of the environment.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// Opens sealed keys.
    pub sealer: Option<&'a Sealer>,
}

/// The catalogue at one time.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// In the catalogue's order.
    models: Vec<Arc<Model>>,
    /// The place of a model in `models`, by each of its names.
    names: HashMap<String, usize>,
    providers: HashMap<String, Arc<Provider>>,
    /// Why providers are not used, by name.
    faults: HashMap<String, String>,
}

/// A model that clients may name.
#[derive(Debug, Default)]
pub struct Model {
    /// Its own name, which the ledger and the price have.
    pub name: String,
    /// The most tokens that one reply may have.
    pub max_output_tokens: Option<u64>,
    /// What its providers may be asked, whether or not they can be called just now.
    protocols: Protocols,
    /// The routes for each protocol.
    routes: [Routes; Protocol::ALL.len()],
}

/// Why a request cannot be sent to the model that it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unresolved {
    /// There is no such model for this protocol: 404.
    Unknown,
    /// There is, but none of its providers can be called, such as for want of a key: 503.
    Unavailable,
}

impl Model {
    /// One that has these routes for some protocols, and nothing for others.
    pub(super) fn with_routes(name: &str, protocols: &[Protocol], routes: &[Route]) -> Arc<Model> {
        let known = protocols.iter().copied().collect();
        let mut model = Model { name: name.to_owned(), protocols: known, ..Model::default() };
        for protocol in protocols {
            model.routes[*protocol as usize] = Routes::new(routes.to_vec()).counted_as(name);
        }
        Arc::new(model)
    }

    /// Whether its providers may be asked this.
    pub fn has(&self, protocol: Protocol) -> bool {
        self.protocols.has(protocol)
    }

    fn has_any(&self, protocols: &[Protocol]) -> bool {
        protocols.iter().any(|protocol| self.has(*protocol))
    }

    /// The first of these protocols for which it has routes.
    pub(super) fn first_usable(&self, protocols: &[Protocol]) -> Option<Protocol> {
        protocols.iter().copied().find(|protocol| !self.routes(*protocol).is_empty())
    }

    /// The routes for a protocol; there may be none.
    pub fn routes(&self, protocol: Protocol) -> &Routes {
        &self.routes[protocol as usize]
    }
}

impl Snapshot {
    /// From the rows of the tables. A provider that is the same as in `previous` is kept, with its connections and its
    /// health. Also returns what is wrong with providers, which are left out then, for the log.
    pub fn new(rows: &CatalogueRows, previous: &Snapshot, context: &SnapshotContext<'_>) -> (Snapshot, Vec<String>) {
        let (mut snapshot, mut faults) = (Snapshot::default(), Vec::new());
        for row in &rows.providers {
            match provider(row, previous, context) {
                Ok(provider) => drop(snapshot.providers.insert(row.name.clone(), provider)),
                Err(e) => {
                    faults.push(format!("provider {:?} is not used: {e}", row.name));
                    snapshot.faults.insert(row.name.clone(), e);
                }
            }
        }
        let protocols: HashMap<&str, Protocols> =
            rows.providers.iter().map(|row| (row.name.as_str(), protocols(row))).collect();
        for (index, row) in rows.models.iter().enumerate() {
            snapshot.models.push(Arc::new(model(row, &protocols, &snapshot.providers)));
            let names = std::iter::once(&row.name).chain(&row.aliases);
            snapshot.names.extend(names.map(|name| (name.clone(), index)));
        }
        (snapshot, faults)
    }

    /// Whether there is no model at all, so that the settings say what is served.
    pub fn is_empty(&self) -> bool {
        self.models.is_empty()
    }

    /// All models, in the catalogue's order.
    pub fn models(&self) -> &[Arc<Model>] {
        &self.models
    }

    /// Each provider by its name, or why it is not used.
    pub fn providers(&self) -> impl Iterator<Item = (&str, Result<&Arc<Provider>, &str>)> {
        let used = self.providers.iter().map(|(name, provider)| (&**name, Ok(provider)));
        used.chain(self.faults.iter().map(|(name, fault)| (&**name, Err(&**fault))))
    }

    /// What keeps a provider from being called now, if anything does.
    pub fn problem_of(&self, provider: &str) -> Option<String> {
        match self.providers.get(provider) {
            Some(provider) => provider.problem(),
            None => {
                Some(self.faults.get(provider).map_or("this server does not know it yet", String::as_str).to_owned())
            }
        }
    }

    /// The model of exactly this name or alias.
    pub fn named(&self, name: &str) -> Option<&Arc<Model>> {
        self.names.get(name).and_then(|index| self.models.get(*index))
    }

    /// The model of exactly this name or alias, if it has one of the protocols.
    ///
    /// # Errors
    /// See [`Unresolved`].
    pub fn resolve(&self, protocols: &[Protocol], name: &str) -> Result<&Arc<Model>, Unresolved> {
        usable(self.named(name), protocols)
    }

    /// The first model that has one of the protocols, of those whose names are allowed.
    ///
    /// # Errors
    /// See [`Unresolved`].
    pub fn first(&self, protocols: &[Protocol], is_allowed: &dyn Fn(&str) -> bool) -> Result<&Arc<Model>, Unresolved> {
        let mut models = self.models.iter();
        usable(models.find(|model| model.has_any(protocols) && is_allowed(&model.name)), protocols)
    }
}

fn usable<'m>(model: Option<&'m Arc<Model>>, protocols: &[Protocol]) -> Result<&'m Arc<Model>, Unresolved> {
    let model = model.filter(|model| model.has_any(protocols)).ok_or(Unresolved::Unknown)?;
    model.first_usable(protocols).map(|_| model).ok_or(Unresolved::Unavailable)
}

fn provider(row: &ProviderRow, previous: &Snapshot, given: &SnapshotContext<'_>) -> Result<Arc<Provider>, String> {
    let variable = |name: &str| {
        let value = (given.variable)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        value.map(Hidden::new).ok_or_else(|| format!("the environment variable {name} is not set"))
    };
    let mut spec = ProviderSpec::new(&row.name, &row.base_url);
    spec.api_key = match &row.api_key {
        StoredKey::None => None,
        StoredKey::Variable(name) => Some(variable(name)?),
        StoredKey::Sealed(sealed) => {
            let sealer = given.sealer.ok_or("its API key is sealed, and ENCRYPTION_KEY is not set")?;
            Some(sealer.open(&row.name, sealed)?)
        }
    };
    for (name, value) in &row.headers {
        let value = value.strip_prefix("env:").map_or_else(|| Ok(Hidden::new(value)), variable)?;
        spec.headers.push((name.clone(), value));
    }
    let time = |millis: Option<i64>, otherwise| {
        millis.and_then(|millis| u64::try_from(millis).ok()).map_or(otherwise, Duration::from_millis)
    };
    spec.timeouts = Timeouts {
        connect: time(row.connect_timeout_ms, given.timeouts.connect),
        first_byte: time(row.first_byte_timeout_ms, given.timeouts.first_byte),
        idle: time(row.idle_timeout_ms, given.timeouts.idle),
        total: time(row.total_timeout_ms, given.timeouts.total),
    };
    spec.ca_file = row.ca_file.as_ref().map(PathBuf::from).or_else(|| given.ca_file.clone());
    spec.protocols = protocols(row);
    spec.max_concurrent = row.max_concurrent.and_then(|most| u32::try_from(most).ok());
    match previous.providers.get(&row.name).filter(|provider| *provider.spec() == spec) {
        Some(provider) => Ok(Arc::clone(provider)),
        None => Provider::new(spec),
    }
}

/// Those that this version knows.
fn protocols(row: &ProviderRow) -> Protocols {
    row.protocols.iter().filter_map(|name| Protocol::named(name)).collect()
}

fn model(row: &ModelRow, protocols: &HashMap<&str, Protocols>, providers: &HashMap<String, Arc<Provider>>) -> Model {
    let has = |provider: &str, protocol| protocols.get(provider).is_some_and(|known| known.has(protocol));
    let routes = |protocol| {
        let of_protocol = row.routes.iter().filter(|route| has(&route.provider, protocol));
        let usable = of_protocol.filter_map(|route| {
            Some(Route {
                provider: Arc::clone(providers.get(&route.provider)?),
                upstream_model: Some(route.upstream_model.clone()),
                weight: u32::try_from(route.weight).unwrap_or(1),
                priority: u32::try_from(route.priority).unwrap_or(u32::MAX),
            })
        });
        Routes::new(usable.collect()).counted_as(&row.name)
    };
    let is_declared = |protocol: &Protocol| row.routes.iter().any(|route| has(&route.provider, *protocol));
    Model {
        name: row.name.clone(),
        max_output_tokens: row.max_output_tokens.and_then(|most| u64::try_from(most).ok()),
        protocols: Protocol::ALL.into_iter().filter(is_declared).collect(),
        routes: Protocol::ALL.map(routes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::catalogue::RouteRow;

    fn provider_row(name: &str, protocols: &[Protocol], api_key: StoredKey) -> ProviderRow {
        ProviderRow {
            name: name.to_owned(),
            base_url: "http://127.0.0.1:1/v1".to_owned(),
            api_key,
            protocols: protocols.iter().map(|protocol| protocol.name().to_owned()).collect(),
            headers: Vec::new(),
            ca_file: None,
            connect_timeout_ms: None,
            first_byte_timeout_ms: Some(70),
            idle_timeout_ms: None,
            total_timeout_ms: None,
            max_concurrent: None,
        }
    }

    fn model_row(name: &str, alias: &str, providers: &[&str]) -> ModelRow {
        let route = |provider: &&str| RouteRow {
            provider: (*provider).to_owned(),
            upstream_model: format!("{name}-there"),
            weight: 2,
            priority: 1,
        };
        let routes = providers.iter().map(route).collect();
        ModelRow { name: name.to_owned(), aliases: vec![alias.to_owned()], max_output_tokens: Some(9), routes }
    }

    fn rows() -> CatalogueRows {
        CatalogueRows {
            providers: vec![
                provider_row("chats", &[Protocol::Chat], StoredKey::Variable("KEY".to_owned())),
                provider_row("speaks", &[Protocol::Audio], StoredKey::None),
            ],
            models: vec![model_row("talker", "t", &["speaks"]), model_row("writer", "w", &["chats", "speaks"])],
        }
    }

    fn snapshot(rows: &CatalogueRows, previous: &Snapshot, key: Option<&str>) -> (Snapshot, Vec<String>) {
        let variable = |name: &str| key.filter(|_| name == "KEY").map(str::to_owned);
        let timeouts = Timeouts::default();
        Snapshot::new(rows, previous, &SnapshotContext { timeouts, ca_file: None, variable: &variable, sealer: None })
    }

    #[test]
    fn names_are_exact_and_aliases_mean_their_model() {
        let (snapshot, faults) = snapshot(&rows(), &Snapshot::default(), Some("sk-1"));
        assert!(faults.is_empty(), "{faults:?}");
        let name = |protocol, name: Option<&str>| {
            let model = match name {
                Some(name) => snapshot.resolve(&[protocol], name),
                None => snapshot.first(&[protocol], &|_| true),
            };
            model.map(|model| model.name.as_str())
        };
        assert_eq!(name(Protocol::Chat, Some("w")), Ok("writer"));
        assert_eq!(name(Protocol::Chat, None), Ok("writer"), "the first that has the protocol");
        assert_eq!(name(Protocol::Audio, None), Ok("talker"));
        for unknown in ["W", "Writer", "writer ", "", "writer-there", "talker"] {
            assert_eq!(name(Protocol::Chat, Some(unknown)), Err(Unresolved::Unknown), "{unknown:?}");
        }
        assert_eq!(name(Protocol::Messages, None), Err(Unresolved::Unknown));
        let only_talker =
            |protocol| snapshot.first(&[protocol], &|name| name == "talker").map(|model| model.name.as_str());
        assert_eq!(only_talker(Protocol::Audio), Ok("talker"));
        assert_eq!(only_talker(Protocol::Chat), Err(Unresolved::Unknown));
        let writer = snapshot.resolve(&[Protocol::Messages, Protocol::Chat], "w").unwrap();
        let route = writer.routes(Protocol::Chat).iter().next().unwrap();
        assert_eq!((route.upstream_model.as_deref(), route.weight, route.priority), (Some("writer-there"), 2, 1));
        assert_eq!(writer.routes(Protocol::Chat).iter().count(), 1, "the other one has no chat");
        let timeouts = route.provider.spec().timeouts;
        assert_eq!((timeouts.first_byte, timeouts.idle), (Duration::from_millis(70), Timeouts::default().idle));
    }

    #[test]
    fn a_provider_without_its_key_is_unavailable_but_known() {
        for key in [None, Some(" ")] {
            let (snapshot, faults) = snapshot(&rows(), &Snapshot::default(), key);
            assert!(faults[0].contains("\"chats\"") && faults[0].contains("KEY is not set"), "{faults:?}");
            let resolve = |protocol| snapshot.resolve(&[protocol], "writer").map(|model| model.name.as_str());
            assert_eq!(
                (resolve(Protocol::Chat), resolve(Protocol::Audio)),
                (Err(Unresolved::Unavailable), Ok("writer"))
            );
        }
        let mut sealed = rows();
        sealed.providers[0].api_key = StoredKey::Sealed(vec![0; 40]);
        assert!(snapshot(&sealed, &Snapshot::default(), None).1[0].contains("ENCRYPTION_KEY is not set"));
    }

    #[test]
    fn a_provider_that_stays_the_same_is_kept() {
        let (first, _) = snapshot(&rows(), &Snapshot::default(), Some("sk-1"));
        let is_kept = |second: &Snapshot, name: &str| Arc::ptr_eq(&first.providers[name], &second.providers[name]);
        let mut changed = rows();
        changed.models.pop();
        changed.providers[1].max_concurrent = Some(3);
        let (second, _) = snapshot(&changed, &first, Some("sk-1"));
        assert!(is_kept(&second, "chats") && !is_kept(&second, "speaks"));
        let (third, _) = snapshot(&rows(), &first, Some("sk-2"));
        assert!(!is_kept(&third, "chats"), "its key is another one");
    }
}
