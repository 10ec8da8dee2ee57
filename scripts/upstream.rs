//! A model server for benchmarks that answers immediately: `upstream [ADDRESS]`. Prints its address,
//! `http://127.0.0.1:…`.
//!
//! It answers every `POST /v1/chat/completions` with the same text and usage. With `"stream": true` it sends one word
//! per event: N events for the model `chunks-N`, with a pause of MS milliseconds before each for `chunks-N-every-MS`,
//! and 20 without a pause for any other model. It has no list of models, so that every name is taken.

use std::env;
use std::error::Error;
use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde::Deserialize;
use textgen::blocking::Places;
use textgen::http::response::StreamFn;
use textgen::http::{Request, Response, sse};
use textgen::server::{self, Handler, Server, Settings};

/// Places for streams, each of which occupies a thread. They all come from one address, which gets two thirds.
const STREAMS: usize = 18_000;
const LARGEST_BODY: usize = 1 << 20;

const ANSWER: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"bench","choices":[{"index":0,"message":{"role":"assistant","content":"Here are some words."},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":4,"total_tokens":13}}"#;

#[derive(Deserialize)]
struct Ask {
    #[serde(default)]
    model: String,
    #[serde(default)]
    stream: bool,
    #[serde(default)]
    stream_options: Options,
}

#[derive(Default, Deserialize)]
struct Options {
    #[serde(default)]
    include_usage: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let address = env::args().nth(1).unwrap_or("127.0.0.1:0".to_owned());
    let mut server = Server::new(Settings { places: Places::new(|_| STREAMS), ..Settings::default() })?;
    let handler: Handler = Arc::new(answer);
    let address = server.listen("upstream", server::bind(address.parse()?, false)?, handler)?;
    println!("http://{address}");
    server.run()?;
    Ok(())
}

fn answer(request: &mut Request) -> Response {
    match (request.method().as_str(), request.path()) {
        ("POST", "/v1/chat/completions") => chat(request),
        _ => Response::detail(404, "Not Found"),
    }
}

fn chat(request: &mut Request) -> Response {
    let Ok(bytes) = request.body.into_bytes(LARGEST_BODY) else {
        return Response::detail(400, "the body cannot be had");
    };
    match serde_json::from_slice::<Ask>(&bytes) {
        Ok(ask) if ask.stream => Response::stream(sse::MEDIA_TYPE, words(&ask)),
        Ok(_) => Response::with_body(200, "application/json", ANSWER.as_bytes()),
        Err(e) => Response::detail(400, &e.to_string()),
    }
}

/// Writes the events one by one, without buffering.
fn words(ask: &Ask) -> StreamFn {
    let (count, pause) = pace(&ask.model).unwrap_or((20, 0));
    let with_usage = ask.stream_options.include_usage;
    Box::new(move |out| {
        for n in 0..count {
            if pause > 0 {
                thread::sleep(Duration::from_millis(pause));
            }
            send(out, format_args!(r#"[{{"index":0,"delta":{{"content":"word {n} "}},"finish_reason":null}}]"#), "")?;
        }
        send(out, format_args!(r#"[{{"index":0,"delta":{{}},"finish_reason":"stop"}}]"#), "")?;
        if with_usage {
            let total = count + 9;
            let usage = format!(r#","usage":{{"prompt_tokens":9,"completion_tokens":{count},"total_tokens":{total}}}"#);
            send(out, format_args!("[]"), &usage)?;
        }
        out.write_all(b"data: [DONE]\n\n")
    })
}

fn send(out: &mut dyn Write, choices: fmt::Arguments<'_>, more: &str) -> io::Result<()> {
    let head = r#""id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"bench""#;
    // In one write, as each write becomes a separate chunk.
    out.write_all(format!("data: {{{head},\"choices\":{choices}{more}}}\n\n").as_bytes())
}

/// The number of words, and the pause before each in milliseconds.
fn pace(model: &str) -> Option<(u64, u64)> {
    let numbers = model.strip_prefix("chunks-")?;
    match numbers.split_once("-every-") {
        Some((count, pause)) => Some((count.parse().ok()?, pause.parse().ok()?)),
        None => Some((numbers.parse().ok()?, 0)),
    }
}
