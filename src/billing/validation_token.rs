//! Tokens that say that an account has a subscription, for other programs that know the key.

use ring::hmac;
use time::{Duration, OffsetDateTime};

use crate::db::Executor;
use crate::error::{Error, Result};
use crate::hex;
use crate::store::{User, installation, subscriptions};

/// How long a token is valid.
pub const LIFETIME: Duration = Duration::hours(1);

/// A token, and what it says.
#[derive(Clone, Debug)]
pub struct ValidationToken {
    /// The token.
    pub token: String,
    /// The id of the subscription's item at Stripe.
    pub item_id: String,
    /// When it ends.
    pub expires: OffsetDateTime,
}

/// Makes a token for an account that has a subscription. `secret` is that of the settings, if there is one.
///
/// # Errors
/// 403 for an account without a subscription.
pub fn make(db: &mut impl Executor, user: &User, secret: Option<&str>) -> Result<ValidationToken> {
    const NOT_SUBSCRIBED: Error = Error::Forbidden("Active subscription required");
    let item_id = subscriptions::of_user(db, &user.id)?.map(|subscription| subscription.item_id).unwrap_or_default();
    if !user.is_subscribed || item_id.is_empty() {
        return Err(NOT_SUBSCRIBED);
    }
    let key = secret.map_or_else(|| installation::validation_key(db), |secret| Ok(secret.as_bytes().to_vec()))?;
    let expires = OffsetDateTime::now_utc() + LIFETIME;
    let expires = expires.replace_nanosecond(0).unwrap_or(expires);
    Ok(ValidationToken { token: token(&key, &user.email, &item_id, expires), item_id, expires })
}

/// The end in seconds since 1970, a dot, and the HMAC with SHA-256 of the e-mail address, the item and the end, with a line
/// feed between each, in hexadecimal digits.
fn token(key: &[u8], email: &str, item_id: &str, expires: OffsetDateTime) -> String {
    let end = expires.unix_timestamp();
    let signed = format!("{email}\n{item_id}\n{end}");
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), signed.as_bytes());
    format!("{end}.{}", hex::encode(tag.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_for_one_account_item_and_end() {
        let end = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
        let one = token(b"key", "ann@x", "si_1", end);
        assert!(one.starts_with("1800000000.") && one.len() == 11 + 64, "{one}");
        for other in [
            token(b"other", "ann@x", "si_1", end),
            token(b"key", "bob@x", "si_1", end),
            token(b"key", "ann@x", "si_2", end),
            token(b"key", "ann@x\nsi_1", "", end),
            token(b"key", "ann@x", "si_1", end + Duration::seconds(1)),
        ] {
            assert_ne!(one, other);
        }
    }
}
