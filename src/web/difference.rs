//! The lines in which two texts differ, as pages show them. What it takes is bounded, however long the texts are: lines at the
//! beginning and the end that are the same are not looked at, and of texts with too many others, or that take too long, the
//! rest counts as replaced.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use similar::{Algorithm, DiffOp, DiffTag, capture_diff_slices_deadline, group_diff_ops};

use super::whole_documents::reserve_html;
use crate::error::Result;
use crate::memory_budget;

/// Lines that are the same and are shown before and after those that differ.
const CONTEXT: usize = 3;

/// The most lines of a text that are compared one by one.
const MOST_LINES: usize = 20_000;

/// How long that may take.
const LONGEST: Duration = Duration::from_millis(250);

/// Bytes that a line takes while it is compared: its place, its number, and what was found of it.
const LINE_BYTES: usize = 128;

/// Bytes of markup around a line, at most.
const LINE_MARKUP: usize = 128;

/// The most lines that are shown, and the most bytes of all of them and of one.
const SHOWN_LINES: usize = 2000;
const SHOWN_BYTES: usize = 256 * 1024;
const SHOWN_OF_LINE: usize = 8 * 1024;

/// How two texts differ.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Difference<'t> {
    /// What differs, from the beginning on; nothing if the texts are the same.
    pub(super) parts: Vec<Part<'t>>,
    /// Whether there is more than is shown.
    pub(super) is_cut: bool,
}

impl Difference<'_> {
    /// Reserves what it takes on a page, and returns how much that is.
    ///
    /// # Errors
    /// 503 or 429 if there is no memory for it.
    pub(super) fn reserve_html(&self) -> Result<usize> {
        let lines = || self.parts.iter().flat_map(|part| &part.lines);
        Ok(reserve_html(lines().map(|line| line.text))? + LINE_MARKUP * lines().count())
    }
}

/// Lines that differ, and some around them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part<'t> {
    /// How many lines that are the same are left out before it.
    pub(super) left_out: usize,
    pub(super) lines: Vec<Line<'t>>,
}

/// A line of one or both of the texts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line<'t> {
    /// Whether it is only in the first text.
    pub(super) is_removed: bool,
    /// Whether it is only in the second text.
    pub(super) is_added: bool,
    /// The line, or its beginning.
    pub(super) text: &'t str,
    /// Whether there is more of it.
    pub(super) is_cut: bool,
}

/// How the second text differs from the first.
///
/// # Errors
/// 503 or 429 if there is no memory to find out.
pub(super) fn between<'t>(old: &'t str, new: &'t str) -> Result<Difference<'t>> {
    if old == new {
        return Ok(Difference::default());
    }
    let window = Window::of(old, new);
    let [count_old, count_new] = [window.old, window.new].map(|text| lines_in(text) + 1);
    let count = count_old + count_new;
    memory_budget::reserve_if_large(count.min(2 * MOST_LINES) * LINE_BYTES)?;
    let mut shown = Shown { difference: Difference::default(), lines: 0, bytes: 0 };
    if count_old > MOST_LINES || count_new > MOST_LINES {
        // All lines would take too much memory, and more than these are not shown.
        let lines = |text: &'t str| text.split('\n').take(SHOWN_LINES).collect::<Vec<_>>();
        let (old, new) = (lines(window.old), lines(window.new));
        let op = DiffOp::Replace { old_index: 0, old_len: old.len(), new_index: 0, new_len: new.len() };
        shown.add(window.before, &[op], &old, &new);
        shown.difference.is_cut = true;
        return Ok(shown.difference);
    }
    let (old, new): (Vec<_>, Vec<_>) = (window.old.split('\n').collect(), window.new.split('\n').collect());
    let [old_numbers, new_numbers] = numbers(&old, &new);
    let deadline = Instant::now() + LONGEST;
    let ops = capture_diff_slices_deadline(Algorithm::Myers, &old_numbers, &new_numbers, Some(deadline));
    let mut done = 0;
    for group in group_diff_ops(ops, CONTEXT) {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
        let left_out = first.new_range().start - done + if done == 0 { window.before } else { 0 };
        done = last.new_range().end;
        shown.add(left_out, &group, &old, &new);
    }
    Ok(shown.difference)
}

