//! Signing up, in and out.

use std::time::Instant;

use serde_json::json;
use time::{Duration, OffsetDateTime};

use super::pages::{encoded, is_local_path, welcome};
use super::{Answer, Message, attempt, device, fields};
use crate::accounts::{self, email, new_id, new_session_token};
use crate::auth::password::Passwords;
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

/// How many characters of `User-Agent` are stored.
const USER_AGENT_LENGTH: usize = 200;

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
            .status(429, "Too many attempts; see Retry-After")
            .status(403, CROSS_SITE)
    };
    vec![
        post("/api/signup", Public(signup)).described(form("Create an account, or log in to an existing one")),
        post("/api/login", Public(login)).described(form("Log in")),
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
        true => register(call, &form.email, &form.password),
        false => Err(Error::PasswordMismatch),
    };
    finish(call, outcome, welcome::Form::SignUp, form.next.as_deref())
}

/// `POST /api/login`.
fn login(call: &mut Call<'_>) -> Answer {
    call.check_same_site()?;
    let form = read_form(call)?;
    let outcome = sign_in(call, &form.email, &form.password);
    finish(call, outcome, welcome::Form::LogIn, form.next.as_deref())
}

/// An account and the token of its new session.
type SignedIn = (User, Secret);

request_fields! {
    /// The fields of both forms.
    struct Credentials<'f> {
        /// E-mail address.
        email: &'f str,
        /// 8 to 1,024 characters.
        password: &'f str,
        /// The password again, in a form that asks for it twice.
        password_confirm: Option<&'f str>,
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
    next: Option<String>,
}

fn read_form(call: &mut Call<'_>) -> Result<Form> {
    let fields = fields(call)?;
    let Credentials { email, password, password_confirm, next } = Credentials::read(&fields)?;
    let form = Form {
        email: email::normalise(email),
        password: password.to_owned(),
        is_confirmed: password_confirm.is_none_or(|confirmed| confirmed == password),
        next: next.filter(|next| is_local_path(next)).map(str::to_owned),
    };
    drop(fields);
    // Nobody else needs to wait for the rest of the body until this has had its turn at hashing.
    memory_budget::shrink_to(form.email.len() + form.password.len() + form.next.as_ref().map_or(0, String::len));
    Ok(form)
}

fn register(call: &Call<'_>, email: &str, password: &str) -> Result<SignedIn> {
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
        return sign_in_instead(call, email, password);
    }
    let hash = call.app.passwords.hash(password)?;
    match create(call, email, &hash) {
        // Another request created it first, perhaps a second click of the same person.
        Err(Error::Database(db::Error::Unique(name))) if name == users::EMAIL_KEY => {
            drop(sign_up);
            sign_in_instead(call, email, password)
        }
        Err(e) => Err(e),
        Ok(signed_in) => {
            sign_up.created();
            Ok(signed_in)
        }
    }
}

/// Logs in to the account that an address has already. If the password is wrong, its owner is told what to do.
fn sign_in_instead(call: &Call<'_>, email: &str, password: &str) -> Result<SignedIn> {
    let outcome = sign_in(call, email, password);
    if matches!(outcome, Err(Error::InvalidCredentials)) && call.app.mail.is_set_up() {
        call.app.mail.queue_to(&mut call.app.db.session()?, mail::Kind::KnownAddress, "", email, &json!({}))?;
    }
    outcome
}

fn has_account(call: &Call<'_>, email: &str) -> Result<bool> {
    Ok(users::by_email(&mut call.app.db.session()?, email)?.is_some())
}

/// Creates the account, its default key and its first session, in one transaction.
fn create(call: &Call<'_>, email: &str, hash: &str) -> Result<SignedIn> {
    let token = new_session_token()?;
    let mut session = call.app.db.session()?;
    let mut transaction = session.transaction()?;
    let user = accounts::create(&mut transaction, email, Some(hash))?;
    insert_session(call, &mut transaction, &user.id, &token)?;
    call.app.mail.queue(&mut transaction, mail::Kind::Verify, &user, &json!({}))?;
    transaction.commit()?;
    Ok((user, token))
}

