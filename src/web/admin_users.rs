//! The operator's API of accounts: the twin of `textgen user` and `textgen limit`. Each change is recorded in the audit
//! log, in the same transaction.

use schemars::JsonSchema;
use serde::Serialize;
use time::OffsetDateTime;

use super::cursor::Page;
use super::key_fields::{BudgetFields, LimitFields, List, NewKey, RateFields, checked_name, show};
use super::keys::{in_transaction, most};
use super::{Answer, actor, fields, record};
use crate::accounts::recovery::{self, NewLink};
use crate::accounts::scopes::{self, AccountScope};
use crate::accounts::{self, budgets, email, limited_keys, rates, second_factor};
use crate::auth::Caller;
use crate::auth::password::Passwords;
use crate::call::Call;
use crate::db::{self, Executor, Transaction};
use crate::error::{Conflicting, Error, Result};
use crate::http::Response;
use crate::http::form::Fields;
use crate::http::request_fields::{Change, request_fields};
use crate::operation::Group::Administration;
use crate::operation::Handler::Authenticated;
use crate::operation::{Operation, get, post, summary};
use crate::store::budgets::{Budget, BudgetChange};
use crate::store::directory::{self, Listed, UserSummary};
use crate::store::rates::RateLimit;
use crate::store::{User, second_factors, timestamp, users};

/// Accounts on a page of the list, unless `limit` asks for fewer.
const PAGE: i64 = 100;

const NO_ACCOUNT: &str = "Account not found";
const TAKEN: &str = "This e-mail address already has an account";

/// The operations of this file.
pub(super) fn operations() -> Vec<Operation> {
    let all = [
        get("/api/admin/users", Authenticated(list)).described(
            summary(Administration, "Accounts, newest first, with their limits")
                .query::<ListUsers>()
                .reply::<UserList>()
                .status(400, "limit or after is invalid"),
        ),
        post("/api/admin/users", Authenticated(create)).described(
            summary(Administration, "Create an account")
                .fields::<CreateUser<'_>>()
                .reply::<NewUser>()
                .status(409, TAKEN),
        ),
        post("/api/admin/users/update", Authenticated(update)).described(
            summary(
                Administration,
                "Limit, suspend, restore, promote or demote an account; fields that are missing stay as they are",
            )
            .fields::<UpdateUser<'_>>()
            .reply::<ShownUser>()
            .status(404, NO_ACCOUNT),
        ),
        post("/api/admin/users/link", Authenticated(create_link)).described(
            summary(Administration, "Make a link with which the password of an account can be set, once")
                .fields::<CreateUserLink<'_>>()
                .reply::<UserLink>()
                .status(404, NO_ACCOUNT),
        ),
        post("/api/admin/users/keys", Authenticated(create_key)).described(
            summary(Administration, "Create a key of an account")
                .fields::<CreateUserKey<'_>>()
                .reply::<NewKey>()
                .status(404, NO_ACCOUNT)
                .status(409, "The account has as many keys as it may have"),
        ),
    ];
    all.into_iter().map(Operation::for_administrators).collect()
}

/// The parameters of the list.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "describes the query")]
struct ListUsers {
    /// 1 to 100.
    limit: Option<i64>,
    /// The `next` of the page before.
    after: Option<String>,
    /// Only the account with this e-mail address or id.
    user: Option<String>,
    /// Only some: admin, suspended or subscribed.
    status: Option<String>,
}

request_fields! {
    /// What the creation of an account takes.
    struct CreateUser<'f> {
        email: &'f str,
        /// At most 200 characters.
        name: Option<&'f str>,
        /// Without one, only the account's secret works.
        password: Option<&'f str>,
        /// The most that it may spend, all of its keys together.
        budget: Change<BudgetFields>,
        /// How much it may ask for in a minute, or at once, all of its keys together.
        rate: Change<RateFields>,
        /// The models that it may call, with each of its keys; all by default.
        models: Change<List>,
        /// The addresses and networks that it may be used from; all by default.
        addresses: Change<List>,
    }
}

