//! Refuses JSON that different parsers would interpret differently: duplicate names, and nesting that is too deep for
//! some parsers. Otherwise, the work done by a model server could differ from what is charged.

use std::borrow::Cow;
use std::collections::HashSet;

/// Maximum nesting depth: that of serde_json.
const DEEPEST: usize = 127;

/// Checks that no object in this JSON has duplicate names, at any depth, and that it is not nested too deeply. The
/// syntax is not checked, as the JSON is parsed anyway.
///
/// # Errors
/// What is wrong with it, as a message for the client.
pub fn check(json: &str) -> Result<(), String> {
    let mut open: Vec<Open<'_>> = Vec::new();
    let mut at = 0;
    while let Some(&byte) = json.as_bytes().get(at) {
        match byte {
            b'{' | b'[' if open.len() == DEEPEST => {
                return Err(format!("The body must not be nested deeper than {DEEPEST} levels"));
            }
            b'{' => open.push(Open::Object(Names::default())),
            b'[' => open.push(Open::List),
            b'}' | b']' => drop(open.pop()),
            b'"' => {
                let end = string_end(json, at);
                let is_name = || json.as_bytes()[end..].iter().find(|b| !b.is_ascii_whitespace()) == Some(&b':');
                if let Some(Open::Object(names)) = open.last_mut()
                    && is_name()
                    && !names.insert(unescaped(&json[at..end]))
                {
                    let name: String =
                        unescaped(&json[at..end]).chars().filter(|c| !c.is_control()).take(100).collect();
                    return Err(format!("The body has the field {name:?} twice"));
                }
                at = end;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    Ok(())
}

/// Bytes that a name takes while [`check`] remembers it, in a table that has just grown, at most.
const NAME: usize = 128;

/// How many bytes [`check`] takes at most for this JSON: its objects' names, and the texts of those that are written with
/// escapes. It is counted by the colons and backslashes, which is fast.
pub fn held(json: &str) -> usize {
    let bytes = json.as_bytes();
    let (mut names, mut escaped, mut at, mut last) = (0_usize, 0_usize, 0, "");
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => {
                let end = string_end(json, at);
                last = &json[at..end];
                at = end;
            }
            b':' => {
                names += 1;
                escaped += if last.contains('\\') { last.len() } else { 0 };
                at += 1;
            }
            _ => at += 1,
        }
    }
    names.saturating_mul(NAME).saturating_add(escaped)
}

/// The end of the string that starts at `start`: after its closing quote, or at the end of the text.
pub(super) fn string_end(json: &str, start: usize) -> usize {
    let bytes = json.as_bytes();
    let mut at = start + 1;
    while let Some(found) = memchr::memchr2(b'"', b'\\', bytes.get(at..).unwrap_or_default()) {
        at += found;
        if bytes[at] == b'"' {
            return at + 1;
        }
        at += 2;
    }
    json.len()
}

/// The first whole number in this JSON that does not fit into 64 bits, and so would lose digits where it is parsed.
pub fn long_integer(json: &str) -> Option<&str> {
    let bytes = json.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if byte == b'"' {
            at = string_end(json, at);
        } else if byte == b'-' || byte.is_ascii_digit() {
            let is_part = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E');
            let length = bytes[at..].iter().take_while(|byte| is_part(byte)).count();
            let number = &json[at..at + length];
            let is_whole = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
            if is_whole && number.parse::<i64>().is_err() && number.parse::<u64>().is_err() {
                return Some(number);
            }
            at += length;
        } else {
            at += 1;
        }
    }
    None
}

/// The text of a quoted string. An invalid string, such as half a surrogate pair, is returned as it is written.
fn unescaped(quoted: &str) -> Cow<'_, str> {
    let plain = quoted.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(quoted);
    match plain.contains('\\') {
        true => serde_json::from_str::<String>(quoted).map_or(Cow::Borrowed(plain), Cow::Owned),
        false => Cow::Borrowed(plain),
    }
}

/// The first of these names that differs from one in `known` only by case: some parsers treat them as equal.
pub fn confusable<'n>(names: impl IntoIterator<Item = &'n str>, known: &[&str]) -> Option<&'n str> {
    let is_confusable = |name: &&str| known.iter().any(|known| name.eq_ignore_ascii_case(known) && name != known);
    names.into_iter().find(is_confusable)
}