fn sign_in(call: &Call<'_>, email: &str, password: &str) -> Result<SignedIn> {
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
        if let Some(token) = open_session(call, &user, &hash, check.new_hash.as_deref())? {
            return Ok((user, token));
        }
    }
    Err(Error::Busy)
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

/// Opens a session and returns its token. `None` if `hash`, which was checked, is no longer the account's hash:
/// the password was changed (which ended all sessions, so none may begin with the old one), another log-in renewed the
/// hash, or the account is gone.
fn open_session(call: &Call<'_>, user: &User, hash: &str, new_hash: Option<&str>) -> Result<Option<Secret>> {
    let (user_id, token) = (user.id.as_str(), new_session_token()?);
    let is_known_device = device::known(call, &user.email)?.is_some();
    let mut session = call.app.db.session()?;
    let mut transaction = session.transaction()?;
    if !users::lock_with_hash(&mut transaction, user_id, hash)? {
        return Ok(None);
    }
    if users::is_suspended(&mut transaction, user_id)? {
        return Err(Error::AccountSuspended);
    }
    if let Some(new_hash) = new_hash {
        users::replace_password_hash(&mut transaction, user_id, hash, new_hash)?;
    }
    let begun = insert_session(call, &mut transaction, user_id, &token)?;
    if begun.is_new_network && !is_known_device {
        call.app.mail.queue(&mut transaction, mail::Kind::NewDevice, user, &device::in_words(call))?;
    }
    transaction.commit()?;
    if begun.has_ended_others {
        call.app.cache.revoke(user_id);
    }
    Ok(Some(token))
}

/// A new session.
struct Begun {
    /// Whether others have ended for it.
    has_ended_others: bool,
    /// Whether it is the first one from the client's network.
    is_new_network: bool,
}

/// Adds a session. The account is locked.
fn insert_session(call: &Call<'_>, db: &mut impl db::Executor, user_id: &str, token: &Secret) -> Result<Begun> {
    let user_agent = call.request.header("user-agent").unwrap_or("");
    let user_agent: String = user_agent.chars().filter(|c| !c.is_control()).take(USER_AGENT_LENGTH).collect();
    let new = sessions::NewSession {
        id: &new_id("ses_")?,
        user_id,
        digest: &token.digest().0,
        expires: OffsetDateTime::now_utc() + Duration::days(cookie::SESSION_DAYS),
        address: &call.client().to_string(),
        user_agent: &user_agent,
    };
    sessions::insert(db, &new)?;
    let ended = sessions::delete_beyond(db, user_id, new.id, call.app.config.quotas.sessions_per_account)?;
    Ok(Begun { has_ended_others: ended > 0, is_new_network: attempt::remember_network(call, db, user_id)? })
}

/// Answers a script with JSON, and a form with a redirect. If the client only has to try again later, the form is
/// shown again with that status, because a redirect would hide it.
fn finish(call: &Call<'_>, outcome: Result<SignedIn>, form: welcome::Form, next: Option<&str>) -> Answer {
    let is_https = call.app.config.is_https();
    if call.wants_json() {
        let (user, token) = outcome?;
        let reply = cookie::set_session(Response::json(200, &user), token.reveal(), is_https);
        return device::remember(call, &user.email, reply);
    }
    match outcome {
        Ok((user, token)) => {
            let reply = Response::see_other(next.unwrap_or(HOME).to_owned());
            device::remember(call, &user.email, cookie::set_session(reply, token.reveal(), is_https))
        }
        Err(e) => {
            if e.is_fault() {
                log::warn!("{} failed: {e}", form.path());
            }
            if e.retry_after().is_some() {
                return welcome::show_again(call, form, &e, next);
            }
            let mut target = format!("{}?error={}", form.path(), redirected(form, &e));
            if let Some(next) = next {
                target += &format!("&next={}", encoded(next));
            }
            Ok(Response::see_other(target))
        }
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
