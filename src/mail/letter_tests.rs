use serde_json::json;

use super::*;

fn letter(kind: Kind, details: &Value) -> Letter {
    let link = format!("https://text.example{}?token=tl_secret", kind.page());
    Letter::write(&Facts {
        kind,
        site: "https://text.example",
        email: "ann@example.com",
        recipient: "new@example.com",
        details,
        link: &link,
    })
    .unwrap()
}

fn sample(kind: Kind) -> Value {
    match kind {
        Kind::EmailChanged => json!({"old": "ann@example.com", "new": "new@example.com"}),
        Kind::NewDevice => {
            json!({"browser": "Firefox on Linux", "address": "192.0.2.1", "time": "2026-11-28 09:10 UTC"})
        }
        Kind::Budget => json!({"percent": 80, "limit_micros": 5_000_000, "spent_micros": 4_000_500, "window": "month",
            "resets": "2026-12-01T00:00:00Z", "key": "laptop"}),
        Kind::Credit => json!({"percent": 80, "balance_micros": 1_000_000}),
        _ => json!({}),
    }
}

#[test]
fn every_mail_reads_well_as_text() {
    for kind in Kind::ALL {
        let letter = letter(kind, &sample(kind));
        assert!(!letter.subject.contains('\n') && letter.subject.chars().count() < 60, "{kind:?}");
        let link = format!("\nhttps://text.example{}?token=tl_secret\n", kind.page());
        assert!(letter.text.contains(&link), "{kind:?}: {}", letter.text);
        assert!(letter.text.ends_with("\n\n-- \ntext.example"), "{kind:?}: {:?}", letter.text);
        for line in letter.text.lines() {
            assert!(line.chars().count() <= WIDTH || line.starts_with("https://"), "{kind:?}: {line}");
        }
        assert!(
            !letter.text.contains("\n\n\n") && !letter.text.contains('<') && !letter.text.contains("&#"),
            "{}",
            letter.text
        );
        assert_eq!(letter.html.matches("tl_secret").count(), 2, "{}", letter.html);
        assert!(!letter.html.contains("src=") && !letter.html.contains("<script"), "{}", letter.html);
    }
}

#[test]
fn what_people_write_is_escaped_in_html() {
    let details = json!({"percent": 50, "key": "<img src=x>", "limit_micros": 1, "spent_micros": 1});
    let letter = letter(Kind::Budget, &details);
    assert!(letter.text.contains("the key “<img src=x>”") && !letter.html.contains("<img"), "{}", letter.html);
}

#[test]
fn money_is_exact() {
    for (micros, text) in [(0, "$0.00"), (500, "$0.0005"), (1_500_000, "$1.50"), (12_000_000, "$12.00")] {
        assert_eq!(dollars(&json!(micros)), text);
    }
}

#[test]
fn kinds_have_names_of_their_own() {
    for kind in Kind::ALL {
        assert_eq!(Kind::named(kind.name()), Some(kind));
        assert_eq!(
            kind.lets_in(),
            matches!(kind.link(), Some((purpose, _)) if purpose != crate::store::account_links::Purpose::Verify)
        );
    }
    assert_eq!(Kind::named("other"), None);
}
