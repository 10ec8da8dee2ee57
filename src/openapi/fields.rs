//! Fields in short: `name! string What it is`. A `!` behind the name means required, a `?` behind the type that it may be
//! null, `[]` that there are many. Types are those of JSON, `time`, `file`, `any`, `object`, or the name of a schema.

use serde_json::{Map, Value, json};

/// A field in short, taken apart.
struct Field<'s> {
    name: &'s str,
    is_required: bool,
    kind: &'s str,
    words: &'s str,
}

fn parse(spec: &str) -> Field<'_> {
    let mut parts = spec.splitn(3, ' ');
    let name = parts.next().unwrap_or("");
    let kind = parts.next().unwrap_or("any");
    Field {
        name: name.trim_end_matches('!'),
        is_required: name.ends_with('!'),
        kind,
        words: parts.next().unwrap_or(""),
    }
}

/// The schema of a type.
pub(super) fn schema_of(kind: &str) -> Value {
    if let Some(kind) = kind.strip_suffix('?') {
        let schema = schema_of(kind);
        return match schema.get("type").and_then(Value::as_str).map(str::to_owned) {
            Some(name) => {
                let mut schema = schema;
                schema["type"] = json!([name, "null"]);
                schema
            }
            None => json!({"anyOf": [schema, {"type": "null"}]}),
        };
    }
    if let Some(kind) = kind.strip_suffix("[]") {
        return json!({"type": "array", "items": schema_of(kind)});
    }
    match kind {
        "any" => json!({}),
        "time" => json!({"type": "string", "format": "date-time"}),
        "file" => json!({"type": "string", "contentMediaType": "application/octet-stream"}),
        "string" | "integer" | "number" | "boolean" | "object" => json!({"type": kind}),
        name => json!({"$ref": format!("#/components/schemas/{name}")}),
    }
}

/// An object of these fields.
pub(super) fn object(specs: &[&str]) -> Value {
    let fields: Vec<Field<'_>> = specs.iter().map(|spec| parse(spec)).collect();
    let properties = fields.iter().map(|field| {
        let mut schema = schema_of(field.kind);
        if !field.words.is_empty() {
            schema["description"] = json!(field.words);
        }
        (field.name.to_owned(), schema)
    });
    let properties: Map<String, Value> = properties.collect();
    let mut object = json!({"type": "object"});
    if !properties.is_empty() {
        object["properties"] = Value::Object(properties);
    }
    let required: Vec<&str> = fields.iter().filter(|field| field.is_required).map(|field| field.name).collect();
    if !required.is_empty() {
        object["required"] = json!(required);
    }
    object
}

/// A parameter of the query.
pub(super) fn parameter(spec: &str) -> Value {
    let Field { name, is_required, kind, words } = parse(spec);
    json!({"name": name, "in": "query", "required": is_required, "description": words, "schema": schema_of(kind)})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_fields_become_schemas() {
        let object = object(&["id! string Names it", "expires time?", "keys ApiKey[]"]);
        assert_eq!(object["required"], json!(["id"]));
        assert_eq!(object["properties"]["id"], json!({"type": "string", "description": "Names it"}));
        assert_eq!(object["properties"]["expires"]["type"], json!(["string", "null"]));
        assert_eq!(object["properties"]["keys"]["items"]["$ref"], json!("#/components/schemas/ApiKey"));
    }
}