/// The parts of two texts without the lines that are the same at the beginning and the end, but for some.
struct Window<'t> {
    old: &'t str,
    new: &'t str,
    /// How many lines were left out before them.
    before: usize,
}

impl<'t> Window<'t> {
    fn of(old: &'t str, new: &'t str) -> Window<'t> {
        let same = old.bytes().zip(new.bytes()).take_while(|(a, b)| a == b).count();
        // From the beginning of a line on.
        let mut start = memchr::memrchr(b'\n', &old.as_bytes()[..same]).map_or(0, |at| at + 1);
        let most = old.len().min(new.len()) - start;
        let same = old.bytes().rev().zip(new.bytes().rev()).take(most).take_while(|(a, b)| a == b).count();
        let end = &old.as_bytes()[old.len() - same..];
        // To the end of a line: what follows begins with the end of the last that may differ.
        let mut after = memchr::memchr(b'\n', end).map_or(0, |at| end.len() - at);
        for _ in 0..CONTEXT {
            if start > 0 {
                start = memchr::memrchr(b'\n', &old.as_bytes()[..start - 1]).map_or(0, |at| at + 1);
            }
            if after > 0 {
                let rest = &old.as_bytes()[old.len() - after + 1..];
                after = memchr::memchr(b'\n', rest).map_or(0, |at| rest.len() - at);
            }
        }
        let cut = |text: &'t str| text.get(start..text.len() - after).unwrap_or(text);
        Window { old: cut(old), new: cut(new), before: lines_in(&old[..start]) }
    }
}

fn lines_in(text: &str) -> usize {
    memchr::memchr_iter(b'\n', text.as_bytes()).count()
}

/// A number for each line; the same lines have the same.
fn numbers(old: &[&str], new: &[&str]) -> [Vec<usize>; 2] {
    let mut known = HashMap::new();
    let mut number = |line| {
        let next = known.len();
        *known.entry(line).or_insert(next)
    };
    [old, new].map(|lines| lines.iter().map(|line| number(*line)).collect())
}

/// What is shown until now.
struct Shown<'t> {
    difference: Difference<'t>,
    lines: usize,
    bytes: usize,
}

impl<'t> Shown<'t> {
    fn add(&mut self, left_out: usize, ops: &[DiffOp], old: &[&'t str], new: &[&'t str]) {
        let mut part = Part { left_out, lines: Vec::new() };
        for op in ops {
            let (tag, of_old, of_new) = op.as_tag_tuple();
            if tag != DiffTag::Equal {
                self.add_lines(&mut part, &old[of_old], true, false);
            }
            self.add_lines(&mut part, &new[of_new], false, tag != DiffTag::Equal);
        }
        if !part.lines.is_empty() {
            self.difference.parts.push(part);
        }
    }

    fn add_lines(&mut self, part: &mut Part<'t>, lines: &[&'t str], is_removed: bool, is_added: bool) {
        for line in lines {
            if self.lines == SHOWN_LINES || self.bytes >= SHOWN_BYTES {
                self.difference.is_cut = true;
                return;
            }
            let text = beginning(line);
            self.lines += 1;
            self.bytes += text.len();
            part.lines.push(Line { is_removed, is_added, text, is_cut: text.len() < line.len() });
        }
    }
}

