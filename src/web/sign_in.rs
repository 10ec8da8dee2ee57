//! Signing up, in and out.

use std::time::Instant;

use serde_json::json;

use super::new_session::{self, Opened};
use super::pages::{encoded, is_local_path, welcome};
use super::{Answer, Message, attempt, device, fields, half_log_in};
use crate::accounts::{self, email, new_session_token};
use crate::auth::password::Passwords;
use crate::auth::throttle::Attempt;
use crate::auth::{ACCOUNT_ELSEWHERE, Digest, Scope, Secret};
use crate::blocking::{self, Wait};
use crate::call::Call;
use crate::db;
use crate::error::{Error, Result};
use crate::http::request_fields::request_fields;
use crate::http::{Method, Response, cookie};
use crate::mail;
use crate::memory_budget;
use crate::operation::Group::Accounts;
use crate::operation::Handler::Public;
use crate::operation::{Operation, get, post, summary};
use crate::store::{User, sessions, users};

/// Where a form leads that names no `next`.
const HOME: &str = "/playground";

/// The most characters of a code that are looked at.
const LONGEST_CODE: usize = 64;

/// The most bytes of an e-mail address that a refused form is shown with again.
const LONGEST_KEPT: usize = 254;

/// How often a log-in checks the password again because the account changed in the meantime.
const CHECKS: usize = 3;

/// The operations of this file.
pub(super) fn operations() -> Vec<Operation> {
    let form = |words| {
        summary(Accounts, words)
            .fields::<Credentials<'_>>()
            .reply::<User>()
            .shows_form_again()
            .status(303, "For a form: to next, or back to the form with an error")
            .status(401, "A code of the account's second factor is wanted, or is wrong; see code")
            .status(429, "Too many attempts; see Retry-After")
            .status(403, CROSS_SITE)
    };
    vec![
        post("/api/signup", Public(signup)).described(form("Create an account, or log in to an existing one")),
        post("/api/login", Public(login)).described(form("Log in")),
        post("/login/code", Public(log_in_with_code)),
        post("/api/logout", Public(logout)).described(
            summary(Accounts, "Log out: end the session, on every server")
                .reply::<Message>()
                .status(303, "For a browser: to the home page")
                .status(403, CROSS_SITE),
        ),
        get("/logout", Public(logout_page)),
    ]
}

const CROSS_SITE: &str = "Sent by another site's page, or the account is suspended";

/// `POST /api/signup`: creates an account, or signs in if the address has one and the password is right.
fn signup(call: &mut Call<'_>) -> Answer {
    call.check_same_site()?;
    let form = read_form(call)?;
    let outcome = match form.is_confirmed {
        true => register(call, &form),
        false => Err(Error::PasswordMismatch),
    };
    finish(call, outcome, welcome::Form::SignUp, &form)
}

/// `POST /api/login`.
fn login(call: &mut Call<'_>) -> Answer {
    call.check_same_site()?;
    let form = read_form(call)?;
    let outcome = sign_in(call, &form);
    finish(call, outcome, welcome::Form::LogIn, &form)
}

/// What became of a form that is right.
enum Outcome {
    /// A new account, with its whole secret, and the token of its first session.
    SignedUp(Box<User>, Secret),
    /// The account, and the token of its new session.
    SignedIn(Box<User>, Secret),
    /// A code is wanted too. Who has this value in the cookie of a half-done log-in need not enter the password again.
    HalfDone(String),
}

request_fields! {
    /// The fields of both forms.
    struct Credentials<'f> {
        /// E-mail address.
        email: &'f str,
        /// 8 to 1,024 characters.
        password: &'f str,
        /// The password again, in a form that asks for it twice.
        password_confirm: Option<&'f str>,
        /// A code of the account's authenticator app, or a recovery code, if it uses two-factor authentication.
        totp: Option<&'f str>,
        /// A local path to go to, for a form.
        next: Option<&'f str>,
    }
}

