//! Usage as reported by model servers, in the formats of several vendors.
//!
//! OpenAI counts cached input inside `prompt_tokens` (or `input_tokens`), Anthropic beside `input_tokens`. Reasoning is
//! a part of `completion_tokens` as a rule; some servers report it beside them, which `total_tokens` shows. Numbers
//! come as integers, as floats and as strings.

use serde::Deserialize;
use serde_json::{Value, json};

/// Larger numbers are taken for errors. This is also the ledger's limit for one charge.
const LARGEST: f64 = 1e12;

/// The usage that a server has reported so far; `None` for what it has not reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reported {
    /// Tokens read, cached ones included.
    input: Option<i64>,
    /// Of those, tokens read from the server's cache.
    cached: Option<i64>,
    /// Of those, tokens written to its cache.
    cache_write: Option<i64>,
    /// Tokens written, reasoning included.
    output: Option<i64>,
    /// Milliseconds of a recording.
    duration_millis: Option<i64>,
    /// Whether the server says that it counts recordings in tokens.
    is_by_tokens: bool,
}

impl Reported {
    /// What this reports.
    pub fn of(usage: &Usage) -> Reported {
        usage.reported()
    }

    /// Applies a newer report. Reports are cumulative, so the greatest numbers are those of all: a later 0, as some servers
    /// send it, says nothing.
    pub fn update(&mut self, usage: &Usage) {
        let newer = usage.reported();
        self.input = newer.input.max(self.input);
        self.cached = newer.cached.max(self.cached);
        self.cache_write = newer.cache_write.max(self.cache_write);
        self.output = newer.output.max(self.output);
        self.duration_millis = newer.duration_millis.max(self.duration_millis);
        self.is_by_tokens |= newer.is_by_tokens;
    }

    /// Tokens read, of all kinds.
    pub fn input(&self) -> Option<i64> {
        self.input
    }

    /// Tokens read that the server had cached. Never more than those read.
    pub fn cached(&self) -> i64 {
        self.cached.unwrap_or(0).min(self.input.unwrap_or(0))
    }

    /// Tokens read that the server wrote to its cache. With the cached ones never more than those read.
    pub fn cache_write(&self) -> i64 {
        self.cache_write.unwrap_or(0).min(self.input.unwrap_or(0) - self.cached())
    }

    /// Tokens written.
    pub fn output(&self) -> Option<i64> {
        self.output
    }

    /// How long a recording plays, in milliseconds.
    pub fn duration_millis(&self) -> Option<i64> {
        self.duration_millis
    }

    /// Whether the model that read a recording counts in tokens, as those do that report `"type": "tokens"`.
    pub fn is_by_tokens(&self) -> bool {
        self.is_by_tokens
    }
}

/// The object `usage`, in any of the formats. Fields with an unexpected type are treated as missing.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Usage {
    prompt_tokens: Value,
    input_tokens: Value,
    completion_tokens: Value,
    output_tokens: Value,
    total_tokens: Value,
    prompt_tokens_details: Value,
    input_tokens_details: Value,
    completion_tokens_details: Value,
    output_tokens_details: Value,
    /// Anthropic's, beside `input_tokens`.
    cache_read_input_tokens: Value,
    cache_creation_input_tokens: Value,
    /// DeepSeek's, inside `prompt_tokens`.
    prompt_cache_hit_tokens: Value,
    /// That of a transcript: `tokens`, or `duration` with `seconds`.
    #[serde(rename = "type")]
    kind: Value,
    seconds: Value,
    /// Anthropic's: the work of which a reply was made, where the numbers above do not have all of it.
    iterations: Value,
}

/// The sums of several reports.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    /// Tokens read, of all kinds.
    input: i64,
    cached: i64,
    cache_write: i64,
    output: i64,
}

