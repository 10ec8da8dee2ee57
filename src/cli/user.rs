//! `textgen user`.

use clap::Subcommand;

use super::{Failure, database, find_user};
use crate::accounts::recovery::{self, Change, Ended};
use crate::accounts::{self, email, keys, second_factor};
use crate::auth::Hasher;
use crate::auth::password::{Passwords, Peppers};
use crate::config::Config;
use crate::db::{Session, Transaction};
use crate::mail::Mail;
use crate::store::audit::{self, COMMAND_LINE};
use crate::store::{User, timestamp, users};

/// Subcommands of `textgen user`.
#[derive(Subcommand)]
pub enum UserCommand {
    /// List the newest accounts
    List {
        /// Maximum number of accounts
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=100_000))]
        limit: i64,
    },
    /// Create an account and print its secret, which is never shown again
    Create {
        /// E-mail address
        email: String,
        /// Read a password from the first line of standard input; without one, only the secret works
        #[arg(long)]
        password_stdin: bool,
    },
    /// Replace the default secret of an account and print the new one, which is never shown again
    RotateSecret {
        /// E-mail address or id of the account
        user: String,
    },
    /// Set the password of an account, which is read from the first line of standard input, and end its sessions
    SetPassword {
        /// E-mail address or id of the account
        user: String,
        /// Revoke all of its keys too
        #[arg(long)]
        revoke_keys: bool,
    },
    /// Print a link with which the password of an account can be set, once, within 30 minutes
    Link {
        /// E-mail address or id of the account
        user: String,
    },
    /// Suspend an account: its secrets and sessions stop working at once
    Suspend {
        /// E-mail address or id of the account
        user: String,
    },
    /// Restore a suspended account
    Restore {
        /// E-mail address or id of the account
        user: String,
    },
    /// Grant admin rights
    Promote {
        /// E-mail address or id of the account
        user: String,
    },
    /// Revoke admin rights
    Demote {
        /// E-mail address or id of the account
        user: String,
    },
    /// Turn off the two-factor authentication of an account, if its owner has lost phone and recovery codes
    DisableTotp {
        /// E-mail address or id of the account
        user: String,
    },
    /// Delete an account, with its documents, keys and sessions
    Delete {
        /// E-mail address or id of the account
        user: String,
        /// Do not ask for confirmation
        #[arg(long)]
        yes: bool,
    },
}

pub(super) fn run(command: &UserCommand, config: &Config) -> Result<String, Failure> {
    let db = database(config)?;
    let mut session = db.session()?;
    match command {
        UserCommand::List { limit } => list(&mut session, *limit),
        UserCommand::Create { email, password_stdin } => {
            let password = password_stdin.then(read_line).transpose()?;
            create(&mut session, config, email, password.as_deref())
        }
        UserCommand::RotateSecret { user } => rotate_secret(&mut session, user),
        UserCommand::SetPassword { user, revoke_keys } => set_password(&mut session, config, user, *revoke_keys),
        UserCommand::Link { user } => link(&mut session, config, user),
        UserCommand::Suspend { user } => set(&mut session, user, "suspend", "suspended", |db, user| {
            users::set_suspended(db, &user.id, true)?;
            Ok(())
        }),
        UserCommand::Restore { user } => set(&mut session, user, "restore", "restored", |db, user| {
            users::set_suspended(db, &user.id, false)?;
            Ok(())
        }),
        UserCommand::Promote { user } => {
            set(&mut session, user, "promote", "promoted", |db, user| Ok(accounts::set_admin(db, user, true)?))
        }
        UserCommand::Demote { user } => {
            set(&mut session, user, "demote", "demoted", |db, user| Ok(accounts::set_admin(db, user, false)?))
        }
        UserCommand::DisableTotp { user } => disable_totp(&mut session, user),
        UserCommand::Delete { user, yes } => delete(&mut session, user, *yes),
    }
}

fn list(db: &mut Session, limit: i64) -> Result<String, Failure> {
    let rows = users::newest(db, limit)?;
    let mut text = format!("{:<20} {:<40} {:<10} {}\n", "ID", "E-MAIL", "SECRET", "CREATED");
    for user in rows {
        text += &format!("{:<20} {:<40} {:<10} {}\n", user.id, user.email, user.secret, timestamp::zulu(user.created));
    }
    Ok(text)
}

