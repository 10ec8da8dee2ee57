//! The administrators' pages of the catalogue, used as a browser without scripts does.

use serde_json::json;

use crate::catalogue_api::start;
use crate::harness::{Client, Reply, TestDb, wait_until};

fn open(client: &Client, path: &str) -> Reply {
    client.header("accept", "text/html").get(path).expect(200)
}

/// The page again, with what is wrong.
#[track_caller]
fn refused(reply: Reply, words: &[&str]) {
    let text = reply.expect(400).text();
    for word in words.iter().chain(&["role=\"alert\""]) {
        assert!(text.contains(word), "no {word} in {text}");
    }
}

const PROVIDER: [(&str, &str); 7] = [
    ("new", "1"),
    ("name", "far <1>"),
    ("base_url", "https://far.example.com/v1"),
    ("key", "sk-hunter2"),
    ("protocol_chat", "1"),
    ("headers", "X-Team: blue\r\nX-Tier: gold"),
    ("max_concurrent", "5"),
];

const MODEL: [(&str, &str); 8] = [
    ("new", "1"),
    ("name", "vendor/gpt <x>"),
    ("aliases", "best\r\n\r\n second best "),
    ("price_input", "0.15"),
    ("price_output", "0.60"),
    ("route_0_provider", ""),
    ("route_3_provider", "far <1>"),
    ("route_3_weight", "2"),
];

fn with<'a>(fields: &[(&'a str, &'a str)], changes: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let kept = fields.iter().filter(|(name, _)| changes.iter().all(|(changed, _)| changed != name));
    kept.chain(changes).copied().collect()
}

#[test]
fn a_provider_and_a_model_are_added_changed_and_removed() {
    let db = TestDb::new();
    let (_server, root) = start(&db);
    assert!(open(&root, "/admin").text().contains("href=\"/admin/models\""));
    assert!(open(&root, "/admin/models").text().contains("No models in the catalogue"));
    open(&root, "/admin/providers/edit");
    let saved = root.form("/admin/providers/edit", &PROVIDER).expect(303);
    assert_eq!(saved.header("location"), Some("/admin/models?done=provider"));
    let shown = root.get("/api/admin/providers").expect(200).json()["providers"][0].clone();
    assert_eq!(
        json!([shown["name"], shown["api_key"], shown["protocols"], shown["headers"], shown["max_concurrent"]]),
        json!(["far <1>", "sealed", ["chat"], {"X-Team": "blue", "X-Tier": "gold"}, 5])
    );
    root.form("/admin/models/edit", &MODEL).expect(303);
    let shown = root.get("/api/admin/models").expect(200).json()["models"][0].clone();
    assert_eq!(
        json!([shown["name"], shown["aliases"], shown["price"], shown["route"][0]["weight"]]),
        json!(["vendor/gpt <x>", ["best", "second best"], {"input": "0.15", "output": "0.6"}, 2])
    );
    wait_until("the provider to be known", || open(&root, "/admin/models").text().matches("badge good").count() == 2);
    let list = open(&root, "/admin/models").text();
    for words in ["vendor/gpt &#60;x&#62;", "input 0.15, output 0.6", "far &#60;1&#62;", "sealed", "second best"] {
        assert!(list.contains(words), "no {words} in {list}");
    }
    // The forms hold what is stored, but no key.
    let form = open(&root, "/admin/models/edit?name=vendor%2Fgpt%20%3Cx%3E").text();
    for words in ["value=\"0.15\"", "best\nsecond best", "value=\"far &#60;1&#62;\"", "name=\"route_2_provider\""] {
        assert!(form.contains(words), "no {words} in {form}");
    }
    let form = open(&root, "/admin/providers/edit?name=far%20%3C1%3E").text();
    assert!(form.contains("X-Team: blue\nX-Tier: gold") && form.contains("A key is stored"), "{form}");
    // A change of the provider keeps its key; one of the model keeps its price if none is typed.
    let changed = with(&PROVIDER[1..], &[("key", ""), ("has_sealed_key", "1"), ("max_concurrent", "")]);
    root.form("/admin/providers/edit", &changed).expect(303);
    let shown = root.get("/api/admin/providers").expect(200).json()["providers"][0].clone();
    assert_eq!(json!([shown["api_key"], shown["max_concurrent"]]), json!(["sealed", null]));
    let later = [("price_input", "2"), ("price_output", ""), ("price_from", "2999-01-01T00:00"), ("aliases", "")];
    root.form("/admin/models/edit", &with(&MODEL[1..], &later)).expect(303);
    let shown = root.get("/api/admin/models").expect(200).json()["models"][0].clone();
    let upcoming = json!([{"from": "2999-01-01T00:00:00Z", "price": {"input": "2"}}]);
    assert_eq!(
        json!([shown["aliases"], shown["price"]["input"], shown["upcoming_prices"]]),
        json!([[], "0.15", upcoming])
    );
    root.form("/admin/providers/edit", &with(&changed, &[("remove_key", "1")])).expect(303);
    assert_eq!(root.get("/api/admin/providers").json()["providers"][0]["api_key"], json!(null));
    refused(root.form("/admin/providers/remove", &[("name", "far <1>")]), &["has a route to it", "far &#60;1&#62;"]);
    root.form("/admin/models/remove", &[("name", "vendor/gpt <x>")]).expect(303);
    root.form("/admin/models/remove", &[("name", "vendor/gpt <x>")]).expect(404);
    root.form("/admin/providers/remove", &[("name", "far <1>")]).expect(303);
    let audit = open(&root, "/admin/audit").text();
    assert!(
        audit.contains("remove provider") && audit.contains("vendor/gpt &#60;x&#62;") && !audit.contains("hunter2")
    );
}

