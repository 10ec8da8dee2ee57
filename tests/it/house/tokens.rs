//! Rust source as a tree of tokens: enough of the language to find names in it.

use std::iter::Peekable;
use std::str::Chars;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Token {
    /// A name or keyword.
    Word(String),
    Sign(char),
    /// A string, without its quotes and with its escapes as they are written.
    Text(String),
    /// A number or a character.
    Value,
    /// What stands between brackets, and the bracket that opens them.
    Group(char, Vec<Token>),
}

impl Token {
    pub fn is_word(&self, word: &str) -> bool {
        matches!(self, Token::Word(own) if own == word)
    }

    pub fn is_sign(&self, sign: char) -> bool {
        matches!(self, Token::Sign(own) if *own == sign)
    }
}

/// The tokens of a file, without comments.
///
/// # Panics
/// Brackets do not match.
pub fn tokens(source: &str) -> Vec<Token> {
    let mut open = vec![(' ', Vec::new())];
    let mut chars = source.chars().peekable();
    while let Some(c) = chars.next() {
        let token = match c {
            '(' | '[' | '{' => {
                open.push((c, Vec::new()));
                continue;
            }
            ')' | ']' | '}' => {
                let (bracket, inner) = open.pop().unwrap();
                assert!(["()", "[]", "{}"].contains(&format!("{bracket}{c}").as_str()), "{c} closes {bracket}");
                Token::Group(bracket, inner)
            }
            '/' if matches!(chars.peek(), Some('/' | '*')) => {
                skip_comment(&mut chars);
                continue;
            }
            '"' => Token::Text(text(&mut chars)),
            '\'' => match character(&mut chars) {
                true => Token::Value,
                false => continue, // a lifetime
            },
            c if c.is_ascii_digit() => {
                number(&mut chars);
                Token::Value
            }
            c if c.is_alphabetic() || c == '_' => word(c, &mut chars),
            c if c.is_whitespace() => continue,
            c => Token::Sign(c),
        };
        open.last_mut().unwrap().1.push(token);
    }
    assert_eq!(open.len(), 1, "a bracket is not closed");
    open.pop().unwrap().1
}

fn skip_comment(chars: &mut Peekable<Chars<'_>>) {
    if chars.next() == Some('/') {
        chars.by_ref().take_while(|c| *c != '\n').for_each(drop);
        return;
    }
    let mut depth = 1;
    while depth > 0 {
        match chars.next().expect("a comment is not closed") {
            '*' if chars.next_if_eq(&'/').is_some() => depth -= 1,
            '/' if chars.next_if_eq(&'*').is_some() => depth += 1,
            _ => {}
        }
    }
}

/// The rest of a string whose first quote was read.
fn text(chars: &mut Peekable<Chars<'_>>) -> String {
    let mut text = String::new();
    loop {
        match chars.next().expect("a string is not closed") {
            '"' => return text,
            '\\' => text.extend(['\\', chars.next().expect("a string is not closed")]),
            c => text.push(c),
        }
    }
}

/// The rest of a raw string, from the signs before its first quote.
fn raw_text(chars: &mut Peekable<Chars<'_>>) -> String {
    let mut end = "\"".to_owned();
    while chars.next_if_eq(&'#').is_some() {
        end.push('#');
    }
    assert_eq!(chars.next(), Some('"'));
    let mut text = String::new();
    while !text.ends_with(&end) {
        text.push(chars.next().expect("a raw string is not closed"));
    }
    text.truncate(text.len() - end.len());
    text
}

/// Behind an apostrophe: whether it began a character, which is then read, or a lifetime, whose name is.
fn character(chars: &mut Peekable<Chars<'_>>) -> bool {
    let first = chars.next().expect("nothing behind an apostrophe");
    if first == '\\' {
        chars.next(); // It may be an apostrophe.
        chars.by_ref().take_while(|c| *c != '\'').for_each(drop);
        return true;
    }
    if chars.next_if_eq(&'\'').is_some() {
        return true;
    }
    while chars.next_if(|c| c.is_alphanumeric() || *c == '_').is_some() {}
    false
}

fn number(chars: &mut Peekable<Chars<'_>>) {
    loop {
        while chars.next_if(|c| c.is_alphanumeric() || *c == '_').is_some() {}
        let mut ahead = chars.clone();
        // `1.5` goes on, `1..5` and `1.max(5)` do not.
        if ahead.next() != Some('.') || !ahead.next().is_some_and(|c| c.is_ascii_digit()) {
            return;
        }
        chars.next();
    }
}

/// A name, or a string with letters before its quotes.
fn word(first: char, chars: &mut Peekable<Chars<'_>>) -> Token {
    let mut word = first.to_string();
    while let Some(c) = chars.next_if(|c| c.is_alphanumeric() || *c == '_') {
        word.push(c);
    }
    match (word.as_str(), chars.peek()) {
        ("b" | "c", Some('"')) => {
            chars.next();
            Token::Text(text(chars))
        }
        ("b", Some('\'')) => {
            chars.next();
            character(chars);
            Token::Value
        }
        ("r" | "br" | "cr", Some('"')) => Token::Text(raw_text(chars)),
        ("r" | "br" | "cr", Some('#')) => {
            if chars.clone().find(|c| *c != '#') == Some('"') {
                return Token::Text(raw_text(chars));
            }
            chars.next();
            let first = chars.next().unwrap();
            self::word(first, chars) // a name such as r#type
        }
        _ => Token::Word(word),
    }
}

#[test]
fn source_becomes_tokens() {
    let word = |name: &str| Token::Word(name.to_owned());
    let text = |text: &str| Token::Text(text.to_owned());
    for (source, expected) in [
        ("a // b\nc /* d /* e */ f */ g", vec![word("a"), word("c"), word("g")]),
        (
            r#"a("b // \" c", d)"#,
            vec![word("a"), Token::Group('(', vec![text(r#"b // \" c"#), Token::Sign(','), word("d")])],
        ),
        (r##"r"a\" b"c" br#"d"e"# r#type"##, vec![text("a\\"), text("c"), text("d\"e"), word("type")]),
        (
            r"'a' '\'' '\u{41}' b'{' '{' x",
            vec![Token::Value, Token::Value, Token::Value, Token::Value, Token::Value, word("x")],
        ),
        ("&'a str", vec![Token::Sign('&'), word("str")]),
        ("1.5e3 0x_f", vec![Token::Value, Token::Value]),
        ("1..n", vec![Token::Value, Token::Sign('.'), Token::Sign('.'), word("n")]),
    ] {
        assert_eq!(tokens(source), expected, "{source}");
    }
}
