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

/// The names of metrics in a file.
fn used_in(file: &str) -> HashSet<String> {
    let text = std::fs::read_to_string(format!("{}/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("textgen_") || word.starts_with("process_")).map(str::to_owned).collect()
}

fn is_of(name: &str, metric: &Metric) -> bool {
    match metric.kind {
        Kind::Histogram => {
            name.strip_prefix(metric.name).is_some_and(|end| ["_bucket", "_sum", "_count"].contains(&end))
        }
        Kind::Counter | Kind::Gauge => name == metric.name,
    }
}

/// A name that is not declared would make an alert that never fires, or an empty panel.
#[test]
fn alerts_and_the_dashboard_are_about_declared_metrics() {
    for file in ["docs/alerts.yml", "docs/grafana.json"] {
        let used = used_in(file);
        assert!(used.len() > 15, "{used:?}");
        for name in used {
            assert!(METRICS.iter().any(|metric| is_of(&name, metric)), "{file}: {name} is not declared");
        }
    }
}

#[test]
fn the_dashboard_shows_every_metric() {
    let used = used_in("docs/grafana.json");
    let missing: Vec<&str> = METRICS
        .iter()
        .filter(|metric| !used.iter().any(|name| is_of(name, metric)))
        .map(|metric| metric.name)
        .collect();
    assert!(missing.is_empty(), "docs/grafana.json lacks {missing:?}");
}