fn create(db: &mut Session, config: &Config, address: &str, password: Option<&str>) -> Result<String, Failure> {
    let address = email::normalise(address);
    if !email::is_valid(&address) {
        return Err(Failure(format!("{address:?} is not an e-mail address")));
    }
    let hash = password.map(|password| hash(config, &address, password)).transpose()?;
    let mut transaction = db.transaction()?;
    let user = match accounts::create(&mut transaction, &address, hash.as_deref()) {
        Err(crate::error::Error::Database(crate::db::Error::Unique(_))) => {
            return Err(Failure(format!("{address} already has an account")));
        }
        done => done?,
    };
    audit::insert(&mut transaction, COMMAND_LINE, "create", &user, "")?;
    transaction.commit()?;
    Ok(format!("id {}\nemail {}\nsecret {}\n", user.id, user.email, user.secret))
}

fn hash(config: &Config, address: &str, password: &str) -> Result<String, Failure> {
    Passwords::validate(password, address)?;
    let passwords = Passwords::new(Hasher::new(1)?, Peppers::from(config))?;
    Ok(passwords.hash(password).map_err(crate::error::Error::from)?)
}

fn rotate_secret(db: &mut Session, user: &str) -> Result<String, Failure> {
    let user = find_user(db, user)?;
    let mut transaction = db.transaction()?;
    let secret = keys::rotate_default(&mut transaction, &user.id)?;
    audit::insert(&mut transaction, COMMAND_LINE, "rotate secret", &user, "")?;
    transaction.commit()?;
    Ok(format!("secret {}\n", secret.reveal()))
}

fn set_password(db: &mut Session, config: &Config, user: &str, ends_keys: bool) -> Result<String, Failure> {
    let user = find_user(db, user)?;
    let hash = hash(config, &user.email, &read_line()?)?;
    let mail = Mail::of(config)?;
    let mut transaction = db.transaction()?;
    let change = Change { actor: COMMAND_LINE, mail: &mail };
    let Ended { sessions, keys } = recovery::set(&mut transaction, &user, &hash, ends_keys, &change)?;
    transaction.commit()?;
    Ok(format!("password set {} {}\nended {sessions} sessions and {keys} keys\n", user.id, user.email))
}

fn link(db: &mut Session, config: &Config, user: &str) -> Result<String, Failure> {
    let user = find_user(db, user)?;
    let mail = Mail::of(config)?;
    let mut transaction = db.transaction()?;
    let link = recovery::new_link(&mut transaction, COMMAND_LINE, &user, mail.site())?;
    transaction.commit()?;
    Ok(format!("link {}\nexpires {}\n", link.address, timestamp::zulu(link.expires)))
}

fn set(
    db: &mut Session,
    user: &str,
    action: &str,
    done: &str,
    change: impl FnOnce(&mut Transaction<'_>, &User) -> Result<(), Failure>,
) -> Result<String, Failure> {
    let mut transaction = db.transaction()?;
    let user = find_user(&mut transaction, user)?;
    change(&mut transaction, &user)?;
    audit::insert(&mut transaction, COMMAND_LINE, action, &user, "")?;
    transaction.commit()?;
    Ok(format!("{done} {} {}\n", user.id, user.email))
}

fn disable_totp(db: &mut Session, user: &str) -> Result<String, Failure> {
    let mut transaction = db.transaction()?;
    let user = find_user(&mut transaction, user)?;
    if !second_factor::turn_off(&mut transaction, &user.id)? {
        return Err(Failure(format!("{} does not use two-factor authentication", user.email)));
    }
    audit::insert(&mut transaction, COMMAND_LINE, "turn off two-factor", &user, "")?;
    transaction.commit()?;
    Ok(format!("two-factor authentication is off for {} {}\n", user.id, user.email))
}

fn delete(db: &mut Session, user: &str, yes: bool) -> Result<String, Failure> {
    let user = find_user(db, user)?;
    if !yes && !is_confirmed(&user)? {
        return Err(Failure("not deleted".to_owned()));
    }
    let mut transaction = db.transaction()?;
    audit::insert(&mut transaction, COMMAND_LINE, "delete", &user, "")?;
    users::delete(&mut transaction, &user.id)?;
    transaction.commit()?;
    Ok(format!("deleted {} {}\n", user.id, user.email))
}

fn is_confirmed(user: &User) -> Result<bool, Failure> {
    use std::io::Write;
    let mut output = std::io::stdout().lock();
    let question = format!("Delete {} ({}), with its documents, keys and sessions? [y/N] ", user.email, user.id);
    output.write_all(question.as_bytes()).and_then(|()| output.flush()).map_err(|e| Failure(e.to_string()))?;
    Ok(matches!(read_line()?.trim(), "y" | "Y" | "yes"))
}

fn read_line() -> Result<String, Failure> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map_err(|e| Failure(format!("standard input: {e}")))?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
