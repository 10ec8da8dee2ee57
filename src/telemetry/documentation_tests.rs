//! `docs/metrics.md` lists the metrics as they are declared, and names are as Prometheus wants them.

use std::collections::HashSet;
use std::fmt::Write;

use super::metric::{Kind, METRICS};

/// `BLESS=1 cargo test --lib metrics_are_documented` rewrites the table.
#[test]
fn metrics_are_documented_as_declared() {
    const BEGIN: &str = "<!-- metrics: written by `BLESS=1 cargo test --lib metrics_are_documented` -->\n";
    const END: &str = "<!-- end of metrics -->";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
    let page = std::fs::read_to_string(path).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("the page has no metrics");
    let (shown, after) = rest.split_once(END).expect("the page's metrics have no end");
    let mut declared = "| metric | kind | labels | meaning |\n|---|---|---|---|\n".to_owned();
    for metric in METRICS {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let labels = if labels.is_empty() { String::new() } else { labels.join(", ") + " " };
        writeln!(declared, "| `{}` | {} | {labels}| {} |", metric.name, metric.kind, metric.help).unwrap();
    }
    if std::env::var_os("BLESS").is_some() {
        return std::fs::write(path, format!("{before}{BEGIN}{declared}{END}{after}")).unwrap();
    }
    assert!(shown == declared, "the page is out of date: run `BLESS=1 cargo test --lib metrics_are_documented`");
}

#[test]
fn names_follow_the_conventions() {
    let names: HashSet<&str> = METRICS.iter().map(|metric| metric.name).collect();
    assert_eq!(names.len(), METRICS.len(), "a name is declared twice");
    for metric in METRICS {
        let name = metric.name;
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
        assert!(name.starts_with("textgen_") || name.starts_with("process_"), "{name}");
        assert_eq!(name.ends_with("_total"), metric.kind == Kind::Counter, "{name}");
        for reserved in ["_count", "_sum", "_bucket"] {
            assert!(!name.ends_with(reserved), "{name}");
        }
        assert!(metric.labels.iter().all(|label| !["le", "user", "key", "account"].contains(label)), "{name}");
        assert!(!metric.help.is_empty() && !metric.help.ends_with('.') && !metric.help.contains('|'), "{name}");
    }
}
