//! The operator's API of web-hooks: the twin of `textgen webhook`.

use schemars::JsonSchema;
use serde::Serialize;
use time::OffsetDateTime;

use super::cursor::{self, last_before_next_page};
use super::key_fields::List;
use super::keys::in_transaction;
use super::{Answer, Message, actor, fields};
use crate::accounts::webhooks::{self as changes, NO_DELIVERY, NO_ENDPOINT};
use crate::auth::Caller;
use crate::call::Call;
use crate::error::Error;
use crate::http::Response;
use crate::http::request_fields::{Change, request_fields};
use crate::operation::Group::Administration;
use crate::operation::Handler::Authenticated;
use crate::operation::{Operation, get, post, summary};
use crate::store::timestamp;
use crate::store::webhooks::{self, Endpoint, ListedDelivery};

/// Deliveries on a page, unless `limit` asks for fewer.
const PAGE: i64 = 100;

/// The operations of this file.
pub(super) fn operations() -> Vec<Operation> {
    let all = [
        get("/api/admin/webhooks", Authenticated(list)).described(
            summary(Administration, "Endpoints that are called when something has happened").reply::<EndpointList>(),
        ),
        post("/api/admin/webhooks", Authenticated(add)).described(
            summary(Administration, "Add an endpoint; the reply has the secret of its signatures")
                .fields::<AddEndpoint<'_>>()
                .reply::<NewEndpoint>()
                .status(400, "url or kinds is invalid, or there are too many endpoints"),
        ),
        post("/api/admin/webhooks/update", Authenticated(update)).described(
            summary(Administration, "Turn an endpoint off or on again")
                .fields::<UpdateEndpoint<'_>>()
                .reply::<ShownEndpoint>()
                .status(404, NO_ENDPOINT),
        ),
        post("/api/admin/webhooks/remove", Authenticated(remove)).described(
            summary(Administration, "Remove an endpoint")
                .fields::<NameEndpoint<'_>>()
                .reply::<Message>()
                .status(404, NO_ENDPOINT),
        ),
        post("/api/admin/webhooks/test", Authenticated(test)).described(
            summary(Administration, "Send an event of kind webhook.test to an endpoint")
                .fields::<NameEndpoint<'_>>()
                .reply::<Message>()
                .status(404, NO_ENDPOINT),
        ),
        get("/api/admin/webhooks/deliveries", Authenticated(deliveries)).described(
            summary(Administration, "What was sent to endpoints, newest first")
                .query::<DeliveryQuery>()
                .reply::<DeliveryList>()
                .status(400, "limit or after is invalid"),
        ),
        post("/api/admin/webhooks/retry", Authenticated(retry)).described(
            summary(Administration, "Try a delivery again now")
                .fields::<RetryDelivery>()
                .reply::<Message>()
                .status(404, NO_DELIVERY),
        ),
    ];
    all.into_iter().map(Operation::for_administrators).collect()
}

request_fields! {
    /// A new endpoint.
    struct AddEndpoint<'f> {
        /// Its address.
        url: &'f str,
        /// The kinds of events that it wants, such as `account.suspended`; all by default.
        kinds: Change<List>,
        /// What it is for; at most 200 characters.
        description: Option<&'f str>,
    }
}

request_fields! {
    /// A change of an endpoint.
    struct UpdateEndpoint<'f> {
        id: &'f str,
        /// Whether nothing is sent to it.
        #[schemars(required)]
        disabled: Option<bool>,
    }
}

request_fields! {
    /// An endpoint.
    struct NameEndpoint<'f> {
        id: &'f str,
    }
}

#[derive(JsonSchema)]
#[expect(dead_code, reason = "describes the fields")]
struct RetryDelivery {
    /// The delivery's id.
    id: i64,
}