/// What was entered in either form.
struct Form {
    email: String,
    password: String,
    /// False only if the form has a second password field and the two differ.
    is_confirmed: bool,
    /// The code of a second factor.
    totp: Option<String>,
    next: Option<String>,
}

fn read_form(call: &mut Call<'_>) -> Result<Form> {
    let fields = fields(call)?;
    let Credentials { email, password, password_confirm, totp, next } = Credentials::read(&fields)?;
    let form = Form {
        email: email::normalise(email),
        password: password.to_owned(),
        is_confirmed: password_confirm.is_none_or(|confirmed| confirmed == password),
        totp: totp.map(|code| code.chars().take(LONGEST_CODE).collect()),
        next: next.filter(|next| is_local_path(next)).map(str::to_owned),
    };
    drop(fields);
    // Nobody else needs to wait for the rest of the body until this has had its turn at hashing.
    memory_budget::shrink_to(form.email.len() + form.password.len() + form.next.as_ref().map_or(0, String::len));
    Ok(form)
}

fn register(call: &Call<'_>, form: &Form) -> Result<Outcome> {
    let (email, password) = (form.email.as_str(), form.password.as_str());
    // Before anything else, so that a refusal costs little and tells nothing.
    let sign_up = call.app.sign_ups.begin(call.client()).map_err(Error::TooManySignUps)?;
    // Checked first, so that the answer does not tell whether the address has an account. Logging in makes no such
    // checks: accounts of the older system may have an address or a password that would be refused today.
    if !email::is_valid(email) {
        return Err(Error::InvalidEmail);
    }
    Passwords::validate(password, email)?;
    if has_account(call, email)? {
        drop(sign_up);
        return sign_in_instead(call, form);
    }
    let hash = call.app.passwords.hash(password)?;
    match create(call, email, &hash) {
        // Another request created it first, perhaps a second click of the same person.
        Err(Error::Database(db::Error::Unique(name))) if name == users::EMAIL_KEY => {
            drop(sign_up);
            sign_in_instead(call, form)
        }
        Err(e) => Err(e),
        Ok((user, token)) => {
            sign_up.created();
            Ok(Outcome::SignedUp(Box::new(user), token))
        }
    }
}

/// Logs in to the account that an address has already. If the password is wrong, its owner is told what to do.
fn sign_in_instead(call: &Call<'_>, form: &Form) -> Result<Outcome> {
    let outcome = sign_in(call, form);
    if matches!(outcome, Err(Error::InvalidCredentials)) && call.app.mail.is_set_up() {
        let mut session = call.app.db.session()?;
        call.app.mail.queue_to(&mut session, mail::Kind::KnownAddress, "", &form.email, &json!({}))?;
    }
    outcome
}

fn has_account(call: &Call<'_>, email: &str) -> Result<bool> {
    Ok(users::by_email(&mut call.app.db.session()?, email)?.is_some())
}

/// Creates the account, its default key and its first session, in one transaction.
fn create(call: &Call<'_>, email: &str, hash: &str) -> Result<(User, Secret)> {
    let token = new_session_token()?;
    let mut session = call.app.db.session()?;
    let mut transaction = session.transaction()?;
    let user = accounts::create(&mut transaction, email, Some(hash))?;
    new_session::insert(call, &mut transaction, &user.id, &token)?;
    call.app.mail.queue(&mut transaction, mail::Kind::Verify, &user, &json!({}))?;
    transaction.commit()?;
    Ok((user, token))
}

