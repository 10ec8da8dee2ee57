//! Replies that are streamed to the client while the model server makes them, and charged before their last bytes.

use std::io::{self, Write};

use crate::blocking::{self, Wait};
use crate::error::Error;
use crate::http::{Content, Response};
use crate::units::Units;

use super::caller_check::CheckedClient;
pub use super::caller_check::StreamClient;
use super::charging::{ChargeContext, ModelUsage};
use super::kept::{Head, Recorder};

/// A reply on its way from a model server to the client.
pub trait ReplyStream: Send {
    /// Copies the reply to the client until it ends, fails, or the client disconnects while the model is at work.
    fn copy(&mut self, out: &mut dyn StreamClient) -> StreamEnd;

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
    let is_kept = context.idempotency.is_some();
    let head = is_kept.then(|| Head::of(&response));
    let mut stream = Unsent(Some(ChargedStream { context, model, stream, head }));
    response.content = Content::Stream(Box::new(move |out| stream.0.take().map_or(Ok(()), |stream| stream.run(out))));
    response
}

/// Ends a stream whose client has disconnected before its first byte, and charges for it.
pub(super) fn settle_without_client(context: ChargeContext, model: String, stream: Box<dyn ReplyStream>) {
    // It ends with the error of a client that has disconnected, which is known already.
    let _ = ChargedStream { context, model, stream, head: None }.run(&mut Disconnected);
}

/// A client that has disconnected: each write fails.
struct Disconnected;

impl Write for Disconnected {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::ConnectionAborted.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A stream whose response may be dropped before it is sent: its head could not be written, or it may not wait for the
/// model server. The model server has the request then.
struct Unsent(Option<ChargedStream>);

impl Drop for Unsent {
    fn drop(&mut self) {
        let Some(stream) = self.0.take() else { return };
        let mut stream = Some(stream);
        let run = || stream.take().map_or(Ok(()), ChargedStream::run_unsent);
        if let Ok(Err(e)) = blocking::block_in_place(Wait::Model, run) {
            log::debug!("a stream that could not be sent failed: {e}");
        }
        if let Some(stream) = stream {
            stream.cut();
        }
    }
}

struct ChargedStream {
    context: ChargeContext,
    model: String,
    stream: Box<dyn ReplyStream>,
    /// Status and headers, if the reply is kept.
    head: Option<Head>,
}

impl ChargedStream {
    /// Ends a stream of which the client gets nothing. With an `Idempotency-Key`, the client may repeat the request to
    /// get the whole reply; otherwise what was made is charged.
    fn run_unsent(self) -> io::Result<()> {
        match self.head.is_some() {
            true => self.run(&mut io::sink()),
            false => self.run(&mut Disconnected),
        }
    }

    /// Ends the call without another wait for the model server. What was made is charged: the prompt, as nothing was
    /// read of the reply.
    fn cut(mut self) {
        let end = StreamEnd::Disconnected(io::ErrorKind::ConnectionAborted.into());
        if let Some(usage) = self.usage(&end) {
            self.charge_cut(usage);
        }
        self.context.release_key();
    }

    fn usage(&mut self, end: &StreamEnd) -> Option<ModelUsage> {
        self.stream.units(end).map(|units| ModelUsage {
            model: std::mem::take(&mut self.model),
            units,
            estimated: self.stream.is_estimate(),
            latency_micros: self.stream.latency_micros(),
        })
    }

    /// Charges for what was made for a client that has disconnected.
    fn charge_cut(&self, usage: ModelUsage) {
        if let Err(e) = self.context.charge_part(usage, Vec::new()) {
            log::error!("could not charge for a client that disconnected: {e}");
        }
    }

    /// Writes the content. An error closes the client's connection.
    fn run(mut self, out: &mut dyn Write) -> io::Result<()> {
        let head = self.head.take();
        // A reply that is kept is read to its end, whether or not the client waits for it: nothing watches the client,
        // and the recorder never fails.
        let _watch = head.as_ref().map(|_| blocking::set_client(None));
        let mut out = Recorder::new(out, head);
        let ChargeContext { caller_check, meter, .. } = &mut self.context;
        let mut client = CheckedClient::new(&mut out, caller_check, meter, &self.model);
        let end = self.stream.copy(&mut client);
        let ended = client.ended;
        let usage = self.usage(&end);
        match end {
            StreamEnd::Complete(last) => {
                match usage.map_or(Ok(()), |usage| self.context.charge(usage, out.reply(&last))) {
                    Ok(()) => {
                        out.write_all(&last)?;
                        self.stream.finish();
                        Ok(())
                    }
                    Err(e) => self.fail(&mut out, e),
                }
            }
            StreamEnd::Failed(e) => {
                // Nothing is kept: a repetition may get the whole reply, and is charged for that.
                let charged = usage.map_or(Ok(()), |usage| self.context.charge_part(usage, Vec::new()));
                self.fail(&mut out, charged.err().unwrap_or(e))
            }
            StreamEnd::Disconnected(e) => {
                // The client pays for what was made until then; if the model had finished, that is all.
                if let Some(usage) = usage {
                    self.charge_cut(usage);
                }
                // Or the caller may not have more, and hears of it.
                ended.map_or(Err(e), |ended| self.fail(&mut out, ended))
            }
        }
    }

    fn fail(&mut self, out: &mut dyn Write, e: Error) -> io::Result<()> {
        self.context.release_key();
        self.stream.fail(out, e)
    }
}
