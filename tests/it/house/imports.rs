//! Which files of a crate use which others, found in their source. A file uses another if it names something that the
//! other defines; what stands between them, such as `pub use`, does not count. Nor does what a file takes from the modules
//! that it is in, as a module and its parts are one thing. Tests are left out.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::tokens::{Token, tokens};

/// By the path of a file: the paths of the files that it uses.
pub type Graph = BTreeMap<String, BTreeSet<String>>;

/// A module's path from the root of the crate, which is empty.
type Path = Vec<String>;

/// What a name in a module stands for.
enum Name {
    /// Something defined there.
    Item,
    /// A module in it.
    Module,
    /// Something from elsewhere, by its path as written.
    Import(Path),
}

#[derive(Default)]
struct Module {
    file: String,
    names: HashMap<String, Name>,
    /// Modules of which it imports everything.
    globs: Vec<Path>,
    /// Every path that stands in it, as written, but for those of public imports.
    paths: BTreeSet<Path>,
}

struct Crate {
    modules: HashMap<Path, Module>,
}

/// Reads files, by their paths below `src/`. The graph holds each of them but `main.rs`, a crate of its own.
///
/// # Panics
/// A file is not Rust, or a path leads to a module that is not there.
pub fn graph(files: &BTreeMap<String, String>) -> Graph {
    let mut found = Crate { modules: HashMap::new() };
    for (file, text) in files.iter().filter(|(file, _)| *file != "main.rs") {
        found.read(file, module_of(file), &tokens(text));
    }
    let mut graph: Graph = found.modules.values().map(|module| (module.file.clone(), BTreeSet::new())).collect();
    for (place, module) in &found.modules {
        for path in &module.paths {
            if let Some(used) = found.definition(place, path, 0).filter(|used| !is_within(&module.file, used)) {
                graph.get_mut(&module.file).unwrap().insert(used);
            }
        }
    }
    graph
}

/// Whether a file is another, or in the folder of the module that the other holds.
fn is_within(file: &str, other: &str) -> bool {
    module_of(file).starts_with(&module_of(other))
}

/// The module that a file holds: `web/mod.rs` and `web.rs` are `web`.
fn module_of(file: &str) -> Path {
    let path = file.strip_suffix(".rs").unwrap();
    let path = path.strip_suffix("/mod").unwrap_or(path);
    if path == "lib" { Path::new() } else { path.split('/').map(str::to_owned).collect() }
}

impl Crate {
    fn read(&mut self, file: &str, place: Path, tokens: &[Token]) {
        let mut module = Module { file: file.to_owned(), ..Module::default() };
        for item in items(tokens) {
            let Some(name) = item.name else {
                module.scan_item(item.tokens);
                continue;
            };
            match (item.keyword, item.tokens.last()) {
                ("mod", Some(Token::Group('{', inner))) => {
                    self.read(file, [place.clone(), vec![name.clone()]].concat(), inner);
                    module.names.insert(name, Name::Module);
                }
                ("mod", _) => drop(module.names.insert(name, Name::Module)),
                _ => {
                    module.names.insert(name, Name::Item);
                    module.scan_item(item.tokens);
                }
            }
        }
        self.modules.insert(place, module);
    }

    /// The file that defines what a path in a module means; nothing for other crates and for modules themselves.
    fn definition(&self, place: &Path, path: &[String], depth: usize) -> Option<String> {
        assert!(depth < 20, "imports in a circle: {path:?} in {place:?}");
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => self.within(&Path::new(), rest, depth),
            "self" => self.within(place, rest, depth),
            "super" => self.within(&place[..place.len() - 1].to_vec(), rest, depth),
            _ if self.modules.get(place)?.names.contains_key(first) => self.within(place, path, depth),
            // A name from a glob import, of the language or of another crate.
            _ => self.modules[place].globs.iter().find_map(|glob| {
                let module = self.module(place, glob)?;
                self.modules[&module].names.contains_key(first).then(|| self.within(&module, path, depth + 1))?
            }),
        }
    }

    /// The same for a path that begins inside a module.
    fn within(&self, place: &Path, path: &[String], depth: usize) -> Option<String> {
        let module = self.modules.get(place).unwrap_or_else(|| panic!("there is no module {place:?}"));
        let (first, rest) = path.split_first()?;
        match module.names.get(first) {
            Some(Name::Item) => Some(module.file.clone()),
            Some(Name::Module) => self.within(&[place.clone(), vec![first.clone()]].concat(), rest, depth),
            Some(Name::Import(target)) => self.definition(place, &[target, rest].concat(), depth + 1),
            None if first == "super" => self.within(&place[..place.len() - 1].to_vec(), rest, depth),
            None => {
                let of_glob = module.globs.iter().find_map(|glob| {
                    let from = self.module(place, glob)?;
                    self.modules[&from].names.contains_key(first).then(|| self.within(&from, path, depth + 1))?
                });
                // What a macro defines is not seen; it is in the module that calls the macro.
                of_glob.or_else(|| Some(module.file.clone()))
            }
        }
    }

    /// The module that a path in a module means, if it is one of this crate.
    fn module(&self, place: &Path, path: &[String]) -> Option<Path> {
        let mut at = match path.first()?.as_str() {
            "crate" => Path::new(),
            "super" => place[..place.len() - 1].to_vec(),
            "self" => place.clone(),
            first => [place.clone(), vec![first.to_owned()]].concat(),
        };
        for name in &path[1..] {
            at = if name == "super" { at[..at.len() - 1].to_vec() } else { [at, vec![name.clone()]].concat() };
        }
        self.modules.contains_key(&at).then_some(at)
    }
}