/// An array or object that has not been closed yet.
enum Open<'a> {
    /// An array.
    List,
    /// An object, with its names so far.
    Object(Names<'a>),
}

/// Up to this many names are compared one by one; beyond that, hashing is faster.
const FEW_NAMES: usize = 16;

/// The names of an object so far.
#[derive(Default)]
struct Names<'a> {
    few: Vec<Cow<'a, str>>,
    /// Those after the first [`FEW_NAMES`].
    more: HashSet<Cow<'a, str>>,
}

impl<'a> Names<'a> {
    /// Adds a name; false if it is a duplicate.
    fn insert(&mut self, name: Cow<'a, str>) -> bool {
        if self.few.contains(&name) {
            return false;
        }
        if self.few.len() < FEW_NAMES {
            self.few.push(name);
            return true;
        }
        self.more.insert(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_known_before() {
        for (json, expected) in [
            ("", 0),
            (r#"["a:b", 1, {}]"#, 0),
            (r#"{"a": {"b": "c\\:d"}}"#, 2 * NAME),
            (r#"{"\u0061b" : 1, "c": "\\"}"#, 2 * NAME + 9),
        ] {
            assert_eq!(held(json), expected, "{json}");
        }
        // A table of names takes less than that when it has just grown, with what it grew from.
        let table = HashSet::<Cow<'_, str>>::with_capacity(10_000).capacity() * 8 / 7;
        let per_name = table * (size_of::<Cow<'_, str>>() + 1) * 3 / 2 / (table * 7 / 16);
        assert!(per_name <= NAME, "{per_name}");
    }

    #[test]
    fn names_come_once() {
        for json in [
            r#"{"model":"cheap","x":1,"model":"dear"}"#,
            r#"{"model":"cheap","mod\u0065l":"dear"}"#,
            r#"{"a":[{"b":{"c":1,"c":1}}]}"#,
            r#"{"":1,"":2}"#,
        ] {
            assert!(check(json).unwrap_err().contains("twice"), "{json}");
        }
        let many = |last: usize| {
            let names: Vec<String> = (0..100).chain([last]).map(|n| format!("\"{n}\":{n}")).collect();
            format!("{{{}}}", names.join(","))
        };
        for (repeated, ok) in [(0, false), (15, false), (16, false), (99, false), (100, true)] {
            assert_eq!(check(&many(repeated)).is_ok(), ok, "{repeated}");
        }
        for json in [
            r#"{"a":{"a":1},"b":[{"a":1},{"a":2}],"A":null,"c":"\ud83d\ude00","d":1e400,"e":true,
            "f":"\ud800","g":"\"a\": {\\"}"#,
            "[]",
            "7",
        ] {
            assert_eq!(check(json), Ok(()), "{json}");
        }
    }

    #[test]
    fn bounds_hold_for_what_is_no_json() {
        for json in ["", "{", "\"", "\"\\", "{\"a", "}}]]", r#"{"a":"\"#, "{\"ä\\", "[\"\u{feff}"] {
            assert_eq!(check(json), Ok(()), "{json}");
        }
    }

    #[test]
    fn nesting_has_a_bound() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(check(&nested(DEEPEST)), Ok(()));
        assert!(check(&nested(DEEPEST + 1)).is_err());
        assert!(check(&"[".repeat(1_000_000)).is_err());
    }

    #[test]
    fn numbers_that_would_lose_digits_are_found() {
        for (json, long) in [
            ("[1,-2,18446744073709551615,-9223372036854775808,1.5e300,0.12345678901234567890123]", None),
            (r#"{"a":"18446744073709551616","b":[18446744073709551616]}"#, Some("18446744073709551616")),
            ("-9223372036854775809", Some("-9223372036854775809")),
            ("\"\\\"123456789012345678901\"", None),
        ] {
            assert_eq!(long_integer(json), long, "{json}");
        }
    }

    #[test]
    fn names_that_differ_by_case_are_found() {
        let known = ["model", "stream"];
        assert_eq!(confusable(["model", "Model"], &known), Some("Model"));
        assert_eq!(confusable(["STREAM"], &known), Some("STREAM"));
        assert_eq!(confusable(["model", "stream", "models", "streaM_options"], &known), None);
    }
}
