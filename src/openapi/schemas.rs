//! What the answers are made of.

use serde_json::{Map, Value, json};

use super::fields::object;

/// Every schema by its name, its fields in short.
const SCHEMAS: &[(&str, &[&str])] = &[
    (
        "User",
        &[
            "id! string",
            "email! string Trimmed and lower-cased",
            "name! string?",
            "profile_url! string?",
            "photo_url! string?",
            "is_subscribed! boolean Whether a subscription is active",
            "stripe_id! string? The customer at Stripe",
            "secret! string The default key's visible prefix; the whole secret only in the answer that makes the account",
            "free_credits! integer Credits left",
            "charges_monthly! integer Charges of the month in micro-dollars",
            "num_self_hosted_instances! integer",
            "created! string ISO-8601 in UTC, without a zone",
            "updated! string ISO-8601 in UTC, without a zone",
        ],
    ),
    ("Message", &["message! string"]),
    ("Subscription", &["is_subscribed! boolean", "authenticated! boolean", "user_email string"]),
    ("PasswordChanged", &["message! string", "sessions_ended! integer"]),
    (
        "ApiKey",
        &[
            "id! string Names it; opens nothing",
            "name! string",
            "prefix! string The part of the secret that may be seen",
            "is_default! boolean",
            "created! time",
            "last_used! time?",
            "expires! time?",
            "replaced_by! string? The key that a rotation made of it",
        ],
    ),
    ("ApiKeys", &["keys! ApiKey[]"]),
    (
        "NewApiKey",
        &[
            "id! string",
            "name! string",
            "prefix! string",
            "secret! string Shown here and never again",
            "created! time",
            "expires! time?",
        ],
    ),
    ("KeyRenamed", &["id! string", "name! string"]),
    ("KeyRevoked", &["id! string", "revoked! boolean"]),
    (
        "Session",
        &[
            "id! string",
            "created! time",
            "last_seen! time",
            "expires! time",
            "address! string",
            "user_agent! string",
            "current! boolean Whether it is the one that asks",
        ],
    ),
    ("Sessions", &["sessions! Session[]"]),
    ("SessionsEnded", &["revoked! integer How many"]),
    (
        "Document",
        &[
            "id! string",
            "title! string",
            "content string? Left out of lists where content=false",
            "user_id! string",
            "created_at! string ISO-8601 in UTC, without a zone",
            "updated_at! string ISO-8601 in UTC, without a zone",
            "is_public! boolean",
            "version! integer Counts the saves",
        ],
    ),
    ("Documents", &["documents! Document[]", "next string Send it as after for the next page"]),
    ("DocumentSaved", &["id! string", "success! boolean", "message! string", "version! integer"]),
    ("DocumentDone", &["id! string", "success! boolean", "message! string"]),
    ("DocumentPublished", &["id! string", "success! boolean", "is_public! boolean", "version! integer"]),
    ("DocumentError", &["error! string", "document Document The current one, where a save came too late"]),
    (
        "UsageSum",
        &[
            "day string",
            "model string",
            "key string? null for what no key was used for",
            "route string",
            "charges! integer",
            "requests! integer",
            "prompt_tokens! integer",
            "completion_tokens! integer",
            "embedding_tokens! integer",
            "audio_millis! integer Milliseconds of audio heard",
            "characters! integer Characters spoken",
            "cost_micros! integer In micro-dollars",
        ],
    ),
    (
        "Usage",
        &["from! string", "to! string", "by! string", "cost_micros! integer In micro-dollars", "usage! UsageSum[]"],
    ),
    ("Model", OPEN),
    ("Models", &["object! string", "data! Model[]"]),
    ("Completion", OPEN),
    ("Embeddings", OPEN),
    ("Generated", &["generated_text! string", "stop_reason! string", "thinking_content string?"]),
    ("Summary", &["generated_text! string"]),
    ("Transcription", OPEN),
    ("Extraction", OPEN),
    ("OpenAiFault", &["message! string", "type! string", "param string?", "code any"]),
    ("OpenAiError", &["error! OpenAiFault"]),
    ("Alive", &["status! string"]),
    ("Ready", &["status! string", "listening! boolean Whether revocations are heard at once"]),
    ("OpenApi", &["openapi! string", "info! object", "paths! object"]),
];

/// What a model server answers is passed on, with fields that are not known here.
const OPEN: &[&str] = &[];

/// All of them, as `components.schemas` wants them.
pub(super) fn all() -> Value {
    let mut schemas: Map<String, Value> =
        SCHEMAS.iter().map(|(name, fields)| ((*name).to_owned(), object(fields))).collect();
    let detail = json!({
        "type": "object",
        "properties": {
            "detail": {
                "description": "What is wrong, or for a 422 the fields that are",
                "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}],
            },
        },
    });
    let text = |words| json!({"type": "string", "description": words});
    schemas.insert("Text".to_owned(), text("Text of this media type"));
    let sound = json!({"type": "string", "contentMediaType": "audio/*", "description": "Sound"});
    schemas.insert("Sound".to_owned(), sound);
    let generations = json!({"type": "array", "items": {"$ref": "#/components/schemas/Generated"}});
    schemas.insert("Generations".to_owned(), generations);
    schemas.insert("Error".to_owned(), detail);
    Value::Object(schemas)
}
