//! What a request in the Responses or the Messages protocol may hold: that of which it is known who does the work, and
//! which numbers tell what it costs. Everything else is refused, whether or not a model server would know it.

use super::dialect::Dialect;
use super::shape::{Rule, Shape};

/// A field, and what it may hold.
type Field = (&'static str, Rule);

const STORED: &str = "Files are not stored: send their content in the request";
const ONE_REPLY: &str = "There is one reply";
const OTHER_PRICE: &str = "It would choose another price";
const CLIENT_TOOLS: &str = "Tools are run by the client";

/// Fields of model servers that choose among what a model may say next, or how its prompt and its answer are written.
/// What they cost is in the usual numbers.
static SAMPLING: [Field; 35] = [
    ("add_generation_prompt", Rule::Plain),
    ("cache_prompt", Rule::Plain),
    ("cache_salt", Rule::Plain),
    ("chat_template_kwargs", Rule::Any),
    ("continue_final_message", Rule::Plain),
    ("dry_allowed_length", Rule::Plain),
    ("dry_base", Rule::Plain),
    ("dry_multiplier", Rule::Plain),
    ("dynatemp_exponent", Rule::Plain),
    ("dynatemp_range", Rule::Plain),
    ("enable_thinking", Rule::Plain),
    ("frequency_penalty", Rule::Plain),
    ("grammar", Rule::Plain),
    ("ignore_eos", Rule::Plain),
    ("include_stop_str_in_output", Rule::Plain),
    ("length_penalty", Rule::Plain),
    ("logit_bias", Rule::Any),
    ("min_p", Rule::Plain),
    ("min_tokens", Rule::Plain),
    ("mirostat", Rule::Plain),
    ("mirostat_eta", Rule::Plain),
    ("mirostat_tau", Rule::Plain),
    ("presence_penalty", Rule::Plain),
    ("reasoning_format", Rule::Plain),
    ("repeat_last_n", Rule::Plain),
    ("repeat_penalty", Rule::Plain),
    ("repetition_penalty", Rule::Plain),
    ("seed", Rule::Plain),
    ("skip_special_tokens", Rule::Plain),
    ("spaces_between_special_tokens", Rule::Plain),
    ("stop", Rule::Any),
    ("stop_token_ids", Rule::Any),
    ("structured_outputs", Rule::Any),
    ("top_k", Rule::Plain),
    ("typical_p", Rule::Plain),
];

/// Fields of the Responses protocol.
static RESPONSES: [Field; 35] = [
    ("background", Rule::False("The reply is always waited for: use stream for a long one")),
    ("background_options", Rule::Null("The reply is always waited for")),
    ("client_metadata", Rule::Any),
    ("context_management", Rule::Null("What is written to shorten a conversation may be in no usage numbers")),
    ("conversation", Rule::Null("Conversations are not stored: send the whole conversation in input")),
    ("include", Rule::Any),
    ("input", Rule::Of(&ITEM)),
    ("instructions", Rule::Plain),
    ("max_output_tokens", Rule::Plain),
    ("max_tool_calls", Rule::Plain),
    ("metadata", Rule::Any),
    ("model", Rule::Plain),
    ("n", Rule::Null(ONE_REPLY)),
    ("parallel_tool_calls", Rule::Plain),
    ("previous_response_id", Rule::Null("Responses are not stored: send the whole conversation in input")),
    ("prompt", Rule::Null("Prompts are not stored: send their text in instructions and input")),
    ("prompt_cache_key", Rule::Plain),
    ("prompt_cache_options", Rule::Null(OTHER_PRICE)),
    ("prompt_cache_retention", Rule::Plain),
    (
        "reasoning",
        Rule::Only(&["effort", "summary", "generate_summary", "context", "enabled", "exclude", "max_tokens"]),
    ),
    ("safety_identifier", Rule::Plain),
    ("service_tier", Rule::Plain),
    ("store", Rule::False("Responses are not stored: send the whole conversation in input")),
    ("stream", Rule::Plain),
    ("stream_options", Rule::Only(&["include_obfuscation", "include_usage", "continuous_usage_stats"])),
    ("temperature", Rule::Plain),
    ("text", Rule::Only(&["format", "verbosity"])),
    ("tool_choice", Rule::Any),
    ("tools", Rule::Of(&RESPONSES_TOOL)),
    ("top_logprobs", Rule::Plain),
    ("top_p", Rule::Plain),
    ("truncation", Rule::Plain),
    ("user", Rule::Plain),
    ("verbosity", Rule::Plain),
    ("workspace_id", Rule::Null("It would choose another account")),
];

/// Fields of the Messages protocol.
static MESSAGES: [Field; 27] = [
    ("cache_control", Rule::Cache),
    ("container", Rule::Null(CLIENT_TOOLS)),
    ("context_management", Rule::Of(&MANAGEMENT)),
    ("diagnostics", Rule::Any),
    ("inference_geo", Rule::Null(OTHER_PRICE)),
    ("max_tokens", Rule::Plain),
    ("mcp_servers", Rule::Null(CLIENT_TOOLS)),
    ("messages", Rule::Of(&MESSAGE)),
    ("metadata", Rule::Any),
    ("model", Rule::Plain),
    ("n", Rule::Null(ONE_REPLY)),
    ("output_config", Rule::Only(&["effort", "format", "task_budget"])),
    ("output_format", Rule::Any),
    ("parallel_tool_calls", Rule::Plain),
    ("service_tier", Rule::Plain),
    ("speed", Rule::Text("standard")),
    ("stop_sequences", Rule::Any),
    ("stream", Rule::Plain),
    ("stream_options", Rule::Only(&["include_usage"])),
    ("system", Rule::Of(&BLOCK)),
    ("temperature", Rule::Plain),
    ("thinking", Rule::Only(&["type", "budget_tokens", "display"])),
    ("tool_choice", Rule::Any),
    ("tools", Rule::Of(&MESSAGES_TOOL)),
    ("top_p", Rule::Plain),
    ("user_profile_id", Rule::Plain),
    ("workspace_id", Rule::Null("It would choose another account")),
];

/// The parts of a conversation in the Responses protocol.
static ITEM: Shape = Shape {
    types: &[
        "message",
        "reasoning",
        "function_call",
        "function_call_output",
        "custom_tool_call",
        "custom_tool_call_output",
        "local_shell_call",
        "local_shell_call_output",
        "apply_patch_call",
        "apply_patch_call_output",
    ],
    untyped: Some("role"),
    fields: &[
        ("action", Rule::Any),
        ("arguments", Rule::Any),
        ("content", Rule::Of(&PART)),
        ("file_id", Rule::Null(STORED)),
        ("input", Rule::Any),
        ("operation", Rule::Any),
        ("output", Rule::Of(&PART)),
        ("parsed_arguments", Rule::Any),
        ("summary", Rule::Of(&PART)),
        ("tools", Rule::Null("Send all tools in the field tools of the request")),
    ],
};

/// What such a part consists of.
static PART: Shape = Shape {
    types: &[
        "input_text",
        "output_text",
        "refusal",
        "text",
        "summary_text",
        "reasoning_text",
        "input_image",
        "input_audio",
        "input_file",
    ],
    untyped: None,
    fields: &[
        ("annotations", Rule::Any),
        ("file_id", Rule::Null(STORED)),
        ("image_url", Rule::Any),
        ("input_audio", Rule::Any),
        ("logprobs", Rule::Any),
        ("parsed", Rule::Any),
        ("prompt_cache_breakpoint", Rule::Cache),
    ],
};

/// The tools of the Responses protocol that a client runs.
static RESPONSES_TOOL: Shape = Shape {
    types: &["function", "custom", "local_shell", "apply_patch"],
    untyped: None,
    fields: &[("format", Rule::Any), ("output_schema", Rule::Any), ("parameters", Rule::Any)],
};

/// The messages of the Messages protocol.
static MESSAGE: Shape =
    Shape { types: &["message"], untyped: Some("role"), fields: &[("content", Rule::Of(&BLOCK)), CACHE_CONTROL] };

/// What they consist of.
static BLOCK: Shape = Shape {
    types: &[
        "text",
        "image",
        "document",
        "search_result",
        "thinking",
        "redacted_thinking",
        "tool_use",
        "tool_result",
        "tool_reference",
    ],
    untyped: None,
    fields: &[
        CACHE_CONTROL,
        ("caller", Rule::Of(&CALLER)),
        ("citations", Rule::Any),
        ("content", Rule::Of(&BLOCK)),
        ("file_id", Rule::Null(STORED)),
        ("input", Rule::Any),
        ("source", Rule::Of(&SOURCE)),
    ],
};

/// Where a picture or a document is. A plain one, of a search result, is an address that is not fetched. One that is stored
/// has a `file_id`.
static SOURCE: Shape = Shape {
    types: &["base64", "url", "text", "content", "file"],
    untyped: None,
    fields: &[("content", Rule::Of(&BLOCK)), ("file_id", Rule::Null(STORED))],
};

/// Who has called a tool.
static CALLER: Shape = Shape { types: &["direct"], untyped: None, fields: &[] };

/// The tools of the Messages protocol that a client runs.
static MESSAGES_TOOL: Shape = Shape {
    types: &["custom", "bash_", "text_editor_", "computer_", "memory_", "browser_"],
    untyped: Some("name"),
    fields: &[
        ("allowed_callers", Rule::Any),
        CACHE_CONTROL,
        ("input_examples", Rule::Any),
        ("input_schema", Rule::Any),
    ],
};

/// How a conversation is made shorter. Edits that have a model write something are not among these: it is not in the
/// usage of the reply.
static MANAGEMENT: Shape = Shape { types: &[], untyped: None, fields: &[("edits", Rule::Of(&EDIT))] };

static EDIT: Shape = Shape {
    types: &["clear_tool_uses_", "clear_thinking_"],
    untyped: None,
    fields: &[
        ("clear_at_least", Rule::Any),
        ("clear_tool_inputs", Rule::Any),
        ("exclude_tools", Rule::Any),
        ("keep", Rule::Any),
        ("trigger", Rule::Any),
    ],
};

const CACHE_CONTROL: Field = ("cache_control", Rule::Cache);

/// What this field of a request may hold; `None` if it is not known.
pub fn rule(dialect: Dialect, name: &str) -> Option<Rule> {
    let own: &[Field] = match dialect {
        Dialect::Responses => &RESPONSES,
        Dialect::Messages => &MESSAGES,
    };
    own.iter().chain(&SAMPLING).find(|(known, _)| *known == name).map(|(_, rule)| *rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_is_listed_once() {
        for own in [&RESPONSES[..], &MESSAGES] {
            let mut names: Vec<&str> = own.iter().chain(&SAMPLING).map(|(name, _)| *name).collect();
            names.sort_unstable();
            let all = names.len();
            names.dedup();
            assert_eq!(names.len(), all, "{names:?}");
        }
    }
}
