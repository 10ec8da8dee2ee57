//! Signing up, in and out.

use serde_json::json;
use time::{Duration, OffsetDateTime};

use super::{Answer, fields, pages};
use crate::accounts::{self, email, new_id, new_session_token};
use crate::auth::password::Passwords;
use crate::auth::{Secret, throttle};
use crate::call::Call;
use crate::db;
use crate::error::{Error, Result};
use crate::http::{Method, Response, cookie};
use crate::store::{User, known_networks, sessions, users};

/// The words for a wrong password, and for an address that has no account: nobody learns which.
pub(super) const INVALID_CREDENTIALS: &str = "Invalid credentials";

/// The words for an address that cannot be one.
pub(super) const INVALID_EMAIL: &str = "Enter a valid e-mail address";

/// The words for two passwords that ought to be one.
pub(super) const DIFFERENT_PASSWORDS: &str = "The two passwords differ";

/// The words for an account that is kept out.
pub(super) const SUSPENDED: &str = "This account is suspended";

/// Where a form leads when nothing else was asked for.
const HOME: &str = "/playground";

/// Characters of a browser's name that are kept.
const USER_AGENT_LENGTH: usize = 200;

/// How often a login checks its password, when the account changes meanwhile.
const CHECKS: usize = 3;

/// `POST /api/signup`: makes an account, or signs in where the address has one and the password is right.
pub(super) fn signup(call: &mut Call<'_>) -> Answer {
    call.check_same_site()?;
    let given = credentials(call)?;
    let outcome = match given.is_confirmed {
        true => register(call, &given.email, &given.password),
        false => Err(Error::bad(DIFFERENT_PASSWORDS)),
    };
    finish(call, outcome, "/signup", given.next.as_deref())
}

/// `POST /api/login`.
pub(super) fn login(call: &mut Call<'_>) -> Answer {
    call.check_same_site()?;
    let given = credentials(call)?;
    let outcome = sign_in(call, &given.email, &given.password);
    finish(call, outcome, "/login", given.next.as_deref())
}

/// An account and the cookie of its new session.
type SignedIn = (User, String);

/// What a person typed.
struct Given {
    email: String,
    password: String,
    /// Whether the password was typed alike twice, where it was asked for twice.
    is_confirmed: bool,
    next: Option<String>,
}

fn credentials(call: &mut Call<'_>) -> Result<Given> {
    let fields = fields(call)?;
    fields.require(&["email", "password"])?;
    let (email, password) = (email::normalise(fields.text("email")?), fields.text("password")?.to_owned());
    let is_confirmed = fields.optional_text("password_confirm")?.is_none_or(|again| again == password);
    let next = fields.optional_text("next")?.filter(|next| is_local(next)).map(str::to_owned);
    Ok(Given { email, password, is_confirmed, next })
}

fn register(call: &Call<'_>, email: &str, password: &str) -> Result<SignedIn> {
    // First, so that what no account is made with does not tell either whether there is one. An older account may have
    // a shorter password, and an address that would not do today: logging in takes both.
    if !email::is_valid(email) {
        return Err(Error::bad(INVALID_EMAIL));
    }
    Passwords::validate(password).map_err(Error::bad)?;
    if has_account(call, email)? {
        return sign_in(call, email, password);
    }
    let hash = call.app.passwords.hash(password)?;
    match create(call, email, &hash) {
        // Somebody was faster, perhaps the same person's second click.
        Err(Error::Database(db::Error::Unique(name))) if name == users::EMAIL_KEY => sign_in(call, email, password),
        done => done,
    }
}

fn has_account(call: &Call<'_>, email: &str) -> Result<bool> {
    Ok(users::by_email(&mut call.app.db.session()?, email)?.is_some())
}

/// The account, its default key and its first session, all or none.
fn create(call: &Call<'_>, email: &str, hash: &str) -> Result<SignedIn> {
    let token = new_session_token()?;
    let mut session = call.app.db.session()?;
    let mut transaction = session.transaction()?;
    let user = accounts::create(&mut transaction, email, Some(hash))?;
    insert_session(call, &mut transaction, &user.id, &token)?;
    transaction.commit()?;
    Ok((user, cookie::session(token.reveal(), call.app.config.is_https())))
}

fn sign_in(call: &Call<'_>, email: &str, password: &str) -> Result<SignedIn> {
    let attempt = guarded(call, email, false)?;
    for _ in 0..CHECKS {
        let found = users::by_email(&mut call.app.db.session()?, email)?;
        let kept = found.as_ref().and_then(|(_, hash)| hash.as_deref());
        let check = call.app.passwords.check(password, kept)?;
        let Some((user, Some(hash))) = found.filter(|_| check.is_correct) else {
            attempt.failed();
            return Err(Error::bad(INVALID_CREDENTIALS));
        };
        if let Some(cookie) = open_session(call, &user.id, &hash, check.new_hash.as_deref())? {
            return Ok((user, cookie));
        }
    }
    Err(Error::Busy)
}

