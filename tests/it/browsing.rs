//! The pages in a browser without JavaScript.

use std::io::Read;

use serde_json::json;

use crate::harness::{Client, PASSWORD, Reply, Server, TestDb, User, textgen};

/// Opens a page as a browser does.
fn open(client: &Client, path: &str) -> Reply {
    client.header("accept", "text/html,application/xhtml+xml").get(path)
}

fn promote(db: &TestDb, user: &User) {
    let done = textgen(&["user", "promote", &user.email]).env("DATABASE_URL", db.url()).status().unwrap();
    assert!(done.success());
}

/// The part between two texts.
#[track_caller]
fn between<'t>(text: &'t str, before: &str, after: &str) -> &'t str {
    let rest = text.split_once(before).unwrap_or_else(|| panic!("no {before} in {text}")).1;
    rest.split_once(after).unwrap().0
}

#[test]
fn pages_are_small_cacheable_and_self_contained() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@example.com");
    promote(&db, &user);
    let saved = user.browser.post("/api/docs/save", &json!({"title": "Notes", "content": "Hello"})).expect(200).json();
    let document = format!("/documents/{}", saved["id"].as_str().unwrap());
    let one = format!("/admin/users/{}", user.id);
    let pages = [
        "/",
        "/login",
        "/signup",
        "/forgot-password",
        "/set-password",
        "/reset-password?token=x",
        "/confirm-email?token=x",
        "/account",
        "/documents",
        "/usage",
        "/playground",
        "/playground/speech",
        "/docs",
        "/admin",
        "/admin/users",
        "/admin/models",
        "/admin/models/edit",
        "/admin/models/file",
        "/admin/providers/edit",
        "/admin/usage",
        "/admin/audit",
        "/admin/webhooks",
        "/nothing",
    ];
    for path in pages.into_iter().chain([document.as_str(), one.as_str()]) {
        let page = open(&user.browser, path);
        let policy = page.header("content-security-policy").unwrap();
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{path}: {policy}");
        let text = page.text();
        assert!(!text.contains("style=") && !text.contains("<style") && !text.contains("onclick"), "{path}");
        let mut weight = page.body.len();
        for asset in text.split("\"/assets/").skip(1).map(|rest| rest.split('"').next().unwrap()) {
            let asset = format!("/assets/{asset}");
            let plain = user.browser.get(&asset).expect(200);
            assert_eq!(plain.header("cache-control"), Some("public, max-age=31536000, immutable"));
            weight += plain.body.len();
        }
        // The API reference has every operation.
        let most = if path == "/docs" { 190_000 } else { 66_000 };
        assert!(weight <= most, "{path} weighs {weight}");
        for part in text.split("<script").skip(1) {
            assert!(part.starts_with(" src=\"/assets/") && part.contains("defer></script>"), "{path}");
        }
    }
}

#[test]
fn static_files_are_compressed_for_clients_that_accept_it() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let home = open(&server.web.anonymous(), "/").expect(200).text();
    let style = format!("/assets/style.{}.css", between(&home, "/assets/style.", ".css"));
    let gzipped = server.web.anonymous().header("accept-encoding", "gzip").get(&style).expect(200);
    assert_eq!((gzipped.header("vary"), gzipped.header("content-encoding")), (Some("Accept-Encoding"), Some("gzip")));
    let plain = server.web.anonymous().get(&style).expect(200);
    assert_eq!(plain.header("content-encoding"), None);
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(&gzipped.body[..]).read_to_end(&mut unpacked).unwrap();
    assert_eq!(unpacked, plain.body);
    assert!(gzipped.body.len() * 2 < plain.body.len());
    server.web.anonymous().get("/assets/style.0000000000.css").expect(404);
    server.web.anonymous().get("/assets/..%2Fmod.rs").expect(404);
}

