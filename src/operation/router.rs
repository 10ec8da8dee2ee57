//! Finds what serves a method and a path.

use std::collections::HashMap;

use crate::http::Method;

/// The result of [`Router::find`].
#[derive(Debug)]
pub enum Found<'r, 'p, H> {
    /// What serves the request, and the path's segments that matched `{…}`, still percent-encoded.
    Handler(&'r H, Vec<&'p str>),
    /// The path exists, but not with this method; the value of `Allow`.
    WrongMethod(String),
    /// No such path.
    Nothing,
}

/// From methods and paths to handlers. A path without `{…}` takes one hash look-up; the others are tried in turn.
#[derive(Debug)]
pub struct Router<H> {
    exact: HashMap<&'static str, Entries<H>>,
    patterns: Vec<(Vec<&'static str>, Entries<H>)>,
}

/// The handlers of one path.
type Entries<H> = Vec<(Method, H)>;

impl<H> Router<H> {
    /// A router with these handlers. In a path, a segment such as `{id}` matches any one segment that is not empty; a last
    /// one such as `{*name}` matches all segments that follow, of which there must be one that is not empty.
    pub fn new(routes: impl IntoIterator<Item = (Method, &'static str, H)>) -> Router<H> {
        let mut router = Router { exact: HashMap::new(), patterns: Vec::new() };
        for (method, path, handler) in routes {
            router.entries(path).push((method, handler));
        }
        router
    }

    fn entries(&mut self, path: &'static str) -> &mut Entries<H> {
        if !path.contains('{') {
            return self.exact.entry(path).or_default();
        }
        let segments: Vec<&'static str> = path.split('/').collect();
        let at = self.patterns.iter().position(|(s, _)| *s == segments).unwrap_or_else(|| {
            self.patterns.push((segments, Vec::new()));
            self.patterns.len() - 1
        });
        &mut self.patterns[at].1
    }

    /// Looks up a request.
    pub fn find<'r, 'p>(&'r self, method: &Method, path: &'p str) -> Found<'r, 'p, H> {
        if let Some(entries) = self.exact.get(path) {
            return choose(entries, method, Vec::new());
        }
        for (segments, entries) in &self.patterns {
            if let Some(captured) = capture(segments, path) {
                return choose(entries, method, captured);
            }
        }
        Found::Nothing
    }
}

fn capture<'p>(segments: &[&str], path: &'p str) -> Option<Vec<&'p str>> {
    let mut parts = path.splitn(segments.len(), '/');
    let mut captured = Vec::new();
    for segment in segments {
        let part = parts.next()?;
        if part.contains('/') && !segment.starts_with("{*") {
            return None;
        }
        if segment.starts_with('{') {
            if part.is_empty() {
                return None;
            }
            captured.push(part);
        } else if *segment != part {
            return None;
        }
    }
    Some(captured)
}

fn choose<'r, 'p, H>(entries: &'r [(Method, H)], method: &Method, captured: Vec<&'p str>) -> Found<'r, 'p, H> {
    let wanted = if *method == Method::HEAD { &Method::GET } else { method };
    match entries.iter().find(|(m, _)| m == wanted) {
        Some((_, handler)) => Found::Handler(handler, captured),
        None => Found::WrongMethod(allow(entries.iter().map(|(m, _)| m))),
    }
}

fn allow<'a>(methods: impl Iterator<Item = &'a Method>) -> String {
    let mut names: Vec<&str> = methods.map(Method::as_str).collect();
    if names.contains(&"GET") {
        names.push("HEAD");
    }
    names.push("OPTIONS");
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router() -> Router<u8> {
        Router::new([
            (Method::GET, "/a", 1),
            (Method::POST, "/a", 2),
            (Method::POST, "/v1/engines/{name}/completions", 3),
            (Method::GET, "/v1/models/{*name}", 4),
        ])
    }

    #[test]
    fn finds_plain_paths_and_patterns() {
        let router = router();
        assert!(matches!(router.find(&Method::HEAD, "/a"), Found::Handler(1, _)));
        assert!(matches!(router.find(&Method::POST, "/a"), Found::Handler(2, _)));
        let Found::Handler(3, captured) = router.find(&Method::POST, "/v1/engines/x%2Fy/completions") else { panic!() };
        assert_eq!(captured, ["x%2Fy"]);
        for name in ["x", "x%2Fy", "x/y", "x//y/"] {
            let path = format!("/v1/models/{name}");
            let Found::Handler(4, captured) = router.find(&Method::GET, &path) else { panic!("{name}") };
            assert_eq!(captured, [name]);
        }
    }

    #[test]
    fn says_which_methods_a_path_has() {
        let router = router();
        let Found::WrongMethod(allow) = router.find(&Method::DELETE, "/a") else { panic!() };
        assert_eq!(allow, "GET, POST, HEAD, OPTIONS");
        for path in ["/", "/a/", "/v1/models/", "/v1/engines//completions", "/v1/engines/x/completions/"] {
            assert!(matches!(router.find(&Method::GET, path), Found::Nothing), "{path}");
        }
    }
}
