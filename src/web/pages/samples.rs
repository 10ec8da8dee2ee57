//! Examples in the API reference: a call of each operation and what it answers, made from their schemas.

use serde_json::{Map, Value, json};

/// How deep an example goes.
const MOST_DEPTH: usize = 5;

/// What fields of these names hold in examples.
const KNOWN: [(&str, &str); 24] = [
    ("role", "user"),
    ("content", "Hello"),
    ("prompt", "Hello"),
    ("input", "Hello"),
    ("text", "Hello"),
    ("query", "Hello"),
    ("model", "demo"),
    ("email", "you@example.com"),
    ("user", "you@example.com"),
    ("password", "correct horse battery"),
    ("current_password", "correct horse battery"),
    ("new_password", "another good password"),
    ("name", "laptop"),
    ("title", "Notes"),
    ("totp", "123456"),
    ("expires", "2030-01-01T00:00:00Z"),
    ("reason", "a gift"),
    ("voice", "af"),
    ("audio_url", "https://example.com/speech.wav"),
    ("window", "month"),
    ("timezone", "UTC"),
    ("currency", "usd"),
    ("type", "text"),
    ("message", "Done"),
];

/// A command that calls an operation at this address, with a body of its required fields.
pub(super) fn call(document: &Value, operation: &Value, method: &str, url: &str) -> String {
    let is_public = operation["security"].as_array().is_some_and(Vec::is_empty);
    let secret = if is_public { "" } else { " -H \"secret: $SECRET\"" };
    let content = operation["requestBody"]["content"].as_object();
    let Some((media_type, media)) = content.and_then(|content| content.iter().next()) else {
        let method = if method == "GET" { String::new() } else { format!(" -X {method}") };
        return format!("curl{method}{secret} {url}");
    };
    let body = body(document, &media["schema"]);
    if media_type == "multipart/form-data" {
        let fields = body.as_object().into_iter().flatten();
        let fields: Vec<String> =
            fields.map(|(name, value)| format!("-F {name}={}", form_value(name, value))).collect();
        return format!("curl{secret} {} {url}", fields.join(" "));
    }
    format!("curl{secret} -H \"Content-Type: application/json\" \\\n  -d '{body}' {url}")
}

fn form_value(name: &str, value: &Value) -> String {
    if name.contains("file") || name.contains("image") {
        return "@file".to_owned();
    }
    value.as_str().map_or_else(|| value.to_string(), |text| format!("\"{text}\""))
}

/// The required fields of a schema or, if there are none, its first one.
fn body(document: &Value, schema: &Value) -> Value {
    let schema = resolved(document, schema);
    if schema["type"] == "array" {
        return json!([body(document, &schema["items"])]);
    }
    let is_required = |name: &str| schema["required"].as_array().is_some_and(|all| all.iter().any(|one| one == name));
    let fields = || schema["properties"].as_object().into_iter().flatten();
    let mut chosen: Vec<_> = fields().filter(|(name, _)| is_required(name)).collect();
    if chosen.is_empty() {
        chosen = fields().take(1).collect();
    }
    let example = |(name, field): (&String, &Value)| (name.clone(), value(document, field, name, true, 1));
    Value::Object(chosen.into_iter().map(example).collect())
}

/// An example of what an operation answers with JSON.
pub(super) fn answer(document: &Value, operation: &Value) -> Option<String> {
    let schema = operation["responses"]["200"]["content"]["application/json"].get("schema")?;
    let example = value(document, schema, "", false, 0);
    let is_telling = example.as_object().is_some_and(|fields| !fields.is_empty()) || example.is_array();
    is_telling.then(|| serde_json::to_string_pretty(&example).unwrap_or_default())
}

fn resolved<'d>(document: &'d Value, schema: &'d Value) -> &'d Value {
    match schema["$ref"].as_str().and_then(|path| document.pointer(path.trim_start_matches('#'))) {
        Some(schema) => schema,
        None => schema,
    }
}

/// An example of a schema, of the field of this name. Of a request, it has the required fields only.
fn value(document: &Value, schema: &Value, name: &str, is_request: bool, depth: usize) -> Value {
    if let Some(example) = schema["examples"].get(0) {
        return example.clone();
    }
    let schema = resolved(document, schema);
    if let Some(example) = schema["examples"].get(0) {
        return example.clone();
    }
    if let Some(choices) = schema["anyOf"].as_array().or(schema["oneOf"].as_array()) {
        let telling = choices.iter().find(|choice| resolved(document, choice)["type"] != "null");
        return telling.map_or(Value::Null, |choice| value(document, choice, name, is_request, depth));
    }
    if let Some(fixed) = schema.get("const").or_else(|| schema["enum"].get(0)) {
        return fixed.clone();
    }
    let kind = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().find(|kind| *kind != "null").unwrap_or(&Value::Null),
        kind => kind,
    };
    match kind.as_str().unwrap_or_default() {
        "object" if depth < MOST_DEPTH => {
            let required = schema["required"].as_array();
            let is_shown = |field: &str| !is_request || required.is_some_and(|all| all.iter().any(|one| one == field));
            let fields = schema["properties"].as_object().into_iter().flatten();
            let fields = fields.filter(|(field, _)| is_shown(field));
            let shown = fields.map(|(field, of)| (field.clone(), value(document, of, field, is_request, depth + 1)));
            Value::Object(shown.collect::<Map<String, Value>>())
        }
        "object" => json!({}),
        "array" if depth < MOST_DEPTH => json!([value(document, &schema["items"], name, is_request, depth + 1)]),
        "array" => json!([]),
        "integer" | "number" => json!(1),
        "boolean" => json!(true),
        "string" => json!(text(schema, name)),
        _ => KNOWN.iter().find(|(known, _)| *known == name).map_or(Value::Null, |(_, text)| json!(text)),
    }
}

fn text(schema: &Value, name: &str) -> String {
    if schema["format"] == "date-time" {
        return "2030-01-01T00:00:00Z".to_owned();
    }
    let known = KNOWN.iter().find(|(known, _)| *known == name);
    known
        .map_or_else(|| if name == "id" { "…".to_owned() } else { "string".to_owned() }, |(_, text)| (*text).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_follow_the_schema() {
        let given = json!({"type": "object", "examples": [{"x": [1]}]});
        assert_eq!(value(&json!({}), &given, "", true, 0), json!({"x": [1]}));
        let message = json!({"type": "object", "required": ["role"], "properties": {
            "role": {"type": "string"}, "name": {"type": ["string", "null"]}}});
        let document = json!({"components": {"schemas": {"Message": message}}});
        let list = json!({"type": "array", "items": {"$ref": "#/components/schemas/Message"}});
        let schema = json!({"type": "object", "required": ["messages"], "properties": {"messages": list, "n": {"type": "integer"}}});
        let operation = json!({"security": [{"secret": []}], "requestBody": {"content": {"application/json": {"schema": schema}}},
            "responses": {"200": {"content": {"application/json": {"schema": schema}}}}});
        let shown = call(&document, &operation, "POST", "http://x/y");
        assert!(
            shown.contains("secret: $SECRET") && shown.contains(r#"-d '{"messages":[{"role":"user"}]}' http://x/y"#),
            "{shown}"
        );
        let answer: Value = serde_json::from_str(&answer(&document, &operation).unwrap()).unwrap();
        assert_eq!(answer, json!({"messages": [{"role": "user", "name": "laptop"}], "n": 1}));
        assert_eq!(call(&document, &json!({"security": []}), "GET", "http://x/y"), "curl http://x/y");
    }
}
