//! The pages: user input is escaped, and secrets are shown once.

use serde_json::json;

use crate::harness::{PASSWORD, Reply, Server, TestDb};

const MARKUP: &str = r#"<script>alert(1)</script>"><img src=x onerror='alert(2)'>&amp;"#;

/// Asserts that a page shows the markup escaped.
#[track_caller]
fn assert_escaped(reply: Reply) {
    let page = reply.expect(200).text();
    for raw in ["<script>alert", "<img src=x", "onerror='"] {
        assert!(!page.contains(raw), "{raw} in {page}");
    }
    assert!(page.contains("alert(1)"), "{page}");
}

#[test]
fn user_input_is_escaped() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("o'hara&co@x");
    let page = user.browser.get("/account").expect(200).text();
    assert!(!page.contains("o'hara&co@x") && page.contains("o&#39;hara&#38;co@x"), "{page}");
    user.browser.post("/api/docs/save", &serde_json::json!({"title": MARKUP, "content": MARKUP})).expect(200);
    assert_escaped(user.browser.get("/documents"));
    let made = user.browser.form("/account/keys", &[("name", MARKUP)]).expect(303);
    assert_escaped(user.browser.follow(&made));
    assert_escaped(user.browser.get("/account"));
    // Old accounts may have an e-mail address that is not valid today.
    db.connect().execute("UPDATE users SET email = $1", &[&MARKUP]).unwrap();
    let fresh = || server.web.with_cookie(&user.token);
    crate::harness::soon("the address to be seen", || fresh().get("/playground").text().contains("onerror"));
    assert_escaped(fresh().get("/playground"));
    assert_escaped(fresh().get("/account"));
}

