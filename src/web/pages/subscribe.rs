//! `/subscribe`: the plans and their prices, credit, and what the account has.

use askama::Template;

use super::{Frame, page, policy, show, subscribe};
use crate::auth::Caller;
use crate::billing::plans::Plan;
use crate::billing::prices::Offer;
use crate::blocking::{self, Wait};
use crate::call::Call;
use crate::error::{Error, NOT_AUTHENTICATED};
use crate::store::subscriptions::{self, Subscription};
use crate::store::users;
use crate::web::Answer;

/// The notice for each `done` in the query.
const NOTICES: &[(&str, &str)] = &[
    ("subscription", "Thank you. Your subscription is active as soon as the payment is confirmed."),
    ("payment", "Thank you. Your credit is added as soon as the payment is confirmed."),
];

/// Credit that can be bought at once, in US$.
const AMOUNTS: [i64; 5] = [5, 10, 25, 50, 100];

#[derive(Template)]
#[template(path = "subscribe.html")]
struct Subscribe {
    frame: Frame,
    offers: Vec<Offer>,
    is_subscribed: bool,
    has_customer: bool,
    subscription: Option<Subscription>,
    sells_credit: bool,
    amounts: [i64; 5],
}

impl Subscribe {
    /// Whether the subscription is over, or never began.
    fn is_over(subscription: &Subscription) -> bool {
        !matches!(subscription.state.as_str(), "active" | "trialing" | "past_due" | "unpaid" | "paused")
    }
}

/// `GET /subscribe`.
pub(in crate::web) fn show(call: &mut Call<'_>, caller: Option<&Caller>) -> Answer {
    let payments = call.app.payments()?;
    let offers = blocking::block_in_place(Wait::Fetch, || payments.offers())?;
    let (mut is_subscribed, mut has_customer, mut subscription) = (false, false, None);
    if let Some(caller) = caller {
        let mut session = call.app.db.session()?;
        // From the database and not the cache: a payment may just have arrived.
        let user = users::by_id(&mut session, &caller.user.id)?.ok_or(Error::Unauthorized(NOT_AUTHENTICATED))?;
        subscription = subscriptions::of_user(&mut session, &user.id)?.filter(|found| !Subscribe::is_over(found));
        (is_subscribed, has_customer) = (user.is_subscribed, user.stripe_id.is_some_and(|id| !id.is_empty()));
    }
    let frame = Frame::new(caller, "account").with_notice(call, NOTICES);
    let sells_credit = payments.sells_credit();
    let shown = Subscribe { frame, offers, is_subscribed, has_customer, subscription, sells_credit, amounts: AMOUNTS };
    // Its forms lead to Stripe's pages.
    let policy = policy(&format!("'self' {}", payments.page_hosts()));
    Ok(page(200, &shown)?.header("Content-Security-Policy", policy))
}

/// A plan's name.
fn title(plan: Plan) -> &'static str {
    match plan {
        Plan::Monthly => "Monthly",
        Plan::Annual => "Annual",
        Plan::SelfHosted => "Self-hosted",
    }
}

/// A plan's name, and others.
pub(super) fn title_of(name: &str) -> &'static str {
    Plan::ALL.into_iter().find(|plan| plan.name() == name).map_or("Other", title)
}

/// A state in words.
pub(super) fn state(subscription: &Subscription) -> &'static str {
    match subscription.state.as_str() {
        "active" => "Active",
        "trialing" => "Trial",
        "past_due" => "Payment failed",
        "unpaid" => "Unpaid",
        "paused" => "Paused",
        "canceled" => "Canceled",
        _ => "Incomplete",
    }
}
