//! The second factor of an account: an authenticator app, and recovery codes for whoever has lost it.
//!
//! A code is used up in the transaction that does what it is asked for, which has locked the account first. So a code
//! works once, and no log-in slips past a second factor that is turned on or off at the same time.

use std::sync::OnceLock;

use time::OffsetDateTime;

use super::new_id;
use crate::auth::Digest;
use crate::auth::totp::{self, Seed};
use crate::config::{Config, EncryptionKey};
use crate::db::Executor;
use crate::error::{Conflicting, Error, Result};
use crate::sealing::Sealing;
use crate::store::second_factors::{self, Authenticator};
use crate::store::{installation, users};

/// How many recovery codes an account gets.
pub const RECOVERY_CODES: usize = 10;

/// Characters of a recovery code, of 5 random bits each.
const RECOVERY_LENGTH: usize = 16;

/// What recovery codes are made of: no letter looks like a digit (Crockford's base32).
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// The first byte of a sealed seed says with which key.
const BY_INSTALLATION: u8 = 0;
const BY_ENCRYPTION_KEY: u8 = 1;

const ALREADY_ON: &str = "Two-factor authentication is on already";
const NOT_BEGUN: &str = "Set up an authenticator app first";

/// Seals and opens the seeds of authenticator apps: with the setting `ENCRYPTION_KEY`, or with a key of the database if
/// that is not set.
#[derive(Default)]
pub struct Seeds {
    set: Option<EncryptionKey>,
    by_setting: OnceLock<Sealing>,
    by_installation: OnceLock<Sealing>,
}

impl Seeds {
    /// With the key of these settings.
    pub fn new(config: &Config) -> Seeds {
        Seeds { set: config.encryption_key.clone(), ..Seeds::default() }
    }

    fn seal(&self, db: &mut impl Executor, user_id: &str, seed: &Seed) -> Result<Vec<u8>> {
        let by = if self.set.is_some() { BY_ENCRYPTION_KEY } else { BY_INSTALLATION };
        let sealed = self.sealing(db, by)?.seal(user_id, seed.bytes()).map_err(Error::Internal)?;
        Ok([&[by], sealed.as_slice()].concat())
    }

    fn open(&self, db: &mut impl Executor, user_id: &str, sealed: &[u8]) -> Result<Seed> {
        let (by, sealed) = sealed.split_first().ok_or_else(|| Error::Internal(cannot_open(user_id)))?;
        let seed = self.sealing(db, *by)?.open(user_id, sealed);
        seed.map(Seed::from_bytes).ok_or_else(|| Error::Internal(cannot_open(user_id)))
    }

    fn sealing(&self, db: &mut impl Executor, by: u8) -> Result<&Sealing> {
        const PURPOSE: &str = "second factors";
        let derived = |key: &[u8]| Sealing::derived(key, PURPOSE).map_err(Error::Internal);
        let (place, key) = match (by, &self.set) {
            (BY_INSTALLATION, _) => (&self.by_installation, None),
            (BY_ENCRYPTION_KEY, Some(key)) => (&self.by_setting, Some(key)),
            _ => return Err(Error::Internal("ENCRYPTION_KEY is not set, with which second factors are sealed".into())),
        };
        if let Some(sealing) = place.get() {
            return Ok(sealing);
        }
        let sealing = match key {
            Some(key) => derived(key.bytes())?,
            None => derived(&installation::second_factor_key(db)?)?,
        };
        Ok(place.get_or_init(|| sealing))
    }
}

fn cannot_open(user_id: &str) -> String {
    format!("the second factor of account {user_id} was not sealed with this ENCRYPTION_KEY, or not in this database")
}

/// Begins to set up an authenticator app.
///
/// # Errors
/// 409 if there is one.
pub fn begin(db: &mut impl Executor, seeds: &Seeds, user_id: &str) -> Result<Seed> {
    let seed = Seed::new().map_err(super::no_randomness)?;
    let sealed = seeds.seal(db, user_id, &seed)?;
    users::lock(db, user_id)?;
    match second_factors::begin(db, &new_id("fac_")?, user_id, &sealed)? {
        true => Ok(seed),
        false => Err(Error::Conflict(ALREADY_ON, Conflicting::default())),
    }
}

/// The seed of an app that was begun to be set up, to be shown again.
///
/// # Errors
/// Those of the database, and if it cannot be opened.
pub fn pending(db: &mut impl Executor, seeds: &Seeds, user_id: &str) -> Result<Option<Seed>> {
    let found = second_factors::authenticator(db, user_id)?.filter(|app| app.confirmed.is_none());
    found.map(|app| seeds.open(db, user_id, &app.secret)).transpose()
}

/// Turns it on, if this is a code of the app that was begun to be set up. Returns recovery codes.
///
/// # Errors
/// 401 for a wrong code; 409 if none was begun, or it is on.
pub fn confirm(db: &mut impl Executor, seeds: &Seeds, user_id: &str, code: &str) -> Result<Vec<String>> {
    let conflict = |text| Error::Conflict(text, Conflicting::default());
    if !users::lock(db, user_id)? {
        return Err(conflict(NOT_BEGUN));
    }
    let app = second_factors::authenticator(db, user_id)?.ok_or_else(|| conflict(NOT_BEGUN))?;
    if app.confirmed.is_some() {
        return Err(conflict(ALREADY_ON));
    }
    let step = step(db, seeds, user_id, &app, code)?.ok_or(Error::InvalidCode)?;
    if !second_factors::confirm(db, &app.id, step)? {
        return Err(conflict(ALREADY_ON));
    }
    renew_codes(db, user_id)
}

