//! Reads metrics as Prometheus does, and fails the test for anything that its text format (version 0.0.4) does not allow.

#![allow(clippy::float_cmp)] // Counts are whole numbers.

use std::collections::{BTreeMap, BTreeSet};

use super::Address;

/// The labels of a figure, by name.
pub type Labels = BTreeMap<String, String>;

/// What one scrape has found.
#[derive(Debug)]
pub struct Scrape {
    pub text: String,
    /// Kind and help, by name, in the order of the text.
    pub families: Vec<(String, String, String)>,
    /// Name and labels, and the value.
    pub samples: BTreeMap<(String, Labels), f64>,
}

impl Scrape {
    /// Scrapes.
    #[track_caller]
    pub fn of(address: &Address) -> Scrape {
        let reply = address.anonymous().get("/metrics").expect(200);
        assert_eq!(reply.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
        Scrape::parse(reply.text())
    }

    #[track_caller]
    fn parse(text: String) -> Scrape {
        let mut scrape = Scrape { text: String::new(), families: Vec::new(), samples: BTreeMap::new() };
        assert!(text.ends_with('\n') && !text.contains("\n\n"), "lines are not ended as they should be");
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            let (name, help) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')).expect(line);
            let kind = lines.next().and_then(|line| line.strip_prefix(&format!("# TYPE {name} ")).map(str::to_owned));
            let kind = kind.unwrap_or_else(|| panic!("no type follows {line}"));
            assert!(["counter", "gauge", "histogram"].contains(&&*kind), "{kind}");
            assert!(scrape.families.iter().all(|(other, _, _)| other != name), "{name} comes twice");
            scrape.families.push((name.to_owned(), kind.clone(), help.to_owned()));
            while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
                let (sample, labels, value) = sample(line);
                let is_own = match sample.strip_prefix(name) {
                    Some("") => kind != "histogram",
                    Some("_bucket" | "_sum" | "_count") => kind == "histogram",
                    _ => false,
                };
                assert!(is_own, "{line} is no {kind} {name}");
                assert!(kind == "gauge" || value >= 0.0, "{line}");
                assert!(scrape.samples.insert((sample, labels), value).is_none(), "twice: {line}");
            }
        }
        scrape.text = text;
        scrape.check_histograms();
        scrape
    }

    /// Buckets are cumulative, and the last is infinite and holds all.
    fn check_histograms(&self) {
        for (name, _, _) in self.families.iter().filter(|(_, kind, _)| kind == "histogram") {
            for labels in self.labels(&format!("{name}_count")) {
                let count = self.samples[&(format!("{name}_count"), labels.clone())];
                assert!(self.samples.contains_key(&(format!("{name}_sum"), labels.clone())), "{name} {labels:?}");
                let mut buckets: Vec<(f64, f64)> = Vec::new();
                for bucket in self.labels(&format!("{name}_bucket")) {
                    let mut own = bucket.clone();
                    let upper = own.remove("le").expect("no le");
                    if own == labels {
                        let upper = if upper == "+Inf" { f64::INFINITY } else { upper.parse().unwrap() };
                        buckets.push((upper, self.samples[&(format!("{name}_bucket"), bucket)]));
                    }
                }
                buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
                assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{name} {labels:?}: {buckets:?}");
                assert_eq!(buckets.last(), Some(&(f64::INFINITY, count)), "{name} {labels:?}");
            }
        }
    }

    /// The labels of all figures of this name.
    pub fn labels(&self, name: &str) -> BTreeSet<Labels> {
        self.samples.keys().filter(|(other, _)| other == name).map(|(_, labels)| labels.clone()).collect()
    }

    /// The sum of all figures of this name that have these labels, among others.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let has = |own: &Labels| labels.iter().all(|(label, value)| own.get(*label).is_some_and(|own| own == value));
        self.samples.iter().filter(|((other, own), _)| other == name && has(own)).map(|(_, value)| value).sum()
    }

    /// A figure, of which there must be one.
    #[track_caller]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let labels: Labels = labels.iter().map(|(label, value)| ((*label).to_owned(), (*value).to_owned())).collect();
        *self.samples.get(&(name.to_owned(), labels)).unwrap_or_else(|| panic!("no {name}: {}", self.text))
    }
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// `name{label="value",…} 1.5`
#[track_caller]
fn sample(line: &str) -> (String, Labels, f64) {
    let end = line.find(['{', ' ']).expect(line);
    let (name, mut rest) = line.split_at(end);
    assert!(is_name(name), "{line}");
    let mut labels = Labels::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            let (label, after) = rest.split_once("=\"").expect(line);
            assert!(is_name(label), "{line}");
            let (value, after) = quoted(after);
            assert!(labels.insert(label.to_owned(), value).is_none(), "{line}");
            let Some(next) = after.strip_prefix(',') else {
                rest = after.strip_prefix('}').expect(line);
                break;
            };
            rest = next;
        }
    }
    let value = rest.strip_prefix(' ').expect(line);
    (name.to_owned(), labels, value.parse().expect(line))
}

/// A label's value, and what follows the quotation mark at its end.
fn quoted(text: &str) -> (String, &str) {
    let (mut value, mut characters) = (String::new(), text.char_indices());
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.push(match characters.next().map(|(_, c)| c) {
                Some('n') => '\n',
                Some(c @ ('\\' | '"')) => c,
                other => panic!("\\{other:?} in {text}"),
            }),
            c => value.push(c),
        }
    }
    panic!("no end of {text}")
}

#[test]
fn what_the_format_does_not_allow_is_refused() {
    let good = "# HELP a_total x\n# TYPE a_total counter\na_total{k=\"v\\\"\"} 1\n";
    assert_eq!(Scrape::parse(good.to_owned()).sum("a_total", &[("k", "v\"")]), 1.0);
    let histogram = |buckets: &str| format!("# HELP h x\n# TYPE h histogram\nh_sum 1\nh_count 2\n{buckets}");
    Scrape::parse(histogram("h_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 2\n"));
    for bad in [
        good.replace("counter", "count"),
        good.replace("a_total{", "b_total{"),
        good.replace("} 1", "} one"),
        good.replace("} 1", "} -1"),
        good.replace("# TYPE a_total counter\n", ""),
        good.to_owned() + "a_total{k=\"v\\\"\"} 2\n",
        good.to_owned() + good,
        good.trim_end().to_owned(),
        histogram("h_bucket{le=\"1\"} 1\n"),
        histogram("h_bucket{le=\"1\"} 3\nh_bucket{le=\"+Inf\"} 2\n"),
    ] {
        assert!(std::panic::catch_unwind(|| Scrape::parse(bad.clone())).is_err(), "{bad}");
    }
}
