//! What mails are about.

use time::Duration;

use crate::store::account_links::Purpose;

/// For how long a link can be used that lets somebody in.
pub const LINK_LIFETIME: Duration = Duration::minutes(30);

/// For how long a link can be used that verifies an address.
const VERIFY_LIFETIME: Duration = Duration::hours(24);

/// What a mail is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Somebody signed up: is this the address?
    Verify,
    /// Somebody wants a new password.
    Reset,
    /// Somebody wants this to be the account's address.
    ConfirmEmail,
    /// The account has another address.
    EmailChanged,
    /// The account has another password.
    PasswordChanged,
    /// Somebody signed in from elsewhere.
    NewDevice,
    /// Somebody tried to sign up with an address that has an account.
    KnownAddress,
    /// A part of a budget is spent.
    Budget,
    /// Credit runs low.
    Credit,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 9] = [
        Kind::Verify,
        Kind::Reset,
        Kind::ConfirmEmail,
        Kind::EmailChanged,
        Kind::PasswordChanged,
        Kind::NewDevice,
        Kind::KnownAddress,
        Kind::Budget,
        Kind::Credit,
    ];

    /// Its name in the database.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Verify => "verify",
            Kind::Reset => "reset",
            Kind::ConfirmEmail => "confirm_email",
            Kind::EmailChanged => "email_changed",
            Kind::PasswordChanged => "password_changed",
            Kind::NewDevice => "new_device",
            Kind::KnownAddress => "known_address",
            Kind::Budget => "budget",
            Kind::Credit => "credit",
        }
    }

    /// The one with this name.
    pub fn named(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// How long it is tried to send it. Who asks for a link asks again after an hour.
    pub const fn lifetime(self) -> Duration {
        match self {
            Kind::Reset | Kind::ConfirmEmail => Duration::hours(1),
            _ => Duration::days(3),
        }
    }

    /// The most that one address gets in an hour.
    pub const fn most_an_hour(self) -> i64 {
        match self {
            Kind::KnownAddress => 1,
            Kind::Budget | Kind::Credit => 50,
            _ => 5,
        }
    }

    /// What its link is for and how long that can be used, if it has one with a token.
    pub const fn link(self) -> Option<(Purpose, Duration)> {
        match self {
            Kind::Verify => Some((Purpose::Verify, VERIFY_LIFETIME)),
            Kind::Reset => Some((Purpose::Password, LINK_LIFETIME)),
            Kind::ConfirmEmail => Some((Purpose::Email, LINK_LIFETIME)),
            _ => None,
        }
    }

    /// Whether its link lets somebody in who could not get in before.
    pub fn lets_in(self) -> bool {
        matches!(self, Kind::Reset | Kind::ConfirmEmail)
    }

    /// The page that its link leads to.
    pub const fn page(self) -> &'static str {
        match self {
            Kind::Verify | Kind::ConfirmEmail => "/confirm-email",
            Kind::Reset => "/reset-password",
            Kind::KnownAddress | Kind::PasswordChanged | Kind::NewDevice => "/forgot-password",
            Kind::EmailChanged => "/login",
            Kind::Budget => "/usage",
            Kind::Credit => "/subscribe",
        }
    }
}
