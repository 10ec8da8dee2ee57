//! Multipart bodies with images: read from a client, and composed anew for a model server.

use std::io::Read;

use crate::engine::{Extensions, Form, Variant};
use crate::error::{Error, Result};
use crate::http::multipart;
use crate::http::object::Object;
use crate::http::parts::Parts;
use crate::memory_budget;

use super::forward::{upload_error, write_field};
use super::upload;

/// Most bytes of such a body.
pub const MAX_IMAGE_FORM: usize = 50 * 1024 * 1024;

/// Most parts of a body.
const MAX_PARTS: usize = 100;
/// Most bytes that a part has around its content when it is sent.
const PART_HEAD: usize = 512;

/// Bytes by which images are told apart.
const LONGEST_SIGNATURE: usize = 12;

/// The names of the parts that are images.
const IMAGES: [&str; 3] = ["image", "image[]", "mask"];

/// A form with images, as it is sent to a model server.
pub struct ImageForm {
    /// All parts but the model's name, which comes last.
    bytes: Vec<u8>,
    parts_end: usize,
    boundary: String,
    model: String,
}

/// What a form says beside its images.
#[derive(Default)]
pub struct ImageFields {
    /// The fields that decide what it costs, as they would stand in JSON: `prompt`, `n` and `stream`.
    pub charged: Object<'static>,
    /// The model that it names.
    pub model: Option<String>,
    /// How many images it has, masks included.
    pub images: usize,
}

impl ImageForm {
    /// Reads a body of this media type.
    ///
    /// # Errors
    /// 400: what is wrong with it. 503: there is no memory to compose it anew.
    pub fn read(content_type: &str, body: &[u8]) -> Result<(ImageForm, ImageFields)> {
        let boundary = multipart::boundary(content_type).ok_or(Error::bad("The multipart body has no boundary"))?;
        memory_budget::reserve_in_time(body.len() + MAX_PARTS * PART_HEAD)?;
        let mut parts = Parts::new(body, &boundary);
        let boundary = format!("textgen-{}", crate::accounts::random(32)?);
        let mut form = ImageForm {
            bytes: Vec::with_capacity(body.len() + PART_HEAD),
            parts_end: 0,
            boundary,
            model: String::new(),
        };
        let (mut fields, mut names) = (ImageFields::default(), Vec::new());
        while let Some(head) = parts.next_part().map_err(|e| upload_error(&e))? {
            let name = head.name;
            if names.len() >= MAX_PARTS {
                return Err(Error::bad("The multipart body has too many parts"));
            }
            upload::check_part_name(&name)?;
            upload::check_once(&name, &names)?;
            if IMAGES.contains(&name.as_str()) {
                form.add_image(&name, &mut parts)?;
                fields.images += 1;
            } else if head.file_name.is_some() {
                return Err(Error::bad("Images must be in the fields image, image[] and mask"));
            } else {
                let value = upload::field(&mut parts, &name)?;
                form.add_field(&name, value, &mut fields);
            }
            names.push(name);
        }
        form.parts_end = form.bytes.len();
        Ok((form, fields))
    }

    fn add_image(&mut self, name: &str, parts: &mut Parts<&[u8]>) -> Result<()> {
        let mut start = Vec::with_capacity(LONGEST_SIGNATURE);
        parts.take(LONGEST_SIGNATURE as u64).read_to_end(&mut start).map_err(|e| upload_error(&e))?;
        let (media_type, extension) = kind(&start).ok_or(Error::bad(format!("{name} must be a PNG, JPEG or WebP")))?;
        let head = format!(
            "--{}\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"{}.{extension}\"\r\n\
             Content-Type: {media_type}\r\n\r\n",
            self.boundary,
            name.trim_end_matches("[]"),
        );
        self.bytes.extend_from_slice(head.as_bytes());
        self.bytes.extend_from_slice(&start);
        parts.read_to_end(&mut self.bytes).map_err(|e| upload_error(&e))?;
        self.bytes.extend_from_slice(b"\r\n");
        Ok(())
    }

    fn add_field(&mut self, name: &str, value: String, fields: &mut ImageFields) {
        match name {
            "model" => {
                fields.model = Some(value).filter(|name| !name.is_empty());
                return;
            }
            "prompt" => fields.charged.set("prompt", &value),
            // What is no number or truth value is refused where the field is checked.
            "n" => match value.parse::<u64>() {
                Ok(n) => fields.charged.set("n", &n),
                Err(_) => fields.charged.set("n", &value),
            },
            "stream" => match value.parse::<bool>() {
                Ok(stream) => fields.charged.set("stream", &stream),
                Err(_) => fields.charged.set("stream", &value),
            },
            _ => {}
        }
        write_field(&mut self.bytes, &self.boundary, name, &value);
    }

    /// Names the model that it is for.
    pub fn set_model(&mut self, name: &str) {
        name.clone_into(&mut self.model);
    }

    /// The media type of the body.
    pub fn media_type(&self) -> String {
        format!("multipart/form-data; boundary={}", self.boundary)
    }
}

impl Form for ImageForm {
    fn extensions(&self) -> Extensions {
        Extensions::default()
    }

    fn model(&self) -> String {
        self.model.clone()
    }

    fn to_bytes(&mut self, variant: &Variant<'_>) -> &[u8] {
        self.bytes.truncate(self.parts_end);
        let model = variant.model.unwrap_or(&self.model);
        write_field(&mut self.bytes, &self.boundary, "model", model);
        self.bytes.extend_from_slice(format!("--{}--\r\n", self.boundary).as_bytes());
        &self.bytes
    }
}

/// The media type and the extension of an image, by how it begins.
fn kind(image: &[u8]) -> Option<(&'static str, &'static str)> {
    match image {
        [0x89, b'P', b'N', b'G', ..] => Some(("image/png", "png")),
        [0xff, 0xd8, 0xff, ..] => Some(("image/jpeg", "jpg")),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(("image/webp", "webp")),
        _ => None,
    }
}