/// The cookie of a new session; `None` when the account does not have the hash any more that was checked, as its
/// password was changed (which ended all sessions: none may begin behind that), another login renewed it, or it is gone.
fn open_session(call: &Call<'_>, user_id: &str, hash: &str, new_hash: Option<&str>) -> Result<Option<String>> {
    let token = new_session_token()?;
    let mut session = call.app.db.session()?;
    let mut transaction = session.transaction()?;
    if !users::lock_with_hash(&mut transaction, user_id, hash)? {
        return Ok(None);
    }
    if users::is_suspended(&mut transaction, user_id)? {
        return Err(Error::Forbidden(SUSPENDED));
    }
    if let Some(better) = new_hash {
        users::replace_password_hash(&mut transaction, user_id, hash, better)?;
    }
    insert_session(call, &mut transaction, user_id, &token)?;
    transaction.commit()?;
    Ok(Some(cookie::session(token.reveal(), call.app.config.is_https())))
}

/// Lets an attempt at a password through, or refuses it. `is_signed_in` as that account: wherever that is, it is not
/// locked out by strangers.
pub(super) fn guarded<'a>(call: &Call<'a>, email: &str, is_signed_in: bool) -> Result<throttle::Attempt<'a>> {
    let address = call.client();
    let is_known = || -> Result<bool> {
        Ok(is_signed_in || known_networks::is_known(&mut call.app.db.session()?, email, &network(call))?)
    };
    Ok(call.app.throttle.attempt(email, address, is_known)??)
}

fn network(call: &Call<'_>) -> String {
    throttle::network_of(call.client()).to_string()
}

fn insert_session(call: &Call<'_>, db: &mut impl db::Executor, user_id: &str, token: &Secret) -> Result<()> {
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
    Ok(known_networks::record(db, user_id, &network(call))?)
}

/// JSON for a script, a redirect for a form. What can only be told to come back later is told so by the status of the
/// reply, to a form as well.
fn finish(call: &Call<'_>, outcome: Result<SignedIn>, page: &str, next: Option<&str>) -> Answer {
    if call.wants_json() {
        let (user, cookie) = outcome?;
        return Ok(Response::json(200, &user).header("Set-Cookie", cookie));
    }
    match outcome {
        Ok((_, cookie)) => Ok(Response::see_other(next.unwrap_or(HOME).to_owned()).header("Set-Cookie", cookie)),
        Err(e) => {
            if e.is_fault() {
                log::warn!("{page} failed: {e}");
            }
            if e.retry_after().is_some() {
                return pages::welcome::form_again(page, &e, next);
            }
            let words = e.public();
            let mut target = format!("{page}?error={}", encode(&words));
            if let Some(next) = next {
                target += &format!("&next={}", encode(next));
            }
            Ok(Response::see_other(target))
        }
    }
}

fn encode(text: &str) -> percent_encoding::PercentEncode<'_> {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC)
}

/// A path on this site: not `//host`, nor what a browser would read as that.
pub(super) fn is_local(next: &str) -> bool {
    let mut bytes = next.bytes();
    bytes.next() == Some(b'/')
        && !matches!(bytes.next(), Some(b'/' | b'\\'))
        && next.len() <= 2048
        && next.bytes().all(|b| b.is_ascii_graphic() && b != b'\\')
}

/// `POST /api/logout`: the session ends, here and everywhere.
pub(super) fn logout(call: &mut Call<'_>) -> Answer {
    call.check_same_site()?;
    let accepts_page = call.request.header("accept").is_some_and(|accept| accept.contains("text/html"));
    let reply = match accepts_page && !call.wants_json() {
        true => Response::see_other("/"),
        false => Response::json(200, &json!({"message": "Logged out successfully"})),
    };
    end_session(call, reply)
}

/// `GET /logout`. The cookie is `SameSite=Lax`, so no other site's image or frame can call it; and what only looks
/// (`HEAD`) ends nothing.
pub(super) fn logout_page(call: &mut Call<'_>) -> Answer {
    let reply = Response::see_other("/");
    if *call.request.method() == Method::Head { Ok(reply) } else { end_session(call, reply) }
}

fn end_session(call: &mut Call<'_>, reply: Response) -> Answer {
    if let Some(token) = cookie::read(call.request, cookie::SESSION) {
        let digest = crate::auth::Digest::of(token);
        if let Some(user_id) = sessions::delete_by_digest(&mut call.app.db.session()?, &digest.0)? {
            call.app.cache.revoke(&user_id);
        }
    }
    Ok(reply.header("Set-Cookie", cookie::clear(call.app.config.is_https())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_site_is_local() {
        for good in ["/", "/account", "/account?a=b#c", "/@x"] {
            assert!(is_local(good), "{good}");
        }
        for bad in ["", "account", "//evil", "/\\evil", "https://evil", "/a\r\nb", "/a\\b", "/\u{e9}", "\t//evil"] {
            assert!(!is_local(bad), "{bad}");
        }
    }
}
