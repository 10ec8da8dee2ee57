//! The model that a request means.

use std::sync::Arc;

use crate::blocking;
use crate::engine::{self, Protocol, Reply, Routes, UpstreamRequest};
use crate::error::{Error, Result};
use crate::http::object::Object;

use super::snapshot::Model;

/// The model that a request means, with the routes to it.
#[derive(Clone, Debug)]
pub struct ResolvedModel {
    pub(super) model: Arc<Model>,
    pub(super) protocol: Protocol,
    /// The name by which the request asks for it, if that is another than its own.
    pub(super) requested: Option<Arc<str>>,
}

impl ResolvedModel {
    /// The model's own name, which the ledger and the price have.
    pub fn name(&self) -> &str {
        &self.model.name
    }

    /// The name by which the request asks for it, and which a provider gets whose own name for it is not known.
    pub fn requested_name(&self) -> &str {
        self.requested.as_deref().unwrap_or(&self.model.name)
    }

    /// The most tokens that one reply may have.
    pub fn max_output_tokens(&self) -> Option<u64> {
        self.model.max_output_tokens
    }

    /// The protocol in which it is asked.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The fields of a request that bound its output, in tokens; see [`Protocol::output_limits`].
    pub fn output_limits(&self) -> &'static [&'static str] {
        self.protocol.output_limits()
    }

    /// The same model, to be asked in another protocol; `None` if it has no routes for that.
    #[must_use]
    pub fn asked_in(&self, protocol: Protocol) -> Option<ResolvedModel> {
        let is_usable = !self.model.routes(protocol).is_empty();
        is_usable.then(|| ResolvedModel { protocol, ..self.clone() })
    }

    /// Whether some of its providers have another protocol and not this one.
    pub fn has_others(&self, protocol: Protocol) -> bool {
        self.model.routes(protocol).iter().any(|route| !route.provider.spec().protocols.has(self.protocol))
    }

    fn routes(&self) -> &Routes {
        self.model.routes(self.protocol)
    }

    /// Sends a request to one of its providers; see [`engine::send`].
    ///
    /// # Errors
    /// As there.
    pub fn send(&self, request: UpstreamRequest<'_>) -> Result<Reply> {
        engine::send(self.routes(), request)
    }

    /// See [`Routes::block_in_place`].
    ///
    /// # Errors
    /// As there.
    pub fn block_in_place<R>(&self, work: impl FnOnce() -> R) -> std::result::Result<R, blocking::Refused> {
        self.routes().block_in_place(work)
    }

    /// What the providers call it.
    pub fn upstream_names(&self) -> impl Iterator<Item = &str> {
        self.routes().iter().map(|route| route.upstream_model.as_deref().unwrap_or(self.requested_name()))
    }

    /// Lowers what a request asks for in output tokens to what the model may make. What it does not ask for is left to
    /// the provider.
    ///
    /// # Errors
    /// 400 for a limit that is no number.
    pub fn limit_output(&self, request: &mut Object<'_>) -> Result<()> {
        let Some(most) = self.model.max_output_tokens else { return Ok(()) };
        for field in self.output_limits() {
            if !request.has(field) {
                continue;
            }
            match request.read::<serde_json::Number>(field) {
                Some(number) if number.as_u64().is_some_and(|n| n <= most) => {}
                Some(_) => request.set(field, &most),
                None => return Err(Error::bad(format!("{field} must be a number"))),
            }
        }
        Ok(())
    }
}
