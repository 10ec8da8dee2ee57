//! Replies that are streamed to the client while the model server makes them, and charged before their last bytes.

use std::io::{self, Write};

use crate::error::Error;
use crate::http::{Content, Response};
use crate::units::Units;

use super::charging::{ChargeContext, ModelUsage};

/// A reply on its way from a model server to the client.
pub trait ReplyStream: Send {
    /// Copies the reply to the client until it ends or fails. With `cancel_on_disconnect`, a client that disconnects while
    /// the model is at work ends it too; without, it is read to its end and what the client does not take is discarded.
    fn copy(&mut self, out: &mut dyn Write, cancel_on_disconnect: bool) -> StreamEnd;

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

/// Ends a stream whose client has disconnected before its first byte, and charges for it.
pub(super) fn settle_for_nobody(context: ChargeContext, model: String, stream: Box<dyn ReplyStream>) {
    // That nobody takes it is known.
    let _ = ChargedStream { context, model, stream }.run(&mut Nobody);
}

/// A client that takes nothing.
struct Nobody;

impl Write for Nobody {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::ConnectionAborted.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct ChargedStream {
    context: ChargeContext,
    model: String,
    stream: Box<dyn ReplyStream>,
}

impl ChargedStream {
    /// Writes the content. An error closes the client's connection.
    fn run(mut self, out: &mut dyn Write) -> io::Result<()> {
        let end = self.stream.copy(out, self.context.cancel_on_disconnect);
        let usage = self.stream.units(&end).map(|units| ModelUsage {
            model: std::mem::take(&mut self.model),
            units,
            estimated: self.stream.is_estimate(),
            latency_micros: self.stream.latency_micros(),
        });
        match end {
            StreamEnd::Complete(last) => match usage.map_or(Ok(()), |usage| self.context.charge(usage)) {
                Ok(()) => {
                    out.write_all(&last)?;
                    self.stream.finish();
                    Ok(())
                }
                Err(e) => self.stream.fail(out, e),
            },
            StreamEnd::Failed(e) => {
                // A repetition of the request may get the whole reply, and is charged for that.
                let charged = usage.map_or(Ok(()), |usage| self.context.charge_part(usage));
                self.stream.fail(out, charged.err().unwrap_or(e))
            }
            StreamEnd::Disconnected(e) => {
                // The client pays for what was made until then; if the model had finished, that is all.
                if let Some(Err(e)) = usage.map(|usage| self.context.charge_part(usage)) {
                    log::error!("what was made for a client that disconnected could not be charged: {e}");
                }
                Err(e)
            }
        }
    }
}
