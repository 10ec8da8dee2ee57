//! The search of an account's documents, whose cost is bounded however many there are and however long they are.
//!
//! Documents are looked at in small pieces, newest first, and a connection is held for one piece at a time, so that other
//! requests get theirs in between. A search that has used its time shows what it has found, and goes on from there when
//! the next page is asked for.

use std::time::{Duration, Instant};

use crate::app::App;
use crate::blocking;
use crate::error::Result;
use crate::store::documents::{self as store, After, DocumentSummary};
use crate::web::cursor;

/// How long a search may take; the piece that exceeds it is its last.
const LONGEST: Duration = Duration::from_secs(1);

/// Documents of the first piece, and of the largest one.
const PIECE: (usize, usize) = (8, 512);

/// The longest text that is searched for, in characters. The database compares it with each place of a document.
pub(super) const LONGEST_TEXT: usize = 200;

/// Pieces that take less time than this are made larger.
const QUICK: Duration = Duration::from_millis(50);

/// A page of what was found.
pub(super) struct Found {
    /// Newest first.
    pub(super) documents: Vec<DocumentSummary>,
    /// Where the next page begins, unless everything was looked at. There may be nothing on it.
    pub(super) next: Option<String>,
}

/// The user's documents that match `text`, at most `most`: all that there are if it is empty.
///
/// # Errors
/// 429 or 503 if too many searches are running. Those of the database.
pub(super) fn page(app: &App, user_id: &str, text: &str, after: Option<After<'_>>, most: usize) -> Result<Found> {
    if text.is_empty() {
        return Search { app, user_id, text, most }.run(after, most + 1);
    }
    let _place = app.searches.enter(blocking::party())?;
    Search { app, user_id, text, most }.run(after, PIECE.0)
}

struct Search<'a> {
    app: &'a App,
    user_id: &'a str,
    text: &'a str,
    most: usize,
}

impl Search<'_> {
    fn run(&self, after: Option<After<'_>>, mut piece: usize) -> Result<Found> {
        let began = Instant::now();
        let (mut documents, mut last) = (Vec::new(), after.map(|(time, id)| (time, id.to_owned())));
        loop {
            let started = Instant::now();
            let position = last.as_ref().map(|(time, id)| (*time, id.as_str()));
            let mut session = self.app.db.session()?;
            let looked_at =
                store::search(&mut session, self.user_id, self.text, position, i64::try_from(piece).unwrap_or(1))?;
            drop(session);
            let is_end = looked_at.len() < piece;
            for document in looked_at {
                if document.summary.is_some() && documents.len() == self.most {
                    return Ok(Found { documents, next: written(last) });
                }
                documents.extend(document.summary);
                last = Some((document.created, document.id));
            }
            if is_end {
                return Ok(Found { documents, next: None });
            }
            if began.elapsed() >= LONGEST {
                return Ok(Found { documents, next: written(last) });
            }
            if started.elapsed() < QUICK {
                piece = (piece * 2).min(PIECE.1);
            }
        }
    }
}

fn written(last: Option<(time::OffsetDateTime, String)>) -> Option<String> {
    last.map(|(time, id)| cursor::write(time, &id))
}
