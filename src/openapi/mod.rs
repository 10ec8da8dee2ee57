//! The description of the API in OpenAPI 3.1, built from a table of its operations. A test holds it against the routes,
//! another against what they answer.

mod accounts;
mod fields;
mod models;
mod schemas;

use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use crate::call::Role;

/// Who may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    /// Anybody.
    Open,
    /// Anybody; more for those who are known.
    Optional,
    /// Those who are known.
    Required,
}

/// What a request carries.
#[derive(Clone, Copy, Debug)]
pub enum Body {
    /// Nothing.
    Nothing,
    /// These fields, as a form, as multipart or as a JSON object.
    Fields(&'static [&'static str]),
    /// These fields, as a JSON object.
    Json(&'static [&'static str]),
    /// A JSON value of this schema.
    Value(&'static str),
    /// These fields as multipart, files among them.
    Multipart(&'static [&'static str]),
}

/// What an answer of 200 carries: a media type and a schema such as `User` or `User[]`.
pub type Answer = (&'static str, &'static str);

/// A call that clients may make.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    /// The servers that know it.
    pub servers: &'static [Role],
    /// `get` or `post`.
    pub method: &'static str,
    /// The path, `{…}` included.
    pub path: &'static str,
    /// The group it stands in.
    pub tag: &'static str,
    /// What it does.
    pub summary: &'static str,
    /// Who may call.
    pub auth: Auth,
    /// What may stand in the query, as [`fields`] writes it.
    pub query: &'static [&'static str],
    /// What it takes.
    pub body: Body,
    /// What it gives; more than one where the request chooses.
    pub answers: &'static [Answer],
    /// Refusals and other ends beside those that [`Operation::statuses`] adds.
    pub others: &'static [(u16, &'static str)],
}

/// Every operation of the three servers.
pub fn operations() -> impl Iterator<Item = &'static Operation> {
    accounts::OPERATIONS.iter().chain(models::OPERATIONS)
}

impl Operation {
    /// Every status it may end with, and what that means. The first is success.
    pub fn statuses(&self) -> Vec<(u16, &'static str)> {
        let mut statuses = vec![(200, "Done")];
        if matches!(self.body, Body::Fields(_) | Body::Json(_) | Body::Value(_) | Body::Multipart(_)) {
            statuses.extend([
                (400, "The request makes no sense; the text says why"),
                (408, "The body did not arrive in time"),
                (413, "The body is too large"),
                (422, "Fields are missing or have the wrong type"),
            ]);
        }
        if self.auth == Auth::Required {
            statuses.push((401, "No credential, or none that is valid"));
            statuses.push((403, "Not allowed"));
        }
        if self.path != "/liveness_check" && self.path != "/openapi.json" {
            statuses.push((503, "Busy, or the database is away; Retry-After says when to come back"));
        }
        for (status, words) in self.others {
            statuses.retain(|(known, _)| known != status);
            statuses.push((*status, words));
        }
        statuses.sort_unstable_by_key(|(status, _)| *status);
        statuses
    }

