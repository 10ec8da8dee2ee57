//! The demo engine's images, reranking and moderation.

use serde_json::{Value, json};

use super::DemoReply;

/// A grey square of 16 by 16 pixels, in PNG.
const PICTURE: &str = "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAAAAAA6mKC9AAAAHUlEQVR42mNw8IlIKajpmLJgzY4jF+68+MIwsgUA1sCaARJiwhQAAAAA\
    SUVORK5CYII=";
/// Most images of one request.
const MOST_IMAGES: u64 = 10;
/// What a text is judged for, as OpenAI names it.
const CATEGORIES: [&str; 13] = [
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
];

/// Always the same picture.
pub(super) fn draw(request: &Value) -> DemoReply {
    let count = request["n"].as_u64().unwrap_or(1).min(MOST_IMAGES);
    let images: Vec<Value> = (0..count).map(|_| json!({"b64_json": PICTURE})).collect();
    DemoReply::json(200, &json!({"created": 0, "data": images}))
}

/// The documents by how many of the query's words they have.
pub(super) fn rank(request: &Value) -> DemoReply {
    let words = |text: &str| text.to_lowercase().split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let text = |document: &Value| document.as_str().or(document["text"].as_str()).unwrap_or_default().to_owned();
    let query = words(request["query"].as_str().unwrap_or_default());
    let documents: Vec<Vec<String>> =
        request["documents"].as_array().into_iter().flatten().map(|document| words(&text(document))).collect();
    let score = |document: &Vec<String>| {
        let found = query.iter().filter(|word| document.contains(word)).count();
        u32::try_from(found).map_or(0.0, f64::from) / u32::try_from(query.len()).map_or(1.0, f64::from).max(1.0)
    };
    let mut results: Vec<(usize, f64)> = documents.iter().map(score).enumerate().collect();
    results.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    let most = request["top_n"].as_u64().and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
    let results: Vec<Value> =
        results.iter().take(most).map(|(index, score)| json!({"index": index, "relevance_score": score})).collect();
    let tokens = documents.iter().map(|document| document.len() + query.len()).sum::<usize>();
    DemoReply::json(
        200,
        &json!({"id": "demo", "model": request["model"], "results": results,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}),
    )
}

/// Finds no harm in any text.
pub(super) fn moderate(request: &Value) -> DemoReply {
    let count = request["input"].as_array().filter(|list| list.iter().all(Value::is_string)).map_or(1, Vec::len);
    let all = |value: Value| CATEGORIES.iter().map(|name| ((*name).to_owned(), value.clone())).collect::<Value>();
    let result = json!({"flagged": false, "categories": all(json!(false)), "category_scores": all(json!(0.0))});
    DemoReply::json(200, &json!({"id": "demo", "model": request["model"], "results": vec![result; count]}))
}
