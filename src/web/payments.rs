//! Payments: checkouts, the portal, Stripe's web-hook, and tokens that say who has subscribed.

use std::time::{SystemTime, UNIX_EPOCH};

use schemars::JsonSchema;
use serde::Serialize;
use time::OffsetDateTime;

use super::pages::web_address;
use super::{Answer, fields};
use crate::auth::Caller;
use crate::billing::checkout::{Opened, Order, Return};
use crate::billing::events::Event;
use crate::billing::payments::Payments;
use crate::billing::plans::Plan;
use crate::billing::{signature, validation_token};
use crate::blocking::{self, Wait};
use crate::call::Call;
use crate::error::{Conflicting, Error, NOT_AUTHENTICATED, Result, Shape};
use crate::http::Response;
use crate::http::form::{FORM_LIMIT, Fields};
use crate::operation::Handler::{Authenticated, Optional, Public};
use crate::operation::{Group, Operation, get, post, summary};
use crate::store::{timestamp, users};

/// The least and the most credit that is bought at once, in cents. Stripe takes no less than 50 cents.
pub(super) const CREDIT_CENTS: std::ops::RangeInclusive<i64> = 50..=1_000_000;

/// The most self-hosted instances that are bought at once.
const MOST_INSTANCES: i64 = 10_000;

/// The most characters of a referral that are noted.
const LONGEST_REFERRAL: usize = 100;

/// The operations of this file.
pub(super) fn operations() -> Vec<Operation> {
    vec![
        post("/create-checkout-session", Optional(check_out)),
        post("/create-checkout-session-embedded", Optional(check_out_embedded)),
        get("/portal", Optional(portal)),
        post("/webhook", Public(webhook)),
        post("/api/stripe/webhook", Public(webhook)).described(
            summary(Group::Health, "What Stripe calls when something was paid, with its signature in Stripe-Signature")
                .json::<StripeEvent>()
                .reply::<Received>()
                .status(400, "The signature is invalid or too old, or the body is no event")
                .status(503, "Payments are not set up, or the event could not be stored: Stripe sends it again"),
        ),
        get("/api/validation-token", Authenticated(validation_token))
            .errors(Shape::Error)
            .unauthorized("Authentication required")
            .described(
                summary(Group::Accounts, "A token that says that the account has a subscription, valid for an hour")
                    .reply::<ShownToken>()
                    .status(403, "Active subscription required"),
            ),
    ]
}

/// An event, as Stripe's documentation describes it.
#[derive(JsonSchema)]
#[schemars(inline)]
#[expect(dead_code, reason = "describes the body")]
struct StripeEvent {
    id: String,
    r#type: String,
}

#[derive(Serialize, JsonSchema)]
struct Received {
    /// Always true.
    received: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Embedded {
    client_secret: Option<String>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ValidationToken")]
struct ShownToken {
    validation_token: String,
    user_email: String,
    /// The id of the subscription's item at Stripe.
    subscription_item_id: String,
    /// When the token ends.
    #[serde(serialize_with = "timestamp::serialize_zulu")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    expires: OffsetDateTime,
}

/// The connection to Stripe and the caller.
fn payer<'c>(call: &Call<'c>, caller: Option<&'c Caller>) -> Result<(&'c Payments, &'c Caller)> {
    let payments = call.app.payments()?;
    Ok((payments, caller.ok_or(Error::Unauthorized(NOT_AUTHENTICATED))?))
}

/// Runs `work`, which waits for Stripe.
fn asking<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    blocking::block_in_place(Wait::Fetch, work)?
}

/// `POST /create-checkout-session` with `type` and `quantity`: leads to the page at Stripe.
fn check_out(call: &mut Call<'_>, caller: Option<&Caller>) -> Answer {
    let (payments, caller) = payer(call, caller)?;
    let fields = fields(call)?;
    let (order, back) = order(call, &fields, false)?;
    let id = &caller.user.id;
    let place = asking(|| match payments.check_out(&call.app.db, id, order, &back)? {
        Opened::Page(page) => page.url.ok_or_else(|| Error::Internal("a checkout without an address".to_owned())),
        Opened::Subscribed => payments.portal(&call.app.db, id, &back.web),
    })?;
    Ok(Response::see_other(place))
}

