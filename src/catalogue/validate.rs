//! Checks a catalogue before anything of it is stored.

use std::collections::{HashMap, HashSet};
use std::fmt;

use time::OffsetDateTime;

use crate::config::is_own_secret;
use crate::engine::{Protocol, Provider, ProviderSpec};
use crate::money::parse_price;
use crate::store::catalogue::{CatalogueRows, ModelRow, RouteRow};
use crate::store::prices::{DEFAULT, HIGHEST, Price};
use crate::store::timestamp;
use crate::units::{ByUnit, Unit};

use super::entries::{CatalogueFile, KeyEntry, ModelEntry, ProviderEntry, RouteEntry};

/// The most bytes of a name.
const MAX_NAME: usize = 200;
/// The most providers, models, names of a model, and routes of a model.
const MAX_ENTRIES: usize = 10_000;
/// The most problems that are told at once.
const MAX_PROBLEMS: usize = 20;
/// The longest time-out: a day.
const MAX_TIMEOUT_MS: i64 = 86_400_000;
/// Headers that are not the operator's to set.
const RESERVED_HEADERS: [&str; 7] =
    ["authorization", "connection", "content-length", "content-type", "host", "transfer-encoding", "x-request-id"];

/// What is wrong with a catalogue; each names the entry and the field.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Problems(Vec<String>);

