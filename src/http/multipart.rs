//! `multipart/form-data` (RFC 7578) of a body in memory.

/// One part.
#[derive(Debug, PartialEq, Eq)]
pub struct Part<'b> {
    /// The field's name.
    pub name: String,
    /// The file's name, where the part is a file.
    pub file_name: Option<String>,
    /// The bytes.
    pub content: &'b [u8],
}

/// The boundary parameter of a `Content-Type`, one to seventy characters (RFC 2046 section 5.1.1).
pub fn boundary(content_type: &str) -> Option<String> {
    parameter(content_type, "boundary").filter(|b| (1..=70).contains(&b.len()))
}

/// Splits a body into its parts.
///
/// # Errors
/// What is wrong with it, in words fit for the client.
pub fn parts<'b>(body: &'b [u8], boundary: &str) -> Result<Vec<Part<'b>>, &'static str> {
    let delimiter = format!("--{boundary}");
    let finder = memchr::memmem::Finder::new(delimiter.as_bytes());
    // A delimiter is a line of its own, or starts the closing one; what precedes the first is a preamble.
    let mut delimiters = finder.find_iter(body).filter(|at| {
        let after = skip_blanks(&body[at + delimiter.len()..]);
        (*at == 0 || body[..*at].ends_with(b"\r\n")) && (after.starts_with(b"\r\n") || after.starts_with(b"--"))
    });
    let mut start = delimiters.next().ok_or("no part in the multipart body")? + delimiter.len();
    let mut found = Vec::new();
    while !body[start..].starts_with(b"--") {
        let end = delimiters.next().ok_or("the multipart body ends too early")?;
        let part = skip_blanks(&body[start..end.saturating_sub(2).max(start)]).strip_prefix(b"\r\n");
        found.push(part_of(part.ok_or("malformed multipart delimiter")?)?);
        start = end + delimiter.len();
    }
    Ok(found)
}

/// Blanks may stand between a delimiter and its line's end.
fn skip_blanks(bytes: &[u8]) -> &[u8] {
    let blanks = bytes.iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
    &bytes[blanks..]
}

/// What the headers of a part say.
#[derive(Debug, PartialEq, Eq)]
pub struct PartHead {
    /// The field's name.
    pub name: String,
    /// The file's name, where the part is a file.
    pub file_name: Option<String>,
}

fn part_of(part: &[u8]) -> Result<Part<'_>, &'static str> {
    let (head, content) = match memchr::memmem::find(part, b"\r\n\r\n") {
        Some(at) => (&part[..at], &part[at + 4..]),
        None => return Err("a part has no end of its headers"),
    };
    let PartHead { name, file_name } = part_head(head)?;
    Ok(Part { name, file_name, content })
}

/// Reads the headers of a part.
///
/// # Errors
/// What is wrong with them, in words fit for the client.
pub fn part_head(head: &[u8]) -> Result<PartHead, &'static str> {
    let head = std::str::from_utf8(head).map_err(|_| "the headers of a part are not UTF-8")?;
    let disposition = head
        .split("\r\n")
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("content-disposition"))
        .map(|(_, value)| value)
        .ok_or("a part has no Content-Disposition")?;
    let name = parameter(disposition, "name").ok_or("a part has no name")?;
    Ok(PartHead { name, file_name: parameter(disposition, "filename") })
}

/// A parameter of a header's value: a token or a quoted string in which a backslash stands before `"` and `\`.
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
    fn splits_fields_and_files() {
        let body = b"preamble\r\n--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n\r\n2\r\n--x \r\n\
            content-disposition: form-data; filename=\"q\\\"; name=z\"; name=f\r\nContent-Type: audio/wav\r\n\r\n--xx\r\n--x--\r\nepilogue";
        let parts = parts(body, "x").unwrap();
        assert_eq!(parts[0], Part { name: "a".into(), file_name: None, content: b"1\r\n\r\n2" });
        assert_eq!(parts[1], Part { name: "f".into(), file_name: Some("q\"; name=z".into()), content: b"--xx" });
    }

    #[test]
    fn refuses_what_is_cut_or_nameless() {
        for body in [
            &b""[..],
            b"--x",
            b"--x\r\n",
            b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\n1",
            b"--x\r\nContent-Disposition: form-data\r\n\r\n1\r\n--x--",
            b"--x\r\nA: b\r\n\r\n1\r\n--x--",
            b"--x\r\nContent-Disposition: form-data; name=\"a\r\n\r\n1\r\n--x--",
        ] {
            assert!(parts(body, "x").is_err(), "{}", String::from_utf8_lossy(body));
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
