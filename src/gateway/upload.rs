//! Recordings in multipart bodies, read piece by piece while they are uploaded.

use std::io::{self, Read};

use crate::error::{Error, Result};
use crate::http::multipart;
use crate::http::parts::Parts;
use crate::http::{Body, Request};
use crate::memory_budget;

use super::body::{check_field, check_names};
use super::digest::RequestDigest;
use super::file_label::FileLabel;
use super::forward::{AudioSource, FormFields, upload_error};

/// Most bytes of a field beside the file.
const MAX_FIELD: u64 = 64 * 1024;
/// Most fields before the file, and most behind it.
const MAX_FIELDS: usize = 100;
/// Most bytes of a recording that is kept in memory until a field behind it is known: as much as OpenAI takes.
const MAX_HELD: usize = 25 * 1024 * 1024;
/// What is said of fields beyond that.
const TOO_MUCH: &str = "The fields of the multipart body are too many or too long";
/// How much of one is read at a time.
const HELD_STEP: usize = 1024 * 1024;

/// The recording in a client's multipart body.
pub struct Upload<'a> {
    parts: DigestedSource<'a, Parts<&'a mut Body>>,
    file_field: &'static str,
    /// The names of the fields so far.
    names: Vec<String>,
}

/// What a body holds before the content of its file.
pub struct FileHead {
    /// The fields before the file.
    pub fields: FormFields,
    /// What the client says of the file; `None` if there is none.
    pub file: Option<FileLabel>,
}

impl<'a> Upload<'a> {
    /// Reads a request's body up to the content of the file in the field `file_field`. `digest` covers all fields and
    /// the file, as they are read.
    ///
    /// # Errors
    /// 400 for a body that is not valid multipart, 408 for one that does not arrive in time.
    pub fn open(
        request: &'a mut Request,
        file_field: &'static str,
        digest: &'a mut RequestDigest,
    ) -> Result<(Upload<'a>, FileHead)> {
        if request.media_type() != "multipart/form-data" {
            return Err(Error::bad("The body must be multipart/form-data"));
        }
        let boundary = request.header("content-type").and_then(multipart::boundary);
        let boundary = boundary.ok_or(Error::bad("The multipart body has no boundary"))?;
        let parts = DigestedSource::new(Parts::new(&mut request.body, &boundary), digest);
        let mut upload = Upload { parts, file_field, names: Vec::new() };
        let (fields, file) = upload.fields()?;
        Ok((upload, FileHead { fields, file }))
    }

    /// The fields up to the next file or to the end of the body.
    fn fields(&mut self) -> Result<(FormFields, Option<FileLabel>)> {
        let Upload { parts: DigestedSource { source: parts, digest, .. }, file_field, names } = self;
        let mut fields = FormFields::new();
        while let Some(head) = parts.next_part().map_err(|e| upload_error(&e))? {
            digest.add(head.name.as_bytes());
            check_part_name(&head.name)?;
            if head.name == *file_field {
                let label = FileLabel { name: head.file_name.unwrap_or_default(), media_type: head.media_type };
                digest.add(label.name.as_bytes());
                return Ok((fields, Some(label)));
            }
            if head.file_name.is_some() {
                return Err(not_one_file(file_field));
            }
            if fields.len() >= MAX_FIELDS {
                return Err(Error::bad(TOO_MUCH));
            }
            let value = field(parts, &head.name)?;
            digest.add(value.as_bytes());
            check_once(&head.name, names)?;
            names.push(head.name.clone());
            fields.push((head.name, value));
        }
        Ok((fields, None))
    }

    fn read_all(&mut self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes).map_err(|e| upload_error(&e))?;
        Ok(bytes)
    }

    /// All of the recording, since `field` comes behind it.
    fn hold(&mut self, field: &str) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        loop {
            if bytes.len() >= MAX_HELD {
                let most = MAX_HELD / 1024 / 1024;
                return Err(Error::bad(format!("Above {most} MiB, the field {field} must come before the file")));
            }
            memory_budget::reserve_in_time(HELD_STEP)?;
            bytes.reserve_exact(HELD_STEP);
            let read = self.take(HELD_STEP as u64).read_to_end(&mut bytes).map_err(|e| upload_error(&e))?;
            if read < HELD_STEP {
                return Ok(bytes);
            }
        }
    }
}

/// Checks that no model server could read the name of a part as another one.
pub(super) fn check_part_name(name: &str) -> Result<()> {
    match name.chars().any(|c| c.is_control() || matches!(c, '"' | '\\')) {
        true => Err(Error::bad("The multipart body has a field whose name cannot be passed on")),
        false => Ok(()),
    }
}

/// Checks that a part is not there `before`, but for those of lists, whose names end like this.
pub(super) fn check_once(name: &str, before: &[String]) -> Result<()> {
    match !name.ends_with("[]") && before.iter().any(|other| other == name) {
        true => Err(Error::bad("The multipart body has a field twice")),
        false => Ok(()),
    }
}