/// Checks what an account with a second factor was asked for, a code of its app or a recovery code, and uses it up. The
/// account is locked. Without a second factor, every code will do, and none.
///
/// # Errors
/// 401 without a code, and for one that is wrong or was used.
pub fn check(db: &mut impl Executor, seeds: &Seeds, user_id: &str, code: Option<&str>) -> Result<()> {
    let app = second_factors::authenticator(db, user_id)?.filter(|app| app.confirmed.is_some());
    let Some(app) = app else { return Ok(()) };
    let code = code.filter(|code| !code.trim().is_empty()).ok_or(Error::CodeRequired)?;
    let is_right = match recovery_code(code) {
        Some(code) => second_factors::use_code(db, user_id, &Digest::of(&code).0)?,
        None => match step(db, seeds, user_id, &app, code)? {
            Some(step) => second_factors::use_step(db, &app.id, step)?,
            None => false,
        },
    };
    if is_right { Ok(()) } else { Err(Error::InvalidCode) }
}

/// Replaces the recovery codes, and returns the new ones.
///
/// # Errors
/// Those of the database.
pub fn renew_codes(db: &mut impl Executor, user_id: &str) -> Result<Vec<String>> {
    let codes: Vec<String> = (0..RECOVERY_CODES).map(|_| new_recovery_code()).collect::<Result<_>>()?;
    let digests: Vec<Digest> = codes.iter().map(|code| Digest::of(code)).collect();
    let digests: Vec<&[u8]> = digests.iter().map(|digest| digest.0.as_slice()).collect();
    second_factors::replace_codes(db, user_id, &digests)?;
    Ok(codes.iter().map(|code| in_groups(code)).collect())
}

/// Turns it off. Returns whether it was on.
///
/// # Errors
/// Those of the database.
pub fn turn_off(db: &mut impl Executor, user_id: &str) -> Result<bool> {
    Ok(users::lock(db, user_id)? && second_factors::remove(db, user_id)?)
}

/// The step of the app's code, if it is one that was not used.
fn step(db: &mut impl Executor, seeds: &Seeds, user_id: &str, app: &Authenticator, code: &str) -> Result<Option<i64>> {
    let Some(code) = app_code(code) else { return Ok(None) };
    let seed = seeds.open(db, user_id, &app.secret)?;
    Ok(seed.step_of(code, OffsetDateTime::now_utc().unix_timestamp(), app.last_step))
}

/// The number that an app shows, however it was typed.
fn app_code(text: &str) -> Option<u32> {
    let digits: String = text.chars().filter(|c| !is_separator(*c)).collect();
    let is_code = digits.len() == totp::DIGITS && digits.bytes().all(|b| b.is_ascii_digit());
    is_code.then(|| digits.parse().ok()).flatten()
}

/// A recovery code as it was made, however it was typed; `None` if it cannot be one.
fn recovery_code(text: &str) -> Option<String> {
    let read = |c: char| match c.to_ascii_lowercase() {
        'o' => '0',
        'i' | 'l' => '1',
        c => c,
    };
    // Of a longer text, no more than shows that it is too long.
    let code: String = text.chars().filter(|c| !is_separator(*c)).map(read).take(RECOVERY_LENGTH + 1).collect();
    let is_code = code.len() == RECOVERY_LENGTH && code.bytes().all(|b| ALPHABET.contains(&b));
    is_code.then_some(code)
}

fn is_separator(c: char) -> bool {
    c.is_whitespace() || c == '-'
}

fn new_recovery_code() -> Result<String> {
    let mut bytes = [0; RECOVERY_LENGTH];
    getrandom::fill(&mut bytes).map_err(super::no_randomness)?;
    Ok(bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect())
}

fn in_groups(code: &str) -> String {
    let characters: Vec<char> = code.chars().collect();
    let groups: Vec<String> = characters.chunks(4).map(|group| group.iter().collect()).collect();
    groups.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_read_however_they_are_typed() {
        for text in ["012345", " 012 345\n", "012-345"] {
            assert_eq!(app_code(text), Some(12_345), "{text:?}");
        }
        for text in ["", "12345", "1234567", "12345x", "٠١٢٣٤٥", "-12345"] {
            assert_eq!(app_code(text), None, "{text:?}");
        }
        let code = new_recovery_code().unwrap();
        for text in [code.clone(), in_groups(&code), format!(" {} ", in_groups(&code).to_uppercase())] {
            assert_eq!(recovery_code(&text), Some(code.clone()), "{text:?}");
        }
        assert_eq!(recovery_code("OIL0-oil0-1111-zzzz").as_deref(), Some("011001101111zzzz"));
        for text in ["", "123456", "u000-0000-0000-0000", "0000-0000-0000-000", "0000-0000-0000-0000-0", "é"] {
            assert_eq!(recovery_code(text), None, "{text:?}");
        }
    }

    #[test]
    fn recovery_codes_are_long_and_unlike() {
        let codes: std::collections::HashSet<String> = (0..1000).map(|_| new_recovery_code().unwrap()).collect();
        assert_eq!(codes.len(), 1000);
        assert_eq!(in_groups("0123456789abcdef"), "0123-4567-89ab-cdef");
    }
}
