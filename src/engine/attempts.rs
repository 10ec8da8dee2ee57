//! One request: to the route that is picked, and to the next ones for as long as one fails before it has begun to answer.

use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::Level;
use ureq::http::{HeaderMap, Response, header};

use crate::error::{Error, Relayed, Result};
use crate::http::sse;
use crate::logging;

use super::attempt::Attempt;
use super::calls::Outcome;
use super::client::{Head, HttpClient, UNREACHABLE, failure, is_disconnect, is_shortage};
use super::decoding::ReplyBody;
use super::demo;
use super::health::InFlight;
use super::reply::{Reply, whole_seconds};
use super::request::{Body, COUNT_TOKENS, UpstreamRequest};
use super::retry_after;
use super::routes::{Pick, Routes};
use super::transport::{self, client_left};
use super::upload::{TrackedForm, UploadProgress};

/// Most providers that may break off or answer with status 500 at one request. What so many cannot bear is in the
/// request.
const MAX_BROKEN: usize = 3;

/// Sends a request to the best route, and to others if that one fails before it answers: on connection failure, on
/// time-out, and on status 408, 429 and 5xx. Returns once the head of a reply arrives, whatever its status. If all
/// routes fail, that is the reply which says most to the client, such as a 429 with its `Retry-After`. Waits for the
/// provider, so it is to be called in [`block_in_place`](crate::blocking::block_in_place).
///
/// # Errors
/// 503 when all routes have as many calls as they may have; 502 when no provider answers, 504 when none does in time; the
/// client has left, before or after a provider had the request.
pub fn send(routes: &Routes, request: UpstreamRequest<'_>) -> Result<Reply> {
    let UpstreamRequest { path, media_type, headers, body } = request;
    let upload = UploadProgress::default();
    let mut tracked;
    let mut body = match body {
        Body::Stream(form) => {
            tracked = TrackedForm { form, progress: &upload };
            Body::Stream(&mut tracked)
        }
        Body::Json(object) => Body::Json(object),
        Body::Form(form) => Body::Form(form),
    };
    let request_id = logging::request_id();
    let (began, mut tried, mut broken, mut best) = (Instant::now(), Vec::new(), 0, None);
    loop {
        let (index, route, in_flight) = match routes.pick(&tried, Instant::now()) {
            Pick::Route(index, route, in_flight) => (index, route, in_flight),
            Pick::Closed(left) => return best.map_or_else(|| Err(too_many_requests(left)), Failed::into_result),
            Pick::Full => return best.map_or(Err(Error::Busy), Failed::into_result),
            Pick::None => return best.map_or(Err(Error::Upstream(502, UNREACHABLE)), Failed::into_result),
        };
        tried.push(index);
        let Some(client) = route.provider.client() else {
            in_flight.count(Outcome::Answered);
            return demo::answer(UpstreamRequest { path, media_type, headers, body });
        };
        let total = client.timeouts().total;
        upload.total.set(total);
        // While an upload is read, the client decides how long it takes.
        let deadline = if matches!(body, Body::Stream(_)) { None } else { began.checked_add(total) };
        let in_flight = in_flight.traced(path);
        let trace = in_flight.outgoing();
        let head = Head { path, media_type, request_id: request_id.as_deref(), trace: trace.as_ref(), headers };
        let attempt = Attempt { client, route, head };
        let outcome = transport::with_deadline_at(deadline, || attempt.send(&mut body));
        let deadline = deadline.or(upload.ended_at.get().and_then(|at| at.checked_add(total)));
        let is_late = deadline.is_some_and(|deadline| deadline <= Instant::now());
        let failed = match outcome {
            Ok(response) => {
                in_flight.note_status(response.status().as_u16());
                in_flight.count(outcome_of(response.status().as_u16()));
                let reply = reply(response, in_flight, client, deadline, request_id.clone());
                if path == COUNT_TOKENS || is_answer(&reply) {
                    return Ok(reply);
                }
                broken += usize::from(reply.status == 500);
                Failed::Reply(Box::new(reply))
            }
            Err(_) if client_left() || upload.is_broken.get() => {
                in_flight.count(Outcome::Left);
                return Err(match client_left() {
                    true if transport::was_request_sent() => Error::ClientLeftModel,
                    true => Error::ClientLeft,
                    false => Error::bad("The upload is incomplete or malformed"),
                });
            }
            Err(e) => {
                in_flight.count(Outcome::Failed);
                broken += usize::from(is_disconnect(&e));
                note_error(&in_flight, &e, upload.is_under_way(), request_id.as_deref());
                Failed::Error(if is_late { late() } else { failure(&e) })
            }
        };
        let is_final = is_late || upload.is_touched.get() || broken >= MAX_BROKEN;
        let failed = match best {
            Some(best) if !failed.is_better_than(&best) => best,
            _ => failed,
        };
        if is_final {
            return failed.into_result();
        }
        best = Some(failed);
    }
}