#[test]
fn a_mistake_is_told_beside_the_form_and_what_was_typed_stays() {
    let db = TestDb::new();
    let (_server, root) = start(&db);
    let provider = |changes: &[(&str, &str)]| root.form("/admin/providers/edit", &with(&PROVIDER, changes));
    let reply = provider(&[("base_url", "ftp://far")]);
    assert!(!reply.text().contains("hunter2"), "a key is not shown again");
    refused(reply, &["base_url: ", "value=\"ftp://far\"", "far &#60;1&#62;", "X-Team: blue", "value=\"5\""]);
    refused(provider(&[("protocol_chat", "")]), &["protocols: there must be at least one"]);
    refused(provider(&[("max_concurrent", "many")]), &["max_concurrent: expected a whole number", "value=\"many\""]);
    refused(provider(&[("headers", "X-Team")]), &["headers: expected Name: value in each line"]);
    refused(provider(&[("key", ""), ("key_variable", "DATABASE_URL")]), &["is a secret of textgen itself"]);
    provider(&[]).expect(303);
    refused(provider(&[]), &["name: there is already one"]);
    let model = |changes: &[(&str, &str)]| root.form("/admin/models/edit", &with(&MODEL, changes));
    let typed = ["value=\"0.60\"", "best", "value=\"far &#60;1&#62;\"", "value=\"2\""];
    for (change, words) in [
        (("price_input", "1,5"), "price: input: "),
        (("max_output_tokens", "x"), "max_output_tokens: expected a whole number"),
        (("price_from", "soon"), "price_from: expected a time"),
        (("route_4_provider", "nobody"), "there is no provider"),
        (("name", ""), "name: a name has 1 to 200 bytes"),
    ] {
        refused(model(&[change]), &[&typed[..], &[words, &format!("value=\"{}\"", change.1)]].concat());
    }
    model(&[]).expect(303);
    refused(model(&[("aliases", "")]), &["name: there is already one"]);
    root.header("accept", "text/html").get("/admin/models/edit?name=nobody").expect(404);
    assert_eq!(db.count("SELECT count(*) FROM models"), 1);
}

#[test]
fn the_whole_catalogue_is_edited_as_its_file_unless_it_has_changed_meanwhile() {
    let db = TestDb::new();
    let (_server, root) = start(&db);
    root.form("/admin/providers/edit", &PROVIDER).expect(303);
    let page = open(&root, "/admin/models/file").text();
    let between =
        |before: &str, after: &str| page.split_once(before).unwrap().1.split_once(after).unwrap().0.to_owned();
    let version = between("name=\"version\" value=\"", "\"");
    assert!(page.contains("api_key = &#34;sealed&#34;"), "{page}");
    let file = "[[provider]]\nname = \"far <1>\"\nbase_url = \"https://far.example.com/v1\"\napi_key = \"sealed\"\n\n\
        [[model]]\nname = \"m\"\n\n[[model.route]]\nprovider = \"far <1>\"\n";
    let apply = |file: &str| root.form("/admin/models/file", &[("version", &version), ("file", file)]);
    refused(apply(&file.replace("[[model.route]]", "[[model.rout]]")), &["unknown field", "[[model.rout]]"]);
    refused(apply(&file.replace("sealed", "env:ENCRYPTION_KEY")), &["is a secret of textgen itself"]);
    apply(file).expect(303);
    assert_eq!(db.count("SELECT count(*) FROM models"), 1);
    // The version of the page is not that of the catalogue any more.
    refused(apply(""), &["the catalogue has changed"]);
    assert_eq!(db.count("SELECT count(*) FROM models"), 1);
    assert_eq!(db.count("SELECT count(*) FROM audit WHERE action = 'apply' AND actor = 'root@example.com'"), 1);
}
