//! One attempt to get a request answered by one provider.

use std::io::{Cursor, Read};
use std::time::Instant;

use ureq::http::Response;

use super::client::{Connections, Content, Head, HttpClient, is_disconnect};
use super::decoding::{ReplyBody, decoded};
use super::refused::{CONFIRMED, SUSPECTED};
use super::request::{Body, Extensions, Variant};
use super::routes::Route;
use super::transport::{self, client_left};

/// Most bytes of an error that are searched for what it is about.
const MAX_ERROR_BODY: u64 = 64 * 1024;

type Outcome = std::result::Result<Response<ReplyBody>, ureq::Error>;

pub(super) struct Attempt<'a> {
    pub(super) client: &'a HttpClient,
    pub(super) route: &'a Route,
    pub(super) head: Head<'a>,
}

impl Attempt<'_> {
    /// Sends the request as this provider is to get it. If it refuses an extension, it is asked again without; once that
    /// has helped, it is not asked with it again. An upload that was read while it was sent cannot be sent again; the
    /// next one goes without.
    pub(super) fn send(&self, body: &mut Body<'_>) -> Outcome {
        let model = self.route.upstream_model.as_deref();
        let provider = &self.route.provider;
        let key = |body: &Body<'_>| model.map_or_else(|| body.model(), str::to_owned);
        let known = provider.refused().get(|| key(body), Instant::now());
        let mut without = known;
        loop {
            let response = self.post(&Variant { provider: &provider.spec().name, model, without }, body)?;
            let (status, name) = (response.status(), &provider.spec().name);
            if status.is_success() && without != known {
                log::info!("provider {name} refuses {without}; not sending it again");
                provider.refused().insert(&key(body), without, Instant::now() + CONFIRMED);
            } else if status.is_success() {
                provider.refused().accepted(|| key(body), body.extensions().except(without));
            }
            if !matches!(status.as_u16(), 400 | 422) {
                return Ok(response);
            }
            let used = body.extensions().except(without);
            if used.is_empty() {
                return Ok(response);
            }
            let (response, named) = named_extensions(response);
            let mut refused = self.refused_of(used, named);
            if let Body::Stream(_) = body
                && provider.refused().accepts_verbose_json(key(body).as_ref())
            {
                // Without a second attempt, the error may only quote what the client has sent.
                refused.verbose_json = false;
            }
            if refused.is_empty() {
                return Ok(response);
            }
            without = without.or(refused);
            if let Body::Stream(_) = body {
                log::info!("provider {name} seems to refuse {refused}; not sending it for a while");
                provider.refused().insert(&key(body), without, Instant::now() + SUSPECTED);
                return Ok(response);
            }
        }
    }

    /// What to omit next of the extensions in use, after an error that names these. Usage with each piece is the least
    /// known of them, so it is omitted first, and also after an error that names none.
    fn refused_of(&self, used: Extensions, named: Extensions) -> Extensions {
        let is_suspected = named.continuous_usage
            || named.stream_options
            || (named.is_empty() && !self.route.provider.refused().accepts_continuous_usage());
        match used.continuous_usage && is_suspected {
            true => Extensions { continuous_usage: true, ..Extensions::default() },
            false => named.and(used),
        }
    }

    /// A connection that was kept may have ended just now; a new one tells.
    fn post(&self, variant: &Variant<'_>, body: &mut Body<'_>) -> Outcome {
        let json;
        let mut content = match body {
            Body::Json(object) => {
                json = variant.json(object);
                Content::Bytes(&json)
            }
            Body::Form(form) => Content::Bytes(form.to_bytes(variant)),
            // It cannot be sent twice.
            Body::Stream(form) => {
                form.set_variant(variant);
                return self.post_content(Connections::New, &mut Content::Stream(form));
            }
        };
        let (outcome, is_new) = transport::note_connecting(|| self.post_content(Connections::Kept, &mut content));
        match outcome {
            Err(e) if !is_new && is_disconnect(&e) && !client_left() => {
                self.post_content(Connections::New, &mut content)
            }
            outcome => outcome,
        }
    }

    fn post_content(&self, connections: Connections, content: &mut Content<'_>) -> Outcome {
        transport::note_request();
        let response = self.client.post(connections, &self.head, content)?;
        Ok(decoded(response.map(|body| Box::new(body.into_reader()) as ReplyBody)))
    }
}

/// Which extensions the text of an error names. What was read of it is put back.
fn named_extensions(response: Response<ReplyBody>) -> (Response<ReplyBody>, Extensions) {
    let (head, mut body) = response.into_parts();
    let mut text = Vec::new();
    // If it breaks off, whoever reads on gets to know.
    let _ = body.by_ref().take(MAX_ERROR_BODY).read_to_end(&mut text);
    let named = Extensions::named_in(&text);
    (Response::from_parts(head, Box::new(Cursor::new(text).chain(body))), named)
}
