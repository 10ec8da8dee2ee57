//! The models of the servers that the settings name: what is called for as long as no catalogue is stored.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Config, EngineConfig};
use crate::engine::{Hidden, ListedModel, Protocol, Provider, ProviderSpec, Route, Timeouts};

use super::snapshot::Model;

/// What a request wants of a model. In the settings, each purpose has servers and a default model of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Text: `INFERENCE_URL`.
    Text,
    /// Vectors: `EMBEDDINGS_URL`.
    Embeddings,
    /// Speech to text: `TRANSCRIBE_URL`.
    Transcription,
    /// Text to speech: `SPEECH_URL`.
    Speech,
    /// Pictures: `IMAGES_URL`.
    Images,
    /// Documents in the order of their relevance: `RERANK_URL`.
    Rerank,
    /// Whether a text is harmful: `MODERATIONS_URL`.
    Moderations,
}

impl Purpose {
    /// All of them.
    pub const ALL: [Purpose; 7] = [
        Purpose::Text,
        Purpose::Embeddings,
        Purpose::Transcription,
        Purpose::Speech,
        Purpose::Images,
        Purpose::Rerank,
        Purpose::Moderations,
    ];

    /// What a provider must have for it.
    pub const fn protocol(self) -> Protocol {
        match self {
            Purpose::Text => Protocol::Chat,
            Purpose::Embeddings => Protocol::Embeddings,
            Purpose::Transcription | Purpose::Speech => Protocol::Audio,
            Purpose::Images => Protocol::Images,
            Purpose::Rerank => Protocol::Rerank,
            Purpose::Moderations => Protocol::Moderations,
        }
    }

    /// The model's name where neither the setting nor a list says one.
    const fn fallback_model(self) -> &'static str {
        match self {
            Purpose::Transcription => "whisper-1",
            Purpose::Speech => "tts-1",
            _ => "default",
        }
    }

    fn config(self, config: &Config) -> &EngineConfig {
        match self {
            Purpose::Text => &config.engines.inference,
            Purpose::Embeddings => &config.engines.embeddings,
            Purpose::Transcription => &config.engines.transcribe,
            Purpose::Speech => &config.engines.speech,
            Purpose::Images => &config.engines.images,
            Purpose::Rerank => &config.engines.rerank,
            Purpose::Moderations => &config.engines.moderations,
        }
    }
}

/// The servers that the settings name for one purpose.
pub(super) struct Servers {
    purpose: Purpose,
    /// The setting that names them, such as `INFERENCE_URL`.
    pub(super) variable: &'static str,
    /// The default model of the settings, such as that of `INFERENCE_MODEL`.
    pub(super) default_model: Option<String>,
    /// The servers or the demo engine.
    pub(super) providers: Vec<Arc<Provider>>,
}

/// What is known of a server's list of models.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Listing {
    /// It was not asked yet.
    #[default]
    Pending,
    /// It was, and has not answered so far.
    Failed,
    /// It has none.
    Missing,
    /// The last list that it sent.
    Known(Vec<ListedModel>),
}

/// The models of one purpose's servers.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// As the servers describe them, each once, in the order of the servers.
    pub(super) listed: Vec<ListedModel>,
    /// How many of these no model of a server can precede whose list is not known yet.
    ranked: usize,
    names: HashMap<String, Arc<Model>>,
    /// The default model of the settings.
    default: Option<Arc<Model>>,
    /// Stands for every other name, as there are servers whose models are not known.
    any: Option<Arc<Model>>,
    /// A server was not asked for its list yet.
    pub(super) is_pending: bool,
    /// A server has not sent its list so far.
    pub(super) is_incomplete: bool,
}

/// The default time-outs of providers.
pub(super) fn timeouts(config: &Config) -> Timeouts {
    Timeouts {
        connect: config.upstream_connect_timeout,
        first_byte: match config.upstream_first_byte_timeout {
            Duration::ZERO => config.upstream_timeout,
            time => time,
        },
        idle: config.upstream_idle_timeout,
        total: config.upstream_timeout,
    }
}

