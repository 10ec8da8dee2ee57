//! Cells of CSV files.

/// A cell of a CSV file. A text that a spreadsheet would run as a formula (a model's name can be anything) is prefixed
/// with an apostrophe: also behind blanks, which some ignore, and behind what some take for the end of a cell.
pub fn cell(text: &str) -> String {
    let begins = |text: &str| {
        text.trim_start_matches(|c: char| c.is_whitespace() || c.is_control() || "'\"".contains(c))
            .starts_with(['=', '+', '-', '@', '\u{ff1d}', '\u{ff0b}', '\u{ff0d}', '\u{ff20}'])
    };
    let guarded =
        match text.starts_with(['\t', '\r', '\n']) || text.split([',', ';', '\t', '\r', '\n', '|']).any(begins) {
            true => format!("'{text}"),
            false => text.to_owned(),
        };
    match guarded.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", guarded.replace('"', "\"\"")),
        false => guarded,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_hold_anything_and_run_nothing() {
        assert_eq!(cell("a"), "a");
        assert_eq!(cell("a,\"b\""), "\"a,\"\"b\"\"\"");
        for formula in ["=1+1", " =1+1", "\u{a0}=1", ";=1", "a;=1", "a; -1", "a\t@b", "|+1", "\u{ff1d}1"] {
            assert!(cell(formula).starts_with('\''), "{formula:?}");
        }
        for quoted in ["a,=1", "a\r\n=1"] {
            assert!(cell(quoted).starts_with("\"'"), "{quoted:?}");
        }
        for name in ["gpt-4o", "a b", "meta/llama-3.1=x", "a;b", "a | b"] {
            assert_eq!(cell(name), name);
        }
    }
}
