//! The OpenAPI 3.1 document of the three servers, derived from the list of operations.

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::call::Role;
use crate::operation::{Content, Description, Encoding, Group, Handler, Operation, SchemaOf, Status};
use crate::version;

/// The document.
pub fn document(operations: &[Operation]) -> Value {
    let mut schemas = Schemas::new();
    let mut paths = Map::new();
    let described = || operations.iter().filter_map(|operation| Some((operation, operation.description.as_ref()?)));
    for (operation, description) in described() {
        let entry = paths.entry(operation.template()).or_insert_with(|| json!({}));
        entry[method(operation)] = schemas.operation(operation, description);
    }
    let is_used = |group: &Group| described().any(|(_, description)| description.group == *group);
    let tags = Group::ALL.into_iter().filter(is_used).map(Group::words);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "textgen",
            "version": version::VERSION,
            "description": "Accounts, API keys, documents and exact usage metering for AI API servers. For each \
                operation, x-servers lists which of the three servers (web, inference, audio) have it; all share one \
                database.",
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "The web server that sent this document"}],
        "tags": tags.map(|(name, words)| json!({"name": name, "description": words})).collect::<Vec<_>>(),
        "paths": paths,
        "components": {
            "securitySchemes": {
                "secret": {"type": "apiKey", "in": "header", "name": "secret", "description": "The secret of a key"},
                "bearer": {"type": "http", "scheme": "bearer", "description": "The secret of a key"},
                "session": {"type": "apiKey", "in": "cookie", "name": "session_secret",
                    "description": "A browser session, on the web server"},
            },
            "schemas": schemas.replies.take_definitions(true),
        },
    })
}

fn method(operation: &Operation) -> String {
    operation.method.as_str().to_ascii_lowercase()
}

/// Collects the schemas that operations refer to.
struct Schemas {
    /// Of what is sent to the servers: fields with a default are optional. They stand where they are used, as a type may
    /// have another schema in replies.
    requests: SchemaGenerator,
    /// Of what the servers send.
    replies: SchemaGenerator,
}

impl Schemas {
    fn new() -> Schemas {
        let settings = SchemaSettings::draft2020_12().with(|settings| {
            settings.definitions_path = "/components/schemas".into();
            settings.meta_schema = None;
        });
        let requests = settings.clone().with(|settings| settings.inline_subschemas = true).into_generator();
        Schemas { requests, replies: settings.for_serialize().into_generator() }
    }

    fn operation(&mut self, operation: &Operation, description: &Description) -> Value {
        let responses = statuses(operation, description).into_iter().map(|status| {
            let mut response = json!({"description": status.words});
            match status.status {
                200 => response["content"] = self.contents(&description.replies),
                101 | 300..400 => {}
                _ => response["content"] = self.error(operation, description, status),
            }
            (status.status.to_string(), response)
        });
        let responses: Map<String, Value> = responses.collect();
        let mut value = json!({
            "tags": [description.group.words().0],
            "summary": description.summary,
            "operationId": operation_id(&method(operation), operation.path),
            "x-servers": operation.servers.iter().map(|role| role.name()).collect::<Vec<_>>(),
            "security": security(operation),
            "responses": responses,
        });
        let parameters = self.parameters(operation, description);
        if !parameters.is_empty() {
            value["parameters"] = Value::Array(parameters);
        }
        if let Some((encoding, schema)) = description.body {
            value["requestBody"] = self.request_body(encoding, schema);
        }
        value
    }

    fn contents(&mut self, contents: &[Content]) -> Value {
        let schema = |content: &Content| (content.schema)(&mut self.replies);
        let contents: Vec<(&str, schemars::Schema)> =
            contents.iter().map(|content| content.media_type).zip(contents.iter().map(schema)).collect();
        contents.into_iter().map(|(media_type, schema)| (media_type.to_owned(), json!({"schema": schema}))).collect()
    }

    fn error(&mut self, operation: &Operation, description: &Description, status: Status) -> Value {
        let schema = match status.schema {
            Some(schema) => schema(&mut self.replies),
            None => operation.errors.schema(&mut self.replies),
        };
        let mut contents = json!({"application/json": {"schema": schema}});
        if description.shows_form_again && matches!(status.status, 429 | 503) {
            contents["text/html"] = json!({"schema": {"type": "string"}});
        }
        contents
    }

