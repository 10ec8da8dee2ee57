//! `/admin/models`: the catalogue, with a form for a model.

use std::collections::BTreeMap;

use askama::Template;
use serde_json::{Map, Value, json};

use super::{Frame, Problem, encoded, page, query_text, show};
use crate::auth::Caller;
use crate::call::Call;
use crate::catalogue::{EntryChange, PricedCatalogue, PricedModel, UpcomingPrice};
use crate::error::{Error, Result};
use crate::http::Response;
use crate::http::form::Fields;
use crate::store::catalogue::{ModelRow, ProviderRow};
use crate::units::Unit;
use crate::web::admin_models::{change_model_for, key_in_words};
use crate::web::cursor::cut_list;
use crate::web::{Answer, fields};

/// Models on a page of the list.
const PAGE: i64 = 50;

/// Rows for further routes in the form.
const EMPTY_ROUTES: usize = 2;

/// The most rows of routes that a form has: as many as a model may have.
const MOST_ROUTES: usize = 100;

/// The notice for each `done` in the query.
pub(super) const NOTICES: &[(&str, &str)] = &[
    ("model", "Model saved. All servers follow at once."),
    ("model-removed", "Model removed."),
    ("provider", "Provider saved. All servers follow at once."),
    ("provider-removed", "Provider removed."),
    ("file", "Catalogue applied. All servers follow at once."),
];

#[derive(Template)]
#[template(path = "admin_models.html")]
struct Models {
    frame: Frame,
    models: Vec<ShownModel>,
    providers: Vec<ShownProvider>,
    default_price: String,
    is_empty: bool,
    next: Option<String>,
    is_first: bool,
}

struct ShownModel {
    model: ModelRow,
    price: Option<String>,
    upcoming: Vec<UpcomingPrice>,
    /// Of how many routes the provider can be called.
    usable: usize,
}

struct ShownProvider {
    row: ProviderRow,
    key: String,
    problem: Option<String>,
}

/// A price in words.
fn price_in_words(price: &BTreeMap<String, String>) -> String {
    let parts: Vec<String> = price.iter().map(|(unit, dollars)| format!("{} {dollars}", spaced(unit))).collect();
    if parts.is_empty() { "free".to_owned() } else { parts.join(", ") }
}

fn spaced(unit: &str) -> String {
    unit.replace('_', " ")
}

/// `GET /admin/models?after=`.
pub(in crate::web) fn list(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let catalogue = PricedCatalogue::read(&mut call.app.db.session()?)?;
    let models = &call.app.models;
    let shown = |row: ProviderRow| {
        let (key, problem) = (key_in_words(&row.api_key), models.problem_of(&row.name));
        ShownProvider { row, key: key.unwrap_or_else(|| "none".to_owned()), problem }
    };
    let providers: Vec<ShownProvider> = catalogue.providers.into_iter().map(shown).collect();
    let usable: std::collections::HashSet<&str> =
        providers.iter().filter(|one| one.problem.is_none()).map(|one| one.row.name.as_str()).collect();
    let mut models = catalogue.models;
    let is_empty = models.is_empty();
    let next = cut_list(call.request, PAGE, &mut models, |priced| &priced.model.name)?;
    let shown = |PricedModel { model, price, upcoming }: PricedModel| ShownModel {
        usable: model.routes.iter().filter(|route| usable.contains(route.provider.as_str())).count(),
        price: price.as_ref().map(price_in_words),
        upcoming,
        model,
    };
    let models = models.into_iter().map(shown).collect();
    let models_page = Models {
        frame: Frame::new(Some(caller), "admin").with_notice(call, NOTICES),
        models,
        default_price: price_in_words(&catalogue.default_price),
        is_empty,
        next: next.map(|next| format!("/admin/models?after={}", encoded(&next))),
        is_first: query_text(call, "after").is_empty(),
        providers,
    };
    page(200, &models_page)
}

#[derive(Template)]
#[template(path = "admin_model.html")]
struct ModelPage {
    frame: Frame,
    form: ModelForm,
    /// The names of the providers.
    providers: Vec<String>,
    upcoming: Vec<UpcomingPrice>,
    problem: Option<Problem>,
}

/// What the form shows: what is stored, or what was typed.
#[derive(Default)]
struct ModelForm {
    /// Whether it adds a model.
    is_new: bool,
    name: String,
    /// One a line.
    aliases: String,
    max_output_tokens: String,
    /// By the names that the catalogue has for them.
    prices: Vec<(&'static str, String)>,
    price_from: String,
    routes: Vec<RouteForm>,
}

#[derive(Clone, Default)]
struct RouteForm {
    provider: String,
    model: String,
    weight: String,
    priority: String,
}

impl RouteForm {
    fn is_empty(&self) -> bool {
        self.provider.is_empty() && self.model.is_empty()
    }

    fn to_json(&self) -> Value {
        let mut route = Map::new();
        route.insert("provider".to_owned(), json!(self.provider));
        if !self.model.is_empty() {
            route.insert("model".to_owned(), json!(self.model));
        }
        for (name, text) in [("weight", &self.weight), ("priority", &self.priority)] {
            if !text.is_empty() {
                route.insert(name.to_owned(), number_or_text(text));
            }
        }
        Value::Object(route)
    }
}

/// A number if it is one; else the text, whose field is then refused.
pub(super) fn number_or_text(text: &str) -> Value {
    text.parse::<i64>().map_or_else(|_| json!(text), |number| json!(number))
}

/// As a field of JSON: nothing typed is the default.
pub(super) fn optional_number(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { number_or_text(text) }
}

/// The lines of a text area that have something in them.
pub(super) fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty())
}

