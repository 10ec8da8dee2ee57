//! The demo engine's embeddings: a unit vector that depends on every byte of the text, and on nothing else.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::DemoReply;

/// Numbers in a vector.
const DIMENSIONS: usize = 768;
/// Most numbers a client may ask for.
const MOST_DIMENSIONS: u64 = 4096;

/// One vector for each text of `input`.
pub(super) fn embed(request: &Value) -> DemoReply {
    let texts: Vec<String> = match &request["input"] {
        Value::String(one) => vec![one.clone()],
        Value::Array(several) if several.iter().all(Value::is_u64) => vec![request["input"].to_string()],
        Value::Array(several) => {
            several.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).collect()
        }
        _ => return DemoReply::error(400, "input is required"),
    };
    let wanted = request["dimensions"].as_u64().filter(|n| (1..=MOST_DIMENSIONS).contains(n));
    let dimensions = wanted.and_then(|n| usize::try_from(n).ok()).unwrap_or(DIMENSIONS);
    let as_base64 = request["encoding_format"] == "base64";
    let data = texts.iter().enumerate().map(|(index, text)| {
        let vector = vector(text, dimensions);
        let embedding = match as_base64 {
            true => json!(BASE64_STANDARD.encode(vector.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>())),
            false => json!(vector),
        };
        json!({"object": "embedding", "index": index, "embedding": embedding})
    });
    let tokens: usize = texts.iter().map(|text| text.split_whitespace().count()).sum();
    let model = request["model"].as_str().unwrap_or(super::MODEL);
    DemoReply::json(
        200,
        &json!({"object": "list", "data": data.collect::<Vec<_>>(), "model": model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}),
    )
}

fn vector(text: &str, dimensions: usize) -> Vec<f32> {
    let mut numbers: Vec<f32> = Vec::with_capacity(dimensions + 16);
    let seed = Sha256::digest(text.as_bytes());
    for block in 0u32.. {
        if numbers.len() >= dimensions {
            break;
        }
        let mut hasher = Sha256::new();
        hasher.update(seed);
        hasher.update(block.to_le_bytes());
        let digest = hasher.finalize();
        numbers.extend(digest.chunks_exact(2).map(|b| f32::from(i16::from_le_bytes([b[0], b[1]])) / 32768.0));
    }
    numbers.truncate(dimensions);
    let length = numbers.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    numbers.iter().map(|x| x / length).collect()
}
