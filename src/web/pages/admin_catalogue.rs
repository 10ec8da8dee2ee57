//! `/admin/models/file`: the whole catalogue as its file.

use askama::Template;

use super::admin_models::typed;
use super::{Frame, Problem, page};
use crate::auth::Caller;
use crate::call::Call;
use crate::catalogue::{self, ApplyError, CatalogueFile, Sealer};
use crate::error::{Error, Result};
use crate::http::Response;
use crate::web::{Answer, actor, fields};

/// The longest file that is edited on a page, in bytes: a form encodes it, and must not be larger than a form may be.
const LONGEST: usize = 256 * 1024;

#[derive(Template)]
#[template(path = "admin_catalogue.html")]
struct CataloguePage {
    frame: Frame,
    /// `None` if it is too long.
    file: Option<String>,
    /// What the file was made from.
    version: String,
    problem: Option<Problem>,
}

/// `GET /admin/models/file`.
pub(in crate::web) fn show(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let file = catalogue::export(&mut call.app.db.session()?)?.to_toml().map_err(Error::Internal)?;
    let version = catalogue::version(&file);
    render(caller, Some(file).filter(|file| file.len() <= LONGEST), version, None)
}

fn render(caller: &Caller, file: Option<String>, version: String, problem: Option<Problem>) -> Answer {
    let frame = Frame::new(Some(caller), "admin");
    let catalogue_page = CataloguePage { frame, file, version, problem };
    page(catalogue_page.problem.as_ref().map_or(200, |problem| problem.status), &catalogue_page)
}

/// `POST /admin/models/file` with the `file` and its `version`.
pub(in crate::web) fn apply(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let fields = fields(call)?;
    let (file, version) = (fields.text("file")?.to_owned(), typed(&fields, "version"));
    match apply_for(call, caller, &file, &version) {
        Ok(()) => Ok(Response::see_other("/admin/models?done=file")),
        Err(e) => render(caller, Some(file), version, Some(Problem::of("file", e)?)),
    }
}

fn apply_for(call: &Call<'_>, caller: &Caller, file: &str, version: &str) -> Result<()> {
    let file = CatalogueFile::parse(file).map_err(Error::bad)?;
    let address = call.client().to_string();
    let sealer = || Sealer::new(call.app.config.encryption_key.as_ref());
    let mut session = call.app.db.session()?;
    let applied = catalogue::apply(&mut session, file, Some(version), sealer, actor(caller, &address));
    applied.map(drop).map_err(|e| match e {
        ApplyError::Invalid(problems) => Error::bad(problems),
        ApplyError::Outdated => Error::bad(e.to_string()),
        ApplyError::Database(e) => e.into(),
    })
}