/// What was typed into a field, without space around it.
pub(super) fn typed(fields: &Fields, name: &str) -> String {
    fields.get(name).and_then(Value::as_str).unwrap_or_default().trim().to_owned()
}

impl ModelForm {
    fn of(stored: PricedModel) -> ModelForm {
        let PricedModel { model, price, .. } = stored;
        let price = price.unwrap_or_default();
        let route = |route: crate::store::catalogue::RouteRow| RouteForm {
            provider: route.provider,
            model: route.upstream_model,
            weight: route.weight.to_string(),
            priority: route.priority.to_string(),
        };
        ModelForm {
            is_new: false,
            aliases: model.aliases.join("\n"),
            max_output_tokens: model.max_output_tokens.map(|most| most.to_string()).unwrap_or_default(),
            prices: prices(|name| price.get(name).cloned().unwrap_or_default()),
            price_from: String::new(),
            routes: model.routes.into_iter().map(route).collect(),
            name: model.name,
        }
    }

    fn typed(fields: &Fields) -> ModelForm {
        let route = |n: usize| RouteForm {
            provider: typed(fields, &format!("route_{n}_provider")),
            model: typed(fields, &format!("route_{n}_model")),
            weight: typed(fields, &format!("route_{n}_weight")),
            priority: typed(fields, &format!("route_{n}_priority")),
        };
        ModelForm {
            is_new: !typed(fields, "new").is_empty(),
            name: typed(fields, "name"),
            aliases: typed(fields, "aliases"),
            max_output_tokens: typed(fields, "max_output_tokens"),
            prices: prices(|name| typed(fields, &format!("price_{name}"))),
            price_from: typed(fields, "price_from"),
            routes: (0..MOST_ROUTES).map(route).filter(|route| !route.is_empty()).collect(),
        }
    }

    /// The change that it asks for. Without any price typed, the price stays as it is.
    fn change(&self) -> Result<EntryChange> {
        let mut fields = Map::new();
        let mut set = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
        set("name", json!(self.name));
        set("aliases", json!(lines(&self.aliases).collect::<Vec<_>>()));
        set("max_output_tokens", optional_number(&self.max_output_tokens));
        let prices: Map<String, Value> = self
            .prices
            .iter()
            .filter(|(_, text)| !text.is_empty())
            .map(|(name, text)| ((*name).to_owned(), json!(text)))
            .collect();
        if !prices.is_empty() {
            set("price", Value::Object(prices));
        }
        if !self.price_from.is_empty() {
            set("price_from", json!(in_utc(&self.price_from)));
        }
        set("route", self.routes.iter().map(RouteForm::to_json).collect());
        let change = EntryChange::new(fields)?;
        Ok(if self.is_new { change.of_new_entry() } else { change })
    }

    /// The rows of the form: the routes, and some to be filled in.
    fn rows(&self) -> Vec<RouteForm> {
        let empty = EMPTY_ROUTES.min(MOST_ROUTES.saturating_sub(self.routes.len()));
        self.routes.iter().cloned().chain(vec![RouteForm::default(); empty]).collect()
    }
}

fn prices(value: impl Fn(&str) -> String) -> Vec<(&'static str, String)> {
    Unit::ALL.into_iter().map(|unit| (unit.catalogue_price(), value(unit.catalogue_price()))).collect()
}

/// Browsers send a day and a time without a zone, and without seconds if they are zero.
fn in_utc(text: &str) -> String {
    match text.len() {
        16 => format!("{text}:00Z"),
        19 => format!("{text}Z"),
        _ => text.to_owned(),
    }
}

/// `GET /admin/models/edit?name=`; without a name, the form adds a model.
pub(in crate::web) fn edit(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let name = call.request.query("name").unwrap_or_default();
    if name.is_empty() {
        let form = ModelForm { is_new: true, prices: prices(|_| String::new()), ..ModelForm::default() };
        return render(call, caller, form, None);
    }
    let models = PricedCatalogue::read(&mut call.app.db.session()?)?.models;
    let stored = models.into_iter().find(|priced| priced.model.name == name);
    let form = ModelForm::of(stored.ok_or(Error::NotFound("There is no model of this name"))?);
    render(call, caller, form, None)
}

fn render(call: &Call<'_>, caller: &Caller, form: ModelForm, problem: Option<Problem>) -> Answer {
    let catalogue = PricedCatalogue::read(&mut call.app.db.session()?)?;
    let stored = catalogue.models.into_iter().find(|priced| priced.model.name == form.name);
    let model_page = ModelPage {
        frame: Frame::new(Some(caller), "admin"),
        providers: catalogue.providers.into_iter().map(|row| row.name).collect(),
        upcoming: stored.filter(|_| !form.is_new).map(|priced| priced.upcoming).unwrap_or_default(),
        form,
        problem,
    };
    page(model_page.problem.as_ref().map_or(200, |problem| problem.status), &model_page)
}

/// `POST /admin/models/edit`.
pub(in crate::web) fn save(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let form = ModelForm::typed(&fields(call)?);
    match form.change().and_then(|change| change_model_for(call, caller, &change)) {
        Ok(_) => Ok(Response::see_other("/admin/models?done=model")),
        Err(e) => render(call, caller, form, Some(Problem::of("model", e)?)),
    }
}

/// `POST /admin/models/remove` with the `name`.
pub(in crate::web) fn remove(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let change = removal(&fields(call)?)?;
    change_model_for(call, caller, &change)?;
    Ok(Response::see_other("/admin/models?done=model-removed"))
}

/// The removal of the entry of the `name` in a form.
pub(super) fn removal(fields: &Fields) -> Result<EntryChange> {
    let fields = json!({"name": fields.text("name")?, "remove": true});
    EntryChange::new(fields.as_object().cloned().unwrap_or_default())
}