/// What a client is told while the providers want to be left alone.
fn too_many_requests(time: Duration) -> Error {
    let message = "The model server has too many requests, try again later".to_owned();
    Error::Relayed(Box::new(Relayed { status: 429, body: None, message, retry_after: Some(whole_seconds(time)) }))
}

fn late() -> Error {
    Error::Upstream(504, "The model server took too long")
}

fn reply(
    response: Response<ReplyBody>,
    in_flight: InFlight,
    client: &HttpClient,
    deadline: Option<Instant>,
    request_id: Option<Arc<str>>,
) -> Reply {
    let text = |headers: &HeaderMap, name| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let content_type = text(response.headers(), header::CONTENT_TYPE).unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    // Sound of unknown length is made while it is sent.
    let is_live = media_type.starts_with("audio/") && !response.headers().contains_key(header::CONTENT_LENGTH);
    let is_stream = media_type == sse::MEDIA_TYPE || is_live;
    Reply {
        status: response.status().as_u16(),
        retry_after: retry_after::requested(response.headers(), time::OffsetDateTime::now_utc()),
        media_type,
        content_type,
        is_demo: false,
        began: in_flight.began(),
        body: response.into_body(),
        in_flight: Some(in_flight),
        deadline: deadline.filter(|_| !is_stream),
        awaits_first_piece: is_stream,
        first_piece: None,
        idle: client.timeouts().idle,
        request_id,
    }
}

/// How a call ended that was answered with this status.
fn outcome_of(status: u16) -> Outcome {
    match status {
        429 => Outcome::TooMany,
        401..=403 | 407 | 408 | 500.. => Outcome::Error,
        _ => Outcome::Answered,
    }
}

/// Notes what a reply says of its provider. False if another provider may do better.
fn is_answer(reply: &Reply) -> bool {
    let Some(call) = &reply.in_flight else { return true };
    let (status, now) = (reply.status, Instant::now());
    let cool_down = match status {
        429 => Some(call.refused(reply.retry_after, now)),
        // The last ones are those of proxies in front of a provider.
        401 | 402 | 502..=504 | 520..=530 => Some(call.failed(reply.retry_after, now)),
        500 => {
            call.answered_500(now);
            None
        }
        // It may be about what is asked for: another thing it may well do.
        403 | 407 | 408 | 501.. => None,
        _ => {
            call.succeeded();
            return true;
        }
    };
    let request_id = reply.request_id.as_deref();
    let (level, why) = match is_credential(status) {
        true => (Level::Error, ", the API key is refused"),
        false => (Level::Warn, ""),
    };
    log_failure(level, call, &format_args!("status {status}{why}"), cool_down, request_id);
    false
}

/// Whether a status is about the key that this server sent. Clients have no part in that.
fn is_credential(status: u16) -> bool {
    matches!(status, 401..=403 | 407)
}

/// Notes that no reply came. What happens while an upload is under way may be the doing of its sender, and that this
/// process has no more sockets is nobody's else.
fn note_error(call: &InFlight, e: &ureq::Error, is_upload_under_way: bool, request_id: Option<&str>) {
    let is_innocent = is_upload_under_way || is_shortage(e);
    let cool_down = if is_innocent { None } else { Some(call.failed(None, Instant::now())) };
    log_failure(Level::Warn, call, e, cool_down, request_id);
}

fn log_failure(level: Level, call: &InFlight, why: &dyn Display, cool_down: Option<Duration>, id: Option<&str>) {
    let (name, millis, id) = (call.name(), call.began().elapsed().as_millis(), id.unwrap_or("-"));
    call.note_error(&why.to_string());
    let left_out = cool_down.map_or_else(String::new, |time| format!("; left out for {:.1} s", time.as_secs_f64()));
    log::log!(level, "provider {name} failed after {millis} ms: {why}{left_out} (request {id})");
}

/// The outcome of an attempt that another one may better.
enum Failed {
    Reply(Box<Reply>),
    Error(Error),
}

impl Failed {
    /// How much it tells the client.
    fn rank(&self) -> u8 {
        match self {
            Failed::Reply(reply) => match reply.status {
                429 => 4,
                503 => 3,
                status if is_credential(status) => 0,
                _ => 1,
            },
            Failed::Error(Error::Upstream(504, _)) => 2,
            Failed::Error(_) => 1,
        }
    }

    fn is_better_than(&self, other: &Failed) -> bool {
        match (self, other) {
            (Failed::Reply(one), Failed::Reply(other)) if one.status == other.status => {
                one.retry_after.is_some_and(|one| other.retry_after.is_none_or(|other| one < other))
            }
            _ => self.rank() > other.rank(),
        }
    }

    fn into_result(self) -> Result<Reply> {
        match self {
            Failed::Reply(reply) => Ok(*reply),
            Failed::Error(e) => Err(e),
        }
    }
}