impl Module {
    /// Collects the imports and the paths of an item, those in macros and functions included. A path of one name may be
    /// anything: what it means is seen later.
    fn scan_item(&mut self, tokens: &[Token]) {
        for (at, import) in imports(tokens) {
            let is_public = at > 0 && !tokens[at - 1].is_sign(';') && !matches!(tokens[at - 1], Token::Group('[', _));
            if !is_public {
                self.paths.insert(import.path.clone());
            }
            match import.name {
                None => self.globs.push(import.path),
                // `use memchr::memchr` names an item of another crate.
                Some(name) if name == "_" || import.path.first() == Some(&name) => {}
                Some(name) => drop(self.names.insert(name, Name::Import(import.path))),
            }
        }
        self.scan(tokens, &HashMap::new());
    }

    /// `local` holds what the functions around these tokens import.
    fn scan(&mut self, tokens: &[Token], local: &HashMap<String, Path>) {
        let mut at = 0;
        while at < tokens.len() {
            match &tokens[at] {
                Token::Group(_, inner) => {
                    let mut local = local.clone();
                    for (_, import) in imports(inner) {
                        self.paths.insert(import.path.clone());
                        match import.name {
                            None => self.globs.push(import.path),
                            Some(name) => drop(local.insert(name, import.path)),
                        }
                    }
                    self.scan(inner, &local);
                }
                Token::Text(text) => self.scan_text(text),
                Token::Word(_) if is_import(tokens, at) => at = import_end(tokens, at),
                Token::Word(first) => {
                    let (path, length) = path(&tokens[at..]);
                    if !is_continued(tokens, at) {
                        let path = local.get(first).map_or(path.clone(), |target| [target, &path[1..]].concat());
                        self.paths.insert(path);
                    }
                    at += length - 1;
                }
                Token::Sign(_) | Token::Value => {}
            }
            at += 1;
        }
    }

    /// serde's attributes hold paths as text.
    fn scan_text(&mut self, text: &str) {
        let is_path = ["crate::", "super::", "self::"].iter().any(|begin| text.starts_with(begin));
        if is_path && text.chars().all(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            self.paths.insert(text.split("::").map(str::to_owned).collect());
        }
    }
}

/// A name that `use` brings; none for everything that stands at its path.
struct Import {
    name: Option<String>,
    path: Path,
}

/// The imports that stand in these tokens and in no brackets, each with the place of its `use`.
fn imports(tokens: &[Token]) -> Vec<(usize, Import)> {
    let mut found = Vec::new();
    for at in (0..tokens.len()).filter(|at| is_import(tokens, *at)) {
        let mut imports = Vec::new();
        read_import(&tokens[at + 1..import_end(tokens, at)], &Path::new(), &mut imports);
        found.extend(imports.into_iter().map(|import| (at, import)));
    }
    found
}

/// Not `impl Trait + use<'_>`.
fn is_import(tokens: &[Token], at: usize) -> bool {
    tokens[at].is_word("use") && !tokens[at + 1].is_sign('<')
}

fn import_end(tokens: &[Token], at: usize) -> usize {
    at + tokens[at..].iter().position(|token| token.is_sign(';')).expect("`use` has an end")
}