impl Servers {
    /// Those of the settings, without contacting them.
    ///
    /// # Errors
    /// What is wrong with an address, for the operator.
    pub(super) fn new(config: &Config, purpose: Purpose) -> Result<Servers, String> {
        let engine = purpose.config(config);
        let provider = |url: &String| {
            let mut spec = ProviderSpec::new(url, base_url(url));
            spec.api_key = engine.api_key.clone().map(Hidden::new);
            spec.ca_file.clone_from(&config.upstream_ca_file);
            spec.timeouts = timeouts(config);
            spec.max_concurrent = Some(config.upstream_max_concurrent).filter(|most| *most > 0);
            Provider::new(spec).map_err(|e| format!("{}: {e}", engine.variable))
        };
        let providers = match engine.urls.is_empty() && config.demo_engine {
            true => vec![Provider::demo()],
            false => engine.urls.iter().map(provider).collect::<Result<_, _>>()?,
        };
        let default_model = engine.model.clone();
        Ok(Servers { purpose, variable: engine.variable, default_model, providers })
    }

    /// The models of these servers, of whose lists this is known, in the order of the servers.
    ///
    /// A model is called on the servers that list it. The default model of the settings is one even if no server lists
    /// it, and is called on those whose models are not known too. Where no default model is set, a server without a
    /// list takes every name that the others do not list.
    pub(super) fn table(&self, listings: &[Listing]) -> Table {
        let mut table = Table {
            is_pending: listings.contains(&Listing::Pending),
            is_incomplete: listings.iter().any(|listing| matches!(listing, Listing::Pending | Listing::Failed)),
            ..Table::default()
        };
        let mut listing_it = HashMap::<&str, Vec<Route>>::new();
        let mut are_ranked = true;
        for (provider, listing) in self.providers.iter().zip(listings) {
            are_ranked &= !matches!(listing, Listing::Pending | Listing::Failed);
            for model in listing.models() {
                let routes = listing_it.entry(&*model.id).or_insert_with(|| {
                    table.listed.push(model.clone());
                    Vec::new()
                });
                routes.push(Route::to(Arc::clone(provider)));
            }
            if are_ranked {
                table.ranked = table.listed.len();
            }
        }
        let names = listing_it.into_iter().map(|(name, routes)| (name.to_owned(), self.model(name, routes)));
        table.names = names.collect();
        if let Some(name) = &self.default_model {
            if !table.names.contains_key(name) {
                table.listed.insert(0, described(name));
                table.ranked += 1;
            }
            let default = self.model(name, self.routes_of_default(name, listings));
            table.names.insert(name.clone(), Arc::clone(&default));
            table.default = Some(default);
            return table;
        }
        let without_list = self.routes(listings, |listing| *listing == Listing::Missing);
        if !without_list.is_empty() {
            table.any = Some(self.model(self.purpose.fallback_model(), without_list));
        }
        table
    }

    /// The routes to the default model: to the servers that list it, and to those whose models are not known. If there
    /// is none, the operator may still be right, and each is asked.
    fn routes_of_default(&self, name: &str, listings: &[Listing]) -> Vec<Route> {
        let may_have = |listing: &Listing| match listing {
            Listing::Known(models) => models.iter().any(|model| model.id == name),
            _ => true,
        };
        let routes = self.routes(listings, may_have);
        if routes.is_empty() { self.routes(listings, |_| true) } else { routes }
    }

    fn routes(&self, listings: &[Listing], is_wanted: impl Fn(&Listing) -> bool) -> Vec<Route> {
        let wanted = self.providers.iter().zip(listings).filter(|(_, listing)| is_wanted(listing));
        wanted.map(|(provider, _)| Route::to(Arc::clone(provider))).collect()
    }

    fn model(&self, name: &str, routes: Vec<Route>) -> Arc<Model> {
        // What a server of the settings speaks beside chat is not known.
        let is_demo = self.purpose == Purpose::Text && routes.iter().all(|route| route.provider.is_demo());
        let protocols = if is_demo { &TEXT_PROTOCOLS[..] } else { &[self.purpose.protocol()] };
        Model::with_routes(name, protocols, &routes)
    }
}

impl Listing {
    /// The models of the last list.
    fn models(&self) -> &[ListedModel] {
        if let Listing::Known(models) = self { models } else { &[] }
    }
}

/// Those that the demo engine speaks.
const TEXT_PROTOCOLS: [Protocol; 3] = [Protocol::Chat, Protocol::Responses, Protocol::Messages];

/// The outcome of [`Table::find`].
#[derive(Clone, Debug)]
pub(super) enum Found {
    Model(Arc<Model>),
    /// Not every server was asked for its list yet.
    Pending,
    /// A server that might have it has not answered so far.
    Unreachable,
    Nothing,
}

impl Table {
    /// The model of exactly this name.
    pub(super) fn named(&self, name: &str) -> Found {
        self.names.get(name).map_or_else(|| self.unlisted(|_| true), |model| Found::Model(Arc::clone(model)))
    }

