//! The inference server: for programs, which call models with a secret.

mod embeddings;
mod generate;
mod images;
mod moderations;
mod openai;
mod params;
mod rerank;
mod schema;
mod summarization;

use crate::call::Role::{self, Inference};
use crate::error::Shape::{Messages, OpenAi};
use crate::gateway::{INVALID_API_KEY, INVALID_SECRET};
use crate::operation::Group::Text;
use crate::operation::Handler::Authenticated;
use crate::operation::{Operation, get, post, summary};

use schema::{
    Chat, ChatCompletion, Completion, EmbeddingInput, Embeddings, FeatureInput, Generate, Generated, ImageEdit,
    ImagePrompt, Images, Message, MessagesCount, MessagesRequest, Model, ModelList, ModelResponse, Moderation,
    ModerationInput, Prompt, Ranking, RerankInput, ResponsesRequest, Summarize, Summary, TokenCount,
};

/// The words of a 502 of operations that are not charged.
const FAILED: &str = "No model server has listed its models yet";

/// Its operations, beside those that every server has.
pub fn operations() -> Vec<Operation> {
    let completion = |words| summary(Text, words).reply::<Completion>().reply_as::<String>("text/event-stream");
    let chat = "Answer a chat, whole or as a stream, in OpenAI's protocol";
    let openai = [
        post("/v1/chat/completions", Authenticated(openai::chat)).described(
            summary(Text, chat)
                .json::<Chat>()
                .reply::<ChatCompletion>()
                .reply_as::<String>("text/event-stream")
                .calls_model(),
        ),
        get("/v1/models", Authenticated(openai::models))
            .described(summary(Text, "The models").reply::<ModelList>().status(502, FAILED)),
        post("/v1/responses", Authenticated(openai::respond)).described(
            summary(Text, "Answer a conversation, in the Responses protocol")
                .json::<ResponsesRequest>()
                .reply::<ModelResponse>()
                .reply_as::<String>("text/event-stream")
                .calls_model(),
        ),
        post("/v1/completions", Authenticated(openai::complete))
            .described(completion("Continue a text, in OpenAI's protocol").json::<Prompt>().calls_model()),
        post("/v1/engines/{name}/completions", Authenticated(openai::complete_by_engine))
            .described(completion("Same as /v1/completions, for older clients").json::<Prompt>().calls_model()),
        post("/v1/embeddings", Authenticated(embeddings::embed)).described(
            summary(Text, "Turn texts into vectors, in OpenAI's protocol")
                .json::<EmbeddingInput>()
                .reply::<Embeddings>()
                .calls_model(),
        ),
        post("/v1/images/generations", Authenticated(images::generate)).described(
            summary(Text, "Draw images, in OpenAI's protocol").json::<ImagePrompt>().reply::<Images>().calls_model(),
        ),
        post("/v1/images/edits", Authenticated(images::edit)).described(
            summary(Text, "Change images, in OpenAI's protocol")
                .multipart::<ImageEdit>()
                .reply::<Images>()
                .calls_model(),
        ),
        post("/v1/rerank", Authenticated(rerank::rerank)).described(
            summary(Text, "Put documents in the order of their relevance to a query")
                .json::<RerankInput>()
                .reply::<Ranking>()
                .calls_model(),
        ),
        post("/v1/moderations", Authenticated(moderations::moderate)).described(
            summary(Text, "Say whether a text is harmful, in OpenAI's protocol")
                .json::<ModerationInput>()
                .reply::<Moderation>()
                .calls_model(),
        ),
        get("/v1/models/{*name}", Authenticated(openai::model)).described(
            summary(Text, "One model").reply::<Model>().status(404, "There is no such model").status(502, FAILED),
        ),
    ];
    let messages = [
        post("/v1/messages", Authenticated(openai::message)).described(
            summary(Text, "Answer a conversation, in the Messages protocol")
                .json::<MessagesRequest>()
                .reply::<Message>()
                .reply_as::<String>("text/event-stream")
                .calls_model(),
        ),
        post("/v1/messages/count_tokens", Authenticated(openai::count_tokens)).described(
            summary(Text, "Count the tokens of a conversation, free of charge")
                .json::<MessagesCount>()
                .reply::<TokenCount>()
                .calls_model(),
        ),
    ];
    let older = [
        post("/api/v1/generate", Authenticated(generate::one)).on(&[Inference]).described(
            summary(Text, "Continue a text, for older clients")
                .json::<Generate>()
                .reply::<Vec<Generated>>()
                .calls_model(),
        ),
        post("/api/v1/generate-bulk", Authenticated(generate::bulk)).on(&[Inference]).described(
            summary(Text, "Continue many texts: a list of what /api/v1/generate takes")
                .json::<Vec<Generate>>()
                .reply::<Vec<Vec<Generated>>>()
                .calls_model(),
        ),
        post("/api/v1/feature-extraction", Authenticated(embeddings::extract_features)).on(&[Inference]).described(
            summary(Text, "Turn a text into a vector").json::<FeatureInput>().reply::<Vec<f64>>().calls_model(),
        ),
        post("/api/v1/summarization", Authenticated(summarization::summarize))
            .on(&[Inference])
            .described(summary(Text, "Summarize a text").json::<Summarize>().reply::<Summary>().calls_model()),
    ];
    let openai = openai.into_iter().map(|operation| operation.errors(OpenAi));
    let messages = messages.into_iter().map(|operation| operation.errors(Messages));
    // One base address serves all clients. The web server, where the browser sends its cookie, has them for the playground.
    let own = openai.chain(messages).map(|operation| operation.on(&Role::ALL).unauthorized(INVALID_API_KEY));
    own.chain(older.into_iter().map(|operation| operation.unauthorized(INVALID_SECRET))).collect()
}