/// `POST /create-checkout-session-embedded`: the secret with which a script shows the page.
fn check_out_embedded(call: &mut Call<'_>, caller: Option<&Caller>) -> Answer {
    let (payments, caller) = payer(call, caller)?;
    let fields = Fields::read_json(call.request, FORM_LIMIT)?;
    let (order, back) = order(call, &fields, true)?;
    match asking(|| payments.check_out(&call.app.db, &caller.user.id, order, &back))? {
        Opened::Page(page) => Ok(Response::json(200, &Embedded { client_secret: page.client_secret })),
        Opened::Subscribed => {
            Err(Error::Conflict("The account has a subscription, see /portal", Conflicting::default()))
        }
    }
}

/// What is asked for: `type` is `monthly` (the default), `annual`, `self-hosted` or `credits`; `quantity`, the number of
/// instances, or whole cents of credit.
fn order(call: &Call<'_>, fields: &Fields, is_embedded: bool) -> Result<(Order, Return)> {
    let text = |name| Ok::<_, Error>(fields.optional_text(name)?.filter(|text| !text.is_empty()));
    let kind = text("type")?.or(text("subscription_type")?).unwrap_or("monthly");
    let quantity = fields.optional_integer("quantity")?.unwrap_or(1);
    let within = |range: std::ops::RangeInclusive<i64>| match range.contains(&quantity) {
        true => Ok(quantity),
        false if range.end() == range.start() => Err(Error::bad(format!("quantity must be {}", range.start()))),
        false => Err(Error::bad(format!("quantity must be from {} to {}", range.start(), range.end()))),
    };
    let order = match kind {
        "monthly" => Order::Plan(Plan::Monthly, within(1..=1)?),
        "annual" => Order::Plan(Plan::Annual, within(1..=1)?),
        "self-hosted" => Order::Plan(Plan::SelfHosted, within(1..=MOST_INSTANCES)?),
        "credits" if !call.app.payments()?.sells_credit() => {
            return Err(Error::bad("Credit is not sold here: with BILLING=metered, usage is billed afterwards"));
        }
        "credits" => Order::Credits(within(CREDIT_CENTS)?),
        _ => return Err(Error::bad("type must be monthly, annual, self-hosted or credits")),
    };
    let referral = text("referral")?.unwrap_or_default().chars().take(LONGEST_REFERRAL).collect();
    Ok((order, Return { web: web_address(call), is_embedded, referral }))
}

/// `GET /portal`: leads to the page at Stripe where subscriptions are managed.
fn portal(call: &mut Call<'_>, caller: Option<&Caller>) -> Answer {
    let (payments, caller) = payer(call, caller)?;
    let place = asking(|| payments.portal(&call.app.db, &caller.user.id, &web_address(call)))?;
    Ok(Response::see_other(place))
}

/// `POST /api/stripe/webhook`. Answers 200 once what the event leads to is durable.
fn webhook(call: &mut Call<'_>) -> Answer {
    let payments = call.app.payments()?;
    let body = call.request.body.into_bytes(FORM_LIMIT)?;
    let signed = call.request.header("stripe-signature").ok_or(Error::bad("Stripe-Signature is missing"))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    signature::check(signed, &body, payments.webhook_secrets(), now).map_err(|e| {
        log::warn!("a web-hook was refused: {e}");
        Error::bad("The signature is invalid")
    })?;
    let event = Event::parse(&body)?;
    let changed = asking(|| payments.handle(&call.app.db, &event))?;
    if let Some(id) = changed {
        // Other processes hear of it; this one need not wait for that.
        call.app.cache.revoke(&id);
    }
    Ok(Response::json(200, &Received { received: true }))
}

/// `GET /api/validation-token`.
fn validation_token(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let secret = call.app.config.payments.backend_validation_secret.as_deref();
    let mut session = call.app.db.session()?;
    let user = users::by_id(&mut session, &caller.user.id)?.ok_or(Error::Unauthorized("Authentication required"))?;
    let made = validation_token::make(&mut session, &user, secret)?;
    drop(session);
    let validation_token::ValidationToken { token, item_id, expires } = made;
    let shown = ShownToken { validation_token: token, user_email: user.email, subscription_item_id: item_id, expires };
    Ok(Response::json(200, &shown))
}