impl Sums {
    fn of(iterations: &Value) -> Option<Sums> {
        let iterations = iterations.as_array().filter(|iterations| !iterations.is_empty())?;
        let mut sums = Sums::default();
        for iteration in iterations {
            let told = |name: &str| iteration.get(name).and_then(number).unwrap_or(0);
            let (cached, cache_write) = (told("cache_read_input_tokens"), told("cache_creation_input_tokens"));
            sums.input = [told("input_tokens"), cached, cache_write].into_iter().fold(sums.input, i64::saturating_add);
            sums.cached = sums.cached.saturating_add(cached);
            sums.cache_write = sums.cache_write.saturating_add(cache_write);
            sums.output = sums.output.saturating_add(told("output_tokens"));
        }
        Some(sums)
    }
}

impl Usage {
    /// Applies a newer report: its fields replace the older ones, unless those are greater; those that it lacks stay. Of a
    /// server that reports input and cache beside each other, one of them may come alone.
    pub fn update(&mut self, newer: Usage) {
        replace(&mut self.prompt_tokens, newer.prompt_tokens);
        replace(&mut self.input_tokens, newer.input_tokens);
        replace(&mut self.completion_tokens, newer.completion_tokens);
        replace(&mut self.output_tokens, newer.output_tokens);
        replace(&mut self.total_tokens, newer.total_tokens);
        replace(&mut self.prompt_tokens_details, newer.prompt_tokens_details);
        replace(&mut self.input_tokens_details, newer.input_tokens_details);
        replace(&mut self.completion_tokens_details, newer.completion_tokens_details);
        replace(&mut self.output_tokens_details, newer.output_tokens_details);
        replace(&mut self.cache_read_input_tokens, newer.cache_read_input_tokens);
        replace(&mut self.cache_creation_input_tokens, newer.cache_creation_input_tokens);
        replace(&mut self.prompt_cache_hit_tokens, newer.prompt_cache_hit_tokens);
        replace(&mut self.iterations, newer.iterations);
    }

    /// The same report, without what it says of the output.
    #[must_use]
    pub fn without_output(mut self) -> Usage {
        (self.completion_tokens, self.output_tokens) = (Value::Null, Value::Null);
        self.iterations = Value::Null;
        self
    }

    /// The tokens that were read, cached ones included, as far as it is reported.
    pub fn input(&self) -> Option<i64> {
        self.reported().input
    }

    /// All tokens, read and written, as far as it is reported.
    pub fn total(&self) -> Option<i64> {
        number(&self.total_tokens)
    }

    /// The tokens of the output that were reasoning, as far as it is reported.
    pub fn reasoning(&self) -> Option<i64> {
        let details = [&self.completion_tokens_details, &self.output_tokens_details];
        details.into_iter().find_map(|details| number(details.get("reasoning_tokens")?))
    }

    /// Whether it tells how many tokens were written.
    pub fn has_output(&self) -> bool {
        number(&self.completion_tokens).or_else(|| number(&self.output_tokens)).is_some()
    }

    fn reported(&self) -> Reported {
        let detail =
            |objects: [&Value; 2], name: &str| objects.into_iter().find_map(|object| number(object.get(name)?));
        let input_details = [&self.prompt_tokens_details, &self.input_tokens_details];
        let output_details = [&self.completion_tokens_details, &self.output_tokens_details];
        let input = number(&self.prompt_tokens).or_else(|| number(&self.input_tokens));
        let beside = [&self.cache_read_input_tokens, &self.cache_creation_input_tokens].map(number);
        let inside = detail(input_details, "cached_tokens").or_else(|| number(&self.prompt_cache_hit_tokens));
        let input = match beside {
            // Servers that report the cache in both ways count it inside.
            _ if inside.is_some() || number(&self.prompt_tokens).is_some() => input,
            _ => input.map(|input| beside.iter().flatten().fold(input, |sum, n| sum.saturating_add(*n))),
        };
        let output = number(&self.completion_tokens).or_else(|| number(&self.output_tokens));
        let reasoning = detail(output_details, "reasoning_tokens").unwrap_or(0);
        let output = output.map(|output| with_reasoning(input, output, reasoning, number(&self.total_tokens)));
        let all = Sums::of(&self.iterations);
        Reported {
            input: input.max(all.map(|all| all.input)),
            cached: inside.or(beside[0]).max(all.map(|all| all.cached)),
            cache_write: beside[1].or(detail(input_details, "cache_write_tokens")).max(all.map(|all| all.cache_write)),
            output: output.max(all.map(|all| all.output)),
            duration_millis: millis(&self.seconds),
            is_by_tokens: self.kind == "tokens",
        }
    }
}

