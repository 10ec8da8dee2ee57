//! Recordings on their way from a client to a model server, of which no more than a piece is in memory.

use std::io::{self, Read};

use crate::error::{Error, Result};
use crate::http::multipart;
use crate::http::parts::Parts;
use crate::http::{Body, Request};

use super::sniff;
use super::{Bill, LARGEST_AUDIO};

/// Most bytes of a field beside the file.
const LARGEST_FIELD: u64 = 64 * 1024;
/// Most fields.
const MOST_FIELDS: usize = 100;

/// Names and values.
pub type Fields = Vec<(String, String)>;

/// A recording, and the fields that come with it: some before it and some, maybe, behind it.
pub trait Recording: Read {
    /// The fields behind the recording, once that was read.
    ///
    /// # Errors
    /// 400 and the like: what is wrong with them.
    fn fields_behind(&mut self) -> Result<Fields>;
}

/// A recording in a client's multipart body.
pub struct Upload<'a> {
    parts: Parts<&'a mut Body>,
    file_field: &'static str,
}

/// What there was in a body before the content of its file.
pub struct Before {
    /// The fields.
    pub fields: Fields,
    /// The file's name, fit to be passed on; `None` if there is no file.
    pub file_name: Option<String>,
}

impl<'a> Upload<'a> {
    /// Reads a request's body up to its file.
    ///
    /// # Errors
    /// 400 for what is no multipart body.
    pub fn open(request: &'a mut Request, file_field: &'static str) -> Result<(Upload<'a>, Before)> {
        if request.media_type() != "multipart/form-data" {
            return Err(Error::bad("The body must be multipart/form-data"));
        }
        let boundary = request.header("content-type").and_then(multipart::boundary);
        let boundary = boundary.ok_or(Error::bad("The multipart body has no boundary"))?;
        let mut upload = Upload { parts: Parts::new(&mut request.body, &boundary), file_field };
        let (fields, file_name) = upload.fields()?;
        Ok((upload, Before { fields, file_name }))
    }

    /// The fields up to the next file or the end.
    fn fields(&mut self) -> Result<(Fields, Option<String>)> {
        let mut fields = Fields::new();
        while let Some(head) = self.parts.next_part().map_err(|e| broken(&e))? {
            if head.name == self.file_field {
                return Ok((fields, Some(plain_name(head.file_name.as_deref().unwrap_or("")))));
            }
            if head.file_name.is_some() {
                return Err(Error::bad(format!("There must be one file, in the field {}", self.file_field)));
            }
            let mut value = String::new();
            let limit = (&mut self.parts).take(LARGEST_FIELD + 1).read_to_string(&mut value).map_err(|e| broken(&e))?;
            if limit as u64 > LARGEST_FIELD || fields.len() >= MOST_FIELDS {
                return Err(Error::bad("The fields of the multipart body are too many or too long"));
            }
            fields.push((head.name, value));
        }
        Ok((fields, None))
    }
}

impl Read for Upload<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.parts.read(out)
    }
}

impl Recording for Upload<'_> {
    fn fields_behind(&mut self) -> Result<Fields> {
        match self.fields()? {
            (fields, None) => Ok(fields),
            (_, Some(_)) => Err(Error::bad(format!("There must be one file, in the field {}", self.file_field))),
        }
    }
}

/// A name keeps its letters, digits and dots: servers look at its ending.
fn plain_name(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).next().unwrap_or("");
    let plain: String = last.chars().filter(|c| c.is_ascii_alphanumeric() || "._-".contains(*c)).collect();
    let from = plain.len().saturating_sub(100);
    if plain.is_empty() { "audio".to_owned() } else { plain[from..].to_owned() }
}

/// Why a body could not be read, for the client.
fn broken(e: &io::Error) -> Error {
    match e.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Error::Timeout,
        io::ErrorKind::FileTooLarge => Error::TooLarge(usize::try_from(LARGEST_AUDIO).unwrap_or(usize::MAX)),
        // The words of `Parts` are fit for the client; those of the system are not.
        io::ErrorKind::InvalidData if e.get_ref().is_some() => Error::bad(format!("The upload is malformed: {e}")),
        _ => Error::bad("The upload is incomplete or malformed"),
    }
}