fn sign_in(call: &Call<'_>, form: &Form) -> Result<Outcome> {
    let (email, password) = (form.email.as_str(), form.password.as_str());
    let attempt = attempt::start(call, email)?;
    for _ in 0..CHECKS {
        let began = Instant::now();
        let found = users::by_email(&mut call.app.db.session()?, email)?;
        let kept = found.as_ref().and_then(|(_, hash)| hash.as_deref());
        let check = call.app.passwords.check(password, kept)?;
        let Some((user, Some(hash))) = found.filter(|_| check.is_correct) else {
            // It counts, whether or not there was room to wait.
            let waited = wait_as_for_bcrypt(call, began);
            attempt.failed();
            waited?;
            return Err(Error::InvalidCredentials);
        };
        if Scope::of_account(&user).is_some_and(|scope| !scope.admits(call.client())) {
            return Err(Error::Forbidden(ACCOUNT_ELSEWHERE));
        }
        let code = form.totp.as_deref().filter(|_| user.has_second_factor);
        match new_session::open(call, &user, &hash, check.new_hash.as_deref(), code) {
            Ok(Opened::Session(token)) => return Ok(Outcome::SignedIn(Box::new(user), token)),
            Ok(Opened::CodeWanted) => {
                return Ok(Outcome::HalfDone(half_log_in::value(
                    call,
                    &user.id,
                    check.new_hash.as_ref().unwrap_or(&hash),
                )?));
            }
            Ok(Opened::Changed) => {}
            Err(e) => return Err(failed(attempt, e)),
        }
    }
    Err(Error::Busy)
}

/// A code that is wrong counts as a password that is.
fn failed(attempt: Attempt<'_>, e: Error) -> Error {
    if matches!(e, Error::InvalidCode) {
        attempt.failed();
    }
    e
}

/// Waits until a check that began then would have ended if it had been against a hash of the older system, if any account
/// has one: the time taken must not tell which accounts these are, and so that they exist.
fn wait_as_for_bcrypt(call: &Call<'_>, began: Instant) -> Result<()> {
    if users::any_with_bcrypt(&mut call.app.db.session()?)? {
        let rest = call.app.passwords.bcrypt_time()?.saturating_sub(began.elapsed());
        blocking::block_in_place(Wait::LogIn, || std::thread::sleep(rest))?;
    }
    Ok(())
}

/// Answers a script with JSON, and a form with a redirect. If the client only has to try again later, the form is
/// shown again with that status, because a redirect would hide it.
fn finish(call: &Call<'_>, outcome: Result<Outcome>, form: welcome::Form, entered: &Form) -> Answer {
    let next = entered.next.as_deref();
    let is_https = call.app.config.is_https();
    if call.wants_json() {
        return match outcome? {
            Outcome::SignedUp(user, token) => signed_up(call, &user, &token, Response::json(200, &user)),
            Outcome::SignedIn(user, token) => signed_in(call, &user, &token, Response::json(200, &user)),
            Outcome::HalfDone(_) => Err(Error::CodeRequired),
        };
    }
    match outcome {
        Ok(Outcome::SignedUp(user, token)) => {
            signed_up(call, &user, &token, Response::see_other(next.unwrap_or(HOME).to_owned()))
        }
        Ok(Outcome::SignedIn(user, token)) => {
            signed_in(call, &user, &token, Response::see_other(next.unwrap_or(HOME).to_owned()))
        }
        Ok(Outcome::HalfDone(value)) => {
            let reply = Response::see_other(with_next(welcome::CODE_PATH.to_owned(), '?', next));
            Ok(cookie::set_half_log_in(reply, Some(&value), is_https))
        }
        Err(e) => {
            if e.is_fault() {
                log::warn!("{} failed: {e}", form.path());
            }
            if e.retry_after().is_some() || matches!(e, Error::InvalidCode) {
                return welcome::show_again(call, form, &e, &entered.email, next);
            }
            let target = format!("{}?error={}", form.path(), redirected(form, &e));
            let reply = Response::see_other(with_next(target, '&', next));
            if entered.email.len() > LONGEST_KEPT {
                return Ok(reply);
            }
            Ok(cookie::set_entered(reply, &encoded(&entered.email), form.path(), is_https))
        }
    }
}

/// The same after a sign-up: the playground shows the first key, once.
fn signed_up(call: &Call<'_>, user: &User, token: &Secret, reply: Response) -> Answer {
    let reply = signed_in(call, user, token, reply)?;
    Ok(cookie::set_new_secret(reply, &user.secret, HOME, call.app.config.is_https()))
}

