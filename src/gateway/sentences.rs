//! Counts the sentences of a text as it comes, looking at each character once.

/// The sentences of a text so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sentences {
    ended: usize,
    /// What follows a mark that may end a sentence decides whether it does.
    mark: Option<Mark>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    /// It ends one if white space follows, as in Latin script.
    BeforeSpace,
    /// It ends one in any case.
    Final,
}

impl Sentences {
    /// Adds text. Returns where in it the sentence with this number, from 1, has ended: a sentence is known to end only
    /// once something follows it.
    pub(super) fn find_end(&mut self, text: &str, number: usize) -> Option<usize> {
        for (at, c) in text.char_indices() {
            // Closing quotation marks and brackets belong to the sentence.
            let is_closing = matches!(c, '.' | '!' | '?' | '"' | '\'' | ')' | ']' | '”' | '’' | '」');
            if self.mark.is_some() && is_closing {
                continue;
            }
            if let Some(mark) = self.mark.take()
                && (mark == Mark::Final || c.is_whitespace())
            {
                self.ended += 1;
                if self.ended == number {
                    return Some(at);
                }
            }
            self.mark = match c {
                '.' | '!' | '?' | '…' => Some(Mark::BeforeSpace),
                '。' | '！' | '？' => Some(Mark::Final),
                _ => None,
            };
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(text: &str, number: usize, piece: usize) -> Option<&str> {
        let mut sentences = Sentences::default();
        let characters: Vec<char> = text.chars().collect();
        let mut from = 0;
        for piece in characters.chunks(piece) {
            let piece: String = piece.iter().collect();
            if let Some(at) = sentences.find_end(&piece, number) {
                return Some(&text[..from + at]);
            }
            from += piece.len();
        }
        None
    }

    #[test]
    fn sentences_end_in_the_same_place_however_the_text_comes() {
        for piece in 1..20 {
            let one = |text| first(text, 1, piece);
            assert_eq!(one("It is 3.14 now. And then."), Some("It is 3.14 now."));
            assert_eq!(one("He said \"no!\" Then he left."), Some("He said \"no!\""));
            assert_eq!(one("Wait... what? Yes."), Some("Wait..."));
            assert_eq!(one("Well… yes."), Some("Well…"));
            assert_eq!(one("一。二。"), Some("一。"));
            assert_eq!(one("No end yet."), None);
            assert_eq!(first("A. B. C.", 2, piece), Some("A. B."));
            assert_eq!(first("一。二！？三", 2, piece), Some("一。二！"));
        }
    }
}