request_fields! {
    /// What the change of an account takes.
    struct UpdateUser<'f> {
        /// The account's e-mail address or id.
        user: &'f str,
        /// Whether its keys and sessions do not work.
        suspended: Option<bool>,
        /// Whether it may manage everything. The last administrator stays one.
        admin: Option<bool>,
        /// `false` turns two-factor authentication off, for whoever has lost what it takes. Only its owner can turn it on.
        two_factor: Option<bool>,
        /// Why, for the audit log; at most 300 characters.
        reason: Option<&'f str>,
        /// The most that it may spend, all of its keys together; null for no limit.
        budget: Change<BudgetFields>,
        /// How much it may ask for in a minute, or at once, all of its keys together; null for no limit.
        rate: Change<RateFields>,
        /// The models that it may call, with each of its keys, whose own limits apply too; null for all.
        models: Change<List>,
        /// The addresses and networks that it may be used from, with each of its keys and sessions; null for all.
        addresses: Change<List>,
    }
}

request_fields! {
    /// What the creation of a link takes.
    struct CreateUserLink<'f> {
        /// The account's e-mail address or id. It may not be an administrator's.
        user: &'f str,
    }
}

/// A link, in the only reply that holds it.
#[derive(Serialize, JsonSchema)]
struct UserLink {
    link: String,
    /// Until when it can be used.
    #[serde(serialize_with = "timestamp::serialize_zulu")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    expires: OffsetDateTime,
}

request_fields! {
    /// What the creation of a key of an account takes.
    struct CreateUserKey<'f> {
        /// The account's e-mail address or id.
        user: &'f str,
        /// At most 100 characters.
        name: &'f str,
        /// When it stops working.
        #[schemars(extend("format" = "date-time"))]
        expires: Change<&'f str>,
        /// The most that it may spend.
        budget: Change<BudgetFields>,
        /// How much it may ask for in a minute, or at once.
        rate: Change<RateFields>,
        /// The models that it may call; all by default.
        models: Change<List>,
        /// What it may do: of `models`, `documents`, `account` and `admin`; all but the last by default.
        permissions: Change<List>,
        /// The addresses and networks that it may be used from; all by default.
        addresses: Change<List>,
    }
}

#[derive(Serialize, JsonSchema)]
struct UserList {
    users: Vec<ShownUser>,
    /// The `after` of the next page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// An account as operators see it.
#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct ShownUser {
    id: String,
    email: String,
    name: Option<String>,
    #[serde(serialize_with = "timestamp::serialize_zulu")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    created: OffsetDateTime,
    is_admin: bool,
    /// Whether its log-ins ask for a second factor.
    two_factor: bool,
    /// Since when its keys and sessions do not work.
    #[serde(serialize_with = "timestamp::serialize_zulu_option")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    suspended: Option<OffsetDateTime>,
    /// The most that it may spend, and what it has spent.
    budget: Option<Budget>,
    /// How much it may ask for in a minute, or at once.
    rate: Option<RateLimit>,
    /// The models that it may call; null for all.
    models: Option<Vec<String>>,
    /// The networks that it may be used from; null for all.
    addresses: Option<Vec<String>>,
}

/// What a request says of an account's limits.
struct AccountLimits {
    budget: Change<BudgetFields>,
    rate: Change<RateFields>,
    models: Change<List>,
    addresses: Change<List>,
}

/// A new account, in the only reply that holds its secret.
#[derive(Serialize, JsonSchema)]
struct NewUser {
    #[serde(flatten)]
    user: ShownUser,
    /// Of its default key. Shown here and never again.
    secret: String,
}

/// `GET /api/admin/users?limit=&after=&user=`.
fn list(call: &mut Call<'_>, _: &Caller) -> Answer {
    let asked = Page::of(call.request, PAGE)?;
    let only = call.request.query("user").filter(|text| !text.is_empty());
    let listed = Listed::named(&call.request.query("status").unwrap_or_default());
    let listed = listed.ok_or(Error::bad("status must be admin, suspended or subscribed"))?;
    let mut session = call.app.db.session()?;
    let mut found = match only {
        Some(only) => match accounts::find(&mut session, &only)? {
            Some(user) => directory::with_ids(&mut session, &[user.id.as_str()])?,
            None => Vec::new(),
        },
        None => directory::newest(&mut session, listed, asked.after(), asked.limit + 1)?,
    };
    let next = asked.cut(&mut found, false, |last| (last.created, &last.id));
    let users = with_limits(&mut session, found)?;
    Ok(Response::json_reserved(200, &UserList { users, next })?)
}

