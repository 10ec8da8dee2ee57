//! What mails say, as text and as HTML.

use askama::Template;
use serde_json::Value;

use super::kind::Kind;
use crate::error::{Error, Result};
use crate::money::in_dollars;

/// The longest line of a text part, in characters; only addresses of pages are longer.
const WIDTH: usize = 72;

/// A mail's subject and its two parts.
#[derive(Debug)]
pub(super) struct Letter {
    /// One line.
    pub(super) subject: String,
    /// For readers of plain text.
    pub(super) text: String,
    /// For others.
    pub(super) html: String,
}

/// What the text of a mail needs to know.
pub(super) struct Facts<'a> {
    pub(super) kind: Kind,
    /// The address of the web server.
    pub(super) site: &'a str,
    /// The account's address.
    pub(super) email: &'a str,
    /// Where the mail goes.
    pub(super) recipient: &'a str,
    pub(super) details: &'a Value,
    /// The page that the mail leads to, with its token.
    pub(super) link: &'a str,
}

/// The words of a mail: paragraphs, a link, and paragraphs after it.
struct Words {
    subject: String,
    before: Vec<String>,
    label: &'static str,
    after: Vec<String>,
}

#[derive(Template)]
#[template(path = "mail.html")]
struct Html<'a> {
    words: &'a Words,
    link: &'a str,
    place: &'a str,
}

#[derive(Template)]
#[template(path = "mail.txt", escape = "none", whitespace = "preserve")]
struct Text<'a> {
    words: &'a Words,
    link: &'a str,
    place: &'a str,
}

impl Letter {
    /// Writes a mail.
    ///
    /// # Errors
    /// A template cannot be rendered: a fault of ours.
    pub(super) fn write(facts: &Facts<'_>) -> Result<Letter> {
        let words = words(facts);
        let place = place(facts.site);
        let rendered =
            |text: askama::Result<String>| text.map_err(|e| Error::Internal(format!("cannot render a mail: {e}")));
        let text = rendered(Text { words: &words, link: facts.link, place }.render())?;
        let html = rendered(Html { words: &words, link: facts.link, place }.render())?;
        Ok(Letter { subject: words.subject, text, html })
    }
}

/// The site as people call it: without the scheme.
fn place(site: &str) -> &str {
    site.split_once("://").map_or(site, |(_, place)| place)
}

fn words(facts: &Facts<'_>) -> Words {
    let Facts { kind, site, email, details, .. } = facts;
    let place = place(site);
    let text = |name: &str| details[name].as_str().unwrap_or_default().to_owned();
    match kind {
        Kind::Verify => Words {
            subject: "Confirm your e-mail address".to_owned(),
            before: vec![format!("You signed up at {place}. Please confirm that {email} is your e-mail address.")],
            label: "Confirm e-mail address",
            after: vec![
                "The link works once, for 24 hours.".to_owned(),
                "If you did not sign up, you can ignore this e-mail.".to_owned(),
            ],
        },
        Kind::Reset => Words {
            subject: "Choose a new password".to_owned(),
            before: vec![format!("Somebody, probably you, asked for a new password for {email} at {place}.")],
            label: "Choose a new password",
            after: vec![
                "The link works once, for 30 minutes.".to_owned(),
                "If it was not you, you can ignore this e-mail. Your password stays as it is.".to_owned(),
            ],
        },
        Kind::ConfirmEmail => Words {
            subject: "Confirm your new e-mail address".to_owned(),
            before: vec![format!(
                "Somebody, probably you, wants to use {} for an account at {place}. Please confirm it.",
                facts.recipient
            )],
            label: "Confirm e-mail address",
            after: vec![
                "The link works once, for 30 minutes. Until then, the account keeps its old address.".to_owned(),
                "If it was not you, you can ignore this e-mail.".to_owned(),
            ],
        },
        Kind::EmailChanged => Words {
            subject: "Your e-mail address was changed".to_owned(),
            before: vec![
                format!("The e-mail address of your account at {place} was changed."),
                format!("Old: {}", text("old")),
                format!("New: {}", text("new")),
                "Please log in with the new address from now on.".to_owned(),
            ],
            label: "Log in",
            after: vec![format!(
                "If you did not do this, somebody knows your password. Contact the people who run {place}."
            )],
        },
        Kind::PasswordChanged => Words {
            subject: "Your password was changed".to_owned(),
            before: vec![
                format!("The password of {email} at {place} was changed, and all other browsers were signed out."),
                "If it was not you, choose another password at once.".to_owned(),
            ],
            label: "Choose a new password",
            after: Vec::new(),
        },
        Kind::NewDevice => Words {
            subject: "New sign-in to your account".to_owned(),
            before: vec![
                format!("Somebody signed in to {email} at {place} from a place that is new to us."),
                format!("Browser: {}", text("browser")),
                format!("IP address: {}", text("address")),
                format!("Time: {}", text("time")),
                "If it was you, there is nothing to do. If not, choose a new password: that signs out all browsers."
                    .to_owned(),
            ],
            label: "Choose a new password",
            after: Vec::new(),
        },
        Kind::KnownAddress => Words {
            subject: "You already have an account".to_owned(),
            before: vec![
                format!(
                    "Somebody tried to sign up at {place} with your e-mail address {email}, which already has an account."
                ),
                format!("If it was you, log in at {site}/login. If you don't know your password, choose a new one."),
            ],
            label: "Choose a new password",
            after: vec!["If it was not you, you can ignore this e-mail. Nothing was changed.".to_owned()],
        },
        Kind::Budget => budget(details, email, place),
        Kind::Credit => credit(details, email, place),
    }
}

