//! Forwards a recording to a model server while it is received, with no more than a piece of it in memory.

use std::io::{self, Read};
use std::time::Duration;

use crate::catalogue::ResolvedModel;
use crate::engine::{Extensions, Form, StreamedForm, Variant};
use crate::error::{Error, Result};
use crate::media::{Measured, Measurer, NotMeasurable};
use crate::memory_budget;
use crate::protocol::usage::Reported;

use super::audio_duration::AudioDuration;
use super::file_label::FileLabel;
use super::{MAX_RECORDING, worst_case};

/// Bytes from the start of a recording that are examined before anything is sent.
const PREFIX: usize = 4096;

/// The message for a recording whose length cannot be measured, and which could therefore not be charged for exactly.
const NOT_MEASURABLE: &str = "The recording's length cannot be measured; send WAV, MP3, FLAC, Ogg, WebM, MP4 or AAC";

/// The message for a recording whose length MP4 does not say.
const NOT_IN_MP4: &str =
    "The length of Opus or MP3 in MP4 cannot be measured; send Opus as Ogg or WebM, and MP3 as it is";

/// Names and values of form fields.
pub type FormFields = Vec<(String, String)>;

/// A recording that is being received.
pub trait AudioSource: Read {
    /// The fields behind the recording; to be called once that was read to its end.
    ///
    /// # Errors
    /// 400, 408 or 413: what is wrong with them.
    fn trailing_fields(&mut self) -> Result<FormFields>;

    /// All of the recording, if it is in memory.
    fn whole(&self) -> Option<&[u8]> {
        None
    }
}

/// Maps the fields behind a recording, which are known last, to those that are sent to the model server behind it.
pub type MapTrailing<'a> = Box<dyn FnMut(FormFields) -> Result<FormFields> + 'a>;

/// The multipart body that is sent to the model server. It is composed while it is read.
pub struct ForwardedUpload<'a> {
    source: &'a mut dyn AudioSource,
    resolved: &'a ResolvedModel,
    map_trailing: MapTrailing<'a>,
    boundary: String,
    /// Bytes of the body that are not read from the source, of which `sent` were read.
    buffer: Vec<u8>,
    sent: usize,
    is_file_complete: bool,
    /// The fields behind the recording.
    trailing: FormFields,
    /// The provider that it is sent to, its name of the model, and what it does not know.
    provider: Option<String>,
    model: Option<String>,
    without: Extensions,
    /// Measures the recording as it passes.
    measurer: ReservedMeasurer,
    /// How long it plays, once all of it was read.
    pub(super) duration: AudioDuration,
    /// Bytes of the recording so far.
    pub size: u64,
    /// Why the upload could not be read. This takes precedence over what the model server replies to a part of it.
    pub failure: Option<Error>,
}

