//! `/playground`.

use askama::Template;

use super::{Frame, page, signed_in_or_return};
use crate::call::Call;
use crate::http::Response;
use crate::store::documents as store;
use crate::store::{Document, User};
use crate::web::{Answer, documents, fields};

/// Documents shown on the playground.
const SHOWN: i64 = 20;

#[derive(Template)]
#[template(path = "playground.html")]
struct Playground {
    frame: Frame,
    user: User,
    documents: Vec<Document>,
}

/// `GET /playground`.
pub(in crate::web) fn show(call: &mut Call<'_>) -> Answer {
    let caller = signed_in_or_return!(call);
    let user = caller.user.clone();
    let documents = store::page(&mut call.app.db.session()?, &user.id, None, SHOWN, false, i64::MAX)?;
    page(200, &Playground { frame: Frame::new(Some(&caller), "playground"), user, documents })
}

/// `POST /playground`: writes a document.
pub(in crate::web) fn write_document(call: &mut Call<'_>) -> Answer {
    let caller = call.caller()?;
    let fields = fields(call)?;
    let title = documents::checked_title(fields.text("title")?)?;
    let content = documents::checked_content(fields.text("content")?)?;
    documents::insert(call, &caller.user.id, title, Some(content))?;
    Ok(Response::see_other("/playground"))
}