/// What decides on the fields that go to the model server behind the recording, once all are known.
pub type Decide<'a> = Box<dyn FnMut(Fields) -> Result<Fields> + 'a>;

/// A recording as it goes to the model server: a multipart body that is made while it is read.
pub struct Outbound<'a> {
    recording: &'a mut dyn Recording,
    bill: Option<&'a mut Bill>,
    decide: Decide<'a>,
    boundary: String,
    ready: Vec<u8>,
    sent: usize,
    is_file_over: bool,
    /// The first bytes of the file.
    pub start: Vec<u8>,
    /// Bytes of the file so far.
    pub size: u64,
    /// Why it could not be read: the client's fault, whatever the model server says to half of it.
    pub failure: Option<Error>,
}

impl<'a> Outbound<'a> {
    /// Looks at the first bytes of the recording and prepares the body. A `bill` takes note of all that is sent.
    ///
    /// # Errors
    /// 400 for an empty file or one that is no audio file.
    pub fn new(
        recording: &'a mut dyn Recording,
        bill: Option<&'a mut Bill>,
        file_name: &str,
        before: &[(String, String)],
        decide: Decide<'a>,
    ) -> Result<Outbound<'a>> {
        let mut start = Vec::new();
        (&mut *recording).take(sniff::LOOK as u64).read_to_end(&mut start).map_err(|e| broken(&e))?;
        sniff::check(&start)?;
        let boundary = format!("textgen-{}", crate::accounts::random(32)?);
        let mut ready = Vec::with_capacity(start.len() + 1024);
        for (name, value) in before {
            write_field(&mut ready, &boundary, name, value);
        }
        let head = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{file_name}\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n"
        );
        ready.extend_from_slice(head.as_bytes());
        ready.extend_from_slice(&start);
        let size = start.len() as u64;
        let (sent, is_file_over, failure) = (0, false, None);
        let noted = start.clone();
        let mut made = Outbound { recording, bill, decide, boundary, ready, sent, is_file_over, start, size, failure };
        for (name, value) in before {
            made.note_field(name, value);
        }
        made.note(&noted);
        Ok(made)
    }

    fn note(&mut self, bytes: &[u8]) {
        if let Some(bill) = &mut self.bill {
            bill.note(bytes);
        }
    }

    fn note_field(&mut self, name: &str, value: &str) {
        self.note(name.as_bytes());
        self.note(value.as_bytes());
    }

    /// The media type of the body.
    pub fn media_type(&self) -> String {
        format!("multipart/form-data; boundary={}", self.boundary)
    }

    fn piece(&mut self, out: &mut [u8]) -> Result<usize> {
        if self.sent < self.ready.len() {
            let n = out.len().min(self.ready.len() - self.sent);
            out[..n].copy_from_slice(&self.ready[self.sent..self.sent + n]);
            self.sent += n;
            return Ok(n);
        }
        if self.is_file_over {
            return Ok(0);
        }
        let n = self.recording.read(out).map_err(|e| broken(&e))?;
        self.size += n as u64;
        self.note(&out[..n]);
        if self.size > LARGEST_AUDIO {
            return Err(Error::TooLarge(usize::try_from(LARGEST_AUDIO).unwrap_or(usize::MAX)));
        }
        if n > 0 {
            return Ok(n);
        }
        self.end()?;
        self.piece(out)
    }

    fn end(&mut self) -> Result<()> {
        self.is_file_over = true;
        let behind = self.recording.fields_behind()?;
        (self.ready, self.sent) = (b"\r\n".to_vec(), 0);
        for (name, value) in (self.decide)(behind)? {
            self.note_field(&name, &value);
            write_field(&mut self.ready, &self.boundary, &name, &value);
        }
        self.ready.extend_from_slice(format!("--{}--\r\n", self.boundary).as_bytes());
        Ok(())
    }
}

impl Read for Outbound<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.failure.is_some() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.piece(out).map_err(|e| {
            let text = e.to_string();
            self.failure = Some(e);
            io::Error::other(text)
        })
    }
}

fn write_field(to: &mut Vec<u8>, boundary: &str, name: &str, value: &str) {
    // What would end the name early is no part of a name.
    let name: String = name.chars().filter(|c| !c.is_control() && *c != '"').collect();
    let field = format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
    to.extend_from_slice(field.as_bytes());
}
