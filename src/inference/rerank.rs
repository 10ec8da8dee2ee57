//! Reranking: documents in the order of their relevance to a query, as Cohere, Jina and vLLM have it.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::auth::Caller;
use crate::call::Call;
use crate::catalogue::{Purpose, ResolvedModel};
use crate::error::{Error, Result};
use crate::gateway::estimate;
use crate::gateway::whole_reply::{Used, WholeRoute, pass};
use crate::http::Response;
use crate::http::object::Object;
use crate::protocol::json_walk::each_element;
use crate::protocol::usage::{Reported, Usage};
use crate::units::{Unit, Units, amount};

/// Most documents of one request.
const MOST_DOCUMENTS: usize = 10_000;

/// Tokens that a model may add to a pair of a query and a document.
const TEMPLATE: usize = 16;

const RERANK: WholeRoute = WholeRoute { purpose: Purpose::Rerank, upstream_path: "/v1/rerank", check, most, used };

/// `POST /v1/rerank`.
pub(super) fn rerank(call: &mut Call<'_>, caller: &Caller) -> Result<Response> {
    pass(call, caller, &RERANK)
}

/// The query and the documents, as they stand in a request.
struct Texts<'r> {
    query: &'r str,
    documents: &'r RawValue,
}

impl<'r> Texts<'r> {
    fn of(request: &'r Object<'_>) -> Result<Texts<'r>> {
        let query = request.get("query").ok_or(Error::bad("query is required"))?.get();
        if !query.starts_with('"') {
            return Err(Error::bad("query must be a string"));
        }
        let documents = request.get("documents").ok_or(Error::bad("documents is required"))?;
        let mut are_texts = true;
        let count = each_element(documents, |document| are_texts &= is_text(document));
        let count = count.ok_or(Error::bad("documents must be a list"))?;
        if !(1..=MOST_DOCUMENTS).contains(&count) {
            return Err(Error::bad(format!("documents must have 1 to {MOST_DOCUMENTS} elements")));
        }
        match are_texts {
            true => Ok(Texts { query, documents }),
            false => Err(Error::bad("each of documents must be a string, or an object with the string text")),
        }
    }

    /// The sum over all documents of what is read with each of them: a model reads the query anew for each. `count` says
    /// how many tokens a text has.
    fn tokens(&self, count: impl Fn(&str) -> usize) -> usize {
        let (query, mut tokens) = (count(self.query), 0_usize);
        each_element(self.documents, |document| {
            tokens = tokens.saturating_add(count(document.get())).saturating_add(query);
        });
        tokens
    }
}

/// Whether a model reads nothing but text in it. What pictures cost cannot be told.
fn is_text(document: &RawValue) -> bool {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Text {
        #[serde(rename = "text")]
        _text: String,
    }
    document.get().starts_with('"') || serde_json::from_str::<Text>(document.get()).is_ok()
}

fn check(request: &Object<'_>) -> Result<()> {
    Texts::of(request).map(drop)
}

fn most(request: &Object<'_>, _: &ResolvedModel) -> Units {
    // A text has no more tokens than bytes.
    let tokens = Texts::of(request).map_or(0, |texts| texts.tokens(|text| text.len() + TEMPLATE));
    Units::of([(Unit::PromptTokens, amount(tokens)), (Unit::Requests, 1)])
}

/// The tokens that were read, and a request, or as many as the searches that Cohere's models count.
fn used(request: &Object<'_>, reply: &[u8]) -> Used {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Reply {
        usage: Option<Usage>,
        meta: Option<Meta>,
    }
    #[derive(Deserialize)]
    struct Meta {
        billed_units: Option<BilledUnits>,
    }
    #[derive(Deserialize)]
    struct BilledUnits {
        search_units: Option<f64>,
    }
    let Reply { usage, meta } = serde_json::from_slice(reply).unwrap_or_default();
    let searches = meta.and_then(|meta| meta.billed_units).and_then(|billed| billed.search_units);
    #[allow(clippy::cast_possible_truncation)] // A number beyond the range becomes its end, which charges cut.
    let searches = searches.map(|searches| searches.ceil() as i64);
    let reported = usage.as_ref().and_then(|usage| Reported::of(usage).input().or(usage.total()));
    let estimate = || Texts::of(request).map_or(0, |texts| amount(texts.tokens(estimate::tokens)));
    let units = Units::of([
        (Unit::PromptTokens, reported.unwrap_or_else(estimate)),
        (Unit::Requests, searches.unwrap_or(1).max(1)),
    ]);
    Used { units, estimated: reported.is_none() && searches.is_none() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::whole_reply::tests::assert_refused;

    fn request(json: &str) -> Object<'_> {
        Object::parse(json.as_bytes()).unwrap()
    }

    #[test]
    fn each_vendors_numbers_are_charged() {
        let asked = request(r#"{"query":"q","documents":["one two","three"]}"#);
        let units = |reply: &str| {
            let Used { units, estimated } = used(&asked, reply.as_bytes());
            (units[Unit::PromptTokens], units[Unit::Requests], estimated)
        };
        assert_eq!(units(r#"{"results":[],"usage":{"prompt_tokens":7,"total_tokens":7}}"#), (7, 1, false), "vLLM");
        assert_eq!(units(r#"{"results":[],"usage":{"total_tokens":9}}"#), (9, 1, false), "Jina");
        let (_, requests, estimated) = units(r#"{"results":[],"meta":{"billed_units":{"search_units":2}}}"#);
        assert_eq!((requests, estimated), (2, false), "Cohere");
        let (tokens, requests, estimated) = units(r#"{"results":[]}"#);
        assert!(tokens > 3 && requests == 1 && estimated, "{tokens}");
    }

    #[test]
    fn the_query_is_read_with_each_document() {
        let asked = request(r#"{"query":"12345678","documents":["1","2",{"text":"3"}]}"#);
        let texts = Texts::of(&asked).unwrap();
        assert_eq!(texts.tokens(str::len), 3 * 10 + 3 + 3 + 12);
    }

    #[test]
    fn fields_are_checked() {
        assert_refused(
            check,
            &[
                (r#"{"documents":["a"]}"#, "query is required"),
                (r#"{"query":5,"documents":["a"]}"#, "query must be"),
                (r#"{"query":"a"}"#, "documents is required"),
                (r#"{"query":"a","documents":"a"}"#, "documents must be"),
                (r#"{"query":"a","documents":[]}"#, "documents must have"),
                (r#"{"query":"a","documents":[5]}"#, "each of documents"),
                (r#"{"query":"a","documents":[{"image":"x"}]}"#, "each of documents"),
                (r#"{"query":"a","documents":[{"text":"a","image":"x"}]}"#, "each of documents"),
            ],
        );
        check(&request(r#"{"query":"a","documents":["b",{"text":"c"}],"top_n":1}"#)).unwrap();
    }
}
