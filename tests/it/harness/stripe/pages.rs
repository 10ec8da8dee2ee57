//! The pages that people see: a checkout and the portal, with a button each.

use serde_json::json;

use super::state::State;
use super::{checkout, subscriptions};

/// A page, or a redirect.
pub struct Page {
    pub status: u16,
    pub location: Option<String>,
    pub html: String,
}

impl Page {
    fn html(status: u16, title: &str, main: &str) -> Page {
        let html = format!(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title></head>\
             <body><h1>{title}</h1>{main}</body></html>"
        );
        Page { status, location: None, html }
    }

    fn see_other(location: &str) -> Page {
        Page { status: 303, location: Some(location.to_owned()), html: String::new() }
    }
}

/// The page at a path; `None` if that is the API's.
pub fn page(state: &mut State, method: &str, path: &str) -> Option<Page> {
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    Some(match (method, parts.as_slice()) {
        ("GET", ["c", "pay", id]) => match state.object("checkout.session", id) {
            Ok(session) if session["status"] == "open" => {
                let total = session["amount_total"].as_i64().unwrap();
                let main = format!(
                    "<p id=\"total\">US$ {}.{:02}</p><form method=\"post\" action=\"/c/pay/{id}/done\"><button id=\"pay\">Pay</button></form>",
                    total / 100,
                    total % 100
                );
                Page::html(200, "Checkout", &main)
            }
            _ => Page::html(410, "This page has expired", ""),
        },
        ("POST", ["c", "pay", id, "done"]) => match checkout::pay(state, id, false) {
            Ok(place) => Page::see_other(&place),
            Err(refusal) => Page::html(refusal.status, &refusal.message, ""),
        },
        ("GET", ["p", "session", id]) => {
            let Ok(session) = state.object("billing_portal.session", id) else {
                return Some(Page::html(404, "Not found", ""));
            };
            let main = format!(
                "<form method=\"post\" action=\"/p/session/{id}/cancel\"><button id=\"cancel\">Cancel plan</button></form>\
                 <a id=\"back\" href=\"{}\">Back</a>",
                session["return_url"].as_str().unwrap_or_default()
            );
            Page::html(200, "Portal", &main)
        }
        ("POST", ["p", "session", id, "cancel"]) => {
            let session = state.object("billing_portal.session", id).unwrap();
            let of_customer = |object: &&serde_json::Value| {
                object["object"] == "subscription"
                    && object["customer"] == session["customer"]
                    && object["status"] == "active"
            };
            let ids: Vec<String> = state
                .objects
                .values()
                .filter(of_customer)
                .map(|found| found["id"].as_str().unwrap().to_owned())
                .collect();
            for id in ids {
                subscriptions::change(state, &id, |found| found["cancel_at_period_end"] = json!(true));
            }
            Page::see_other(&format!("/p/session/{id}"))
        }
        _ => return None,
    })
}
