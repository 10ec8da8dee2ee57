//! `/admin/providers/edit`: the form for a provider of the catalogue.

use askama::Template;
use serde_json::{Map, Value, json};

use super::admin_models::{lines, optional_number, removal, typed};
use super::{Frame, Problem, page};
use crate::auth::Caller;
use crate::call::Call;
use crate::catalogue::{EntryChange, PricedCatalogue};
use crate::engine::Protocol;
use crate::error::{Error, Result};
use crate::http::Response;
use crate::http::form::Fields;
use crate::store::catalogue::{ProviderRow, StoredKey};
use crate::web::admin_models::change_provider_for;
use crate::web::{Answer, fields};

/// The fields that are numbers, with their labels.
const NUMBERS: [(&str, &str); 5] = [
    ("max_concurrent", "Most calls at once"),
    ("connect_timeout_ms", "Connection (ms)"),
    ("first_byte_timeout_ms", "First byte (ms)"),
    ("idle_timeout_ms", "Between two pieces (ms)"),
    ("total_timeout_ms", "Whole call (ms)"),
];

#[derive(Template)]
#[template(path = "admin_provider.html")]
struct ProviderPage {
    frame: Frame,
    form: ProviderForm,
    /// Whether a key is stored for it.
    has_sealed_key: bool,
    problem: Option<Problem>,
}

/// What the form shows: what is stored, or what was typed. A key is never shown, not even one that was just typed.
#[derive(Default)]
struct ProviderForm {
    /// Whether it adds a provider.
    is_new: bool,
    name: String,
    base_url: String,
    key_variable: String,
    /// Each protocol, and whether it has it.
    protocols: Vec<(&'static str, bool)>,
    /// One a line: `Name: value`.
    headers: String,
    ca_file: String,
    /// The name, the label, and the value of each.
    numbers: Vec<(&'static str, &'static str, String)>,
}

impl ProviderForm {
    fn new() -> ProviderForm {
        ProviderForm {
            is_new: true,
            protocols: protocols(|name| Protocol::USUAL.iter().any(|usual| usual.name() == name)),
            numbers: numbers(|_| String::new()),
            ..ProviderForm::default()
        }
    }

    fn of(row: ProviderRow) -> ProviderForm {
        let text = |number: Option<i64>| number.map(|number| number.to_string()).unwrap_or_default();
        let number = |name: &str| match name {
            "max_concurrent" => text(row.max_concurrent),
            "connect_timeout_ms" => text(row.connect_timeout_ms),
            "first_byte_timeout_ms" => text(row.first_byte_timeout_ms),
            "idle_timeout_ms" => text(row.idle_timeout_ms),
            _ => text(row.total_timeout_ms),
        };
        let headers: Vec<String> = row.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        ProviderForm {
            is_new: false,
            numbers: numbers(number),
            key_variable: if let StoredKey::Variable(name) = row.api_key { name } else { String::new() },
            protocols: protocols(|name| row.protocols.iter().any(|known| known == name)),
            headers: headers.join("\n"),
            ca_file: row.ca_file.unwrap_or_default(),
            name: row.name,
            base_url: row.base_url,
        }
    }

    fn typed(fields: &Fields) -> ProviderForm {
        ProviderForm {
            is_new: !typed(fields, "new").is_empty(),
            name: typed(fields, "name"),
            base_url: typed(fields, "base_url"),
            key_variable: typed(fields, "key_variable"),
            protocols: protocols(|name| !typed(fields, &format!("protocol_{name}")).is_empty()),
            headers: typed(fields, "headers"),
            ca_file: typed(fields, "ca_file"),
            numbers: numbers(|name| typed(fields, name)),
        }
    }

