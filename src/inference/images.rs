//! Images: OpenAI's routes that draw and change them.

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::auth::Caller;
use crate::call::Call;
use crate::catalogue::{Purpose, ResolvedModel};
use crate::engine::{Body, UpstreamRequest};
use crate::error::{Error, Result};
use crate::gateway::charged::ChargedRequest;
use crate::gateway::image_form::{ImageFields, ImageForm, MAX_IMAGE_FORM};
use crate::gateway::whole_reply::{self, Used, WholeRoute, pass};
use crate::gateway::{model, worst_case};
use crate::http::Response;
use crate::http::object::Object;
use crate::protocol::usage::{Reported, Usage};
use crate::units::{Unit, Units, amount};

/// Most images of one request, as OpenAI has it.
const MOST_IMAGES: u64 = 10;

/// The most tokens that an image is assumed to cost where the catalogue does not say it: more than twice those of the
/// largest that OpenAI's models draw.
const MOST_TOKENS: u64 = 16_384;

const EDITS: &str = "/v1/images/edits";

const GENERATIONS: WholeRoute =
    WholeRoute { purpose: Purpose::Images, upstream_path: "/v1/images/generations", check, most, used };

/// `POST /v1/images/generations`.
pub(super) fn generate(call: &mut Call<'_>, caller: &Caller) -> Result<Response> {
    pass(call, caller, &GENERATIONS)
}

/// `POST /v1/images/edits`: a multipart form, as OpenAI's libraries send it.
pub(super) fn edit(call: &mut Call<'_>, caller: &Caller) -> Result<Response> {
    if call.request.media_type() != "multipart/form-data" {
        return Err(Error::bad("The body must be multipart/form-data"));
    }
    let content_type = call.request.header("content-type").unwrap_or_default().to_owned();
    let (request, body) = ChargedRequest::read(call, caller, Purpose::Images, MAX_IMAGE_FORM)?;
    let (mut form, fields) = ImageForm::read(&content_type, &body)?;
    let ImageFields { charged, model: named, images } = fields;
    let checked = check(&charged).and_then(|()| match images {
        0 => Err(Error::bad("image is required")),
        _ => Ok(()),
    });
    let named = named.or_else(|| call.deployment.clone());
    let prepared = checked.and_then(|()| model::resolve(call.app, caller, Purpose::Images, named.as_deref()));
    request.run(prepared, |model| {
        worst_case::set_aside(&model, || {
            let mut units = most(&charged, &model);
            let read = amount(images.saturating_mul(worst_case::PICTURE));
            units[Unit::PromptTokens] = units[Unit::PromptTokens].saturating_add(read);
            units
        })?;
        form.set_model(model.requested_name());
        let media_type = form.media_type();
        let ask = UpstreamRequest { path: EDITS, media_type: &media_type, headers: &[], body: Body::Form(&mut form) };
        whole_reply::send(&model, ask, |reply| used(&charged, reply))
    })
}

fn check(request: &Object<'_>) -> Result<()> {
    match request.text("prompt") {
        Some(prompt) if prompt.is_empty() => return Err(Error::bad("prompt must not be empty")),
        Some(_) => {}
        None if request.has("prompt") => return Err(Error::bad("prompt must be a string")),
        None => return Err(Error::bad("prompt is required")),
    }
    if request.has("n") && request.read::<u64>("n").is_none_or(|n| !(1..=MOST_IMAGES).contains(&n)) {
        return Err(Error::bad(format!("n must be a whole number from 1 to {MOST_IMAGES}")));
    }
    match request.has("stream") && request.read::<bool>("stream") != Some(false) {
        true => Err(Error::bad("stream is not supported for images; leave it out")),
        false => Ok(()),
    }
}

fn asked(request: &Object<'_>) -> u64 {
    request.read("n").unwrap_or(1)
}

fn most(request: &Object<'_>, model: &ResolvedModel) -> Units {
    let images = asked(request);
    let tokens = images.saturating_mul(model.max_output_tokens().unwrap_or(MOST_TOKENS));
    Units::of([
        (Unit::PromptTokens, worst_case::most_tokens(request, "prompt")),
        (Unit::CompletionTokens, amount(tokens)),
        (Unit::Images, amount(images)),
        (Unit::Requests, 1),
    ])
}

/// Models that count tokens report them. Of others, the images alone are counted.
fn used(request: &Object<'_>, reply: &[u8]) -> Used {
    #[derive(Deserialize)]
    struct Reply {
        #[serde(default)]
        data: Option<Vec<IgnoredAny>>,
        #[serde(default)]
        usage: Option<Usage>,
    }
    let reply: Option<Reply> = serde_json::from_slice(reply).ok();
    let data = reply.as_ref().and_then(|reply| reply.data.as_ref());
    let images = data.map_or(asked(request), |data| data.len() as u64);
    let tokens = reply.as_ref().and_then(|reply| reply.usage.as_ref()).map(Reported::of).unwrap_or_default();
    let units = Units::of([
        (Unit::PromptTokens, tokens.input().unwrap_or(0) - tokens.cached()),
        (Unit::CachedInputTokens, tokens.cached()),
        (Unit::CompletionTokens, tokens.output().unwrap_or(0)),
        (Unit::Images, amount(images)),
        (Unit::Requests, 1),
    ]);
    Used { units, estimated: data.is_none() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::whole_reply::tests::assert_refused;

    fn request(json: &str) -> Object<'_> {
        Object::parse(json.as_bytes()).unwrap()
    }

    #[test]
    fn what_the_reply_holds_is_charged() {
        let asked = request(r#"{"prompt":"a cat","n":3}"#);
        let units = |reply: &str| {
            let Used { units, estimated } = used(&asked, reply.as_bytes());
            let names = [Unit::Images, Unit::PromptTokens, Unit::CachedInputTokens, Unit::CompletionTokens];
            (names.map(|unit| units[unit]), estimated)
        };
        assert_eq!(units(r#"{"data":[{"b64_json":"x"},{"b64_json":"y"}]}"#), ([2, 0, 0, 0], false));
        let tokens = r#"{"data":[{"url":"x"}],"usage":{"input_tokens":50,"output_tokens":196,"total_tokens":246,
            "input_tokens_details":{"text_tokens":10,"image_tokens":40,"cached_tokens":8}}}"#;
        assert_eq!(units(tokens), ([1, 42, 8, 196], false));
        let rest = r#"{"usage":{"input_tokens":50,"output_tokens":196}}"#;
        assert_eq!(units(rest), ([3, 50, 0, 196], true), "of a reply for which there was no memory");
        assert_eq!(units("[]"), ([3, 0, 0, 0], true), "what cannot be read is taken for what was asked");
    }

    #[test]
    fn fields_are_checked() {
        assert_refused(
            check,
            &[
                ("{}", "prompt is required"),
                (r#"{"prompt":""}"#, "prompt must not be empty"),
                (r#"{"prompt":["a"]}"#, "prompt must be a string"),
                (r#"{"prompt":"a","n":0}"#, "n must be"),
                (r#"{"prompt":"a","n":11}"#, "n must be"),
                (r#"{"prompt":"a","n":"2"}"#, "n must be"),
                (r#"{"prompt":"a","stream":true}"#, "stream is not supported"),
                (r#"{"prompt":"a","stream":"true"}"#, "stream is not supported"),
            ],
        );
        for json in [r#"{"prompt":"a"}"#, r#"{"prompt":"a","n":10,"stream":false}"#, r#"{"prompt":"a","n":null}"#] {
            check(&request(json)).unwrap();
        }
    }
}