    /// The default model of the settings, else the first one that is listed, of those whose names are allowed. Which is
    /// the first does not depend on which server is the quickest.
    pub(super) fn first(&self, is_allowed: impl Fn(&str) -> bool) -> Found {
        let default = self.default.as_ref().filter(|default| is_allowed(&default.name));
        let listed = || self.listed[..self.ranked].iter().find(|listed| is_allowed(&listed.id));
        match default.or_else(|| self.names.get(&listed()?.id)) {
            Some(model) => Found::Model(Arc::clone(model)),
            None => self.unlisted(is_allowed),
        }
    }

    /// A model that no server lists whose list is known. Another one may list it, at a price of its own.
    fn unlisted(&self, is_allowed: impl Fn(&str) -> bool) -> Found {
        match self.any.as_ref().filter(|any| is_allowed(&any.name)) {
            _ if self.is_pending => Found::Pending,
            _ if self.is_incomplete => Found::Unreachable,
            Some(any) => Found::Model(Arc::clone(any)),
            None => Found::Nothing,
        }
    }

    /// Whether no server lists its models, and one takes every name.
    pub(super) fn takes_all(&self) -> bool {
        self.names.is_empty() && self.any.is_some() && !self.is_incomplete
    }

    /// Whether there is a model of exactly this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// The names of the models: the default one, then the others as they are listed.
    pub(super) fn names(&self) -> Vec<String> {
        let first = if let Found::Model(first) = self.first(|_| true) { Some(first.name.clone()) } else { None };
        let others = self.listed.iter().map(|model| &model.id).filter(|id| Some(*id) != first.as_ref()).cloned();
        first.iter().cloned().chain(others).collect()
    }
}

/// A model as lists show it, where no server describes it.
pub(super) fn described(name: &str) -> ListedModel {
    let entry = serde_json::json!({"id": name, "object": "model", "created": 0, "owned_by": "textgen"});
    let entry = serde_json::value::to_raw_value(&entry).unwrap_or_default();
    ListedModel { id: name.to_owned(), entry }
}