/// As much of a line as is shown.
fn beginning(line: &str) -> &str {
    let mut end = line.len().min(SHOWN_OF_LINE);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    &line[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each part as lines with a sign, after the number of lines that are left out.
    fn shown(old: &str, new: &str) -> Vec<String> {
        let difference = between(old, new).unwrap();
        assert!(!difference.is_cut);
        let sign = |line: &Line<'_>| match (line.is_removed, line.is_added) {
            (true, _) => '-',
            (_, true) => '+',
            _ => ' ',
        };
        let of_part = |part: &Part<'_>| {
            let lines: Vec<_> = part.lines.iter().map(|line| format!("{}{}|", sign(line), line.text)).collect();
            format!("{}:{}", part.left_out, lines.concat())
        };
        difference.parts.iter().map(of_part).collect()
    }

    #[test]
    fn the_lines_that_differ_are_shown_with_some_around_them() {
        let numbers = |range: std::ops::Range<i32>| range.map(|n| n.to_string()).collect::<Vec<_>>().join("\n");
        assert_eq!(shown("a", "a"), [""; 0]);
        assert_eq!(shown("", "a"), ["0:-|+a|"]);
        assert_eq!(shown("a", "a\nb"), ["0: a|+b|"]);
        assert_eq!(shown("a\n", "a\nb\n"), ["0: a|+b| |"]);
        assert_eq!(shown("a\nb\nc", "a\nx\nc"), ["0: a|-b|+x| c|"]);
        let (old, new) = (numbers(0..40), numbers(0..40).replace("\n20\n", "\nx\n"));
        assert_eq!(shown(&old, &new), ["17: 17| 18| 19|-20|+x| 21| 22| 23|"]);
        let new = new.replace("\n35\n", "\n");
        assert_eq!(shown(&old, &new), ["17: 17| 18| 19|-20|+x| 21| 22| 23|", "8: 32| 33| 34|-35| 36| 37| 38|"]);
        assert_eq!(shown("é\nü\n", "è\nü\n"), ["0:-é|+è| ü| |"]);
    }

    #[test]
    fn a_difference_is_found_whatever_the_lines_are() {
        let mut random = 7_u32;
        let mut next = |most: usize| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (random >> 16) as usize % most
        };
        for _ in 0..3000 {
            let mut text = |words: &[&str]| (0..next(12)).map(|_| words[next(words.len())]).collect();
            let words = ["\n", "a", "\n", "é", "bb\n"];
            let (old, new): (String, String) = (text(&words), text(&words));
            let difference = between(&old, &new).unwrap();
            assert_eq!(difference.parts.is_empty(), old == new, "{old:?} {new:?}");
            // With all lines shown, each text can be read from it.
            let lines = difference.parts.iter().flat_map(|part| &part.lines);
            if difference.parts.iter().all(|part| part.left_out == 0) && old != new {
                let (mut first, mut second) = (Vec::new(), Vec::new());
                for line in lines {
                    if !line.is_added {
                        first.push(line.text);
                    }
                    if !line.is_removed {
                        second.push(line.text);
                    }
                }
                // Some that are the same may be left out at the end.
                assert!(old.split('\n').collect::<Vec<_>>().starts_with(&first), "{old:?} {new:?} {difference:?}");
                assert!(new.split('\n').collect::<Vec<_>>().starts_with(&second), "{old:?} {new:?} {difference:?}");
            }
        }
    }

    #[test]
    fn long_texts_take_no_longer_and_show_no_more() {
        let mut random = 3_u32;
        let mut noise = |lines: usize, kinds: u32| {
            let mut text = String::new();
            for _ in 0..lines {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                text.push_str(&((random >> 8) % kinds).to_string());
                text.push('\n');
            }
            text
        };
        let mebibytes = 8 << 20;
        let pairs = [
            (noise(MOST_LINES - 2, 50), noise(MOST_LINES - 2, 50)),
            (noise(MOST_LINES - 2, 100_000), noise(MOST_LINES - 2, 100_000)),
            ("\n".repeat(mebibytes), "x\n".repeat(mebibytes / 2)),
            ("x".repeat(mebibytes), "y".repeat(mebibytes)),
            (noise(500_000, 9), noise(500_000, 9)),
        ];
        for (old, new) in &pairs {
            let began = Instant::now();
            let difference = between(old, new).unwrap();
            let lines: usize = difference.parts.iter().map(|part| part.lines.len()).sum();
            let bytes: usize = difference.parts.iter().flat_map(|part| &part.lines).map(|line| line.text.len()).sum();
            assert!(lines > 0 && lines <= SHOWN_LINES && bytes <= SHOWN_BYTES + SHOWN_OF_LINE, "{lines} {bytes}");
            let cut_lines = difference.parts.iter().flat_map(|part| &part.lines).filter(|line| line.is_cut).count();
            assert!(difference.is_cut || cut_lines > 0);
            // Generous, as this may be a slow build on a busy machine.
            assert!(began.elapsed() < LONGEST * 20, "{:?}", began.elapsed());
        }
        // A change in the middle of a long text costs what the change does.
        let old = noise(500_000, 1000);
        let middle = old.len() / 2;
        let new = format!("{}\nnew\n{}", &old[..middle], &old[middle..]);
        let difference = between(&old, &new).unwrap();
        assert!(!difference.is_cut && difference.parts.len() == 1 && difference.parts[0].left_out > 100_000);
    }
}
