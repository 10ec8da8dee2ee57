//! Notes how far an upload has come that is read while it is sent.

use std::cell::Cell;
use std::io::{self, Read};
use std::time::{Duration, Instant};

use super::request::{Extensions, StreamedForm, Variant};
use super::transport;

/// How far an upload has come.
#[derive(Default)]
pub(super) struct UploadProgress {
    /// Something of it was read, so that it cannot be sent again.
    pub(super) is_touched: Cell<bool>,
    /// It could not be read.
    pub(super) is_broken: Cell<bool>,
    /// When its end was read.
    pub(super) ended_at: Cell<Option<Instant>>,
    /// How long the call may take from then on.
    pub(super) total: Cell<Duration>,
}

impl UploadProgress {
    /// Whether it is being read: what goes wrong now may be the doing of its sender.
    pub(super) fn is_under_way(&self) -> bool {
        self.is_touched.get() && self.ended_at.get().is_none()
    }
}

/// A form whose reading is noted.
pub(super) struct TrackedForm<'a, 'f> {
    pub(super) form: &'a mut (dyn StreamedForm + 'f),
    pub(super) progress: &'a UploadProgress,
}

impl StreamedForm for TrackedForm<'_, '_> {
    fn extensions(&self) -> Extensions {
        self.form.extensions()
    }

    fn model(&self) -> String {
        self.form.model()
    }

    fn set_variant(&mut self, variant: &Variant<'_>) {
        self.form.set_variant(variant);
    }
}

impl Read for TrackedForm<'_, '_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let progress = self.progress;
        progress.is_touched.set(true);
        let read = self.form.read(out);
        match &read {
            Ok(0) if !out.is_empty() => {
                let now = Instant::now();
                progress.ended_at.set(Some(now));
                transport::set_deadline(now.checked_add(progress.total.get()));
            }
            Ok(_) => {}
            Err(_) => progress.is_broken.set(true),
        }
        read
    }
}
