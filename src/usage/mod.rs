//! A stand-in for the charges: keeps nothing. To be replaced as a whole.

use crate::error::Result;

/// What a request used.
#[derive(Clone, Debug, Default)]
pub struct Units {
    /// Tokens of the prompt.
    pub prompt_tokens: i64,
    /// Tokens made.
    pub completion_tokens: i64,
    /// Tokens embedded.
    pub embedding_tokens: i64,
    /// Audio heard, in milliseconds.
    pub audio_millis: i64,
    /// Characters spoken.
    pub characters: i64,
    /// Requests.
    pub requests: i64,
}

/// What a request is charged for.
#[derive(Clone, Debug)]
pub struct Charge {
    /// Unique for ever: the same id costs once.
    pub id: String,
    /// Who pays.
    pub user_id: String,
    /// The key it came with.
    pub key_id: Option<String>,
    /// The server.
    pub server: &'static str,
    /// The route.
    pub route: &'static str,
    /// The model.
    pub model: String,
    /// What was used.
    pub units: Units,
    /// How long the model server took, in microseconds.
    pub latency_micros: i64,
}

/// What a charge came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Receipt {
    /// In micro-dollars.
    pub cost_micros: i64,
    /// Whether it had been charged before.
    pub duplicate: bool,
}

/// Takes charges.
#[derive(Debug, Default)]
pub struct Meter;

impl Meter {
    /// Whether a charge could be kept.
    ///
    /// # Errors
    /// 503 when not.
    pub fn admit(&self) -> Result<()> {
        Ok(())
    }

    /// Keeps a charge; returns when it is durable.
    ///
    /// # Errors
    /// It could not be kept.
    pub fn charge(&self, charge: Charge) -> Result<Receipt> {
        // The tests of what is charged read this until there is a ledger.
        let Units { prompt_tokens, completion_tokens, embedding_tokens, audio_millis, characters, requests } =
            charge.units;
        let line = serde_json::json!({"id": charge.id, "user_id": charge.user_id, "key_id": charge.key_id,
            "server": charge.server, "route": charge.route, "model": charge.model, "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens, "embedding_tokens": embedding_tokens, "audio_millis": audio_millis,
            "characters": characters, "requests": requests, "latency_micros": charge.latency_micros});
        log::info!(target: "charge", "charge {line}");
        Ok(Receipt::default())
    }
}