    /// The key of its errors: the documents have another.
    fn error_schema(&self) -> &'static str {
        match self.path {
            path if path.starts_with("/api/docs/") => "DocumentError",
            path if path.starts_with("/v1/") => "OpenAiError",
            _ => "Error",
        }
    }

    fn json(&self) -> Value {
        let mut parameters: Vec<Value> = path_parameters(self.path);
        parameters.extend(self.query.iter().map(|spec| fields::parameter(spec)));
        let responses = self.statuses().into_iter().map(|(status, words)| {
            let mut response = json!({"description": words});
            match status {
                200 => response["content"] = contents(self.answers),
                300..400 | 101 => {}
                _ => response["content"] = contents(&[("application/json", self.error_schema())]),
            }
            (status.to_string(), response)
        });
        let mut value = json!({
            "tags": [self.tag],
            "summary": self.summary,
            "operationId": operation_id(self.method, self.path),
            "x-servers": self.servers.iter().map(|role| role.name()).collect::<Vec<_>>(),
            "security": match self.auth {
                Auth::Open => json!([]),
                Auth::Optional => json!([{}, {"secret": []}, {"bearer": []}, {"session": []}]),
                Auth::Required if self.servers.contains(&Role::Web) => {
                    json!([{"secret": []}, {"bearer": []}, {"session": []}])
                }
                Auth::Required => json!([{"secret": []}, {"bearer": []}]),
            },
            "responses": responses.collect::<Map<_, _>>(),
        });
        if !parameters.is_empty() {
            value["parameters"] = Value::Array(parameters);
        }
        if let Some(body) = self.request_body() {
            value["requestBody"] = body;
        }
        value
    }

    fn request_body(&self) -> Option<Value> {
        let (schema, media_types): (Value, &[&str]) = match self.body {
            Body::Nothing => return None,
            Body::Fields(specs) => (
                fields::object(specs),
                &["application/x-www-form-urlencoded", "application/json", "multipart/form-data"],
            ),
            Body::Json(specs) => (fields::object(specs), &["application/json"]),
            Body::Value(name) => (fields::schema_of(name), &["application/json"]),
            Body::Multipart(specs) => (fields::object(specs), &["multipart/form-data"]),
        };
        let required = schema.get("required").is_some() || matches!(self.body, Body::Value(_));
        let content = media_types.iter().map(|media_type| ((*media_type).to_owned(), json!({"schema": schema})));
        Some(json!({"required": required, "content": content.collect::<Map<_, _>>()}))
    }
}

fn contents(answers: &[Answer]) -> Value {
    let content =
        answers.iter().map(|(media_type, name)| ((*media_type).to_owned(), json!({"schema": fields::schema_of(name)})));
    Value::Object(content.collect())
}

fn path_parameters(path: &str) -> Vec<Value> {
    let names = path.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'));
    names.map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}})).collect()
}

/// `post_api_keys_rotate`.
fn operation_id(method: &str, path: &str) -> String {
    let words = path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.fold(method.to_owned(), |id, word| format!("{id}_{word}"))
}

/// The groups in their order, and what they are for.
pub const TAGS: &[(&str, &str)] = &[
    ("Accounts", "Signing up, in and out, and what a person is."),
    ("Keys", "The secrets that programs send."),
    ("Sessions", "The browsers a person is signed in with."),
    ("Documents", "Texts that people and their programs share."),
    ("Usage", "What was charged."),
    ("Text", "Models that write and understand text."),
    ("Speech", "Speech to text and back."),
    ("Health", "For those who run the servers."),
];

/// The whole description.
pub fn document() -> &'static Value {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(build);
    &DOCUMENT
}

fn build() -> Value {
    let mut paths = Map::new();
    for operation in operations() {
        let entry = paths.entry(operation.path).or_insert_with(|| json!({}));
        entry[operation.method] = operation.json();
    }
    let used = |tag: &str| operations().any(|operation| operation.tag == tag);
    let tags = TAGS.iter().filter(|(tag, _)| used(tag));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "textgen",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Accounts, API keys, documents and exact usage metering behind AI API servers. Each \
                operation says in x-servers which of the three servers (web, inference, audio) know it; all share \
                one database.",
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "The server this comes from: the web server"}],
        "tags": tags.map(|(name, description)| json!({"name": name, "description": description})).collect::<Vec<_>>(),
        "paths": paths,
        "components": {
            "securitySchemes": {
                "secret": {"type": "apiKey", "in": "header", "name": "secret", "description": "A key's secret"},
                "bearer": {"type": "http", "scheme": "bearer", "description": "A key's secret"},
                "session": {"type": "apiKey", "in": "cookie", "name": "session_secret",
                    "description": "A browser's session, on the web server"},
            },
            "schemas": schemas::all(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_leads_somewhere_and_every_id_is_one() {
        let document = document();
        let text = document.to_string();
        for piece in text.split("\"#/components/schemas/").skip(1) {
            let name = piece.split('"').next().unwrap();
            assert!(document["components"]["schemas"].get(name).is_some(), "{name}");
        }
        let mut ids: Vec<_> = operations().map(|o| operation_id(o.method, o.path)).collect();
        let count = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), count);
        for operation in operations() {
            assert!(TAGS.iter().any(|(tag, _)| *tag == operation.tag), "{}", operation.path);
        }
    }
}