/// Replaces what was reported before, unless that is a greater number.
fn replace(older: &mut Value, newer: Value) {
    match (older, newer) {
        (_, Value::Null) => {}
        (Value::Object(older), Value::Object(newer)) => {
            for (name, newer) in newer {
                replace(older.entry(name).or_insert(Value::Null), newer);
            }
        }
        (older, newer) if number(older) > number(&newer) => {}
        (older, newer) => *older = newer,
    }
}

/// The tokens written, including reasoning. Reasoning is added if it exceeds the output, or if the total is only
/// reached with both together: then the server reports it separately.
fn with_reasoning(input: Option<i64>, output: i64, reasoning: i64, total: Option<i64>) -> i64 {
    let both = output.saturating_add(reasoning);
    let makes_the_total = total.zip(input).is_some_and(|(total, input)| total.saturating_sub(input) >= both);
    if reasoning > output || makes_the_total { both } else { output }
}

/// What a reply used, as a client is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Tokens read, of all kinds.
    pub input: i64,
    /// Of those, tokens from the server's cache.
    pub cached: i64,
    /// Of those, tokens written to its cache.
    pub cache_write: i64,
    /// Tokens written.
    pub output: i64,
    /// Of those, reasoning.
    pub reasoning: i64,
}

impl Totals {
    /// As the Responses protocol has it: the cache is inside the input.
    pub fn responses(&self) -> Value {
        let Totals { input, cached, cache_write, output, reasoning } = *self;
        json!({"input_tokens": input,
            "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": cache_write},
            "output_tokens": output, "output_tokens_details": {"reasoning_tokens": reasoning},
            "total_tokens": input.saturating_add(output)})
    }

    /// As the Messages protocol has it: the cache is beside the input.
    pub fn messages(&self) -> Value {
        let Totals { input, cached, cache_write, output, .. } = *self;
        json!({"input_tokens": input - cached - cache_write, "cache_creation_input_tokens": cache_write,
            "cache_read_input_tokens": cached, "output_tokens": output})
    }
}

/// Plausible seconds, as a number or in a string, in milliseconds.
pub fn millis(seconds: &Value) -> Option<i64> {
    #[allow(clippy::cast_possible_truncation)] // It is far below the limits of both types.
    float(seconds).filter(|s| (0.0..1e9).contains(s)).map(|seconds| (seconds * 1000.0).round() as i64)
}

/// A plausible number, rounded up: not negative, and not too large.
fn number(value: &Value) -> Option<i64> {
    let number = float(value)?;
    #[allow(clippy::cast_possible_truncation)] // It is far below the limits of both types.
    (0.0..=LARGEST).contains(&number).then(|| number.ceil() as i64)
}