/// Adds the limits of accounts.
fn with_limits(db: &mut impl Executor, found: Vec<UserSummary>) -> Result<Vec<ShownUser>> {
    let ids: Vec<&str> = found.iter().map(|user| user.id.as_str()).collect();
    let mut budgets = crate::store::budgets::of_accounts(db, &ids)?;
    let mut rates = crate::store::rates::of_accounts(db, &ids)?;
    let with_factor = second_factors::of_accounts(db, &ids)?;
    let shown = |user: UserSummary| {
        let UserSummary { id, email, name, created, is_admin, suspended, models, addresses, .. } = user;
        let (budget, rate, two_factor) = (budgets.remove(&id), rates.remove(&id), with_factor.contains(&id));
        ShownUser { id, email, name, created, is_admin, two_factor, suspended, budget, rate, models, addresses }
    };
    Ok(found.into_iter().map(shown).collect())
}

fn shown(db: &mut impl Executor, id: &str) -> Result<ShownUser> {
    let found = directory::with_ids(db, &[id])?;
    with_limits(db, found)?.pop().ok_or(Error::NotFound(NO_ACCOUNT))
}

/// `POST /api/admin/users` with `email` and optionally `name`, `password` and limits.
fn create(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let fields = fields(call)?;
    check_account_limits(&fields)?;
    let CreateUser { email, name, password, budget, rate, models, addresses } = CreateUser::read(&fields)?;
    let limits = AccountLimits { budget, rate, models, addresses };
    let address = email::normalise(email);
    if !email::is_valid(&address) {
        return Err(Error::InvalidEmail);
    }
    let name = name.map(str::trim).filter(|name| !name.is_empty());
    if name.is_some_and(|name| name.chars().count() > 200) {
        return Err(Error::bad("The name must have at most 200 characters"));
    }
    let password = password.filter(|password| !password.is_empty());
    password.map(|password| Passwords::validate(password, &address)).transpose()?;
    let hash = password.map(|password| call.app.passwords.hash(password)).transpose()?;
    let made = in_transaction(call, |db| {
        let user = match accounts::create(db, &address, hash.as_deref()) {
            Err(Error::Database(db::Error::Unique(name))) if name == users::EMAIL_KEY => {
                return Err(Error::Conflict(TAKEN, Conflicting::default()));
            }
            created => created?,
        };
        if let Some(name) = name {
            users::set_name(db, &user.id, name)?;
        }
        let mut details = set_limits(db, &user, limits)?;
        details.insert(0, "created".to_owned());
        record(call, caller, db, "create", &user, &details.join("; "))?;
        Ok(NewUser { user: shown(db, &user.id)?, secret: user.secret })
    })?;
    Ok(Response::json(200, &made))
}

/// `POST /api/admin/users/update` with `user` and what is to be changed.
fn update(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let fields = fields(call)?;
    check_account_limits(&fields)?;
    let UpdateUser { user, suspended, admin, two_factor, reason, budget, rate, models, addresses } =
        UpdateUser::read(&fields)?;
    let limits = AccountLimits { budget, rate, models, addresses };
    let changed = in_transaction(call, |db| {
        let user = accounts::find(db, user)?.ok_or(Error::NotFound(NO_ACCOUNT))?;
        let reason: String = reason.unwrap_or("").trim().chars().take(300).collect();
        if let Some(suspended) = suspended {
            if suspended && caller.user.id == user.id {
                return Err(Error::bad("You cannot suspend your own account"));
            }
            users::set_suspended(db, &user.id, suspended)?;
            record(call, caller, db, if suspended { "suspend" } else { "restore" }, &user, &reason)?;
        }
        if let Some(is_admin) = admin.filter(|is_admin| *is_admin != user.is_admin) {
            accounts::set_admin(db, &user, is_admin)?;
            record(call, caller, db, if is_admin { "promote" } else { "demote" }, &user, &reason)?;
        }
        match two_factor {
            Some(true) => {
                return Err(Error::bad("Only the owner of the account can turn on two-factor authentication"));
            }
            Some(false) if second_factor::turn_off(db, &user.id)? => {
                record(call, caller, db, "turn off two-factor", &user, &reason)?;
            }
            Some(false) | None => {}
        }
        let details = set_limits(db, &user, limits)?;
        if !details.is_empty() {
            record(call, caller, db, "limit", &user, &details.join("; "))?;
        }
        shown(db, &user.id)
    })?;
    call.app.cache.revoke(&changed.id);
    let limits = changed.budget.iter().map(|budget| &budget.id).chain(changed.rate.iter().map(|rate| &rate.id));
    limits.for_each(|id| call.app.meter.limits().notified(id));
    Ok(Response::json(200, &changed))
}

