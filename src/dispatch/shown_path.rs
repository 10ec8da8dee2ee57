//! Paths as the log shows them.

use std::borrow::Cow;

/// A word of this length with a digit is taken for a credential. Ids are shorter.
const CREDENTIAL: usize = 24;

/// The path with `***` for each word that may be a credential, which somebody has pasted into it.
pub(super) fn shown(path: &str) -> Cow<'_, str> {
    let is_separator = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
    let is_credential = |word: &str| word.len() >= CREDENTIAL && word.bytes().any(|b| b.is_ascii_digit());
    if !path.split(is_separator).any(is_credential) {
        return Cow::Borrowed(path);
    }
    let mut shown = String::with_capacity(path.len());
    for part in path.split_inclusive(is_separator) {
        let word = part.trim_end_matches(is_separator);
        shown += if is_credential(word) { "***" } else { word };
        shown += &part[word.len()..];
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_in_a_path_is_not_shown() {
        let key = crate::auth::Secret::new_api_key().unwrap();
        let session = crate::auth::Secret::new_session().unwrap();
        for secret in
            [key.reveal(), session.reveal(), "sk-proj-abcdefghijklmnop1234", "0123456789abcdef0123456789abcdef"]
        {
            for (path, expected) in
                [("/v1/{}", "/v1/***"), ("/{}/models", "/***/models"), ("/x;key={},y", "/x;key=***,y")]
            {
                assert_eq!(shown(&path.replace("{}", secret)), expected);
            }
        }
        for path in ["/", "/v1/engines/gpt-4o-mini-2024-07-18/completions", "/documents/Ab3dEf6hIj9lMn2p", "/*", ""] {
            assert_eq!(shown(path), path);
        }
    }
}