/// The reply to a log-in, with the cookies of the session and of the device.
fn signed_in(call: &Call<'_>, user: &User, token: &Secret, reply: Response) -> Answer {
    let is_https = call.app.config.is_https();
    let reply = cookie::set_session(reply, token.reveal(), is_https);
    device::remember(call, &user.email, reply)
}

fn with_next(mut target: String, separator: char, next: Option<&str>) -> String {
    if let Some(next) = next {
        target += &format!("{separator}next={}", encoded(next));
    }
    target
}

/// `POST /login/code` with `totp`, after the password was right: the second half of a log-in by form.
fn log_in_with_code(call: &mut Call<'_>) -> Answer {
    call.check_same_site()?;
    let fields = fields(call)?;
    let code: String = fields.text("totp")?.chars().take(LONGEST_CODE).collect();
    let next = fields.optional_text("next")?.filter(|next| is_local_path(next)).map(str::to_owned);
    drop(fields);
    match finish_log_in(call, &code) {
        Ok((user, token)) => {
            let reply = Response::see_other(next.unwrap_or_else(|| HOME.to_owned()));
            let reply = signed_in(call, &user, &token, reply)?;
            Ok(cookie::set_half_log_in(reply, None, call.app.config.is_https()))
        }
        Err(Error::LogInExpired) => {
            let target = format!("/login?error={}", encoded(&Error::LogInExpired.message()));
            Ok(Response::see_other(with_next(target, '&', next.as_deref())))
        }
        Err(e) => welcome::show_code_again(&e, next),
    }
}

fn finish_log_in(call: &Call<'_>, code: &str) -> Result<(User, Secret)> {
    let (user, hash) = half_log_in::find(call)?.ok_or(Error::LogInExpired)?;
    if Scope::of_account(&user).is_some_and(|scope| !scope.admits(call.client())) {
        return Err(Error::Forbidden(ACCOUNT_ELSEWHERE));
    }
    let attempt = attempt::start(call, &user.email)?;
    match new_session::open(call, &user, &hash, None, Some(code)) {
        Ok(Opened::Session(token)) => Ok((user, token)),
        Ok(Opened::CodeWanted) => Err(Error::InvalidCode),
        Ok(Opened::Changed) => Err(Error::LogInExpired),
        Err(e) => Err(failed(attempt, e)),
    }
}

/// The `error` of the redirect's query, in the words that clients of the older system know.
fn redirected(form: welcome::Form, e: &Error) -> String {
    match (e.is_fault(), form) {
        (false, _) => encoded(&e.message()),
        (true, welcome::Form::SignUp) => "Signup+failed".to_owned(),
        (true, welcome::Form::LogIn) => "Login+failed".to_owned(),
    }
}

/// `POST /api/logout`: ends the session, on every server.
fn logout(call: &mut Call<'_>) -> Answer {
    call.check_same_site()?;
    let reply = match call.wants_json() {
        true => Response::json(200, &Message { message: "Logged out successfully" }),
        false => Response::see_other("/"),
    };
    end_session(call, reply)
}

/// `GET /logout`. The cookie is `SameSite=Lax`, so another site's image or frame cannot call it. `HEAD` ends nothing.
fn logout_page(call: &mut Call<'_>) -> Answer {
    let reply = Response::see_other("/");
    if *call.request.method() == Method::HEAD { Ok(reply) } else { end_session(call, reply) }
}

fn end_session(call: &mut Call<'_>, reply: Response) -> Answer {
    for token in cookie::sessions(call.request) {
        let digest = Digest::of(token);
        if let Some(user_id) = sessions::delete_by_digest(&mut call.app.db.session()?, &digest.0)? {
            call.app.cache.revoke(&user_id);
        }
    }
    Ok(cookie::clear_session(reply, call.app.config.is_https()))
}
