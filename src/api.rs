//! The list of all operations of the three servers.

use std::sync::LazyLock;

use crate::operation::Operation;
use crate::{audio, common, inference, web};

/// Every operation.
pub fn operations() -> &'static [Operation] {
    static OPERATIONS: LazyLock<Vec<Operation>> = LazyLock::new(|| {
        let rooms = [common::operations(), web::operations(), inference::operations(), audio::operations()];
        rooms.into_iter().flatten().collect()
    });
    &OPERATIONS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Role;
    use crate::openapi;

    /// Whether a path is for programs: pages and static files are not described.
    fn is_for_programs(path: &str) -> bool {
        let beginnings = ["/api/", "/v1/", "/liveness_check", "/readyz", "/openapi.json", "/metrics"];
        beginnings.iter().any(|beginning| path.starts_with(beginning))
    }

    #[test]
    fn every_route_is_described_and_every_description_has_its_route() {
        for role in Role::ALL {
            let mut routed: Vec<(String, &str)> = operations()
                .iter()
                .filter(|operation| operation.servers.contains(&role) && is_for_programs(operation.path))
                .map(|operation| (operation.method.as_str().to_lowercase(), operation.path))
                .collect();
            let mut described: Vec<(String, &str)> = openapi::operations()
                .filter(|operation| operation.servers.contains(&role))
                .map(|operation| (operation.method.to_owned(), operation.path))
                .collect();
            routed.sort();
            described.sort();
            assert_eq!(routed, described, "{}", role.name());
        }
    }
}