#[test]
fn errors_are_pages_for_browsers_and_json_for_programs() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let anonymous = server.web.anonymous();
    let page = open(&anonymous.header("x-request-id", "abc-123"), "/nothing").expect(404);
    assert!(page.header("content-type").unwrap().starts_with("text/html"));
    assert!(page.text().contains("Page not found") && page.text().contains("abc-123"));
    assert_eq!(anonymous.get("/nothing").expect(404).json(), json!({"detail": "Not Found"}));
    let refused = anonymous.form("/account/keys", &[("name", "x")]).expect(401);
    assert!(refused.text().contains("Please log in"));
    for path in ["/account", "/documents", "/admin", "/documents/doc_x"] {
        let reply = open(&anonymous, path).expect(303);
        assert_eq!(reply.header("location").unwrap(), format!("/login?next={path}"));
    }
    // The query is kept, unless it is too long to come back to.
    let reply = open(&anonymous, "/documents?q=a%20b&after=c").expect(303);
    let place = "/login?next=/documents%3Fq%3Da%2520b%26after%3Dc";
    assert_eq!(reply.header("location").unwrap(), place);
    let form = open(&anonymous, place).expect(200).text();
    assert!(form.contains(r#"name="next" value="/documents?q=a%20b&#38;after=c""#), "{form}");
    let reply = open(&anonymous, &format!("/usage?period={}", "9".repeat(2100))).expect(303);
    assert_eq!(reply.header("location").unwrap(), "/login?next=/usage");
}

#[test]
fn unknown_error_codes_are_not_echoed_and_next_stays_on_this_site() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let anonymous = server.web.anonymous();
    let page = open(&anonymous, "/login?error=Call+0900+now&next=//evil.example").expect(200).text();
    assert!(!page.contains("0900") && !page.contains("evil.example") && page.contains("Something went wrong"));
    let page =
        open(&anonymous, "/signup?error=Enter%20a%20valid%20e-mail%20address&next=/documents").expect(200).text();
    assert!(between(&page, "id=\"email-error\"", "</p>").contains("Enter a valid e-mail address"));
    assert!(page.contains("name=\"next\" value=\"/documents\""));
    let form = [("email", "a@x"), ("password", PASSWORD), ("password_confirm", "another one")];
    let reply = anonymous.form("/api/signup", &form).expect(303);
    assert_eq!(reply.header("location"), Some("/signup?error=The%20passwords%20don%27t%20match"));
    assert_eq!(db.count("SELECT count(*) FROM users"), 0);
}

/// The page that a form redirects to, which deletes the form's cookie.
fn after(browser: &Client, reply: &Reply) -> String {
    assert!(reply.header("set-cookie").unwrap().contains("HttpOnly"));
    let page = browser.follow(reply).expect(200);
    assert!(page.header("set-cookie").unwrap().contains("Max-Age=0"), "{page:?}");
    page.text()
}

#[test]
fn a_secret_of_another_user_is_not_shown() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let (ann, bob) = (server.sign_up("ann@example.com"), server.sign_up("bob@example.com"));
    for secret in [&bob.secret, "tg_nobodys", "<script>alert(1)</script>"] {
        let page = open(&ann.browser.header("cookie", &format!("new_secret={secret}")), "/account").expect(200);
        assert!(!page.text().contains(secret) && !page.text().contains("new-secret"));
    }
}

#[test]
fn keys_are_created_renamed_rotated_and_revoked_by_forms() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@example.com");
    let made = user.browser.form("/account/keys", &[("name", "laptop"), ("days", "30")]).expect(303);
    let page = after(&user.browser, &made);
    let secret = between(&page, "id=\"new-secret\">", "<").to_owned();
    server.inference.with_secret(&secret).get("/api/current-user").expect(200);
    assert!(!open(&user.browser, "/account").expect(200).text().contains(&secret), "shown twice");
    let keys = user.browser.get("/api/keys").expect(200).json();
    let id = keys["keys"][0]["id"].as_str().unwrap().to_owned();
    assert!(keys["keys"][0]["expires"].is_string());

    let renamed = user.browser.form("/account/keys/rename", &[("id", &id), ("name", "old laptop")]).expect(303);
    assert_eq!(renamed.header("location"), Some("/account?done=key-renamed"));
    let rotated = user.browser.form("/account/keys/rotate", &[("id", &id), ("grace_seconds", "0")]).expect(303);
    let page = after(&user.browser, &rotated);
    let newer = between(&page, "id=\"new-secret\">", "<").to_owned();
    server.audio.with_secret(&secret).get("/api/current-user").expect(401);
    server.audio.with_secret(&newer).get("/api/current-user").expect(200);
    let id = user.browser.get("/api/keys").json()["keys"][0]["id"].as_str().unwrap().to_owned();
    user.browser.form("/account/keys/revoke", &[("id", &id)]).expect(303);
    server.audio.with_secret(&newer).get("/api/current-user").expect(401);
    let again = user.browser.form("/account/keys/revoke", &[("id", &id)]).expect(404).text();
    assert!(between(&again, "id=\"keys\"", "</section>").contains("Key not found"));
    let nameless = user.browser.form("/account/keys", &[("name", " ")]).expect(400).text();
    assert!(nameless.contains("The name must not be empty"));
}

#[test]
fn password_sessions_and_account_are_managed_by_forms() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@example.com");
    let other = server.sign_in("ann@example.com", PASSWORD);
    user.browser.form("/account/sessions/revoke", &[]).expect(303);
    other.get("/api/current-user").expect(401);
    let wrong = [("current_password", "not this one"), ("new_password", "battery horse")];
    let page = user.browser.form("/account/password", &wrong).expect(400).text();
    assert!(between(&page, "id=\"password-form\"", "</form>").contains("The current password is incorrect"));
    let right = [("current_password", PASSWORD), ("new_password", "battery horse")];
    let renewed = user.browser.form("/account/password", &right).expect(303).session_token();
    user.browser.get("/api/current-user").expect(401);
    let browser = server.web.with_cookie(&renewed).header("accept", "text/html");
    browser.form("/account/name", &[("name", "Ann <b>")]).expect(303);
    assert!(open(&browser, "/account").text().contains("Ann &#60;b&#62;"));
    browser.form("/account/delete", &[("password", PASSWORD)]).expect(400);
    browser.form("/account/delete", &[("password", "battery horse")]).expect(303);
    assert_eq!(db.count("SELECT count(*) FROM users"), 0);
}