/// A limit that would not hold must not seem to.
fn check_account_limits(fields: &Fields) -> Result<()> {
    match ["permissions", "expires"].iter().any(|name| fields.has(name)) {
        true => Err(Error::bad("permissions and expires are limits of keys, not of accounts")),
        false => Ok(()),
    }
}

/// Sets the limits of an account. Returns them in words.
fn set_limits(db: &mut Transaction<'_>, user: &User, limits: AccountLimits) -> Result<Vec<String>> {
    let AccountLimits { budget, rate, models, addresses } = limits;
    let list = |List(items)| Ok::<_, Error>(Some(items));
    let scope = AccountScope { models: models.try_map(list)?, addresses: addresses.try_map(list)? };
    let mut details = scopes::set_for_account(db, &user.id, scope)?;
    if !matches!(budget, Change::Keep) {
        let budget = budgets::set_for_account(db, &user.id, budget.apply(None).map(BudgetChange::from))?;
        details.push(budget.map_or("no budget".to_owned(), |budget| budgets::in_words(&budget)));
    }
    if !matches!(rate, Change::Keep) {
        let rate = rates::set_for_account(db, &user.id, rate.apply(None).map(rates::RateChange::from))?;
        details.push(rate.map_or("no rate limits".to_owned(), |rate| rates::in_words(&rate)));
    }
    Ok(details)
}

/// `POST /api/admin/users/keys` with `user`, `name` and optionally what the key is limited to.
fn create_key(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let fields = fields(call)?;
    let CreateUserKey { user, name, expires, budget, rate, models, permissions, addresses } =
        CreateUserKey::read(&fields)?;
    let change = LimitFields { expires, budget, rate, models, permissions, addresses }.check(caller, None)?;
    let name = checked_name(name)?;
    let made = in_transaction(call, |db| {
        let user = accounts::find(db, user)?.ok_or(Error::NotFound(NO_ACCOUNT))?;
        let (key, secret) = limited_keys::create(db, None, &user.id, name, change, most(call))?;
        record(call, caller, db, "create key", &user, &key.id)?;
        Ok(NewKey::new(show(db, &user.id, key)?, &secret))
    })?;
    Ok(Response::json(200, &made))
}

/// `POST /api/admin/users/link` with `user`.
fn create_link(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let fields = fields(call)?;
    let name = CreateUserLink::read(&fields)?.user;
    let user = accounts::find(&mut call.app.db.session()?, name)?.ok_or(Error::NotFound(NO_ACCOUNT))?;
    let NewLink { address: link, expires } = link_for(call, caller, &user)?;
    Ok(Response::json(200, &UserLink { link, expires }))
}

/// Makes a link with which the password of an account can be set. With one for another administrator's account, an
/// administrator could act as somebody else.
pub(super) fn link_for(call: &Call<'_>, caller: &Caller, user: &User) -> Result<NewLink> {
    if user.is_admin {
        return Err(Error::Forbidden("Links for administrators are made on the command line: textgen user link"));
    }
    let address = call.client().to_string();
    in_transaction(call, |db| recovery::new_link(db, actor(caller, &address), user, call.app.mail.site()))
}
