//! The settings of the model servers: three for each purpose, with names that differ only at the beginning.

use std::fmt;

use clap::{Arg, ArgMatches, Args, Command, Error, FromArgMatches};

use super::parse::{Urls, api_key, engine_urls, plain, secret, text};

/// The model servers of each purpose.
#[derive(Clone)]
pub struct EngineConfigs {
    /// Text generation.
    pub inference: EngineConfig,
    /// Embeddings.
    pub embeddings: EngineConfig,
    /// Speech to text.
    pub transcribe: EngineConfig,
    /// Text to speech.
    pub speech: EngineConfig,
    /// Pictures.
    pub images: EngineConfig,
    /// Reranking.
    pub rerank: EngineConfig,
    /// Moderation.
    pub moderations: EngineConfig,
}

impl EngineConfigs {
    /// Those of each purpose.
    pub fn all(&self) -> [&EngineConfig; 7] {
        let EngineConfigs { inference, embeddings, transcribe, speech, images, rerank, moderations } = self;
        [inference, embeddings, transcribe, speech, images, rerank, moderations]
    }
}

/// The model servers of one purpose.
#[derive(Clone)]
pub struct EngineConfig {
    /// The variable that sets [`urls`](EngineConfig::urls), such as `INFERENCE_URL`.
    pub variable: &'static str,
    /// Their base URLs, without `/v1` and without a slash at the end. Empty: nothing is configured for this purpose.
    pub urls: Vec<String>,
    /// Sent to each server as a bearer token. A secret.
    pub api_key: Option<String>,
    /// The model used where a request names none.
    pub model: Option<String>,
}

/// Leaves out the key.
impl fmt::Debug for EngineConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineConfig").field("urls", &self.urls).field("model", &self.model).finish_non_exhaustive()
    }
}

/// A purpose's variables, and what its servers do.
struct Purpose {
    url: &'static str,
    api_key: &'static str,
    model: &'static str,
    task: &'static str,
}

macro_rules! purpose {
    ($prefix:literal, $task:literal) => {
        Purpose {
            url: concat!($prefix, "_URL"),
            api_key: concat!($prefix, "_API_KEY"),
            model: concat!($prefix, "_MODEL"),
            task: $task,
        }
    };
}

const INFERENCE: Purpose = purpose!("INFERENCE", "text generation");
const EMBEDDINGS: Purpose = purpose!("EMBEDDINGS", "embeddings");
const TRANSCRIBE: Purpose = purpose!("TRANSCRIBE", "speech to text");
const SPEECH: Purpose = purpose!("SPEECH", "text to speech");
const IMAGES: Purpose = purpose!("IMAGES", "images");
const RERANK: Purpose = purpose!("RERANK", "reranking");
const MODERATIONS: Purpose = purpose!("MODERATIONS", "moderation");

impl Purpose {
    fn args(&self) -> [Arg; 3] {
        let Purpose { url, api_key: key, model, task } = *self;
        let arg = |variable: &'static str, help: String| {
            let flag = variable.to_lowercase();
            Arg::new(flag.clone()).long(flag.replace('_', "-")).env(variable).value_name(variable).help(help)
        };
        let urls = format!(
            "Model servers for {task} that speak OpenAI's protocol, comma-separated, with or without `/v1`; \
             an address that names another version, such as `…/v1beta/openai`, is taken as it is. Of those that list a \
             model, the least busy one is used, and one that fails is skipped for a while. Only used while no \
             catalogue of models is stored. If neither is there, such requests get a 503"
        );
        [
            arg(url, urls).default_value("").value_parser(plain(engine_urls)),
            arg(key, format!("API key for {url}, sent as a bearer token"))
                .hide_env_values(true)
                .value_parser(secret(api_key)),
            arg(model, format!("Default model for {task}; if not set, the first one that the servers list"))
                .value_parser(plain(text)),
        ]
    }

    fn config(&self, matches: &ArgMatches) -> EngineConfig {
        let optional = |variable: &str| matches.get_one::<String>(&variable.to_lowercase()).cloned();
        EngineConfig {
            variable: self.url,
            urls: matches.get_one::<Urls>(&self.url.to_lowercase()).cloned().unwrap_or_default(),
            api_key: optional(self.api_key),
            model: optional(self.model),
        }
    }
}

impl Args for EngineConfigs {
    fn augment_args(command: Command) -> Command {
        [INFERENCE, EMBEDDINGS, TRANSCRIBE, SPEECH, IMAGES, RERANK, MODERATIONS]
            .iter()
            .fold(command, |command, purpose| command.args(purpose.args()))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for EngineConfigs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<EngineConfigs, Error> {
        Ok(EngineConfigs {
            inference: INFERENCE.config(matches),
            embeddings: EMBEDDINGS.config(matches),
            transcribe: TRANSCRIBE.config(matches),
            speech: SPEECH.config(matches),
            images: IMAGES.config(matches),
            rerank: RERANK.config(matches),
            moderations: MODERATIONS.config(matches),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
