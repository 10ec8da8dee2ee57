//! What is called over the network: model servers, Stripe and the mail server.

use std::time::{Duration, Instant};

use super::{Check, answers};
use crate::billing::objects::Price;
use crate::billing::payments::Payments;
use crate::billing::{Form, Stripe};
use crate::catalogue::Models;
use crate::config::Config;
use crate::mail::Mail;
use crate::store::catalogue::CatalogueRows;

/// Most providers that are called.
const MAX_PROVIDERS: usize = 100;
/// How long a request to Stripe may take.
const STRIPE_TIMEOUT: Duration = Duration::from_secs(8);

/// What asks one of them.
type Question = Box<dyn FnOnce() -> Vec<Check> + Send>;

/// `catalogue` is the stored one, if the database could be asked.
pub(super) fn examine(config: &Config, catalogue: Option<&CatalogueRows>, until: Instant) -> Vec<Check> {
    let mut work: Vec<(String, Question)> = Vec::new();
    let own = config.clone();
    work.push(("Stripe".to_owned(), Box::new(move || stripe(&own))));
    let own = config.clone();
    work.push(("mail".to_owned(), Box::new(move || vec![mail(&own)])));
    let mut checks = Vec::new();
    match Models::new(config) {
        Err(e) => checks.push(Check::fail("models", e, "mend the setting")),
        Ok(models) => {
            if let Some(rows) = catalogue {
                models.load(rows);
            }
            let providers = models.handles();
            if providers.is_empty() {
                let advice = "set INFERENCE_URL, or store a catalogue with `textgen models apply FILE`";
                checks.push(Check::warn("models", "no model server is configured, so such requests get a 503", advice));
            }
            for (name, provider) in providers.into_iter().take(MAX_PROVIDERS) {
                let shown = format!("provider {name}");
                let check = match provider {
                    Err(fault) => {
                        checks.push(Check::fail(&shown, fault, "mend it in the catalogue or in the environment"));
                        continue;
                    }
                    Ok(provider) => provider,
                };
                let called = shown.clone();
                work.push((shown, Box::new(move || vec![of_list(&called, check.models())])));
            }
        }
    }
    for answer in answers(work, until) {
        match answer {
            Ok(found) => checks.extend(found),
            Err(silent) => checks.push(silent),
        }
    }
    checks
}

/// What a provider's answer to the question for its models says of it.
fn of_list(name: &str, answer: crate::error::Result<Option<Vec<crate::engine::ListedModel>>>) -> Check {
    match answer {
        Ok(Some(models)) => Check::ok(name, format!("reachable, lists {} models", models.len())),
        Ok(None) => Check::ok(name, "reachable; it has no list of models, so its key was not tried"),
        Err(e) => Check::fail(name, e.to_string(), "see its address, its key, and whether it runs"),
    }
}

fn mail(config: &Config) -> Check {
    const NAME: &str = "mail";
    let mail = match Mail::of(config) {
        Ok(mail) => mail,
        Err(e) => return Check::fail(NAME, e, "mend the settings"),
    };
    match (mail.folder(), mail.probe()) {
        (_, None) => Check::wants(
            !config.is_https(),
            NAME,
            "not configured",
            "set SMTP_URL and MAIL_FROM: otherwise nobody can reset a password",
        ),
        (Some(folder), _) => {
            let advice = "set SMTP_URL and MAIL_FROM, unless this is for development";
            Check::warn(NAME, format!("mails are written to {}", folder.display()), advice)
        }
        (None, Some(Ok(()))) => Check::ok(NAME, "the mail server is reachable, and takes the log-in if there is one"),
        (None, Some(Err(e))) => Check::fail(NAME, e, "see SMTP_URL, and whether the mail server takes this machine"),
    }
}

fn stripe(config: &Config) -> Vec<Check> {
    const NAME: &str = "Stripe";
    if config.stripe.stripe_secret_key.is_none() {
        return vec![Check::ok(NAME, "not configured")];
    }
    if let Err(e) = Payments::check(config) {
        return vec![Check::fail(NAME, e, "mend the settings")];
    }
    let secret = config.stripe.stripe_secret_key.as_deref().unwrap_or_default();
    let Some(stripe) = Stripe::new(secret, &config.stripe.stripe_api_url, STRIPE_TIMEOUT) else {
        return vec![Check::fail(NAME, "STRIPE_SECRET_KEY cannot be sent", "copy it again from Stripe's dashboard")];
    };
    let meters = match stripe.meters() {
        Ok(meters) => meters,
        Err(e) => {
            let advice = "see STRIPE_SECRET_KEY and STRIPE_API_URL; a restricted key needs to read and write meters, \
                customers, subscriptions, checkout sessions and refunds";
            return vec![Check::fail(NAME, e.to_string(), advice)];
        }
    };
    let is_trial = secret.starts_with("sk_test_") || secret.starts_with("rk_test_");
    let mut checks = vec![Check::wants(
        !(is_trial && config.is_https()),
        NAME,
        if is_trial { "reachable, with a test key" } else { "reachable, the key is accepted" },
        "set STRIPE_SECRET_KEY to that of the live mode, or nothing is ever paid",
    )];
    if let Some(event) = &config.stripe.stripe_meter_event {
        checks.push(Check::needs(
            meters.iter().any(|meter| meter.event_name == *event),
            "Stripe meter",
            format!("STRIPE_METER_EVENT is {event}, of {} active meters", meters.len()),
            "create a meter with this event name in Stripe, or mend the setting: usage is not billed",
        ));
    }
    let payments = &config.payments;
    for (variable, price) in [
        ("STRIPE_PRICE_MONTHLY", &payments.stripe_price_monthly),
        ("STRIPE_PRICE_ANNUAL", &payments.stripe_price_annual),
        ("STRIPE_PRICE_SELF_HOSTED", &payments.stripe_price_self_hosted),
        ("STRIPE_PRICE_METERED", &payments.stripe_price_metered),
    ] {
        let Some(price) = price else { continue };
        if let Err(e) = stripe.get::<Price>(&format!("/v1/prices/{price}"), &Form::new()) {
            checks.push(Check::fail(
                "Stripe price",
                format!("{variable}={price}: {e}"),
                "set it to a price of this account",
            ));
        }
    }
    checks
}
