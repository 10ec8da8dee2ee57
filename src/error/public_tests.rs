use super::*;
use crate::http::form::FieldError;

fn body(e: &Error, shape: Shape) -> Value {
    match e.reply(shape).content {
        crate::http::Content::Bytes(bytes) => serde_json::from_slice(&bytes).unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn internals_never_reach_the_client() {
    for e in [
        Error::Internal("hunter2".into()),
        Error::Database(db::Error::Other("hunter2".into())),
        Error::Database(db::Error::Unavailable("hunter2".into())),
        Error::Database(db::Error::Unique("hunter2".into())),
    ] {
        assert!(!body(&e, Shape::Detail).to_string().contains("hunter2"));
        assert!(e.status() >= 500);
    }
}

#[test]
fn an_outage_is_503_with_retry_after() {
    let e = Error::Database(db::Error::Busy);
    assert_eq!((e.status(), e.reply(Shape::Error).get_header("Retry-After")), (503, Some("1")));
    assert!(body(&e, Shape::Error).get("error").is_some());
}

#[test]
fn a_conflict_adds_the_current_state() {
    let e = Error::Conflict("Too many", Conflicting { limit: Some(2), document: None });
    assert_eq!(body(&e, Shape::Error), json!({"error": "Too many", "limit": 2}));
}

#[test]
fn openai_clients_get_the_type_and_code_they_know() {
    let e = Error::from(FieldError::Missing(vec!["prompt"]));
    assert_eq!((e.status(), body(&e, Shape::OpenAi)["error"]["param"].as_str()), (422, Some("prompt")));
    for (e, kind, code) in [
        (Error::Unauthorized("No"), "invalid_request_error", json!("invalid_api_key")),
        (Error::NoRoute, "invalid_request_error", json!("not_found")),
        (Error::ModelNotFound(None), "invalid_request_error", json!("model_not_found")),
        (Error::TooManyAttempts(Duration::ZERO), "rate_limit_error", json!("rate_limit_exceeded")),
        (Error::BudgetExhausted, "insufficient_quota", json!("insufficient_quota")),
        (Error::Forbidden("No"), "permission_error", json!("permission_denied")),
        (Error::bad("No"), "invalid_request_error", Value::Null),
        (Error::Busy, "server_error", Value::Null),
    ] {
        let e = body(&e, Shape::OpenAi);
        assert_eq!((&e["error"]["type"], &e["error"]["code"]), (&json!(kind), &code));
    }
    let theirs = json!({"error": {"message": "too long", "x": 1}});
    let relayed = Relayed { status: 400, body: Some(theirs.clone()), message: "too long".into(), retry_after: None };
    let e = Error::Relayed(Box::new(relayed));
    assert_eq!((body(&e, Shape::OpenAi), body(&e, Shape::Detail)), (theirs, json!({"detail": "too long"})));
}

#[test]
fn missing_fields_are_listed_as_fastapi_does() {
    let e = Error::from(FieldError::Missing(vec!["email", "password"]));
    let detail = body(&e, Shape::Detail)["detail"].clone();
    assert_eq!(detail[0]["type"], "missing");
    assert_eq!(detail[1]["loc"], json!(["body", "password"]));
}