impl Problems {
    fn add(&mut self, problem: String) {
        if self.0.len() < MAX_PROBLEMS {
            // A name may hold anything; the message is one line.
            self.0.push(problem.replace(char::is_control, " "));
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

/// A catalogue without mistakes.
#[derive(Debug)]
pub struct Validated {
    /// The providers.
    pub providers: Vec<ProviderEntry>,
    /// The models, and what each is to cost.
    pub models: Vec<(ModelRow, Option<NewPrice>)>,
}

/// A price that the file gives.
#[derive(Debug)]
pub struct NewPrice {
    /// What each unit costs.
    pub price: Price,
    /// From when on; from now on if there is none.
    pub from: Option<OffsetDateTime>,
}

/// Checks a file.
///
/// # Errors
/// Everything that is wrong with it, up to twenty problems.
pub fn validate(file: CatalogueFile) -> Result<Validated, Problems> {
    let mut problems = Problems::default();
    if file.provider.len() > MAX_ENTRIES || file.model.len() > MAX_ENTRIES {
        problems.add(format!("there are more than {MAX_ENTRIES} providers or models"));
        return Err(problems);
    }
    let mut known = HashSet::new();
    for provider in &file.provider {
        if !known.insert(provider.name.as_str()) {
            problems.add(format!("provider {:?}: name: there are two of this name", provider.name));
        }
        check_provider(provider, &mut problems);
    }
    let mut names = HashMap::new();
    let models = file.model.iter().map(|model| check_model(model, &known, &mut names, &mut problems)).collect();
    if problems.0.is_empty() { Ok(Validated { providers: file.provider, models }) } else { Err(problems) }
}

/// Checks a provider that is to be stored beside others, in the place of the one of its name.
///
/// # Errors
/// Everything that is wrong with it.
pub(super) fn validate_provider(provider: &ProviderEntry, stored: &CatalogueRows) -> Result<(), Problems> {
    let mut problems = Problems::default();
    if stored.providers.iter().filter(|other| other.name != provider.name).count() >= MAX_ENTRIES {
        problems.add(format!("there must not be more than {MAX_ENTRIES} providers"));
    }
    check_provider(provider, &mut problems);
    if problems.0.is_empty() { Ok(()) } else { Err(problems) }
}

/// Checks a model that is to be stored beside others, in the place of the one of its name.
///
/// # Errors
/// Everything that is wrong with it.
pub(super) fn validate_model(
    model: &ModelEntry,
    stored: &CatalogueRows,
) -> Result<(ModelRow, Option<NewPrice>), Problems> {
    let mut problems = Problems::default();
    let others = || stored.models.iter().filter(|other| other.name != model.name);
    if others().count() >= MAX_ENTRIES {
        problems.add(format!("there must not be more than {MAX_ENTRIES} models"));
    }
    let known = stored.providers.iter().map(|provider| provider.name.as_str()).collect();
    let mut names = HashMap::new();
    for other in others() {
        let all = std::iter::once(&other.name).chain(&other.aliases);
        names.extend(all.map(|name| (name.as_str(), other.name.as_str())));
    }
    let checked = check_model(model, &known, &mut names, &mut problems);
    if problems.0.is_empty() { Ok(checked) } else { Err(problems) }
}

/// Checks a model, given the providers that there are, and the names of other models, to which its own are added.
fn check_model<'f>(
    model: &'f ModelEntry,
    known: &HashSet<&str>,
    names: &mut HashMap<&'f str, &'f str>,
    problems: &mut Problems,
) -> (ModelRow, Option<NewPrice>) {
    let entry = format!("model {:?}", model.name);
    let mut problem = |text: String| problems.add(format!("{entry}: {text}"));
    check_names(model, names, &mut problem);
    let routes = check_routes(model, known, &mut problem);
    let price = check_price(model, &mut problem);
    let row = ModelRow {
        name: model.name.clone(),
        aliases: model.aliases.clone(),
        max_output_tokens: model.max_output_tokens,
        routes,
    };
    (row, price)
}

fn check_name(field: &str, name: &str, problem: &mut impl FnMut(String)) {
    if name.is_empty() || name.len() > MAX_NAME || name.trim() != name || name.contains(char::is_control) {
        problem(format!("{field}: a name has 1 to {MAX_NAME} bytes, no space around it and no control characters"));
    }
}

fn check_provider(provider: &ProviderEntry, problems: &mut Problems) {
    let entry = format!("provider {:?}", provider.name);
    let problem = &mut |text: String| problems.add(format!("{entry}: {text}"));
    check_name("name", &provider.name, problem);
    // The same check as when it is used, without its files, which are those of each server.
    if let Err(e) = Provider::new(ProviderSpec::new("", provider.base_url.clone())) {
        problem(format!("base_url: {}", e.trim_start_matches("provider : ")));
    }
    if provider.base_url.contains(['@', '#']) {
        problem("base_url: it must have no user name and no fragment".to_owned());
    }
    match &provider.api_key {
        KeyEntry::Variable(name) => check_variable("api_key", name, problem),
        KeyEntry::Literal(key) if !key.reveal().bytes().all(|b| b.is_ascii_graphic()) || key.reveal().len() > 8192 => {
            problem("api_key: a key must not contain blanks or control characters".to_owned());
        }
        _ => {}
    }
    check_protocols(provider.protocols.as_deref(), problem);
    for (name, value) in &provider.headers {
        let is_name = !name.is_empty() && name.parse::<http::HeaderName>().is_ok();
        if !is_name || RESERVED_HEADERS.iter().any(|reserved| name.eq_ignore_ascii_case(reserved)) {
            problem(format!("headers: {name:?} is no header that can be set"));
        }
        if value.parse::<http::HeaderValue>().is_err() {
            problem(format!("headers: the value of {name:?} is not valid"));
        }
        if let Some(variable) = value.strip_prefix("env:") {
            check_variable("headers", variable, problem);
        }
    }
    if provider.headers.len() > 32 {
        problem("headers: there are more than 32".to_owned());
    }
    for (field, millis) in [
        ("connect_timeout_ms", provider.connect_timeout_ms),
        ("first_byte_timeout_ms", provider.first_byte_timeout_ms),
        ("idle_timeout_ms", provider.idle_timeout_ms),
        ("total_timeout_ms", provider.total_timeout_ms),
    ] {
        if millis.is_some_and(|millis| !(1..=MAX_TIMEOUT_MS).contains(&millis)) {
            problem(format!("{field}: expected 1 to {MAX_TIMEOUT_MS} milliseconds"));
        }
    }
    if provider.max_concurrent.is_some_and(|most| !(1..=1_000_000).contains(&most)) {
        problem("max_concurrent: expected 1 to 1000000; leave it out for no limit".to_owned());
    }
    if provider.ca_file.as_ref().is_some_and(|file| file.is_empty() || file.contains('\0')) {
        problem("ca_file: expected the path of a file".to_owned());
    }
}

fn check_protocols(protocols: Option<&[String]>, problem: &mut impl FnMut(String)) {
    let Some(protocols) = protocols else { return };
    if protocols.is_empty() {
        problem("protocols: there must be at least one".to_owned());
    }
    let mut seen = HashSet::new();
    for name in protocols {
        if Protocol::named(name).is_none() {
            let known = Protocol::ALL.map(Protocol::name).join(", ");
            problem(format!("protocols: {name:?} is unknown; there are {known}"));
        } else if !seen.insert(name) {
            problem(format!("protocols: {name:?} is there twice"));
        }
    }
}

/// Whoever edits the catalogue may have the variable's value sent to any address, so it must be none of the secrets of
/// textgen itself.
fn check_variable(field: &str, name: &str, problem: &mut impl FnMut(String)) {
    let is_name = !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && !name.starts_with(|first: char| first.is_ascii_digit());
    if !is_name {
        problem(format!("{field}: env: must be followed by the name of an environment variable"));
    } else if is_own_secret(name) {
        problem(format!("{field}: {name} is a secret of textgen itself, which no provider may be sent"));
    }
}

fn check_names<'f>(model: &'f ModelEntry, names: &mut HashMap<&'f str, &'f str>, problem: &mut impl FnMut(String)) {
    if model.aliases.len() > MAX_ENTRIES {
        return problem(format!("aliases: there are more than {MAX_ENTRIES}"));
    }
    let all = std::iter::once(("name", &model.name)).chain(model.aliases.iter().map(|alias| ("aliases", alias)));
    for (field, name) in all {
        check_name(field, name, problem);
        if name == DEFAULT {
            problem(format!("{field}: {DEFAULT:?} is the name of the price of models that have none"));
        }
        if let Some(other) = names.insert(name, &model.name) {
            problem(format!("{field}: {name:?} is already a name of the model {other:?}"));
        }
    }
    if model.max_output_tokens.is_some_and(|most| most < 1) {
        problem("max_output_tokens: expected at least 1".to_owned());
    }
}

fn check_routes(model: &ModelEntry, known: &HashSet<&str>, problem: &mut impl FnMut(String)) -> Vec<RouteRow> {
    if model.route.is_empty() || model.route.len() > 100 {
        problem("route: there must be 1 to 100".to_owned());
    }
    let mut seen = HashSet::new();
    let mut check = |(n, route): (usize, &RouteEntry)| {
        let upstream_model = route.model.clone().unwrap_or_else(|| model.name.clone());
        let mut problem = |text: String| problem(format!("route {}: {text}", n + 1));
        if !known.contains(route.provider.as_str()) {
            problem(format!("provider: there is no provider {:?}", route.provider));
        }
        check_name("model", &upstream_model, &mut problem);
        if !seen.insert((route.provider.clone(), upstream_model.clone())) {
            problem("there is another route to the same model of this provider".to_owned());
        }
        if !(1..=1_000_000).contains(&route.weight) {
            problem("weight: expected 1 to 1000000".to_owned());
        }
        if !(0..=1_000_000).contains(&route.priority) {
            problem("priority: expected 0 to 1000000".to_owned());
        }
        RouteRow { provider: route.provider.clone(), upstream_model, weight: route.weight, priority: route.priority }
    };
    model.route.iter().take(MAX_ENTRIES).enumerate().map(&mut check).collect()
}

fn check_price(model: &ModelEntry, problem: &mut impl FnMut(String)) -> Option<NewPrice> {
    let from = model.price_from.as_ref().and_then(|from| {
        let from = timestamp::parse_zoned(from);
        if from.is_none() {
            problem("price_from: expected a time with its zone, such as 2027-01-01T00:00:00Z".to_owned());
        }
        from
    });
    let Some(prices) = &model.price else {
        if model.price_from.is_some() {
            problem("price_from: there is no price".to_owned());
        }
        return None;
    };
    for name in prices.keys() {
        if !Unit::ALL.iter().any(|unit| unit.catalogue_price() == name) {
            let known = Unit::ALL.map(Unit::catalogue_price).join(", ");
            problem(format!("price: {name:?} is unknown; there are {known}"));
        }
    }
    let given = ByUnit::from_fn(|unit| {
        let text = prices.get(unit.catalogue_price())?;
        match parse_price(text, unit.catalogue_digits(), HIGHEST) {
            Ok(price) => Some(price),
            Err(e) => {
                problem(format!("price: {}: {}", unit.catalogue_price(), shortened(&e)));
                None
            }
        }
    });
    Some(NewPrice { price: complete(&given), from })
}

/// A price for every unit: one that is not given is that of the unit it falls back to, or nothing.
fn complete(given: &ByUnit<Option<i64>>) -> Price {
    let fallback = |unit: Unit| unit.price_fallback().and_then(|fallback| given[fallback]);
    Price(ByUnit::from_fn(|unit| given[unit].or_else(|| fallback(unit)).unwrap_or(0)))
}

fn shortened(text: &str) -> String {
    text.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = r#"
        [[provider]]
        name = "local"
        base_url = "http://127.0.0.1:8000/v1"
        api_key = "env:LOCAL_API_KEY"
        protocols = ["chat", "embeddings"]

        [[model]]
        name = "gpt-x"
        aliases = ["best"]
        max_output_tokens = 4096
        price = { input = "0.15", cached_input = "0.075", output = "0.60", character = "0.000015" }
        [[model.route]]
        provider = "local"
        model = "qwen2.5-7b"
        "#;

    fn problems(text: &str) -> String {
        match CatalogueFile::parse(text) {
            Ok(file) => validate(file).err().map(|problems| problems.to_string()).unwrap_or_default(),
            Err(e) => e,
        }
    }

    #[test]
    fn a_good_file_has_its_defaults() {
        let validated = validate(CatalogueFile::parse(GOOD).unwrap()).unwrap();
        let (model, price) = &validated.models[0];
        assert_eq!((model.routes[0].weight, model.routes[0].priority), (1, 0));
        assert_eq!(model.routes[0].upstream_model, "qwen2.5-7b");
        let price = price.as_ref().unwrap().price.0;
        assert_eq!((price[Unit::PromptTokens], price[Unit::CachedInputTokens]), (150_000, 75_000));
        // As much as input, for want of a price of its own.
        assert_eq!((price[Unit::CacheWriteTokens], price[Unit::EmbeddingTokens]), (150_000, 150_000));
        assert_eq!((price[Unit::Characters], price[Unit::Images]), (15_000_000, 0));
    }

    #[test]
    fn every_mistake_names_its_entry_and_field() {
        for (from, to, expected) in [
            (
                "provider = \"local\"",
                "provider = \"other\"",
                "model \"gpt-x\": route 1: provider: there is no provider",
            ),
            ("\"best\"", "\"gpt-x\"", "model \"gpt-x\": aliases: \"gpt-x\" is already a name"),
            ("\"best\"", "\" best\"", "model \"gpt-x\": aliases: a name has"),
            ("\"gpt-x\"", "\"default\"", "name: \"default\" is the name"),
            ("\"chat\"", "\"chats\"", "provider \"local\": protocols: \"chats\" is unknown"),
            ("\"chat\"", "\"embeddings\"", "protocols: \"embeddings\" is there twice"),
            ("http://127", "ftp://127", "provider \"local\": base_url: "),
            ("http://127", "http://u:p@127", "provider \"local\": base_url: "),
            ("env:LOCAL_API_KEY", "env:9", "provider \"local\": api_key: "),
            (
                "env:LOCAL_API_KEY",
                "env:DATABASE_URL",
                "provider \"local\": api_key: DATABASE_URL is a secret of textgen",
            ),
            (
                "protocols =",
                "headers = { X = \"env:ENCRYPTION_KEY\" }\nprotocols =",
                "headers: ENCRYPTION_KEY is a secret",
            ),
            ("env:LOCAL_API_KEY", "hunter 2", "provider \"local\": api_key: "),
            ("\"0.15\"", "\"0.1500001\"", "model \"gpt-x\": price: input: 0.1500001 has more than 6 digits"),
            ("\"0.15\"", "\"1,5\"", "model \"gpt-x\": price: input: "),
            ("\"0.15\"", "0.15", "line 12: invalid type: floating point"),
            ("input =", "inputs =", "model \"gpt-x\": price: \"inputs\" is unknown"),
            ("4096", "0", "max_output_tokens: "),
            ("model = \"qwen2.5-7b\"", "weight = 0", "model \"gpt-x\": route 1: weight: "),
            ("model = \"qwen2.5-7b\"", "priority = -1", "model \"gpt-x\": route 1: priority: "),
            ("model = \"qwen2.5-7b\"", "wait = 1", "unknown field `wait`"),
            ("max_output_tokens = 4096", "price_from = 2027-01-01", "price_from: expected a time with its zone"),
            ("protocols =", "max_concurrent = 0\nprotocols =", "provider \"local\": max_concurrent: "),
            ("protocols =", "idle_timeout_ms = -1\nprotocols =", "provider \"local\": idle_timeout_ms: "),
            ("protocols =", "headers = { Host = \"x\" }\nprotocols =", "provider \"local\": headers: \"Host\""),
        ] {
            let text = problems(&GOOD.replacen(from, to, 1));
            assert!(text.contains(expected), "{to}: {text}");
        }
        let twice = GOOD.replace("[[model]]", "[[provider]]\nname = \"local\"\nbase_url = \"http://b\"\n[[model]]");
        assert!(problems(&twice).contains("provider \"local\": name: there are two"));
        assert_eq!(problems(GOOD), "");
    }

    #[test]
    fn no_error_shows_an_api_key() {
        for key in ["\"hunter2", "\"hunter2 \"", "[\"hunter2\"]", "\"\\u0000hunter2\"", "{ hunter2 = 1 }"] {
            let text = problems(&GOOD.replace("\"env:LOCAL_API_KEY\"", key));
            assert!(!text.is_empty() && !text.contains("hunter2"), "{key}: {text}");
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(text in any::<String>(), cut in 0..GOOD.len(), junk in "[\\[\\]{}=\"'.,\n a-z0-9é]{0,40}") {
            let _ = problems(&text);
            let _ = problems(&format!("{}{junk}{}", &GOOD[..cut], &GOOD[cut..]));
            let _ = problems(&GOOD.replace("gpt-x", &junk));
        }

        #[test]
        fn what_is_written_is_read_back(name in "[ -~é\t]{0,30}", weight in any::<i64>(), value in any::<String>()) {
            let mut file = CatalogueFile::parse(GOOD).unwrap();
            file.model[0].name.clone_from(&name);
            file.model[0].route[0].weight = weight;
            file.provider[0].headers.insert(name, value);
            let text = file.to_toml().unwrap();
            prop_assert_eq!(CatalogueFile::parse(&text).unwrap().to_toml().unwrap(), text);
        }
    }
}
