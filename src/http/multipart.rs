//! Parses the headers of the parts of `multipart/form-data` (RFC 7578). [`parts`](super::parts) reads the body itself.

/// The headers of a part.
#[derive(Debug, PartialEq, Eq)]
pub struct PartHead {
    /// The field's name.
    pub name: String,
    /// The file's name as the client sent it, if the part is a file. Not safe for use as a path.
    pub file_name: Option<String>,
    /// The part's own `Content-Type`, with its parameters.
    pub media_type: Option<String>,
}

/// The boundary parameter of a `Content-Type`, one to seventy characters (RFC 2046, section 5.1.1).
pub fn boundary(content_type: &str) -> Option<String> {
    parameter(content_type, "boundary").filter(|b| (1..=70).contains(&b.len()))
}

/// Reads the headers of a part, without the empty line that ends them.
///
/// # Errors
/// What is wrong with them, as a message for the client.
pub fn part_head(head: &[u8]) -> Result<PartHead, &'static str> {
    let head = std::str::from_utf8(head).map_err(|_| "the headers of a part are not UTF-8")?;
    let header = |wanted: &str| {
        let mut lines = head.split("\r\n").filter_map(|line| line.split_once(':'));
        lines.find(|(name, _)| name.trim().eq_ignore_ascii_case(wanted)).map(|(_, value)| value.trim())
    };
    let disposition = header("content-disposition").ok_or("a part has no Content-Disposition")?;
    let name = parameter(disposition, "name").ok_or("a part has no name")?;
    let extended = parameter(disposition, "filename*").and_then(|value| decode_extended(&value));
    let file_name = extended.or_else(|| parameter(disposition, "filename"));
    Ok(PartHead { name, file_name, media_type: header("content-type").map(str::to_owned) })
}

/// Decodes `UTF-8'language'percent-encoded` (RFC 8187); `None` for another charset or for invalid UTF-8.
fn decode_extended(value: &str) -> Option<String> {
    let mut fields = value.splitn(3, '\'');
    let (charset, _language, text) = (fields.next()?, fields.next()?, fields.next()?);
    let decoded = percent_encoding::percent_decode_str(text).decode_utf8().ok()?;
    charset.eq_ignore_ascii_case("utf-8").then(|| decoded.into_owned())
}

/// A parameter of a header's value: a token, or a quoted string in which a backslash escapes `"` and `\`.
fn parameter(value: &str, wanted: &str) -> Option<String> {
    let mut rest = value.split_once(';')?.1;
    loop {
        let (name, after) = rest.split_once('=')?;
        let (text, next) = if let Some(quoted) = after.trim_start().strip_prefix('"') {
            unquote(quoted)?
        } else {
            let end = after.find(';').unwrap_or(after.len());
            (after[..end].trim().to_owned(), &after[end..])
        };
        if name.trim().eq_ignore_ascii_case(wanted) {
            return Some(text);
        }
        rest = next.trim_start().strip_prefix(';')?;
    }
}

/// The text up to the closing quote, and what follows it.
fn unquote(quoted: &str) -> Option<(String, &str)> {
    let mut text = String::new();
    let mut characters = quoted.char_indices().peekable();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return Some((text, &quoted[at + 1..])),
            '\\' => match characters.next_if(|(_, next)| matches!(next, '"' | '\\')) {
                Some((_, escaped)) => text.push(escaped),
                None => text.push('\\'),
            },
            _ => text.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_headers_of_a_file() {
        let head = part_head(
            b"content-disposition: form-data; filename=\"q\\\"; name=z\"; name=f\r\nContent-Type: audio/wav; x=y",
        );
        let expected = PartHead {
            name: "f".into(),
            file_name: Some("q\"; name=z".into()),
            media_type: Some("audio/wav; x=y".into()),
        };
        assert_eq!(head, Ok(expected));
    }

    #[test]
    fn reads_file_names_in_utf_8() {
        let file_name = |parameters: &str| {
            part_head(format!("Content-Disposition: form-data; name=f; {parameters}").as_bytes()).unwrap().file_name
        };
        assert_eq!(file_name("filename=\"naïve.wav\"").as_deref(), Some("naïve.wav"));
        assert_eq!(file_name("filename=\"a.wav\"; filename*=utf-8'en'na%C3%AFve.wav").as_deref(), Some("naïve.wav"));
        assert_eq!(file_name("filename*=UTF-8''%ff; filename=a.wav").as_deref(), Some("a.wav"));
        assert_eq!(file_name("filename*=latin1''a; filename=b").as_deref(), Some("b"));
        assert_eq!(file_name("x=y"), None);
    }

    #[test]
    fn refuses_a_part_without_a_name() {
        for head in [&b""[..], b"A: b", b"Content-Disposition: form-data", b"Content-Disposition: form-data; name=\"a"]
        {
            assert!(part_head(head).is_err(), "{}", String::from_utf8_lossy(head));
        }
    }

    #[test]
    fn reads_boundaries() {
        assert_eq!(boundary("multipart/form-data; charset=x; Boundary=\"a b\""), Some("a b".into()));
        assert_eq!(boundary("multipart/form-data; boundary=ab"), Some("ab".into()));
        assert_eq!(boundary("multipart/form-data"), None);
        assert_eq!(boundary("multipart/form-data; boundary="), None);
    }
}
