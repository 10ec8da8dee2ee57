//! `docs/metrics.md` lists the metrics as they are declared, and names are as Prometheus wants them.

use std::collections::HashSet;
use std::fmt::Write;

use super::metric::{Kind, METRICS, Metric};

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

/// A name that is not declared would make an alert that never fires.
#[test]
fn alerts_are_about_declared_metrics() {
    let rules = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/alerts.yml")).unwrap();
    let known = |name: &str, metric: &Metric| match metric.kind {
        Kind::Histogram => {
            name.strip_prefix(metric.name).is_some_and(|end| ["_bucket", "_sum", "_count"].contains(&end))
        }
        Kind::Counter | Kind::Gauge => name == metric.name,
    };
    let words = rules.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let used: HashSet<&str> = words.filter(|word| word.starts_with("textgen_")).collect();
    assert!(used.len() > 15, "{used:?}");
    for name in used {
        assert!(METRICS.iter().any(|metric| known(name, metric)), "{name} is not declared");
    }
}