/// Reads what stands between `use` and its semicolon, or a part of it behind the path `before`.
fn read_import(tree: &[Token], before: &Path, found: &mut Vec<Import>) {
    let (path, length) = path(tree);
    let mut path = [before.clone(), path].concat();
    let name = match &tree[length..] {
        [Token::Sign(':'), Token::Sign(':'), rest @ ..] => return read_import(rest, &path, found),
        [Token::Group('{', inner)] => {
            let parts = inner.split(|token| token.is_sign(','));
            return parts.filter(|part| !part.is_empty()).for_each(|part| read_import(part, &path, found));
        }
        [Token::Sign('*')] => None,
        [Token::Word(keyword), Token::Word(name)] if keyword == "as" => Some(name.clone()),
        [] => {
            path.pop_if(|last| last == "self");
            path.last().cloned()
        }
        other => panic!("use {path:?} {other:?}"),
    };
    found.push(Import { name, path });
}

/// The names from here on that `::` joins, and how many tokens these are.
fn path(tokens: &[Token]) -> (Path, usize) {
    let (mut path, mut at) = (Path::new(), 0);
    while let Some(Token::Word(name)) = tokens.get(at) {
        path.push(name.clone());
        match &tokens[at + 1..] {
            [Token::Sign(':'), Token::Sign(':'), Token::Word(_), ..] => at += 3,
            _ => return (path, at + 1),
        }
    }
    (path, at)
}

/// Whether the word at this place belongs to what stands before it: `…::name`, or `value.name` but not `..name`.
fn is_continued(tokens: &[Token], at: usize) -> bool {
    let is = |back: usize, sign: char| at >= back && tokens[at - back].is_sign(sign);
    is(1, ':') && is(2, ':') || is(1, '.') && !is(2, '.')
}

/// Something that stands in a module.
struct Item<'t> {
    /// Empty for what has no name, such as `impl` and `use`.
    keyword: &'t str,
    name: Option<String>,
    /// With its attributes.
    tokens: &'t [Token],
}

/// What has a name of its own in the module.
const NAMED: [&str; 11] =
    ["fn", "struct", "enum", "union", "trait", "type", "static", "const", "mod", "macro_rules", "macro"];

/// Divides a module into its items, and leaves out those for tests.
fn items(mut tokens: &[Token]) -> Vec<Item<'_>> {
    let mut items = Vec::new();
    while !tokens.is_empty() {
        let keyword = keyword(tokens);
        // A value may hold braces: what has one ends at its semicolon.
        let has_value = matches!(keyword, Some((_, "const" | "static" | "type" | "use")));
        let is_end = |token: &Token| token.is_sign(';') || !has_value && matches!(token, Token::Group('{', _));
        let end = tokens.iter().position(is_end).map_or(tokens.len(), |at| at + 1);
        let (item, rest) = tokens.split_at(end);
        tokens = rest;
        if is_for_tests(item) {
            continue;
        }
        let name = keyword.filter(|(at, keyword)| *at < end && NAMED.contains(keyword)).and_then(|(at, keyword)| {
            let behind = &item[at + 1..];
            let name = behind.iter().find_map(|token| match token {
                Token::Word(word) if word != "mut" => Some(word.clone()),
                _ => None,
            });
            name.map(|name| (keyword, name))
        });
        items.push(match name {
            Some((keyword, name)) => Item { keyword, name: Some(name), tokens: item },
            None => Item { keyword: "", name: None, tokens: item },
        });
    }
    items
}

/// The word that says what an item is, and its place: behind attributes, `pub`, `const fn`'s `const` and the like.
fn keyword(tokens: &[Token]) -> Option<(usize, &str)> {
    let words = tokens.iter().enumerate().filter_map(|(at, token)| match token {
        Token::Word(word) => Some((at, word.as_str())),
        _ => None,
    });
    let mut words = words.skip_while(|(_, word)| ["pub", "async", "unsafe", "extern", "default"].contains(word));
    let first = words.next()?;
    let second = words.next();
    let is_function = first.1 == "const" && second.is_some_and(|(_, word)| ["fn", "unsafe", "async"].contains(&word));
    if is_function { words.find(|(_, word)| *word == "fn").or(second) } else { Some(first) }
}

fn is_for_tests(item: &[Token]) -> bool {
    let test = [Token::Word("cfg".to_owned()), Token::Group('(', vec![Token::Word("test".to_owned())])];
    item.iter().any(|token| matches!(token, Token::Group('[', inner) if *inner == test))
}

