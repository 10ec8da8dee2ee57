//! The settings for how people log in.

use clap::{ArgAction, Args};

use super::PASSWORDS;
use super::parse::{boolean, plain, secret, text};

/// How people log in.
#[derive(Clone, Args)]
pub struct LogInConfig {
    /// A secret mixed into all password hashes. If it is lost or changed, no password works any more
    #[arg(long, env, default_value = "", hide_env_values = true, value_parser = secret(text), help_heading = PASSWORDS)]
    pub password_pepper: String,

    /// The secret mixed into bcrypt hashes of the older system. Defaults to PASSWORD_PEPPER
    #[arg(long, env, hide_env_values = true, value_parser = secret(text), help_heading = PASSWORDS)]
    pub bcrypt_pepper: Option<String>,

    /// Administrators must use two-factor authentication: those who do not have it yet can only set it up, and are refused
    /// at `/admin` and `/api/admin`, with their keys too. `true` or `false`
    #[arg(long, env, default_value = "false", value_parser = plain(boolean), help_heading = PASSWORDS,
        action = ArgAction::Set)]
    pub admin_2fa: bool,
}

impl LogInConfig {
    /// The secret in the bcrypt hashes of the older system.
    pub fn bcrypt_pepper(&self) -> &str {
        self.bcrypt_pepper.as_ref().unwrap_or(&self.password_pepper)
    }
}
