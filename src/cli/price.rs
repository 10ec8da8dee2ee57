//! `textgen price`.

use clap::{Args, Subcommand};

use super::{Failure, database};
use crate::config::Config;
use crate::store::prices::{self, Change, HIGHEST, Price};

/// What to do with prices.
#[derive(Subcommand)]
pub enum PriceCommand {
    /// The price of each model, in micro-dollars (a millionth of a dollar)
    List,
    /// Change a model's price; what is not named stays, for a new model at `default`'s. Servers follow within seconds
    Set(SetArguments),
}

/// A price to be set, in whole micro-dollars.
#[derive(Args)]
#[command(arg_required_else_help = true)]
pub struct SetArguments {
    /// The model's name; `default` is the price of every model that has none
    model: String,
    /// Per million prompt tokens
    #[arg(long, value_name = "MICRODOLLARS", value_parser = micros())]
    prompt: Option<i64>,
    /// Per million completion tokens
    #[arg(long, value_name = "MICRODOLLARS", value_parser = micros())]
    completion: Option<i64>,
    /// Per million embedded tokens
    #[arg(long, value_name = "MICRODOLLARS", value_parser = micros())]
    embedding: Option<i64>,
    /// Per second of audio heard
    #[arg(long, value_name = "MICRODOLLARS", value_parser = micros())]
    audio_second: Option<i64>,
    /// Per million characters spoken
    #[arg(long, value_name = "MICRODOLLARS", value_parser = micros())]
    characters: Option<i64>,
    /// Per request
    #[arg(long, value_name = "MICRODOLLARS", value_parser = micros())]
    request: Option<i64>,
}

fn micros() -> clap::builder::RangedI64ValueParser {
    clap::value_parser!(i64).range(0..=HIGHEST)
}

pub(super) fn run(command: &PriceCommand, config: &Config) -> Result<String, Failure> {
    match command {
        PriceCommand::List => {
            let rows = prices::all(&mut database(config)?.session()?)?;
            Ok(table(rows.iter().map(|(model, price)| (model.as_str(), price))))
        }
        PriceCommand::Set(arguments) => set(arguments, config),
    }
}

fn set(arguments: &SetArguments, config: &Config) -> Result<String, Failure> {
    let SetArguments { model, prompt, completion, embedding, audio_second, characters, request } = arguments;
    if model.trim() != model || model.is_empty() || model.len() > 200 {
        return Err(Failure("the model's name must have 1 to 200 bytes and no space around it".to_owned()));
    }
    let change = Change {
        prompt_per_million: *prompt,
        completion_per_million: *completion,
        embedding_per_million: *embedding,
        audio_per_second: *audio_second,
        characters_per_million: *characters,
        per_request: *request,
    };
    if [prompt, completion, embedding, audio_second, characters, request].into_iter().all(Option::is_none) {
        return Err(Failure("no price was named, such as --prompt 150000".to_owned()));
    }
    let price = prices::set(&mut database(config)?.session()?, model, change)?;
    Ok(table([(model.as_str(), &price)].into_iter()))
}

fn table<'p>(rows: impl Iterator<Item = (&'p str, &'p Price)>) -> String {
    let line = |model: &str, rest: [&str; 6]| {
        let [prompt, completion, embedding, audio, characters, request] = rest;
        format!(
            "{model:<32} {prompt:>12} {completion:>12} {embedding:>12} {audio:>12} {characters:>12} {request:>12}\n"
        )
    };
    let mut text = line("MODEL", ["PROMPT/M", "COMPLETION/M", "EMBEDDING/M", "AUDIO/S", "CHARACTERS/M", "REQUEST"]);
    for (model, price) in rows {
        let Price {
            prompt_per_million,
            completion_per_million,
            embedding_per_million,
            audio_per_second,
            characters_per_million,
            per_request,
        } = price;
        let numbers = [
            prompt_per_million,
            completion_per_million,
            embedding_per_million,
            audio_per_second,
            characters_per_million,
            per_request,
        ]
        .map(ToString::to_string);
        text += &line(model, numbers.each_ref().map(String::as_str));
    }
    text
}
