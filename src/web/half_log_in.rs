//! Log-ins by form that are half done: the password was right, and a code of the second factor is wanted. A signed cookie
//! says so for some minutes. It is no session, and opens one only with a code.

use ring::hmac;
use time::OffsetDateTime;

use super::device;
use crate::call::Call;
use crate::error::Result;
use crate::hex;
use crate::http::cookie;
use crate::store::{User, users};

/// How far the clocks of two servers may be apart, in seconds.
const MOST_SKEW: i64 = 60;

/// The value of the cookie for an account whose password was checked against `hash`.
///
/// # Errors
/// Those of the database, which is asked for the key once.
pub(super) fn value(call: &Call<'_>, user_id: &str, hash: &str) -> Result<String> {
    Ok(sign(&device::key(call)?, user_id, hash, OffsetDateTime::now_utc()))
}

/// The account whose password was entered, with its password hash; `None` if that was too long ago, or it was changed
/// since.
///
/// # Errors
/// Those of the database.
pub(super) fn find(call: &Call<'_>) -> Result<Option<(User, String)>> {
    let Some(value) = cookie::read(call.request, cookie::HALF_LOG_IN) else { return Ok(None) };
    let Some((made, user_id)) = parse(value) else { return Ok(None) };
    let key = device::key(call)?;
    let mut session = call.app.db.session()?;
    let Some(hash) = users::password_hash(&mut session, &user_id)? else { return Ok(None) };
    if !is_valid(&key, value, made, &user_id, &hash, OffsetDateTime::now_utc()) {
        return Ok(None);
    }
    Ok(users::by_id(&mut session, &user_id)?.map(|user| (user, hash)))
}

/// When it was made, in seconds since 1970, the account, and the code of both and of the password hash: a password that is
/// changed ends it. What is signed begins like nothing else that is signed with the key.
fn sign(key: &hmac::Key, user_id: &str, hash: &str, now: OffsetDateTime) -> String {
    let made = now.unix_timestamp();
    let code = hmac::sign(key, signed(made, user_id, hash).as_bytes());
    format!("{made}.{}.{}", hex::encode(user_id.as_bytes()), hex::encode(code.as_ref()))
}

fn signed(made: i64, user_id: &str, hash: &str) -> String {
    format!("half log-in\n{made}\n{}\n{hash}", hex::encode(user_id.as_bytes()))
}

fn parse(value: &str) -> Option<(i64, String)> {
    let (made, rest) = value.split_once('.')?;
    let user_id = hex::decode(rest.split_once('.')?.0)?;
    Some((made.parse().ok()?, String::from_utf8(user_id).ok().filter(|id| !id.contains('\0'))?))
}

fn is_valid(key: &hmac::Key, value: &str, made: i64, user_id: &str, hash: &str, now: OffsetDateTime) -> bool {
    let code = value.rsplit_once('.').and_then(|(_, code)| hex::decode(code));
    let age = now.unix_timestamp().saturating_sub(made);
    let is_recent = (-MOST_SKEW..=cookie::HALF_LOG_IN_SECONDS).contains(&age);
    is_recent && code.is_some_and(|code| hmac::verify(key, signed(made, user_id, hash).as_bytes(), &code).is_ok())
}

#[cfg(test)]
mod tests {
    use time::Duration;

    use super::*;

    #[test]
    fn it_holds_for_one_account_and_password_and_for_minutes() {
        let key = |bytes: &[u8]| hmac::Key::new(hmac::HMAC_SHA256, bytes);
        let now = OffsetDateTime::now_utc();
        let made = sign(&key(b"key"), "ann", "hash", now);
        let (at, user_id) = parse(&made).unwrap();
        assert_eq!((at, user_id.as_str()), (now.unix_timestamp(), "ann"));
        let holds = |key: &hmac::Key, user_id, hash, now| is_valid(key, &made, at, user_id, hash, now);
        let last = now + Duration::seconds(cookie::HALF_LOG_IN_SECONDS);
        assert!(holds(&key(b"key"), "ann", "hash", now) && holds(&key(b"key"), "ann", "hash", last));
        assert!(!holds(&key(b"key"), "ann", "hash", last + Duration::seconds(1)));
        assert!(!holds(&key(b"key"), "ann", "hash", now - Duration::minutes(2)), "it is from the future");
        assert!(!holds(&key(b"key"), "bob", "hash", now) && !holds(&key(b"key"), "ann", "other", now));
        assert!(!holds(&key(b"other"), "ann", "hash", now));
        for garbage in ["", ".", "..", "1.", "1.x.00", "x.00.00", "99999999999999999999.00.00", "1.ff.00", "1.00.00"] {
            assert_eq!(parse(garbage), None, "{garbage}");
        }
    }
}