    /// The change that it asks for, with the API key that was typed.
    fn change(&self, fields: &Fields) -> Result<EntryChange> {
        let (key, removes_key) = (typed(fields, "key"), !typed(fields, "remove_key").is_empty());
        let mut change = Map::new();
        let mut set = |name: &str, value: Value| drop(change.insert(name.to_owned(), value));
        set("name", json!(self.name));
        set("base_url", json!(self.base_url));
        match (key.as_str(), self.key_variable.as_str()) {
            ("", "") if removes_key || typed(fields, "has_sealed_key").is_empty() => set("api_key", Value::Null),
            // The one that is stored stays.
            ("", "") => {}
            ("", variable) => set("api_key", json!(format!("env:{variable}"))),
            (key, _) => set("api_key", json!(key)),
        }
        let chosen: Vec<&str> =
            self.protocols.iter().filter(|(_, is_chosen)| *is_chosen).map(|(name, _)| *name).collect();
        set("protocols", json!(chosen));
        set("headers", headers(&self.headers)?);
        set("ca_file", if self.ca_file.is_empty() { Value::Null } else { json!(self.ca_file) });
        for (name, _, value) in &self.numbers {
            set(name, optional_number(value));
        }
        let change = EntryChange::new(change)?;
        Ok(if self.is_new { change.of_new_entry() } else { change })
    }
}

fn protocols(is_chosen: impl Fn(&str) -> bool) -> Vec<(&'static str, bool)> {
    Protocol::ALL.map(|protocol| (protocol.name(), is_chosen(protocol.name()))).to_vec()
}

fn numbers(value: impl Fn(&str) -> String) -> Vec<(&'static str, &'static str, String)> {
    NUMBERS.map(|(name, label)| (name, label, value(name))).to_vec()
}

fn headers(text: &str) -> Result<Value> {
    let mut headers = Map::new();
    for line in lines(text) {
        let (name, value) = line.split_once(':').ok_or(Error::bad("headers: expected Name: value in each line"))?;
        headers.insert(name.trim().to_owned(), json!(value.trim()));
    }
    Ok(Value::Object(headers))
}

/// `GET /admin/providers/edit?name=`; without a name, the form adds a provider.
pub(in crate::web) fn edit(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let name = call.request.query("name").unwrap_or_default();
    if name.is_empty() {
        return render(call, caller, ProviderForm::new(), None);
    }
    let row = stored(call, &name)?.ok_or(Error::NotFound("There is no provider of this name"))?;
    render(call, caller, ProviderForm::of(row), None)
}

fn stored(call: &Call<'_>, name: &str) -> Result<Option<ProviderRow>> {
    let providers = PricedCatalogue::read(&mut call.app.db.session()?)?.providers;
    Ok(providers.into_iter().find(|row| row.name == name))
}

fn render(call: &Call<'_>, caller: &Caller, form: ProviderForm, problem: Option<Problem>) -> Answer {
    let row = if form.is_new { None } else { stored(call, &form.name)? };
    let provider_page = ProviderPage {
        frame: Frame::new(Some(caller), "admin"),
        has_sealed_key: row.is_some_and(|row| matches!(row.api_key, StoredKey::Sealed(_))),
        form,
        problem,
    };
    page(provider_page.problem.as_ref().map_or(200, |problem| problem.status), &provider_page)
}

/// `POST /admin/providers/edit`.
pub(in crate::web) fn save(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let fields = fields(call)?;
    let form = ProviderForm::typed(&fields);
    match form.change(&fields).and_then(|change| change_provider_for(call, caller, &change)) {
        Ok(_) => Ok(Response::see_other("/admin/models?done=provider")),
        Err(e) => render(call, caller, form, Some(Problem::of("provider", e)?)),
    }
}

/// `POST /admin/providers/remove` with the `name`.
pub(in crate::web) fn remove(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let change = removal(&fields(call)?)?;
    match change_provider_for(call, caller, &change) {
        Ok(_) => Ok(Response::see_other("/admin/models?done=provider-removed")),
        Err(e) => {
            let problem = Problem::of("remove", e)?;
            let form = stored(call, change.name())?.map_or_else(ProviderForm::new, ProviderForm::of);
            render(call, caller, form, Some(problem))
        }
    }
}
