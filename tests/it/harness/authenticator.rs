//! An authenticator app.

use serde_json::json;
use textgen::auth::totp::{Seed, step_at};

use super::Client;

/// An app that was given the secret of an account.
pub struct Authenticator(Seed);

impl Authenticator {
    /// With the secret that a person types into it: base32.
    pub fn new(secret: &str) -> Authenticator {
        let digits = secret.chars().filter(|c| !c.is_whitespace());
        let values = digits.map(|c| u32::try_from("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567".find(c).unwrap()).unwrap());
        let bits: Vec<u32> = values.flat_map(|value| (0..5).rev().map(move |bit| value >> bit & 1)).collect();
        let byte = |bits: &[u32]| u8::try_from(bits.iter().fold(0, |byte, bit| byte << 1 | bit)).unwrap();
        Authenticator(Seed::from_bytes(bits.chunks_exact(8).map(byte).collect()))
    }

    /// Sets up an app for a client that has just signed in, and turns two-factor authentication on with its current code.
    /// Returns it with the recovery codes.
    pub fn set_up(client: &Client) -> (Authenticator, Vec<String>) {
        let begun = client.post("/api/totp/enable", &json!({})).expect(200).json();
        let app = Authenticator::new(begun["secret"].as_str().unwrap());
        let done = client.post("/api/totp/confirm", &json!({"totp": app.code(0)})).expect(200).json();
        let codes = done["recovery_codes"].as_array().unwrap();
        (app, codes.iter().map(|code| code.as_str().unwrap().to_owned()).collect())
    }

    /// The code that it shows so many steps from now. Servers accept 0 and 1, also if a step ends meanwhile.
    pub fn code(&self, steps: i64) -> String {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        format!("{:06}", self.0.code(step_at(i64::try_from(now).unwrap()) + steps))
    }

    /// A code that is certainly wrong.
    pub fn wrong_code(&self) -> String {
        let near: Vec<String> = (-3..=3).map(|steps| self.code(steps)).collect();
        (0..10).map(|n| format!("{n:06}")).find(|code| !near.contains(code)).unwrap()
    }

    /// What it shares with the server.
    pub fn seed(&self) -> &[u8] {
        self.0.bytes()
    }
}