impl<'a> ForwardedUpload<'a> {
    /// Checks as much of the recording, which is for this model, as is known, and prepares a body of `leading` fields and
    /// the recording.
    ///
    /// # Errors
    /// 400 for an empty file or one whose length cannot be measured, as its start or, if it is in memory, all of it shows;
    /// 408 or 413 if it cannot be read.
    pub fn new(
        source: &'a mut dyn AudioSource,
        label: &FileLabel,
        leading: &[(String, String)],
        resolved: &'a ResolvedModel,
        map_trailing: MapTrailing<'a>,
    ) -> Result<ForwardedUpload<'a>> {
        let is_in_memory = source.whole().is_some();
        if let Some(whole) = source.whole() {
            let mut measurer = ReservedMeasurer { is_in_memory: true, ..ReservedMeasurer::default() };
            measurer.push(whole)?;
            measurer.finish().0.map_err(not_measurable)?;
        }
        let mut start = Vec::new();
        (&mut *source).take(PREFIX as u64).read_to_end(&mut start).map_err(|e| upload_error(&e))?;
        let measurer = measure_start(&start, is_in_memory)?;
        let boundary = format!("textgen-{}", crate::accounts::random(32)?);
        let mut buffer = Vec::with_capacity(start.len() + 1024);
        for (name, value) in leading {
            write_field(&mut buffer, &boundary, name, value);
        }
        let container = measurer.measurer.container();
        let (file_name, media_type) = (label.safe_name(container), label.safe_type(container));
        let head = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{file_name}\"\r\n\
             Content-Type: {media_type}\r\n\r\n"
        );
        buffer.extend_from_slice(head.as_bytes());
        buffer.extend_from_slice(&start);
        Ok(ForwardedUpload {
            source,
            resolved,
            map_trailing,
            boundary,
            buffer,
            sent: 0,
            is_file_complete: false,
            trailing: FormFields::new(),
            provider: None,
            model: None,
            without: Extensions::default(),
            measurer,
            duration: AudioDuration::default(),
            size: start.len() as u64,
            failure: None,
        })
    }

    /// The media type of the body.
    pub fn media_type(&self) -> String {
        format!("multipart/form-data; boundary={}", self.boundary)
    }

    /// Whether all of the upload was read.
    pub fn is_complete(&self) -> bool {
        self.is_file_complete && self.failure.is_none()
    }

    fn read_next(&mut self, out: &mut [u8]) -> Result<usize> {
        if self.sent < self.buffer.len() {
            let n = out.len().min(self.buffer.len() - self.sent);
            out[..n].copy_from_slice(&self.buffer[self.sent..self.sent + n]);
            self.sent += n;
            return Ok(n);
        }
        if self.is_file_complete {
            return Ok(0);
        }
        let n = self.source.read(out).map_err(|e| upload_error(&e))?;
        self.size += n as u64;
        if self.size > MAX_RECORDING {
            return Err(too_large());
        }
        self.measurer.push(&out[..n])?;
        if n > 0 || out.is_empty() {
            return Ok(n);
        }
        self.end_file()?;
        self.read_next(out)
    }

    fn end_file(&mut self) -> Result<()> {
        self.is_file_complete = true;
        let trailing = self.source.trailing_fields()?;
        self.trailing = (self.map_trailing)(trailing)?;
        let (measured, counted) = std::mem::take(&mut self.measurer).finish();
        self.duration = AudioDuration::of(measured, counted, self.size);
        worst_case::set_aside(self.resolved, || self.duration.longest().units(&Reported::default()))?;
        (self.buffer, self.sent) = (Vec::new(), 0);
        let provider = self.provider.as_deref().unwrap_or_default();
        let variant = Variant { provider, model: self.model.as_deref(), without: self.without };
        write_end(&mut self.buffer, &self.boundary, &self.trailing, &variant);
        Ok(())
    }

    /// Reads all of it, so that it can be sent several times.
    ///
    /// # Errors
    /// What is wrong with the upload.
    pub(super) fn buffered(&mut self) -> Result<BufferedUpload> {
        memory_budget::reserve(self.source.whole().map_or(0, <[u8]>::len))?;
        let mut bytes = Vec::new();
        if let Err(e) = self.read_to_end(&mut bytes) {
            return Err(self.failure.take().unwrap_or(Error::bad(e.to_string())));
        }
        // What is left in the buffer is what was read last: the end.
        let file_end = bytes.len() - self.buffer.len();
        let (boundary, trailing) = (self.boundary.clone(), std::mem::take(&mut self.trailing));
        Ok(BufferedUpload { bytes, file_end, boundary, trailing })
    }
}

/// A [`ForwardedUpload`] in memory.
pub(super) struct BufferedUpload {
    bytes: Vec<u8>,
    /// Where the recording ends in `bytes`.
    file_end: usize,
    boundary: String,
    trailing: FormFields,
}

impl Form for BufferedUpload {
    fn extensions(&self) -> Extensions {
        extensions(&self.trailing)
    }

    fn model(&self) -> String {
        let model = self.trailing.iter().rev().find(|(name, _)| name == "model");
        model.map(|(_, model)| model.clone()).unwrap_or_default()
    }

    fn to_bytes(&mut self, variant: &Variant<'_>) -> &[u8] {
        self.bytes.truncate(self.file_end);
        write_end(&mut self.bytes, &self.boundary, &self.trailing, variant);
        &self.bytes
    }
}

impl StreamedForm for ForwardedUpload<'_> {
    fn extensions(&self) -> Extensions {
        extensions(&self.trailing)
    }

    fn model(&self) -> String {
        self.resolved.requested_name().to_owned()
    }

    fn set_variant(&mut self, variant: &Variant<'_>) {
        self.provider = Some(variant.provider.to_owned());
        (self.model, self.without) = (variant.model.map(str::to_owned), variant.without);
    }
}

/// A measurer whose tables are reserved before they grow, for the request that this thread works on, and given back with
/// it.
#[derive(Default)]
struct ReservedMeasurer {
    measurer: Measurer,
    reserved: usize,
    /// Whether all of the recording is in memory, so that nobody expects this thread to wait.
    is_in_memory: bool,
}

impl ReservedMeasurer {
    /// Most bytes of the recording that memory is reserved for at a time.
    const STEP: usize = 4096;