fn float(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(reports: &[&str]) -> (Option<i64>, i64, i64, Option<i64>) {
        let mut reported = Reported::default();
        for report in reports {
            reported.update(&serde_json::from_str(report).unwrap());
        }
        (reported.input(), reported.cached(), reported.cache_write(), reported.output())
    }

    #[test]
    fn numbers_come_in_many_shapes() {
        for report in [
            r#"{"prompt_tokens":11,"completion_tokens":7,"total_tokens":18}"#,
            r#"{"prompt_tokens":11.0,"completion_tokens":7.0}"#,
            r#"{"prompt_tokens":"11","completion_tokens":" 7 "}"#,
            r#"{"input_tokens":11,"output_tokens":7,"prompt_tokens":null}"#,
            r#"{"prompt_tokens":11,"completion_tokens":7,"prompt_tokens_details":null,"x":[1]}"#,
        ] {
            assert_eq!(read(&[report]), (Some(11), 0, 0, Some(7)), "{report}");
        }
    }

    #[test]
    fn nonsense_is_as_good_as_missing() {
        for value in ["-1", "1e13", "null", "true", "\"x\"", "\"NaN\"", "\"inf\"", "[]", "{}", "\"\""] {
            let report = format!(r#"{{"prompt_tokens":{value},"completion_tokens":{value}}}"#);
            assert_eq!(read(&[&report]), (None, 0, 0, None), "{value}");
        }
    }

    #[test]
    fn cached_input_is_inside_or_beside() {
        let openai = r#"{"prompt_tokens":100,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":60}}"#;
        assert_eq!(read(&[openai]), (Some(100), 60, 0, Some(1)));
        let responses = r#"{"input_tokens":100,"output_tokens":1,"input_tokens_details":{"cached_tokens":60}}"#;
        assert_eq!(read(&[responses]), (Some(100), 60, 0, Some(1)));
        let anthropic =
            r#"{"input_tokens":10,"cache_read_input_tokens":60,"cache_creation_input_tokens":30,"output_tokens":1}"#;
        assert_eq!(read(&[anthropic]), (Some(100), 60, 30, Some(1)));
        let too_many = r#"{"prompt_tokens":5,"prompt_tokens_details":{"cached_tokens":60}}"#;
        assert_eq!(read(&[too_many]), (Some(5), 5, 0, None));
    }

    #[test]
    fn reasoning_is_counted_once() {
        let report = |completion: i64, total: &str, reasoning: i64| {
            let report = format!(
                r#"{{"prompt_tokens":11,"completion_tokens":{completion}{total},
                    "completion_tokens_details":{{"reasoning_tokens":{reasoning}}}}}"#
            );
            read(&[&report]).3
        };
        assert_eq!(report(5, r#","total_tokens":41"#, 25), Some(30), "reported beside the output");
        assert_eq!(report(30, r#","total_tokens":41"#, 25), Some(30), "reported inside it");
        assert_eq!(report(5, "", 25), Some(30), "more than all output");
        assert_eq!(report(30, "", 25), Some(30));
        assert_eq!(report(30, r#","total_tokens":41"#, 0), Some(30));
    }

    #[test]
    fn all_iterations_of_a_reply_count() {
        let part = |input: i64, output: i64| {
            format!(r#"{{"type":"x","input_tokens":{input},"output_tokens":{output},"cache_read_input_tokens":5}}"#)
        };
        let report = |iterations: &str| {
            read(&[&format!(
                r#"{{"input_tokens":10,"output_tokens":3,"cache_read_input_tokens":5,"iterations":{iterations}}}"#
            )])
        };
        let both = format!("[{},{}]", part(90, 40), part(10, 3));
        assert_eq!(report(&both), (Some(110), 10, 0, Some(43)), "the summary of the conversation, and the reply");
        for none in ["null", "[]", "7"] {
            assert_eq!(report(none), (Some(15), 5, 0, Some(3)), "{none}");
        }
    }

    #[test]
    fn a_later_zero_says_nothing() {
        let early = r#"{"input_tokens":100,"output_tokens":9,"input_tokens_details":{"cached_tokens":60}}"#;
        let late = r#"{"input_tokens":0,"output_tokens":0,"input_tokens_details":{"cached_tokens":0}}"#;
        assert_eq!(read(&[early, late]), (Some(100), 60, 0, Some(9)));
        let mut usage: Usage = serde_json::from_str(early).unwrap();
        usage.update(serde_json::from_str(late).unwrap());
        assert_eq!(usage.input(), Some(100));
    }

    #[test]
    fn the_latest_numbers_hold() {
        let early = r#"{"prompt_tokens":11,"completion_tokens":1}"#;
        let late = r#"{"completion_tokens":9}"#;
        assert_eq!(read(&[early, late]), (Some(11), 0, 0, Some(9)));
        assert_eq!(read(&[late, late]), (None, 0, 0, Some(9)), "never added up");
    }
}
