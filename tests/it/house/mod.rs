//! Rules for the source: imports go one way, files are short, SQL is in one place, nothing is unwrapped.

mod imports;
mod tokens;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The most lines a source file may have.
const LONGEST: usize = 450;

/// The three roles, none of which may import another.
const ROLES: [&str; 3] = ["web", "inference", "audio"];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every file in `src/`, by its path relative to it.
fn files() -> BTreeMap<String, String> {
    fn gather(folder: &Path, into: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                gather(&path, into);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(source()).unwrap().to_string_lossy().replace('\\', "/");
                into.insert(name, fs::read_to_string(&path).unwrap());
            }
        }
    }
    let mut files = BTreeMap::new();
    gather(&source(), &mut files);
    assert!(files.len() > 40, "{files:?}");
    files
}

/// A file without its tests and comments.
fn code(text: &str) -> String {
    let text = text.split("\n#[cfg(test)]\n").next().unwrap();
    let lines = text.lines().map(|line| match line.trim_start().starts_with("//") {
        true => "",
        false => line.split(" // ").next().unwrap(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The modules in the order of `lib.rs`: each may import those above it.
fn modules(lib: &str) -> Vec<String> {
    let names = lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    names.map(str::to_owned).collect()
}

/// The modules that a file names with `crate::`.
fn imported_modules(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue; // textgen::…, or another crate's name that ends so.
        }
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            // `use crate::{a, b::{c, d}, e}`: the names at the first level.
            Some(group) => {
                let (mut depth, mut name) = (0, String::new());
                for c in group.chars() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => found.push(std::mem::take(&mut name)),
                        _ if depth == 0 => name.push(c),
                        _ => {}
                    }
                }
                found.push(name);
            }
            None => found.push(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()),
        }
    }
    let first = |name: &String| name.trim().split("::").next().unwrap().trim().to_owned();
    found.iter().map(first).filter(|name| !name.is_empty()).collect()
}

#[test]
fn imported_modules_are_found() {
    let code = "use crate::{audio, common, db::{self, Error}, web};\nlet x = crate::store::users::get(crate::call::X);
        use notcrate::nothing; pub(crate) use crate::blocking;";
    assert_eq!(imported_modules(code), ["audio", "common", "db", "web", "store", "call", "blocking"]);
}

#[test]
fn modules_import_only_from_layers_above() {
    let files = files();
    let order = modules(&files["lib.rs"]);
    assert!(order.len() > 10 && ROLES.iter().all(|role| order.contains(&(*role).to_owned())), "{order:?}");
    let place = |name: &str| order.iter().position(|module| module == name);
    let mut wrong = Vec::new();
    for (file, text) in &files {
        let own = file.split(['/', '.']).next().unwrap();
        let Some(own_place) = place(own) else {
            assert!(["lib", "main"].contains(&own), "{file} belongs to no module of lib.rs");
            continue;
        };
        for imported in imported_modules(text) {
            let Some(imported_place) = place(&imported) else {
                wrong.push(format!("{file} names crate::{imported}, which lib.rs does not list"));
                continue;
            };
            let beside = ROLES.contains(&own) && ROLES.contains(&imported.as_str()) && own != imported;
            if imported_place > own_place || beside {
                wrong.push(format!("{file} imports {imported}"));
            }
        }
    }
    assert!(wrong.is_empty(), "against the order of lib.rs:\n{}", wrong.join("\n"));
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let graph = imports::graph(&files());
    let edges: usize = graph.values().map(BTreeSet::len).sum();
    assert!(edges > 300, "the check finds only {edges} uses");
    assert_eq!(imports::circles(&graph), [[""; 0]; 0], "files import each other in a circle");
}

#[test]
fn files_are_short() {
    for (file, text) in files() {
        let lines = text.lines().count();
        assert!(lines <= LONGEST, "{file} has {lines} lines: divide it");
    }
}

/// How SQL statements begin, and what else they contain, so that prose is not mistaken for SQL.
const STATEMENTS: [(&str, &str); 9] = [
    ("\"SELECT ", ""),
    ("\"INSERT INTO ", ""),
    ("\"UPDATE ", " SET "),
    ("\"DELETE FROM ", ""),
    ("\"WITH ", " AS ("),
    ("\"CREATE ", ""),
    ("\"ALTER ", ""),
    ("\"LISTEN ", ""),
    ("\"NOTIFY ", ""),
];

fn has_sql(code: &str) -> Option<&str> {
    STATEMENTS.iter().find_map(|(begin, also)| {
        let at = code.find(begin)?;
        let end = code[at + 1..].find('"').map_or(code.len(), |n| at + 1 + n);
        code[at..end].contains(also).then_some(&code[at..end])
    })
}

#[test]
fn sql_is_in_store_and_db_only() {
    let mut found = 0;
    for (file, text) in files() {
        let sql = has_sql(&text);
        if file.starts_with("store/") || file.starts_with("db/") {
            found += usize::from(sql.is_some());
        } else {
            assert_eq!(has_sql(&code(&text)), None, "{file}");
        }
    }
    assert!(found > 4, "this test no longer detects SQL");
}

/// The local files to which a Markdown text links.
fn links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
    targets.filter(|target| !target.is_empty() && !target.contains("://")).collect()
}

#[test]
fn links_in_documentation_are_valid() {
    assert_eq!(links("[a](b/c.rs), ![d](e.png) [f](https://g) [h](#i) [j](k.md#l)"), ["b/c.rs", "e.png", "k.md"]);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let documents = docs.chain(["README.md", "CONTRIBUTING.md"].map(|name| root.join(name)));
    let mut found = 0;
    for document in documents.filter(|path| path.extension().is_some_and(|e| e == "md")) {
        for link in links(&fs::read_to_string(&document).unwrap()) {
            assert!(document.with_file_name(link).exists(), "{} links to {link}", document.display());
            found += 1;
        }
    }
    assert!(found > 50, "only {found} links were found");
}

#[test]
fn nothing_unwraps() {
    for (file, text) in files().into_iter().filter(|(file, _)| !file.ends_with("_tests.rs")) {
        for (n, line) in code(&text).lines().enumerate() {
            for call in [".unwrap()", ".expect(\"", ".unwrap_err()", "todo!(", "unimplemented!("] {
                assert!(!line.contains(call), "src/{file}:{}: {}", n + 1, line.trim());
            }
        }
    }
}

#[test]
fn an_import_named_like_its_crate_is_not_a_circle() {
    let file = |text: &str| text.to_owned();
    let files = BTreeMap::from([
        ("lib.rs".to_owned(), file("mod a; mod b;")),
        (
            "a.rs".to_owned(),
            file("use memchr::memchr; use crate::b::g; pub fn f() { memchr(); memchr::memchr2(); g(); }"),
        ),
        ("b.rs".to_owned(), file("pub fn g() {}")),
    ]);
    let graph = imports::graph(&files);
    assert_eq!(graph["a.rs"], BTreeSet::from(["b.rs".to_owned()]));
    assert_eq!(imports::circles(&graph), [[""; 0]; 0]);
}