    /// Those in the path, then those in the query.
    fn parameters(&mut self, operation: &Operation, description: &Description) -> Vec<Value> {
        let template = operation.template();
        let segments = template.split('/');
        let in_path = segments.filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'));
        let mut parameters: Vec<Value> = in_path
            .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
            .collect();
        let query = description.query.map(|schema| schema(&mut self.requests).to_value()).unwrap_or_default();
        for (name, schema) in query["properties"].as_object().into_iter().flatten() {
            let required = is_required(&query, name);
            let mut schema = schema.clone();
            let words = schema.as_object_mut().and_then(|schema| schema.remove("description"));
            parameters.push(json!({
                "name": name,
                "in": "query",
                "required": required,
                "description": words.unwrap_or_default(),
                "schema": schema,
            }));
        }
        parameters
    }

    fn request_body(&mut self, encoding: Encoding, schema: SchemaOf) -> Value {
        let schema = schema(&mut self.requests).to_value();
        let media_types: &[&str] = match encoding {
            Encoding::Fields => &["application/x-www-form-urlencoded", "application/json", "multipart/form-data"],
            Encoding::Json => &["application/json"],
            Encoding::Multipart => &["multipart/form-data"],
        };
        let required = schema["type"] != "object" || schema.get("required").is_some();
        let content = media_types.iter().map(|media_type| ((*media_type).to_owned(), json!({"schema": schema})));
        json!({"required": required, "content": content.collect::<Map<_, _>>()})
    }
}

/// Whether an object must have this property.
fn is_required(schema: &Value, name: &str) -> bool {
    schema["required"].as_array().is_some_and(|required| required.iter().any(|r| r == name))
}

fn security(operation: &Operation) -> Value {
    match operation.handler {
        Handler::Public(_) => json!([]),
        Handler::Optional(_) => json!([{}, {"secret": []}, {"bearer": []}, {"session": []}]),
        Handler::Authenticated(_) if operation.servers.contains(&Role::Web) => {
            json!([{"secret": []}, {"bearer": []}, {"session": []}])
        }
        Handler::Authenticated(_) => json!([{"secret": []}, {"bearer": []}]),
    }
}

/// Every status that an operation may end with, in ascending order, and what it means.
fn statuses(operation: &Operation, description: &Description) -> Vec<Status> {
    let mut statuses = vec![(200, "Success")];
    if description.body.is_some() {
        statuses.extend([
            (400, "Invalid request; the message says why"),
            (408, "The body was not received in time"),
            (413, "The body is too large"),
            (422, "Fields are missing or have the wrong type"),
        ]);
    }
    if matches!(operation.handler, Handler::Authenticated(_)) {
        statuses.extend([(401, "The credential is missing or invalid"), (403, "Not permitted")]);
    }
    if description.calls_model {
        statuses.retain(|(status, _)| *status != 422);
        statuses.extend([
            (422, "Fields are missing or have the wrong type, or the Idempotency-Key was used for another request"),
            (402, "A budget is used up"),
            (404, "The model does not exist"),
            (502, "The model server failed"),
            (409, "A request with this Idempotency-Key is running; see Retry-After. Or its reply could not be kept"),
            (503, "No model server is configured for this, or textgen is busy; see Retry-After"),
            (504, "The model server did not answer in time"),
        ]);
    } else if !operation.works_without_database {
        statuses.push((503, "Busy, or the database is unavailable; see Retry-After"));
    }
    let is_own = |status: u16| description.statuses.iter().any(|own| own.status == status);
    let common = statuses.into_iter().filter(|(status, _)| !is_own(*status));
    let common = common.map(|(status, words)| Status { status, words, schema: None });
    let mut all: Vec<Status> = common.chain(description.statuses.iter().copied()).collect();
    all.sort_unstable_by_key(|status| status.status);
    all
}

/// `post_api_keys_rotate`.
fn operation_id(method: &str, path: &str) -> String {
    let words = path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.fold(method.to_owned(), |id, word| format!("{id}_{word}"))
}
