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
