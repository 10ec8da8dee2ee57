//! `/account/two-factor`: setting up an authenticator app, recovery codes, and turning it off.

use askama::Template;

use super::{Frame, Problem, encoded, page, show};
use crate::auth::Caller;
use crate::call::Call;
use crate::error::{Error, Result};
use crate::http::Response;
use crate::http::form::Fields;
use crate::store::second_factors::{self, State};
use crate::web::two_factor::{self as handlers, Enrolment};
use crate::web::{Answer, fields};

/// The path of this page.
const PATH: &str = "/account/two-factor";

/// The notice for each `done` in the query.
const NOTICES: &[(&str, &str)] = &[("off", "Two-factor authentication is off.")];

#[derive(Template)]
#[template(path = "two_factor.html")]
struct TwoFactor {
    frame: Frame,
    email: String,
    state: State,
    enrolment: Option<Enrolment>,
    /// New recovery codes, which are shown only once.
    codes: Vec<String>,
    problem: Option<Problem>,
    /// Whether the account is an administrator's, which must have it here.
    is_demanded: bool,
}

impl TwoFactor {
    /// The message for this form, if it is the one that was refused.
    fn problem_with(&self, form: &str) -> Option<&str> {
        self.problem.as_ref().filter(|problem| problem.form == form).map(|problem| problem.message.as_str())
    }

    /// The recovery codes as a file.
    fn file(&self) -> String {
        let text = format!("textgen recovery codes of {}\n\n{}\n", self.email, self.codes.join("\n"));
        format!("data:text/plain;charset=utf-8,{}", encoded(&text))
    }

    /// The secret in groups, which are easier to type.
    fn groups(enrolment: &Enrolment) -> String {
        let characters: Vec<char> = enrolment.secret.chars().collect();
        characters.chunks(4).map(|group| group.iter().collect::<String>()).collect::<Vec<_>>().join(" ")
    }
}

/// `GET /account/two-factor`.
pub(in crate::web) fn show(call: &mut Call<'_>, caller: &Caller) -> Answer {
    render(call, caller, Vec::new(), None)
}

fn render(call: &Call<'_>, caller: &Caller, codes: Vec<String>, problem: Option<Problem>) -> Answer {
    let mut session = call.app.db.session()?;
    let state = second_factors::state(&mut session, &caller.user.id)?;
    let enrolment = handlers::pending(call, &mut session, caller)?;
    drop(session);
    let status = problem.as_ref().map_or(200, |problem| problem.status);
    let is_demanded = call.app.config.log_in.admin_2fa && caller.user.is_admin;
    let frame = Frame::new(Some(caller), "account").with_notice(call, NOTICES);
    let email = caller.user.email.clone();
    page(status, &TwoFactor { frame, email, state, enrolment, codes, problem, is_demanded })
}

/// Handles a form: what `work` makes is the reply, or the page is shown again with the problem.
fn handle(
    call: &mut Call<'_>,
    caller: &Caller,
    form: &'static str,
    work: impl FnOnce(&Call<'_>, &Caller, &Fields) -> Result<Vec<String>>,
    done: &str,
) -> Answer {
    let fields = fields(call)?;
    match work(call, caller, &fields) {
        Ok(codes) if codes.is_empty() => Ok(Response::see_other(format!("{PATH}{done}"))),
        Ok(codes) => render(call, caller, codes, None),
        Err(e @ (Error::InvalidCode | Error::CodeRequired)) => {
            render(call, caller, Vec::new(), Some(Problem::shown(form, &e)))
        }
        Err(Error::InvalidCredentials) => {
            let e = Error::bad("The password is incorrect");
            render(call, caller, Vec::new(), Some(Problem::shown(form, &e)))
        }
        Err(e) => render(call, caller, Vec::new(), Some(Problem::of(form, e)?)),
    }
}

/// `POST /account/two-factor/begin` with `password`.
pub(in crate::web) fn begin(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let work = |call: &Call<'_>, caller: &Caller, fields: &Fields| {
        handlers::begin_for(call, caller, Some(fields.text("password")?))?;
        Ok(Vec::new())
    };
    handle(call, caller, "begin", work, "")
}

/// `POST /account/two-factor/confirm` with `totp`: the reply shows the recovery codes.
pub(in crate::web) fn confirm(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let work =
        |call: &Call<'_>, caller: &Caller, fields: &Fields| handlers::confirm_for(call, caller, fields.text("totp")?);
    handle(call, caller, "confirm", work, "")
}

/// `POST /account/two-factor/codes` with `totp`: the reply shows the new recovery codes.
pub(in crate::web) fn renew_codes(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let work = |call: &Call<'_>, caller: &Caller, fields: &Fields| {
        handlers::renew_codes_for(call, caller, fields.text("totp")?)
    };
    handle(call, caller, "codes", work, "")
}

/// `POST /account/two-factor/disable` with `totp`.
pub(in crate::web) fn disable(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let work = |call: &Call<'_>, caller: &Caller, fields: &Fields| {
        handlers::disable_for(call, caller, fields.text("totp")?)?;
        Ok(Vec::new())
    };
    handle(call, caller, "disable", work, "?done=off")
}
