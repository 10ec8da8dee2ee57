//! The operations of models, and what they cost.

use super::{Body, Operation};
use crate::call::Role;

const JSON: &str = "application/json";
const INFERENCE: &[Role] = &[Role::Inference];
const AUDIO: &[Role] = &[Role::Audio];
const BOTH: &[Role] = &[Role::Inference, Role::Audio];

/// What all of them may end with.
const OTHERS: &[(u16, &str)] = &[
    (502, "The model server failed"),
    (503, "No model server is set up for this, or all is busy; Retry-After says when to come back"),
    (504, "The model server did not answer in time"),
];

const TEXT: Operation = Operation { tag: "Text", servers: INFERENCE, others: OTHERS, ..super::accounts::BASE };
const SPEECH: Operation = Operation { tag: "Speech", servers: AUDIO, others: OTHERS, ..super::accounts::BASE };

const COMPLETION: Body = Body::Json(&[
    "prompt! any A text, or a list of them",
    "model string",
    "max_tokens integer 100 unless it says otherwise",
    "temperature number",
    "top_p number",
    "stop any A text or a list of them",
    "stream boolean",
]);
const TRANSCRIBE: Body = Body::Multipart(&[
    "file! file The recording, up to 100 MiB",
    "model string",
    "response_format string json, text, srt, vtt or verbose_json",
    "language string",
    "prompt string",
    "temperature number",
]);
const HEARD: &[super::Answer] =
    &[(JSON, "Transcription"), ("text/plain", "Text"), ("text/vtt", "Text"), ("text/event-stream", "Text")];
const EXTRACTED: &[super::Answer] = &[(JSON, "Extraction")];

/// In the order in which the reference shows them.
pub(super) const OPERATIONS: &[Operation] = &[
    Operation {
        servers: &[Role::Web],
        method: "get",
        path: "/api/usage",
        tag: "Usage",
        summary: "What was used and what it cost, by day, model, key or route",
        query: &[
            "from string The first day (UTC), such as 2026-11-01; the first of the month by default",
            "to string The last day; today by default",
            "by string day, model, key or route",
        ],
        answers: &[(JSON, "Usage")],
        others: &[(400, "A day or by makes no sense")],
        ..super::accounts::BASE
    },
    Operation {
        servers: &[Role::Web, Role::Inference],
        path: "/v1/chat/completions",
        summary: "Answer a chat, whole or as a stream, in OpenAI's protocol",
        body: Body::Json(&[
            "messages! object[] Each with role and content",
            "model string",
            "max_tokens integer",
            "temperature number",
            "top_p number",
            "stop any A text or a list of them",
            "stream boolean Server-sent events, the last data: [DONE]",
            "stream_options object",
        ]),
        answers: &[(JSON, "Completion"), ("text/event-stream", "Text")],
        ..TEXT
    },
    Operation {
        path: "/v1/completions",
        summary: "Continue a text, in OpenAI's protocol",
        body: COMPLETION,
        answers: &[(JSON, "Completion"), ("text/event-stream", "Text")],
        ..TEXT
    },
    Operation {
        path: "/v1/engines/{name}/completions",
        summary: "The same for older clients",
        body: COMPLETION,
        answers: &[(JSON, "Completion"), ("text/event-stream", "Text")],
        ..TEXT
    },
    Operation {
        path: "/v1/embeddings",
        summary: "Turn texts into vectors, in OpenAI's protocol",
        body: Body::Json(&["input! any A text, or a list of them", "model string", "encoding_format string"]),
        answers: &[(JSON, "Embeddings")],
        ..TEXT
    },
    Operation {
        servers: &[Role::Web, Role::Inference],
        method: "get",
        path: "/v1/models",
        summary: "The models",
        answers: &[(JSON, "Models")],
        ..TEXT
    },
    Operation {
        method: "get",
        path: "/v1/models/{name}",
        summary: "One model",
        answers: &[(JSON, "Model")],
        others: &[
            (404, "There is no such model"),
            (502, "The model server failed"),
            (504, "It did not answer in time"),
        ],
        ..TEXT
    },
    Operation {
        path: "/api/v1/generate",
        summary: "Continue a text, as older clients ask for it",
        body: Body::Json(GENERATE),
        answers: &[(JSON, "Generated[]")],
        ..TEXT
    },
    Operation {
        path: "/api/v1/generate-bulk",
        summary: "Continue many texts: a list of what /api/v1/generate takes",
        body: Body::Value("object[]"),
        answers: &[(JSON, "Generations[]")],
        ..TEXT
    },
    Operation {
        path: "/api/v1/feature-extraction",
        summary: "Turn a text into a vector",
        body: Body::Json(&["text! string", "num_features integer? 256 unless it says otherwise; null for all"]),
        answers: &[(JSON, "number[]")],
        ..TEXT
    },
    Operation {
        path: "/api/v1/summarization",
        summary: "Summarize a text",
        body: Body::Json(&["text! string", "max_length integer? In tokens"]),
        answers: &[(JSON, "Summary")],
        ..TEXT
    },
    Operation {
        servers: &[Role::Web, Role::Audio],
        path: "/v1/audio/transcriptions",
        summary: "Write down what a recording says, in OpenAI's protocol",
        body: TRANSCRIBE,
        answers: HEARD,
        ..SPEECH
    },
    Operation {
        path: "/v1/audio/translations",
        summary: "The same, in English",
        body: TRANSCRIBE,
        answers: HEARD,
        ..SPEECH
    },
    Operation {
        path: "/v1/audio/speech",
        summary: "Speak a text, in OpenAI's protocol",
        body: Body::Json(&["input! string", "model string", "voice string", "response_format string", "speed number"]),
        answers: &[("audio/mpeg", "Sound"), ("audio/wav", "Sound")],
        ..SPEECH
    },
    Operation {
        servers: BOTH,
        path: "/api/v1/audio-extraction",
        summary: "Write down what a recording at a public address says",
        body: Body::Json(&[
            "audio_url! string",
            "translate_to_english boolean",
            "output_filetype string txt or srt",
            "include_segments boolean",
        ]),
        answers: EXTRACTED,
        ..SPEECH
    },
    Operation {
        servers: BOTH,
        path: "/api/v1/audio-file-extraction",
        summary: "Write down what an uploaded recording says",
        body: Body::Multipart(&[
            "audio_file! file",
            "translate_to_english boolean",
            "output_filetype string txt or srt",
            "include_segments boolean",
        ]),
        answers: EXTRACTED,
        ..SPEECH
    },
    Operation {
        servers: BOTH,
        path: "/api/v1/generate_speech",
        summary: "Speak a text: a WAV file",
        body: Body::Json(&["text! string", "voice string", "speaker string For older clients", "speed number"]),
        answers: &[("audio/wav", "Sound")],
        ..SPEECH
    },
];

const GENERATE: &[&str] = &[
    "text! string",
    "number_of_results integer 1 to 128",
    "max_length integer? In tokens, 100 unless it says otherwise",
    "min_length integer?",
    "max_sentences integer?",
    "min_probability number?",
    "stop_sequences any A list of texts, or one",
    "top_p number?",
    "top_k integer?",
    "temperature number?",
    "repetition_penalty number?",
    "seed integer?",
    "model string?",
    "system_message string?",
    "enable_thinking boolean?",
];