#[derive(JsonSchema)]
#[expect(dead_code, reason = "describes the query")]
struct DeliveryQuery {
    /// 1 to 100.
    limit: Option<i64>,
    /// The `next` of the page before.
    after: Option<String>,
    /// Only those of this endpoint.
    endpoint: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct EndpointList {
    endpoints: Vec<ShownEndpoint>,
}

/// An endpoint.
#[derive(Serialize, JsonSchema)]
struct ShownEndpoint {
    id: String,
    url: String,
    /// The kinds of events that it wants; empty for all.
    kinds: Vec<String>,
    description: String,
    /// Since when nothing is sent to it.
    #[serde(serialize_with = "timestamp::serialize_zulu_option")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    disabled: Option<OffsetDateTime>,
    #[serde(serialize_with = "timestamp::serialize_zulu")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    created: OffsetDateTime,
}

impl From<Endpoint> for ShownEndpoint {
    fn from(endpoint: Endpoint) -> ShownEndpoint {
        let Endpoint { id, url, kinds, description, disabled, created } = endpoint;
        ShownEndpoint { id, url, kinds, description, disabled, created }
    }
}

#[derive(Serialize, JsonSchema)]
struct NewEndpoint {
    #[serde(flatten)]
    endpoint: ShownEndpoint,
    /// `whsec_…`, with which signatures are checked. Shown here and never again.
    secret: String,
}

#[derive(Serialize, JsonSchema)]
struct DeliveryList {
    deliveries: Vec<ShownDelivery>,
    /// The `after` of the next page.
    next: Option<String>,
}

/// What became of an event at an endpoint.
#[derive(Serialize, JsonSchema)]
struct ShownDelivery {
    id: i64,
    endpoint: String,
    /// The event, as in `webhook-id`.
    event: String,
    kind: String,
    attempts: i32,
    /// `delivered`, `waiting` or `given_up`.
    state: &'static str,
    /// When it is tried next, if it waits.
    #[serde(serialize_with = "timestamp::serialize_zulu_option")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    next_at: Option<OffsetDateTime>,
    /// The status of the last answer.
    status: Option<i32>,
    /// What went wrong the last time.
    problem: String,
    #[serde(serialize_with = "timestamp::serialize_zulu")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    created: OffsetDateTime,
}

impl From<ListedDelivery> for ShownDelivery {
    fn from(one: ListedDelivery) -> ShownDelivery {
        let ListedDelivery { id, endpoint_id, event_id, kind, attempts, state, next_at, status, problem, created } =
            one;
        let event = format!("evt_{event_id}");
        ShownDelivery { id, endpoint: endpoint_id, event, kind, attempts, state, next_at, status, problem, created }
    }
}

/// `GET /api/admin/webhooks`.
fn list(call: &mut Call<'_>, _: &Caller) -> Answer {
    let endpoints = webhooks::endpoints(&mut call.app.db.session()?)?.into_iter().map(ShownEndpoint::from).collect();
    Ok(Response::json(200, &EndpointList { endpoints }))
}

/// `POST /api/admin/webhooks`.
fn add(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let fields = fields(call)?;
    let AddEndpoint { url, kinds, description } = AddEndpoint::read(&fields)?;
    let kinds = match kinds {
        Change::Set(List(kinds)) => kinds,
        Change::Keep | Change::Clear => Vec::new(),
    };
    let address = call.client().to_string();
    let (endpoint, secret) = in_transaction(call, |db| {
        changes::add(db, actor(caller, &address), url, &kinds, description.unwrap_or_default().trim())
    })?;
    Ok(Response::json(200, &NewEndpoint { endpoint: endpoint.into(), secret }))
}

/// `POST /api/admin/webhooks/update`.
fn update(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let fields = fields(call)?;
    let UpdateEndpoint { id, disabled } = UpdateEndpoint::read(&fields)?;
    let is_disabled = disabled.ok_or(Error::bad("disabled: expected true or false"))?;
    let address = call.client().to_string();
    let changed = in_transaction(call, |db| changes::set_disabled(db, actor(caller, &address), id, is_disabled))?;
    Ok(Response::json(200, &ShownEndpoint::from(changed)))
}

/// `POST /api/admin/webhooks/remove`.
fn remove(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let fields = fields(call)?;
    let NameEndpoint { id } = NameEndpoint::read(&fields)?;
    let address = call.client().to_string();
    in_transaction(call, |db| changes::remove(db, actor(caller, &address), id))?;
    Ok(Response::json(200, &Message { message: "Removed" }))
}

/// `POST /api/admin/webhooks/test`.
fn test(call: &mut Call<'_>, _: &Caller) -> Answer {
    let fields = fields(call)?;
    let NameEndpoint { id } = NameEndpoint::read(&fields)?;
    changes::test(&mut call.app.db.session()?, id)?;
    Ok(Response::json(200, &Message { message: "Sent within a second or two" }))
}

/// `GET /api/admin/webhooks/deliveries`.
fn deliveries(call: &mut Call<'_>, _: &Caller) -> Answer {
    let (limit, after) = cursor::asked(call.request, PAGE)?;
    let before = after.map(|text| text.parse().map_err(|_| Error::bad(cursor::NO_POSITION))).transpose()?;
    let endpoint = call.request.query("endpoint").filter(|id| !id.is_empty());
    let mut found = webhooks::page(&mut call.app.db.session()?, endpoint.as_deref(), before, limit + 1)?;
    let next = last_before_next_page(&mut found, limit).map(|last| last.id.to_string());
    let deliveries = found.into_iter().map(ShownDelivery::from).collect();
    Ok(Response::json_reserved(200, &DeliveryList { deliveries, next })?)
}

/// `POST /api/admin/webhooks/retry`.
fn retry(call: &mut Call<'_>, _: &Caller) -> Answer {
    let fields = fields(call)?;
    let id = fields.optional_integer("id")?.ok_or(Error::bad("id: expected a number"))?;
    changes::retry(&mut call.app.db.session()?, id)?;
    Ok(Response::json(200, &Message { message: "Tried again now" }))
}