/// Groups of files of which each uses, by way of others, all of its group: sorted, none of one file only.
pub fn circles(graph: &Graph) -> Vec<Vec<String>> {
    let reach = |start: &String| {
        let (mut reached, mut open) = (BTreeSet::new(), vec![start]);
        while let Some(file) = open.pop() {
            open.extend(graph[file].iter().filter(|next| reached.insert((*next).clone())));
        }
        reached
    };
    let reached: BTreeMap<&String, BTreeSet<String>> = graph.keys().map(|file| (file, reach(file))).collect();
    let group = |file: &&String| -> Vec<String> {
        let in_circle = |other: &&String| reached[*file].contains(*other) && reached[*other].contains(*file);
        graph.keys().filter(in_circle).cloned().collect()
    };
    let groups: BTreeSet<Vec<String>> = graph.keys().map(|file| group(&file)).collect();
    groups.into_iter().filter(|group| group.len() > 1).collect()
}

fn graph_of(files: &[(&str, &str)]) -> Graph {
    graph(&files.iter().map(|(file, text)| ((*file).to_owned(), (*text).to_owned())).collect())
}

fn uses(graph: &Graph, file: &str) -> Vec<String> {
    graph[file].iter().cloned().collect()
}

const LIB: (&str, &str) = ("lib.rs", "pub mod a; pub mod b; mod main_only;");

#[test]
fn paths_are_found_everywhere() {
    for code in [
        "use crate::b::Thing;",
        "use crate::{b::{self, Thing}};",
        "use super::b; fn f() { b::make(); }",
        "use crate::b as other; fn f(x: Vec<other::Thing>) {}",
        "fn f() { use crate::b::make; make() }",
        "fn f() { println!(\"{}\", vec![crate::b::make()]); }",
        "#[serde(with = \"super::b::make\")] struct S;",
        "use crate::b::*; fn f() { make() }",
        "use super::*; fn f() { b::make() }",
        "impl crate::b::Trait for S {}",
        "fn f() -> S { S { x: 1, ..crate::b::BASE } }",
        "use crate::b::deep::Inner;",
        "mod deep; fn f() { use crate::b::deep; deep::Inner }",
    ] {
        let graph = graph_of(&[
            LIB,
            ("a.rs", code),
            (
                "b.rs",
                "pub struct Thing; pub fn make() {} pub mod deep { pub struct Inner; } pub trait Trait {} pub const BASE: u8 = 1;",
            ),
        ]);
        assert_eq!(uses(&graph, "a.rs"), ["b.rs"], "{code}");
    }
}

#[test]
fn text_that_resembles_an_import_is_ignored() {
    for code in [
        "// crate::b::make()",
        "/// See [`crate::b::make`].\nstruct S;",
        "use crate::b;",
        "use other::b::Thing; fn f(x: other::b::Thing) {}",
        "fn f(x: X) { x.b(); x.make(); }",
        "const TEXT: &str = \"read crate::b::make\";",
        "#[cfg(test)] mod tests { use crate::b::make; }",
        "#[cfg(test)]\nuse crate::b::make;",
        "pub use crate::b::make;",
    ] {
        let graph = graph_of(&[LIB, ("a.rs", code), ("b.rs", "pub struct Thing; pub fn make() {}")]);
        assert_eq!(uses(&graph, "a.rs"), [""; 0], "{code}");
    }
}

#[test]
fn a_reexport_leads_to_the_file_that_defines_the_item() {
    let graph = graph_of(&[
        LIB,
        ("a/mod.rs", "mod one; mod two; pub use one::One; pub use two::Two as Second;"),
        ("a/one.rs", "pub struct One(super::Second);"),
        ("a/two.rs", "pub struct Two;"),
        ("b.rs", "use crate::a::{One, Second}; fn f() { crate::a::macro_made() }"),
    ]);
    assert_eq!(uses(&graph, "b.rs"), ["a/mod.rs", "a/one.rs", "a/two.rs"]);
    assert_eq!(uses(&graph, "a/one.rs"), ["a/two.rs"]);
    assert_eq!(uses(&graph, "a/mod.rs"), [""; 0]);
    assert!(circles(&graph).is_empty());
}

#[test]
fn circles_are_found() {
    let graph = graph_of(&[
        LIB,
        ("a/mod.rs", "mod one; mod two; mod three; fn f() { one::f() } pub const LIMIT: u8 = 1;"),
        ("a/one.rs", "pub fn f() { super::two::f() }"),
        ("a/two.rs", "use super::{LIMIT, three}; pub fn f() -> u8 { three::f() }"),
        ("a/three.rs", "pub fn f() { super::one::f() }"),
        ("b.rs", "use crate::a::LIMIT;"),
    ]);
    assert_eq!(circles(&graph), [["a/one.rs", "a/three.rs", "a/two.rs"]]);
}
