//! Forms and JSON objects as fields.

use super::*;
use crate::http::Body;

fn fields(media_type: &str, body: &[u8]) -> Result<Fields, FieldError> {
    let mut request = Request::default();
    let head = format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Type: {media_type}\r\n\r\n");
    request.head.parse(head.as_bytes()).unwrap();
    request.body = Body::from_bytes(body.to_vec());
    Fields::read(&mut request, FORM_LIMIT)
}

#[test]
fn forms_multipart_forms_and_json_are_read_alike() {
    let parts = "--b\r\nContent-Disposition: form-data; name=\"email\"\r\n\r\na+b@x\r\n--b--\r\n";
    for (media_type, body) in [
        ("application/x-www-form-urlencoded; charset=utf-8", "email=a%2Bb%40x&password="),
        ("Application/JSON", r#"{"email":"a+b@x"}"#),
        ("multipart/form-data; boundary=b", parts),
    ] {
        assert_eq!(fields(media_type, body.as_bytes()).unwrap().text("email").unwrap(), "a+b@x", "{media_type}");
    }
}

#[test]
fn values_are_counted_outside_of_texts() {
    for (json, count) in
        [("", 1), ("7", 1), (r#"{"a":1}"#, 2), (r#"[[],{},"[[,,{",0]"#, 7), (r#"{"a\"[,":"\\","b":"\\\",","c":[]}"#, 5)]
    {
        assert_eq!(count_values(json.as_bytes()), count, "{json}");
    }
    for broken in [&b"\"abc"[..], b"\"\\", b"[\"\\\""] {
        count_values(broken);
    }
}

#[test]
fn types_and_absence_are_told_apart() {
    let fields = fields("application/json", br#"{"n":1,"s":"x","z":null,"b":true}"#).unwrap();
    assert!(matches!(fields.text("gone"), Err(FieldError::Missing(names)) if names == ["gone"]));
    assert!(matches!(fields.text("n"), Err(FieldError::Type("n", _))));
    assert_eq!(fields.optional_text("z").unwrap(), None);
    assert_eq!(fields.optional_integer("n").unwrap(), Some(1));
    assert_eq!(fields.optional_bool("b").unwrap(), Some(true));
    assert!(fields.optional_integer("s").is_err() && fields.has("z") && !fields.has("q"));
}

#[test]
fn a_repeated_name_may_be_refused() {
    let mut request = Request::default();
    for (media_type, body) in [
        ("application/x-www-form-urlencoded", "a=1&b=2&%61=3"),
        (
            "multipart/form-data; boundary=b",
            "--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n\
             --b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n3\r\n--b--\r\n",
        ),
    ] {
        let head = format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Type: {media_type}\r\n\r\n");
        request.head.parse(head.as_bytes()).unwrap();
        assert_eq!(Fields::parse(&request, body.as_bytes()).unwrap().text("a").unwrap(), "3");
        let refused = Fields::parse_unique(&request, body.as_bytes()).err().map(|e| e.to_string());
        assert_eq!(refused.as_deref(), Some("the form has the field \"a\" twice"));
    }
}

#[test]
fn refuses_invalid_text() {
    let json = "application/json";
    let form = "application/x-www-form-urlencoded";
    for (media_type, body) in [
        (json, &b"[1]"[..]),
        (json, b"{"),
        (json, b"{\"a\":\"\xff\"}"),
        (json, br#"{"a":"\u0000"}"#),
        (json, br#"{"a":"\ud800"}"#),
        (form, b"a=%ff"),
        (form, b"a=%00"),
        ("multipart/form-data", b"x"),
        ("text/plain", b"x"),
    ] {
        assert!(matches!(fields(media_type, body), Err(FieldError::Malformed(_))), "{media_type} {body:?}");
    }
}

#[test]
fn what_is_held_of_values_is_less_than_was_reserved_for_them() {
    std::thread::spawn(|| {
        let budget = std::sync::Arc::new(memory_budget::MemoryBudget::new(100_000_000));
        memory_budget::install(std::sync::Arc::clone(&budget));
        let zeros = ",0".repeat(99_999);
        let texts: usize = (0..2000).map(|n| n.to_string().len()).sum();
        let many = (0..2000).map(|n| format!("\"{n}\":{{\"x\":\"{n}\"}}")).collect::<Vec<_>>().join(",");
        for (body, least, most) in [
            (format!(r#"{{"x":[0{zeros}]}}"#), 100_000 * size_of::<Value>(), 10_000_000),
            (format!(r#"{{"x":{{{many}}}}}"#), 2 * 2000 * size_of::<Value>() + 2 * texts, 1_500_000),
        ] {
            let fields = fields("application/json", body.as_bytes()).unwrap();
            let reserved = budget.used();
            assert!((least..=most).contains(&fields.held()), "{}", fields.held());
            memory_budget::shrink_to(fields.held());
            assert_eq!(budget.used(), fields.held().min(reserved));
            drop(memory_budget::take());
        }
    })
    .join()
    .unwrap();
}