    fn push(&mut self, bytes: &[u8]) -> Result<()> {
        for piece in bytes.chunks(Self::STEP) {
            let missing = self.measurer.wanted_memory(piece.len()).saturating_sub(self.reserved);
            if missing > 0 {
                match self.is_in_memory {
                    true => memory_budget::reserve(missing)?,
                    false => memory_budget::reserve_in_time(missing)?,
                }
                self.reserved += missing;
            }
            self.measurer.push(piece);
        }
        Ok(())
    }

    fn finish(mut self) -> (std::result::Result<Measured, NotMeasurable>, Duration) {
        let finished = std::mem::take(&mut self.measurer).finish_and_count();
        memory_budget::release(std::mem::take(&mut self.reserved));
        finished
    }
}

/// Begins to measure a recording by its first bytes; all of them, if they are fewer than [`PREFIX`].
fn measure_start(start: &[u8], is_in_memory: bool) -> Result<ReservedMeasurer> {
    if start.is_empty() {
        return Err(Error::bad("The audio file is empty"));
    }
    let begin = || {
        let mut measurer = Measurer::new();
        measurer.push(start);
        measurer
    };
    let failure = match start.len() < PREFIX {
        true => begin().finish().err(),
        false => begin().failure(),
    };
    match failure {
        Some(e) => Err(not_measurable(e)),
        None => Ok(ReservedMeasurer { measurer: begin(), is_in_memory, ..ReservedMeasurer::default() }),
    }
}

/// The refusal of a recording that cannot be measured.
fn not_measurable(e: NotMeasurable) -> Error {
    Error::bad(if e == NotMeasurable::OpaqueInMp4 { NOT_IN_MP4 } else { NOT_MEASURABLE })
}

impl Read for ForwardedUpload<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.failure.is_some() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.read_next(out).map_err(|e| {
            let text = e.to_string();
            self.failure = Some(e);
            io::Error::other(text)
        })
    }
}

/// Why an upload could not be read, in terms for the client.
pub(super) fn upload_error(e: &io::Error) -> Error {
    match e.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Error::RequestTimeout,
        io::ErrorKind::FileTooLarge => too_large(),
        // The messages of `Parts` are fit for the client; those of the operating system are not.
        io::ErrorKind::InvalidData if e.get_ref().is_some() => Error::bad(format!("The upload is malformed: {e}")),
        _ => Error::bad("The upload is incomplete or malformed"),
    }
}

fn too_large() -> Error {
    Error::TooLarge(usize::try_from(MAX_RECORDING).unwrap_or(usize::MAX))
}

fn extensions(fields: &FormFields) -> Extensions {
    let is_verbose = |(name, value): &(String, String)| name == "response_format" && value == "verbose_json";
    Extensions { verbose_json: fields.iter().any(is_verbose), ..Extensions::default() }
}

/// Writes what follows a recording.
fn write_end(to: &mut Vec<u8>, boundary: &str, fields: &FormFields, variant: &Variant<'_>) {
    to.extend_from_slice(b"\r\n");
    for (name, value) in fields {
        write_field(to, boundary, name, variant.field(name, value));
    }
    to.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
}

/// Writes a field of a multipart body.
pub(super) fn write_field(to: &mut Vec<u8>, boundary: &str, name: &str, value: &str) {
    // These characters would end the name early.
    let name: String = name.chars().filter(|c| !c.is_control() && *c != '"').collect();
    let field = format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
    to.extend_from_slice(field.as_bytes());
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::memory_budget::MemoryBudget;

    #[test]
    fn tables_of_mp4_are_reserved_until_they_are_measured() {
        let file = |count: u32| {
            let boxed = |name: &[u8], content: &[u8]| {
                [&u32::try_from(content.len() + 8).unwrap().to_be_bytes(), name, content].concat()
            };
            let runs = boxed(b"trun", &[0; 8]).repeat(count as usize);
            let moof = boxed(b"moof", &boxed(b"traf", &[boxed(b"tfhd", &[0; 8]), runs].concat()));
            let data = boxed(b"mdat", &[]).repeat(count as usize);
            [boxed(b"ftyp", b"M4A \0\0\0\0"), moof, data].concat()
        };
        std::thread::spawn(move || {
            let budget = Arc::new(MemoryBudget::new(1_000_000));
            memory_budget::install(Arc::clone(&budget));
            let mut measurer = ReservedMeasurer::default();
            assert!(measurer.push(&file(10_000)).is_ok());
            assert!(budget.used() >= 160_000, "{}", budget.used());
            let _ = measurer.finish();
            assert_eq!(budget.used(), 0);
            let mut measurer = ReservedMeasurer::default();
            assert!(matches!(measurer.push(&file(100_000)), Err(Error::Busy)));
            assert!(budget.used() <= 1_000_000);
        })
        .join()
        .unwrap();
    }
}
