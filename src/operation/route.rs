//! Finds the operation that a request means, also where its path is written in another way.
//!
//! Clients add a slash at the end, or join a base address and a path with two. Those of Azure's service name the model in
//! the path, as a deployment, before what follows `/v1` elsewhere.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::{Found, Router, Served};
use crate::http::Method;

/// What a path begins with at Azure's service: then comes a deployment, or what follows `/v1` elsewhere.
const AZURE: &str = "/openai/";
const DEPLOYMENTS: &str = "deployments/";

/// Paths of OpenAI's files and batches, which are not offered: a client should hear that, and not that it is mistaken.
const BATCHES: [&str; 3] = ["/v1/files", "/v1/batches", "/v1/uploads"];

/// What [`route`] finds.
pub enum Route<'r> {
    /// What serves the request.
    To {
        /// The operation.
        served: &'r Served,
        /// The path's segments that matched `{…}`, still percent-encoded.
        segments: Vec<String>,
        /// The model, where the path names it as a deployment.
        deployment: Option<String>,
    },
    /// The path exists, but not with this method; the value of `Allow`.
    WrongMethod(String),
    /// It exists with `/v1` before it.
    WithoutVersion(&'r Served),
    /// It would be for files or batches, which are not offered.
    Batch,
    /// No such path.
    Nothing,
}

/// The path as the servers know it, and the model that it names as a deployment.
pub(super) struct Canonical<'p> {
    /// The path.
    pub path: Cow<'p, str>,
    deployment: Option<String>,
}

/// Reads a path in all the ways in which clients write it. Paths of pages are left as they are.
pub(super) fn canonical(path: &str) -> Canonical<'_> {
    let tidied = tidy(path);
    let Some(rest) = tidied.strip_prefix(AZURE) else { return Canonical { path: tidied, deployment: None } };
    let Some(rest) = rest.strip_prefix(DEPLOYMENTS) else {
        let rest = rest.strip_prefix("v1/").unwrap_or(rest);
        return Canonical { path: format!("/v1/{rest}").into(), deployment: None };
    };
    match rest.split_once('/') {
        Some((name, rest)) if !name.is_empty() => Canonical {
            path: format!("/v1/{rest}").into(),
            deployment: Some(percent_decode_str(name).decode_utf8_lossy().into_owned()),
        },
        _ => Canonical { path: tidied, deployment: None },
    }
}

/// Without doubled slashes, and without one at the end.
fn tidy(path: &str) -> Cow<'_, str> {
    let is_program = |path: &str| ["/v1", "/api", "/openai"].iter().any(|start| path.starts_with(start));
    let start = path.trim_start_matches('/');
    let from = path.len() - start.len();
    let single = if from > 0 { &path[from - 1..] } else { path };
    if !is_program(single) || !(path.contains("//") || path.ends_with('/')) {
        return Cow::Borrowed(path);
    }
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    Cow::Owned(format!("/{}", segments.join("/")))
}

/// Finds what serves a method and a path.
pub fn route<'r>(router: &'r Router<Served>, method: &Method, path: &str) -> Route<'r> {
    if let Found::Handler(served, segments) = router.find(method, path) {
        return to(served, &segments, None);
    }
    let Canonical { path, deployment } = canonical(path);
    match router.find(method, &path) {
        Found::Handler(served, segments) => return to(served, &segments, deployment),
        Found::WrongMethod(allow) => return Route::WrongMethod(allow),
        Found::Nothing => {}
    }
    let is_below = |start: &str| path.strip_prefix(start).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    if BATCHES.into_iter().any(is_below) {
        return Route::Batch;
    }
    match router.find(method, &canonical(&format!("/v1{path}")).path) {
        Found::Handler(served, _) => Route::WithoutVersion(served),
        _ => Route::Nothing,
    }
}

fn to<'r>(served: &'r Served, segments: &[&str], deployment: Option<String>) -> Route<'r> {
    Route::To { served, segments: segments.iter().map(|&segment| segment.to_owned()).collect(), deployment }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_read_however_it_is_written() {
        for (written, path, deployment) in [
            ("/v1/models", "/v1/models", None),
            ("/v1/models/", "/v1/models", None),
            ("//v1//chat///completions//", "/v1/chat/completions", None),
            ("/openai/deployments/a%2Fb/chat/completions", "/v1/chat/completions", Some("a/b")),
            ("/openai//deployments/gpt-4o/embeddings/", "/v1/embeddings", Some("gpt-4o")),
            ("/openai/v1/responses", "/v1/responses", None),
            ("/openai/responses", "/v1/responses", None),
            ("/openai/deployments/x", "/openai/deployments/x", None),
            ("/documents/", "/documents/", None),
            ("//documents", "//documents", None),
            ("/", "/", None),
            ("//", "//", None),
            ("*", "*", None),
            ("", "", None),
        ] {
            let read = canonical(written);
            assert_eq!((&*read.path, read.deployment.as_deref()), (path, deployment), "{written}");
        }
    }
}