#[test]
fn a_document_is_written_found_published_deleted_and_restored() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let (user, stranger) = (server.sign_up("ann@example.com"), server.sign_up("bob@example.com"));
    let place = user.browser.form("/documents", &[]).expect(303).header("location").unwrap().to_owned();
    let id = place.strip_prefix("/documents/").unwrap();
    let first = [("title", "RoundTrip"), ("content", "one\r\ntwo 100% <script>"), ("version", "1")];
    user.browser.form(&place, &first).expect(303);
    let kept = user.browser.get(&format!("/api/docs/get?id={id}")).json();
    assert_eq!(kept["content"], "one\ntwo 100% <script>");

    // A conflict with a newer version: both texts are shown, and nothing is lost.
    let late = [("title", "RoundTrip"), ("content", "mine"), ("version", "1")];
    let page = user.browser.form(&place, &late).expect(409).text();
    assert!(page.contains("mine") && page.contains("two 100% &#60;script&#62;"));
    assert!(page.contains("name=\"version\" value=\"2\""));

    for (query, found) in [("TRIP", true), ("100%", true), ("10_%", false), ("three", false)] {
        let query: String = form_urlencoded::byte_serialize(query.as_bytes()).collect();
        let page = open(&user.browser, &format!("/documents?q={query}")).expect(200).text();
        assert_eq!(page.contains(&place), found, "{query}");
    }
    open(&stranger.browser, &place).expect(404);
    open(&stranger.browser, &format!("/public/{id}")).expect(404);
    user.browser.form(&format!("{place}/publish"), &[("is_public", "true")]).expect(303);
    let public = open(&server.web.anonymous(), &format!("/public/{id}")).expect(200).text();
    assert!(public.contains("&#60;script&#62;") && !public.contains("ann@example.com") && !public.contains(&user.id));

    stranger.browser.form(&format!("{place}/delete"), &[]).expect(404);
    user.browser.form(&format!("{place}/delete"), &[]).expect(303);
    open(&user.browser, &place).expect(404);
    open(&server.web.anonymous(), &format!("/public/{id}")).expect(404);
    assert!(open(&user.browser, &format!("/documents?deleted={id}")).text().contains(&format!("{place}/restore")));
    stranger.browser.form(&format!("{place}/restore"), &[]).expect(404);
    user.browser.form(&format!("{place}/restore"), &[]).expect(303);
    assert_eq!(user.browser.get(&format!("/api/docs/get?id={id}")).json()["version"], 2);
}

#[test]
fn a_long_list_is_paged_without_gaps() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@example.com");
    db.run(&format!(
        "INSERT INTO documents (id, user_id, title, created) \
         SELECT 'doc_' || n, '{}', 'Document ' || n, now() - n % 3 * interval '1 minute' FROM generate_series(1, 100) n",
        user.id
    ));
    let mut seen = Vec::new();
    let mut next = Some("/documents".to_owned());
    while let Some(path) = next {
        let page = open(&user.browser, &path).expect(200).text();
        let list = between(&page, "id=\"document-list\"", "</ul>");
        seen.extend(list.split("href=\"/documents/").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()));
        next = page.contains("Older documents").then(|| {
            let before = page.split("\">Older documents").next().unwrap();
            before.rsplit("href=\"").next().unwrap().replace("&#38;", "&")
        });
    }
    assert_eq!(seen.len(), 100);
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 100);
}

#[test]
fn other_sites_cannot_post_a_form() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@example.com");
    let evil = user.browser.header("origin", "https://evil.example").header("sec-fetch-site", "cross-site");
    for path in ["/account/keys", "/account/name", "/documents", "/account/delete", "/account/sessions/revoke"] {
        evil.form(path, &[("name", "x"), ("password", PASSWORD)]).expect(403);
    }
    assert_eq!(db.count("SELECT count(*) FROM api_keys"), 1);
    assert_eq!(db.count("SELECT count(*) FROM documents"), 0);
}

#[test]
fn pages_show_the_addresses_of_the_other_servers() {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("AUDIO_ADDR", "0.0.0.0:0")]);
    let page = server.web.anonymous().get("/").expect(200).text();
    assert!(page.contains(&format!("{}/api/current-user", server.inference.0)), "{page}");
    let port = server.audio.socket().rsplit_once(':').unwrap().1;
    assert!(page.contains(&format!("http://127.0.0.1:{port}/api/current-user")), "{page}");
    let server = Server::start_with(&db, &[("INFERENCE_PUBLIC_URL", "https://llm.example.com/")]);
    let page = server.web.anonymous().get("/").expect(200).text();
    assert!(page.contains("https://llm.example.com/api/current-user"), "{page}");
}