#[test]
fn url_parameters_are_escaped() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let web = server.web.anonymous();
    let query = form_urlencoded::Serializer::new(String::new()).append_pair("error", MARKUP).finish();
    for path in ["/login", "/signup"] {
        // Unknown codes are not echoed: a link must not be able to put text on our page.
        let page = web.get(&format!("{path}?{query}")).expect(200).text();
        assert!(!page.contains("alert(") && page.contains("Something went wrong"), "{page}");
        for next in ["/%22%3E%3Cscript%3Ealert(1)%3C/script%3E", "/x%22onfocus=alert(1)"] {
            let page = web.get(&format!("{path}?next={next}")).expect(200).text();
            assert!(!page.contains("<script>") && !page.contains(r#"x"onfocus"#), "{page}");
        }
        for odd in ["?error=%FF%FE", "?error=%00", "?error", "?next=%0d%0aSet-Cookie:a=b", "?%", "?error=%zz"] {
            web.get(&format!("{path}{odd}")).expect(200);
        }
    }
}

#[test]
fn forms_work_without_a_script() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let web = server.web.anonymous();
    let page = web.get("/signup").expect(200);
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    for part in [r#"id="signup-form""#, r#"id="email""#, r#"id="password""#, r#"id="password-confirm""#] {
        assert!(page.text().contains(part), "{part}");
    }
    assert!(page.text().contains(r#"class="auth-page""#) && page.text().contains(r#"class="auth-footer""#));
    let page = web.get("/login").expect(200).text();
    assert!(page.contains(r#"id="login-form""#) && page.contains(r#"href="/signup""#));
    let fields = [("email", "ann@x"), ("password", PASSWORD), ("password_confirm", PASSWORD)];
    let token = web.form("/api/signup", &fields).expect(303).session_token();
    let browser = server.web.with_cookie(&token);
    for path in ["/", "/account", "/playground"] {
        assert!(browser.get(path).expect(200).text().contains(r#"href="/logout""#), "{path}");
    }
    let reply = browser.form("/playground", &[("title", "A title"), ("content", "text")]).expect(303);
    assert_eq!(reply.header("location"), Some("/playground"));
    assert!(browser.get("/playground").expect(200).text().contains("A title"));
    // Visitors who are not signed in are sent to the login and back.
    for path in ["/account", "/playground"] {
        let reply = web.get(path).expect(303);
        assert_eq!(reply.header("location").unwrap(), format!("/login?next={path}"));
    }
}

#[test]
fn a_new_secret_is_shown_on_one_page_once() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@x");
    let made = user.browser.form("/account/keys", &[("name", "mine")]).expect(303);
    let reply = user.browser.follow(&made).expect(200);
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    let page = reply.text();
    let secret = page.split(r#"id="new-secret">"#).nth(1).unwrap().split('<').next().unwrap();
    server.audio.with_secret(secret).get("/api/current-user").expect(200);
    for path in ["/account", "/playground", "/api/keys", "/api/current-user"] {
        let seen = user.browser.get(path).expect(200).text();
        assert!(!seen.contains(secret) && !seen.contains(&user.secret), "{path}");
    }
    server.web.anonymous().form("/account/keys", &[("name", "mine")]).expect(401);
    assert_eq!(user.browser.get("/api/keys").expect(200).json()["keys"][0]["name"], json!("mine"));
}

#[test]
fn the_first_key_is_shown_once_after_sign_up() {
    let db = TestDb::new();
    let server = Server::start_demo(&db, &[]);
    let fields = [("email", "ann@x"), ("password", PASSWORD), ("password_confirm", PASSWORD)];
    let reply = server.web.anonymous().form("/api/signup", &fields).expect(303);
    let cookie = reply.headers.iter().find(|(_, value)| value.starts_with("new_secret=")).unwrap().1.clone();
    assert!(
        cookie.contains("; Path=/playground;") && cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict")
    );
    let browser = server.web.with_cookie(&reply.session_token());
    let page = browser.header("cookie", cookie.split(';').next().unwrap()).get("/playground").expect(200);
    assert!(page.headers.iter().any(|(_, value)| value.starts_with("new_secret=;") && value.contains("Max-Age=0")));
    let page = page.text();
    let secret = page.split(r#"id="new-secret">"#).nth(1).unwrap().split('<').next().unwrap();
    assert!(page.contains(&format!("export SECRET={secret}")), "{page}");
    server.inference.with_secret(secret).get("/api/current-user").expect(200);
    // Another account's secret in the cookie is not shown, nor an invalid one.
    let other = server.sign_up("bob@x");
    for foreign in [other.secret.as_str(), "tg_nonsense"] {
        let page = browser.header("cookie", &format!("new_secret={foreign}")).get("/playground").expect(200).text();
        assert!(!page.contains("new-secret") && !page.contains(foreign), "{foreign}");
    }
}

#[test]
fn what_was_entered_without_a_session_can_be_sent_again_after_a_log_in() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let web = server.web.anonymous().header("sec-fetch-site", "same-origin");
    let fields = [("title", "Notes"), ("content", MARKUP)];
    let page = web.form("/playground", &fields).expect(401).text();
    assert!(
        page.contains(r#"method="post" action="/playground""#) && page.contains(r#"name="title" value="Notes""#),
        "{page}"
    );
    assert!(page.contains("alert(1)") && !page.contains("<script>alert"), "{page}");
    // Nothing that another site sent, and no passwords.
    let foreign =
        server.web.anonymous().header("sec-fetch-site", "cross-site").form("/playground", &fields).expect(401);
    assert!(!foreign.text().contains("Notes"), "{}", foreign.text());
    let page = web.form("/account/delete", &[("password", "hunter2-hunter2")]).expect(401).text();
    assert!(page.contains("Please log in") && !page.contains("hunter2"), "{page}");
    // Programs get what they always got.
    let refused = server.web.anonymous().form_for_json("/playground", &fields).expect(401);
    assert_eq!(refused.json(), json!({"detail": "Not authenticated"}));
}

#[test]
fn errors_stand_beside_their_fields_and_what_was_typed_stays() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@x");
    let post = |path: &str, fields: &[(&str, &str)]| user.browser.form(path, fields).expect(400).text();
    let at = |page: &str, id: &str, message: &str| {
        let input = page.split(&format!(r#"id="{id}""#)).nth(1).unwrap_or_else(|| panic!("no {id}: {page}"));
        let input = input.split('>').next().unwrap();
        assert!(input.contains(&format!(r#"aria-describedby="{id}-error" aria-invalid="true" autofocus"#)), "{input}");
        let error = page.split(&format!(r#"id="{id}-error""#)).nth(1).unwrap().split("</p>").next().unwrap();
        assert!(error.contains(message) && !error.contains("hidden"), "{error}");
    };
    let fields = [("name", "laptop"), ("days", "30"), ("limit", "a lot"), ("window", "week")];
    let page = post("/account/keys", &fields);
    at(&page, "key-limit", "");
    for kept in [r#"value="laptop""#, r#"value="30" selected"#, r#"value="a lot""#, r#"value="week" selected"#] {
        assert!(page.contains(kept), "{kept}: {page}");
    }
    at(&post("/account/keys", &[("name", " ")]), "key-name", "The name must not be empty");
    at(&post("/account/name", &[("name", &"x".repeat(201))]), "name", "at most 200 characters");
    let id = user.browser.get("/api/keys").expect(200).json()["keys"][0]["id"].as_str().unwrap().to_owned();
    let page = post("/account/keys/rename", &[("id", &id), ("name", &"y".repeat(101))]);
    at(&page, &format!("rename-{id}"), "at most 100 characters");
    assert!(page.contains(&format!(r#"value="{}""#, "y".repeat(101))), "{page}");
    let wrong = [("current_password", "not this one"), ("new_password", "another good password")];
    let page = post("/account/password", &wrong);
    at(&page, "current-password", "The current password is incorrect");
    assert!(!page.contains("not this one") && !page.contains("another good password"));
    at(
        &post("/account/password", &[("current_password", PASSWORD), ("new_password", "short")]),
        "new-password",
        "at least 8",
    );
    at(&post("/account/delete", &[("password", "not this one")]), "delete-password", "Nothing was deleted");
}
