//! `/docs` and `/openapi.json`: the description of the API, for people and for programs.

use std::sync::OnceLock;

use askama::Template;
use schemars::JsonSchema;
use serde_json::{Map, Value};

use super::{Frame, samples, text_of};
use crate::auth::Caller;
use crate::call::{Call, Role};
use crate::error::{Error, Result};
use crate::web::Answer;
use crate::web::assets::{self, Prepared};

#[derive(Template)]
#[template(path = "reference.html")]
struct Reference {
    frame: Frame,
    groups: Vec<Group>,
    addresses: Vec<(&'static str, String)>,
}

struct Group {
    name: String,
    words: String,
    operations: Vec<Operation>,
}

struct Operation {
    id: String,
    method: String,
    path: String,
    summary: String,
    servers: String,
    access: &'static str,
    parameters: Vec<Parameter>,
    answers: Vec<String>,
    statuses: Vec<(String, String)>,
    /// A command that calls it.
    call: String,
    /// An example of its JSON reply.
    reply: Option<String>,
}

struct Parameter {
    name: String,
    kind: String,
    is_required: bool,
    words: String,
}

/// What means the same everywhere and is said once, above.
const EVERYWHERE: [&str; 9] = ["200", "400", "401", "408", "413", "422", "502", "503", "504"];

/// The OpenAPI document.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "describes what `openapi::document` returns")]
pub(in crate::web) struct OpenApi {
    openapi: String,
    info: Map<String, Value>,
    paths: Map<String, Value>,
}

/// `GET /openapi.json`.
pub(in crate::web) fn openapi(call: &mut Call<'_>) -> Answer {
    static PREPARED: OnceLock<Prepared> = OnceLock::new();
    let document = document(call)?;
    let prepared = PREPARED.get_or_init(|| Prepared::new("application/json", document.to_string().into_bytes()));
    Ok(prepared.reply(call.request))
}

/// `GET /docs`.
pub(in crate::web) fn show(call: &mut Call<'_>, caller: Option<&Caller>) -> Answer {
    let addresses: Vec<_> = Role::ALL.map(|role| (role.name(), super::program_address(call, role))).into();
    let groups = groups(document(call)?, &addresses);
    let reference = Reference { frame: Frame::new(caller, "docs"), groups, addresses };
    Ok(assets::compressed(call.request, "text/html; charset=utf-8", text_of(&reference)?))
}

fn document<'a>(call: &Call<'a>) -> Result<&'a Value> {
    call.app.api_document.get().ok_or_else(|| Error::Internal("the API document was not set".to_owned()))
}

fn groups(document: &Value, addresses: &[(&'static str, String)]) -> Vec<Group> {
    let tags = document["tags"].as_array().into_iter().flatten();
    tags.map(|tag| Group {
        name: text(&tag["name"]),
        words: text(&tag["description"]),
        operations: operations(document, &tag["name"], addresses),
    })
    .collect()
}

fn operations(document: &Value, tag: &Value, addresses: &[(&'static str, String)]) -> Vec<Operation> {
    let paths = document["paths"].as_object().into_iter().flatten();
    let all = paths.flat_map(|(path, methods)| {
        let methods = methods.as_object().into_iter().flatten();
        methods.map(move |(method, operation)| (path, method, operation))
    });
    all.filter(|(_, _, operation)| operation["tags"][0] == *tag)
        .map(|(path, method, operation)| Operation {
            id: text(&operation["operationId"]),
            method: method.to_uppercase(),
            path: path.clone(),
            summary: text(&operation["summary"]),
            servers: list(&operation["x-servers"]),
            access: access(&operation["security"]),
            parameters: parameters(operation),
            answers: answers(operation),
            statuses: statuses(operation),
            call: samples::call(document, operation, &method.to_uppercase(), &url(operation, path, addresses)),
            reply: samples::answer(document, operation),
        })
        .collect()
}

/// Where an operation is called: at a server for programs, if one has it.
fn url(operation: &Value, path: &str, addresses: &[(&'static str, String)]) -> String {
    let servers = operation["x-servers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_program = |name: &Value| name != "web";
    let own = servers.iter().find(|name| is_program(name)).or(servers.first());
    let address = addresses.iter().find(|(name, _)| own.is_some_and(|own| own == name));
    format!("{}{path}", address.map_or("", |(_, address)| address))
}

fn access(security: &Value) -> &'static str {
    match security.as_array().map(Vec::as_slice) {
        Some([]) => "public",
        Some([first, ..]) if first.as_object().is_some_and(serde_json::Map::is_empty) => "public; a key shows more",
        _ => "requires a key",
    }
}

fn parameters(operation: &Value) -> Vec<Parameter> {
    let query = operation["parameters"].as_array().into_iter().flatten().map(|parameter| Parameter {
        name: text(&parameter["name"]),
        kind: kind(&parameter["schema"]).trim_end_matches(" or null").to_owned(),
        is_required: parameter["required"] == true,
        words: text(&parameter["description"]),
    });
    let content = operation["requestBody"]["content"].as_object();
    let schema = content.and_then(|content| content.values().next()).map_or(&Value::Null, |media| &media["schema"]);
    let fields = schema["properties"].as_object().into_iter().flatten().map(|(name, field)| Parameter {
        name: name.clone(),
        kind: kind(field).trim_end_matches(" or null").to_owned(),
        is_required: schema["required"].as_array().is_some_and(|required| required.iter().any(|r| r == name)),
        words: text(&field["description"]),
    });
    query.chain(fields).collect()
}

/// What an answer of 200 holds: the media type where it is no JSON, and the names of its fields.
fn answers(operation: &Value) -> Vec<String> {
    let content = operation["responses"]["200"]["content"].as_object().into_iter().flatten();
    content
        .map(|(media_type, media)| match media_type.as_str() {
            "application/json" => kind(&media["schema"]),
            other => format!("{other}: {}", kind(&media["schema"])),
        })
        .collect()
}

fn statuses(operation: &Value) -> Vec<(String, String)> {
    let responses = operation["responses"].as_object().into_iter().flatten();
    let own = responses.filter(|(status, _)| !EVERYWHERE.contains(&status.as_str()));
    own.map(|(status, response)| (status.clone(), text(&response["description"]))).collect()
}

/// The name of a schema's type: `string`, `ApiKey[]`, `time or null`.
fn kind(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str() {
        return name.rsplit('/').next().unwrap_or(name).to_owned();
    }
    if let Some(choices) = schema["anyOf"].as_array() {
        return choices.iter().map(kind).collect::<Vec<_>>().join(" or ");
    }
    match &schema["type"] {
        Value::String(name) if name == "array" => format!("{}[]", kind(&schema["items"])),
        Value::String(name) if schema["format"] == "date-time" => format!("{name} (RFC 3339)"),
        Value::String(name) if schema.get("contentMediaType").is_some() => {
            if name == "string" {
                "file".to_owned()
            } else {
                name.clone()
            }
        }
        Value::String(name) => name.clone(),
        Value::Array(names) if schema["format"] == "date-time" => {
            names.iter().map(text).collect::<Vec<_>>().join(" or ").replace("string", "string (RFC 3339)")
        }
        Value::Array(names) => names.iter().map(text).collect::<Vec<_>>().join(" or "),
        _ => "any".to_owned(),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("").to_owned()
}

fn list(value: &Value) -> String {
    value.as_array().into_iter().flatten().map(text).collect::<Vec<_>>().join(", ")
}