/// Reads a field that is no file, and checks that it chooses no price.
pub(super) fn field(parts: &mut impl Read, name: &str) -> Result<String> {
    let mut value = String::new();
    let length = parts.take(MAX_FIELD + 1).read_to_string(&mut value).map_err(|e| upload_error(&e))?;
    if length as u64 > MAX_FIELD {
        return Err(Error::bad(TOO_MUCH));
    }
    check_names([name])?;
    check_field(name, || Some(value.clone()))?;
    Ok(value)
}

fn not_one_file(field: &str) -> Error {
    Error::bad(format!("There must be one file, in the field {field}"))
}

impl Read for Upload<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.parts.read(out)
    }
}

impl AudioSource for Upload<'_> {
    fn trailing_fields(&mut self) -> Result<FormFields> {
        match self.fields()? {
            (fields, None) => Ok(fields),
            (_, Some(_)) => Err(not_one_file(self.file_field)),
        }
    }
}

/// An upload whose body was read up to its recording, or to its end if that is in memory already or a field is needed
/// first. So in a small upload, fields behind the file are known as early as those before it.
pub struct ReceivedUpload<'a> {
    /// The recording.
    pub source: RecordingSource<'a>,
    /// What the client says of the file; `None` if there is none.
    pub file: Option<FileLabel>,
    /// The fields that are known.
    pub fields: FormFields,
    /// Whether all of the body is in memory.
    pub is_buffered: bool,
}

/// The recording of a [`ReceivedUpload`], and the fields behind it that are not known yet.
pub enum RecordingSource<'a> {
    /// It is being received.
    Streamed(Box<Upload<'a>>),
    /// All of it was received.
    Buffered(io::Cursor<Vec<u8>>),
}

impl<'a> ReceivedUpload<'a> {
    /// As [`Upload::open`]. If the field `needed` does not come before the file, all of the upload is read, to know it.
    ///
    /// # Errors
    /// As there; 400 if it is too large for that, 503 if too many are.
    pub fn open(
        request: &'a mut Request,
        file_field: &'static str,
        needed: Option<&str>,
        digest: &'a mut RequestDigest,
    ) -> Result<ReceivedUpload<'a>> {
        let is_buffered = request.body.is_buffered();
        let (mut upload, FileHead { mut fields, file }) = Upload::open(request, file_field, digest)?;
        let missing = needed.filter(|needed| !is_buffered && !fields.iter().any(|(name, _)| name == needed));
        let source = if file.is_some() && (is_buffered || missing.is_some()) {
            let bytes = match missing {
                Some(field) => upload.hold(field)?,
                None => upload.read_all()?,
            };
            fields.append(&mut upload.trailing_fields()?);
            RecordingSource::Buffered(io::Cursor::new(bytes))
        } else {
            RecordingSource::Streamed(Box::new(upload))
        };
        Ok(ReceivedUpload { source, file, fields, is_buffered })
    }

    /// The last value of a field, among those that are known.
    pub fn field(&self, name: &str) -> Option<&str> {
        last_value(&self.fields, name)
    }
}

impl Read for RecordingSource<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            RecordingSource::Streamed(upload) => upload.read(out),
            RecordingSource::Buffered(bytes) => bytes.read(out),
        }
    }
}

impl AudioSource for RecordingSource<'_> {
    fn trailing_fields(&mut self) -> Result<FormFields> {
        match self {
            RecordingSource::Streamed(upload) => upload.trailing_fields(),
            RecordingSource::Buffered(..) => Ok(FormFields::new()),
        }
    }

    fn whole(&self) -> Option<&[u8]> {
        match self {
            RecordingSource::Streamed(_) => None,
            RecordingSource::Buffered(bytes) => Some(bytes.get_ref()),
        }
    }
}

/// The last value of a field.
pub fn last_value<'f>(fields: &'f FormFields, name: &str) -> Option<&'f str> {
    fields.iter().rev().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
}

/// A recording whose bytes are added to the digest of a request as they are read.
pub struct DigestedSource<'a, R> {
    source: R,
    digest: &'a mut RequestDigest,
    is_complete: bool,
}

impl<'a, R: Read> DigestedSource<'a, R> {
    /// Reads from `source`.
    pub fn new(source: R, digest: &'a mut RequestDigest) -> DigestedSource<'a, R> {
        DigestedSource { source, digest, is_complete: false }
    }
}

impl<R: Read> Read for DigestedSource<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.source.read(out)?;
        self.digest.add_recording(&out[..n]);
        if n == 0 && !out.is_empty() && !std::mem::replace(&mut self.is_complete, true) {
            self.digest.end_recording();
        }
        Ok(n)
    }
}
