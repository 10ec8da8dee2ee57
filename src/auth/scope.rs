//! What a key or an account is limited to, beside what it may spend.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::store::User;
use crate::store::api_keys::KeyScope;

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Call models.
    Models,
    /// Read and write documents.
    Documents,
    /// See and change the account: its keys, sessions and usage.
    Account,
    /// What administrators may do, if the account is one's.
    Admin,
}

impl Permission {
    /// Each with its name.
    const NAMES: [(&str, Permission); 4] = [
        ("models", Permission::Models),
        ("documents", Permission::Documents),
        ("account", Permission::Account),
        ("admin", Permission::Admin),
    ];

    /// The one of this name.
    pub fn named(name: &str) -> Option<Permission> {
        Permission::NAMES.iter().find(|(known, _)| *known == name).map(|(_, permission)| *permission)
    }
}

/// What a restricted key, or a restricted account, is limited to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    models: Option<Vec<String>>,
    /// `None` for all but administration.
    permissions: Option<Vec<Permission>>,
    addresses: Option<Vec<IpNet>>,
}

impl Scope {
    /// The one that a key's row describes; `None` for a key without restrictions. What is stored and not understood
    /// allows nothing.
    pub fn of(stored: KeyScope) -> Option<Scope> {
        let KeyScope { models, permissions, addresses } = stored;
        let scope = Scope {
            models,
            permissions: permissions.map(|names| names.iter().filter_map(|name| Permission::named(name)).collect()),
            addresses: addresses.map(|all| all.iter().filter_map(|network| network.parse().ok()).collect()),
        };
        (scope != Scope::default()).then_some(scope)
    }

    /// The one of an account; `None` for one without restrictions. It says nothing of permissions.
    pub fn of_account(user: &User) -> Option<Scope> {
        Scope::of(KeyScope { models: user.models.clone(), permissions: None, addresses: user.addresses.clone() })
    }

    /// Whether the key may do this.
    pub fn permits(&self, permission: Permission) -> bool {
        match &self.permissions {
            Some(permitted) => permitted.contains(&permission),
            None => permission != Permission::Admin,
        }
    }

    /// Whether the key may be used from this address.
    pub fn admits(&self, address: IpAddr) -> bool {
        self.addresses.as_ref().is_none_or(|networks| networks.iter().any(|network| network.contains(&address)))
    }

    /// Whether a key with this scope may do nothing that this one may not.
    pub fn includes(&self, other: KeyScope) -> bool {
        let other = Scope::of(other).unwrap_or_default();
        let all = [Permission::Models, Permission::Documents, Permission::Account, Permission::Admin];
        let models = other.models.as_ref().map_or(self.models.is_none(), |all| all.iter().all(|m| self.has_model(m)));
        let addresses = match (&self.addresses, &other.addresses) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(own), Some(others)) => others.iter().all(|other| own.iter().any(|own| own.contains(other))),
        };
        models && addresses && all.iter().all(|permission| self.permits(*permission) || !other.permits(*permission))
    }

    /// Whether the key may call this model.
    pub fn has_model(&self, model: &str) -> bool {
        self.models.as_ref().is_none_or(|models| models.iter().any(|allowed| allowed == model))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(permissions: &[&str], addresses: &[&str]) -> Option<Scope> {
        let list = |items: &[&str]| (!items.is_empty()).then(|| items.iter().map(|i| (*i).to_owned()).collect());
        Scope::of(KeyScope { models: None, permissions: list(permissions), addresses: list(addresses) })
    }

    #[test]
    fn a_key_without_restrictions_has_none() {
        assert_eq!(scope(&[], &[]), None);
    }

    #[test]
    fn a_scope_includes_what_is_no_wider() {
        let stored = |models: Option<&[&str]>, permissions: Option<&[&str]>, addresses: Option<&[&str]>| {
            let list = |items: Option<&[&str]>| items.map(|items| items.iter().map(|i| (*i).to_owned()).collect());
            KeyScope { models: list(models), permissions: list(permissions), addresses: list(addresses) }
        };
        let own = Scope::of(stored(Some(&["m", "n"]), Some(&["models"]), Some(&["10.0.0.0/8"]))).unwrap();
        assert!(own.includes(stored(Some(&["m"]), Some(&["models"]), Some(&["10.1.0.0/16"]))));
        assert!(own.includes(stored(Some(&[]), Some(&[]), Some(&[]))));
        for wider in [
            stored(None, Some(&["models"]), Some(&["10.1.0.0/16"])),
            stored(Some(&["o"]), Some(&["models"]), Some(&["10.1.0.0/16"])),
            stored(Some(&["m"]), None, Some(&["10.1.0.0/16"])),
            stored(Some(&["m"]), Some(&["models", "account"]), Some(&["10.1.0.0/16"])),
            stored(Some(&["m"]), Some(&["models"]), None),
            stored(Some(&["m"]), Some(&["models"]), Some(&["0.0.0.0/0"])),
            stored(Some(&["m"]), Some(&["models"]), Some(&["10.1.0.0/16", "::1/128"])),
        ] {
            assert!(!own.includes(wider.clone()), "{wider:?}");
        }
        assert!(!Scope::default().includes(stored(None, Some(&["admin"]), None)));
        assert!(Scope::default().includes(stored(Some(&["m"]), None, Some(&["::1/128"]))));
    }

    #[test]
    fn a_key_may_do_what_is_listed() {
        let models = scope(&["models"], &[]).unwrap();
        assert!(models.permits(Permission::Models) && !models.permits(Permission::Account));
        let local = scope(&[], &["10.0.0.0/8", "2001:db8::1/128"]).unwrap();
        assert!(local.permits(Permission::Account) && !local.permits(Permission::Admin));
        for (address, is_admitted) in [("10.1.2.3", true), ("11.1.2.3", false), ("2001:db8::1", true), ("::1", false)] {
            assert_eq!(local.admits(address.parse().unwrap()), is_admitted, "{address}");
        }
        assert!(!scope(&[], &["nonsense"]).unwrap().admits("10.1.2.3".parse().unwrap()));
        assert!(!scope(&["nonsense"], &[]).unwrap().permits(Permission::Models));
    }
}
