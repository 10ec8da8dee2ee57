//! Devices from which the owner of an account has logged in: a cookie says so. Others behind the same address cannot use up
//! what such a device may still try.

use ring::hmac;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::pages::known_browser;
use crate::auth::Digest;
use crate::call::Call;
use crate::error::Result;
use crate::hex;
use crate::http::{Response, cookie};
use crate::store::installation;

/// The device of this request, if the owner of the account `email` has logged in from it.
///
/// # Errors
/// Those of the database, which is asked for the key once.
pub(super) fn known(call: &Call<'_>, email: &str) -> Result<Option<Digest>> {
    for value in cookie::devices(call.request) {
        if is_valid(&key(call)?, email, value, OffsetDateTime::now_utc()) {
            return Ok(Some(Digest::of(value)));
        }
    }
    Ok(None)
}

/// Marks the device, after a log-in.
///
/// # Errors
/// As [`known`].
pub(super) fn remember(call: &Call<'_>, email: &str, response: Response) -> Result<Response> {
    let value = value(&key(call)?, email, OffsetDateTime::now_utc());
    Ok(cookie::set_device(response, &value, call.app.config.is_https()))
}

/// The device of this request, for a mail to the owner of the account.
pub(super) fn in_words(call: &Call<'_>) -> Value {
    let now = OffsetDateTime::now_utc();
    json!({
        "browser": known_browser(call.request.header("user-agent").unwrap_or("")).unwrap_or_else(|| "Unknown".to_owned()),
        "address": call.client().to_string(),
        "time": format!("{} {:02}:{:02} UTC", now.date(), now.hour(), now.minute()),
    })
}

/// The key of these cookies, and of those of half-done log-ins.
///
/// # Errors
/// As [`known`].
pub(super) fn key(call: &Call<'_>) -> Result<hmac::Key> {
    if let Some(key) = call.app.device_key.get() {
        return Ok(key.clone());
    }
    let key = installation::journal_key(&mut call.app.db.session()?)?;
    Ok(call.app.device_key.get_or_init(|| hmac::Key::new(hmac::HMAC_SHA256, &key)).clone())
}

/// When it was made, in seconds since 1970, and the code of that and the account. No record of a journal begins like the
/// text of the code, which has the same key.
fn value(key: &hmac::Key, email: &str, now: OffsetDateTime) -> String {
    let made = now.unix_timestamp();
    let code = hmac::sign(key, signed(made, email).as_bytes());
    format!("{made}.{}", hex::encode(code.as_ref()))
}

fn is_valid(key: &hmac::Key, email: &str, value: &str, now: OffsetDateTime) -> bool {
    let Some((made, code)) = value.split_once('.') else { return false };
    let (Ok(made), Some(code)) = (made.parse::<i64>(), hex::decode(code)) else { return false };
    let age = now.unix_timestamp().saturating_sub(made);
    age <= cookie::DEVICE_DAYS * 86_400 && hmac::verify(key, signed(made, email).as_bytes(), &code).is_ok()
}

fn signed(made: i64, email: &str) -> String {
    format!("device\n{made}\n{email}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_known_for_one_account_and_for_a_time() {
        let key = |bytes: &[u8]| hmac::Key::new(hmac::HMAC_SHA256, bytes);
        let now = OffsetDateTime::now_utc();
        let made = value(&key(b"key"), "ann@x", now);
        assert!(is_valid(&key(b"key"), "ann@x", &made, now + time::Duration::days(cookie::DEVICE_DAYS)));
        assert!(!is_valid(&key(b"key"), "ann@x", &made, now + time::Duration::days(cookie::DEVICE_DAYS + 1)));
        assert!(!is_valid(&key(b"key"), "bob@x", &made, now) && !is_valid(&key(b"other"), "ann@x", &made, now));
        for garbage in ["", ".", "1.", "x.00", "99999999999999999999.00", "-9223372036854775808.00"] {
            assert!(!is_valid(&key(b"key"), "ann@x", garbage, now), "{garbage}");
        }
    }
}