/// The base address of a configured server. One that names a version, such as `…/v1beta/openai`, is taken as it is;
/// `/v1` is appended to others.
fn base_url(url: &str) -> String {
    let path = url.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map_or("", |(_, path)| path);
    let is_version = |part: &str| {
        part.strip_prefix('v').is_some_and(|number| number.starts_with(|first: char| first.is_ascii_digit()))
    };
    if path.split('/').any(is_version) { url.to_owned() } else { format!("{url}/v1") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(default_model: Option<&str>, count: usize) -> Servers {
        let provider = |n| Provider::new(ProviderSpec::new(format!("{n}"), "http://127.0.0.1:1/v1")).unwrap();
        Servers {
            purpose: Purpose::Text,
            variable: "INFERENCE_URL",
            default_model: default_model.map(str::to_owned),
            providers: (0..count).map(provider).collect(),
        }
    }

    fn known(names: &[&str]) -> Listing {
        Listing::Known(names.iter().map(|name| described(name)).collect())
    }

    /// The name of what is found, with the servers that it is called on.
    fn find(table: &Table, name: Option<&str>) -> Result<(String, Vec<String>), &'static str> {
        match name.map_or_else(|| table.first(|_| true), |name| table.named(name)) {
            Found::Model(model) => {
                let routes = model.routes(Protocol::Chat).iter();
                Ok((model.name.clone(), routes.map(|route| route.provider.spec().name.clone()).collect()))
            }
            Found::Pending => Err("pending"),
            Found::Unreachable => Err("unreachable"),
            Found::Nothing => Err("nothing"),
        }
    }

    fn is(name: &str, servers: &[&str]) -> Result<(String, Vec<String>), &'static str> {
        Ok((name.to_owned(), servers.iter().map(|server| (*server).to_owned()).collect()))
    }

    #[test]
    fn a_model_is_called_on_the_servers_that_list_it() {
        let table = servers(None, 3).table(&[known(&["a", "b"]), known(&["c", "b"]), Listing::Failed]);
        assert_eq!(find(&table, Some("a")), is("a", &["0"]));
        assert_eq!(find(&table, Some("b")), is("b", &["0", "1"]));
        assert_eq!(find(&table, Some("c")), is("c", &["1"]));
        assert_eq!(find(&table, None), is("a", &["0"]), "the first one");
        assert_eq!(find(&table, Some("d")), Err("unreachable"), "the third server may have it");
        assert_eq!(table.names(), ["a", "b", "c"]);
        let table = servers(None, 2).table(&[known(&["a"]), known(&[])]);
        assert_eq!((find(&table, Some("A")), find(&table, Some(""))), (Err("nothing"), Err("nothing")));
    }

    #[test]
    fn the_default_model_is_one_whether_or_not_it_is_listed() {
        let table = servers(Some("m"), 3).table(&[known(&["a", "m"]), Listing::Missing, Listing::Failed]);
        assert_eq!(find(&table, None), is("m", &["0", "1", "2"]));
        assert_eq!(find(&table, Some("a")), is("a", &["0"]));
        assert_eq!(table.names(), ["m", "a"]);
        let table = servers(Some("m"), 2).table(&[known(&["a"]), Listing::Failed]);
        assert_eq!(find(&table, Some("m")), is("m", &["1"]));
        let table = servers(Some("m"), 2).table(&[known(&["a"]), known(&["b"])]);
        assert_eq!(find(&table, Some("m")), is("m", &["0", "1"]), "the operator may know better than the lists");
        assert_eq!(table.names(), ["m", "a", "b"]);
        let table = servers(Some("m"), 1).table(&[Listing::Missing]);
        assert_eq!((find(&table, Some("m")), find(&table, Some("x"))), (is("m", &["0"]), Err("nothing")));
        let table = servers(Some("m"), 1).table(&[Listing::Pending]);
        assert_eq!((find(&table, None), find(&table, Some("x"))), (is("m", &["0"]), Err("pending")));
    }

    #[test]
    fn a_server_without_a_list_takes_what_no_other_lists() {
        let table = servers(None, 2).table(&[Listing::Missing, known(&["a"])]);
        assert_eq!(find(&table, Some("a")), is("a", &["1"]));
        assert_eq!(find(&table, Some("x")), is("default", &["0"]), "under one name, whatever is asked for");
        assert_eq!(find(&table, None), is("a", &["1"]));
        let table = servers(None, 1).table(&[Listing::Missing]);
        assert_eq!((find(&table, Some("x")), find(&table, None)), (is("default", &["0"]), is("default", &["0"])));
        assert!(!table.has("x") && table.names() == ["default"]);
    }

    #[test]
    fn the_default_does_not_depend_on_which_server_is_the_quickest() {
        let table = servers(None, 2).table(&[Listing::Pending, known(&["b"])]);
        assert_eq!((find(&table, None), find(&table, Some("b"))), (Err("pending"), is("b", &["1"])));
        let table = servers(None, 2).table(&[Listing::Failed, known(&["b"])]);
        assert_eq!((find(&table, None), find(&table, Some("b"))), (Err("unreachable"), is("b", &["1"])));
        let table = servers(None, 2).table(&[Listing::Missing, Listing::Failed]);
        assert_eq!(find(&table, None), Err("unreachable"), "its models come before a server without a list");
        for later in [Listing::Pending, Listing::Failed] {
            assert_eq!(find(&servers(None, 2).table(&[known(&["a"]), later]), None), is("a", &["0"]));
        }
    }

    #[test]
    fn the_first_allowed_model_stands_for_a_default_that_is_not() {
        let first = |table: &Table, allowed: &[&str]| match table.first(|name| allowed.contains(&name)) {
            Found::Model(model) => model.name.clone(),
            other => format!("{other:?}"),
        };
        let table = servers(Some("m"), 2).table(&[known(&["a", "b"]), known(&["c"])]);
        assert_eq!((first(&table, &["c", "m"]), first(&table, &["c", "b"])), ("m".into(), "b".into()));
        assert_eq!((first(&table, &["c"]), first(&table, &["x"])), ("c".into(), "Nothing".into()));
        let table = servers(None, 2).table(&[Listing::Pending, known(&["c"])]);
        assert_eq!(first(&table, &["c"]), "Pending", "the first server may have it before");
        let table = servers(None, 1).table(&[Listing::Missing]);
        assert_eq!((first(&table, &["default"]), first(&table, &["x"])), ("default".into(), "Nothing".into()));
    }

    #[test]
    fn a_version_in_an_address_is_kept() {
        for (url, base) in [
            ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
            ("https://h/openai", "https://h/openai/v1"),
            ("https://h/v1beta/openai", "https://h/v1beta/openai"),
            ("https://h/api/v4", "https://h/api/v4"),
            ("https://v2.example.com/vision", "https://v2.example.com/vision/v1"),
        ] {
            assert_eq!(base_url(url), base);
        }
    }
}
