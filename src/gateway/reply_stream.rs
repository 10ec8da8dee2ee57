//! Replies that are streamed to the client while the model server makes them, and charged before their last bytes.

use std::io::{self, Write};

use crate::error::Error;
use crate::http::{Content, Response};
use crate::units::Units;

use super::charging::{ChargeContext, ModelUsage};

/// A reply on its way from a model server to the client.
pub trait ReplyStream: Send {
    /// Copies the reply to the client until it ends, fails, or the client disconnects.
    fn copy(&mut self, out: &mut dyn Write) -> StreamEnd;

    /// What is charged for a stream that ended like this; `None` for nothing.
    fn units(&self, end: &StreamEnd) -> Option<Units>;

    /// Whether those units rest on an estimate, since the model server gave no numbers.
    fn is_estimate(&self) -> bool {
        false
    }

    /// How long the model server has taken so far, in microseconds.
    fn latency_micros(&self) -> i64;

    /// Tells the client that the reply will not be completed.
    ///
    /// # Errors
    /// An error closes the client's connection. That is how formats without errors signal an incomplete reply.
    fn fail(&mut self, out: &mut dyn Write, e: Error) -> io::Result<()>;

    /// Called when the whole reply was sent.
    fn finish(&mut self) {}
}

/// How a stream ended.
pub enum StreamEnd {
    /// The reply is complete but for these last bytes, which are sent once the charge is durable.
    Complete(Vec<u8>),
    /// The model server failed.
    Failed(Error),
    /// The client disconnected.
    Disconnected(io::Error),
}

/// Makes `stream` the content of `response`, charged for `model`.
pub(super) fn attach(
    mut response: Response,
    context: ChargeContext,
    model: String,
    stream: Box<dyn ReplyStream>,
) -> Response {
    let stream = ChargedStream { context, model, stream };
    response.content = Content::Stream(Box::new(move |out| stream.run(out)));
    response
}

struct ChargedStream {
    context: ChargeContext,
    model: String,
    stream: Box<dyn ReplyStream>,
}

impl ChargedStream {
    /// Writes the content. An error closes the client's connection.
    fn run(mut self, out: &mut dyn Write) -> io::Result<()> {
        let end = self.stream.copy(out);
        let usage = self.stream.units(&end).map(|units| ModelUsage {
            model: std::mem::take(&mut self.model),
            units,
            estimated: self.stream.is_estimate(),
            latency_micros: self.stream.latency_micros(),
        });
        let charge = |usage: Option<ModelUsage>| usage.map_or(Ok(()), |usage| self.context.charge(usage));
        match end {
            StreamEnd::Complete(last) => match charge(usage) {
                Ok(()) => {
                    out.write_all(&last)?;
                    self.stream.finish();
                    Ok(())
                }
                Err(e) => self.stream.fail(out, e),
            },
            StreamEnd::Failed(e) => {
                let e = charge(usage).err().unwrap_or(e);
                self.stream.fail(out, e)
            }
            StreamEnd::Disconnected(e) => {
                // The client pays for what was made until it disconnected.
                if let Some(Err(e)) = usage.map(|usage| self.context.charge_part(usage)) {
                    log::error!("the part of a stream that a client received could not be charged: {e}");
                }
                Err(e)
            }
        }
    }
}