fn budget(details: &Value, email: &str, place: &str) -> Words {
    let percent = details["percent"].as_i64().unwrap_or_default();
    let whose = match details["key"].as_str() {
        Some(key) => format!("the key “{key}” of {email}"),
        None => email.to_owned(),
    };
    let window = match details["window"].as_str().unwrap_or_default() {
        "day" => " of this day",
        "week" => " of this week",
        "month" => " of this month",
        _ => "",
    };
    let (spent, limit) = (dollars(&details["spent_micros"]), dollars(&details["limit_micros"]));
    let is_used_up = percent >= 100;
    let subject = match is_used_up {
        true => "Your budget is used up".to_owned(),
        false => format!("{percent} % of your budget is used"),
    };
    let mut before = vec![format!("At {place}, {whose} has spent {spent} of the budget{window}, which is {limit}.")];
    if is_used_up {
        before.push("Requests that cost something are refused until there is room again.".to_owned());
    }
    if let Some(resets) = details["resets"].as_str() {
        before.push(format!("The budget starts anew at {} UTC.", resets.replace('T', " ").trim_end_matches('Z')));
    }
    Words { subject, before, label: "See your usage", after: Vec::new() }
}

fn credit(details: &Value, email: &str, place: &str) -> Words {
    let left = dollars(&details["balance_micros"]);
    let is_used_up = details["percent"].as_i64().unwrap_or_default() >= 100;
    let (subject, said) = match is_used_up {
        true => ("Your credit is used up", "Requests that cost something are refused until there is credit again."),
        false => ("Your credit is running low", "When it is used up, requests that cost something are refused."),
    };
    let before = vec![format!("At {place}, {email} has {left} of credit left."), said.to_owned()];
    Words { subject: subject.to_owned(), before, label: "Add credit", after: Vec::new() }
}

/// Micro-dollars as dollars.
fn dollars(micros: &Value) -> String {
    format!("${}", in_dollars(micros.as_i64().unwrap_or_default()))
}

/// Breaks a paragraph into lines.
fn wrapped(text: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut width = 0;
    for word in text.split(' ') {
        let length = word.chars().count();
        match lines.last_mut() {
            Some(line) if width + 1 + length <= WIDTH => {
                line.push(' ');
                line.push_str(word);
                width += 1 + length;
            }
            _ => {
                lines.push(word.to_owned());
                width = length;
            }
        }
    }
    lines.join("\n")
}

#[cfg(test)]
#[path = "letter_tests.rs"]
mod letter_tests;
