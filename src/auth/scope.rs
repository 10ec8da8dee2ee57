//! What a key is limited to, beside what it may spend.

use std::net::IpAddr;

use ipnet::IpNet;

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

/// What a restricted key is limited to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    models: Option<Vec<String>>,
    /// `None` for all but administration.
    permissions: Option<Vec<Permission>>,
    addresses: Option<Vec<IpNet>>,
}

impl Scope {
    /// The one that a key's row describes; `None` for a key without restrictions. What is stored and not understood allows
    /// nothing.
    pub fn of(stored: KeyScope) -> Option<Scope> {
        let KeyScope { models, permissions, addresses } = stored;
        let scope = Scope {
            models,
            permissions: permissions.map(|names| names.iter().filter_map(|name| Permission::named(name)).collect()),
            addresses: addresses.map(|all| all.iter().filter_map(|network| network.parse().ok()).collect()),
        };
        (scope != Scope::default()).then_some(scope)
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
