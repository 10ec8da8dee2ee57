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
    use std::collections::HashSet;

    use super::*;
    use crate::openapi;

    /// Whether a path is for programs: pages and static files are not described.
    fn is_for_programs(path: &str) -> bool {
        let beginnings = ["/api/", "/v1/", "/liveness_check", "/readyz", "/openapi.json", "/metrics"];
        beginnings.iter().any(|beginning| path.starts_with(beginning))
    }

    #[test]
    fn every_operation_for_programs_is_described_and_no_page() {
        for operation in operations() {
            assert_eq!(operation.description.is_some(), is_for_programs(operation.path), "{}", operation.path);
        }
    }

    #[test]
    fn the_document_is_complete() {
        let document = openapi::document(operations());
        let text = document.to_string();
        for piece in text.split("\"#/components/schemas/").skip(1) {
            let name = piece.split('"').next().unwrap();
            assert!(document["components"]["schemas"].get(name).is_some(), "{name}");
        }
        assert!(!text.contains("#/$defs"), "schemas refer to the components");
        let paths = document["paths"].as_object().unwrap().values();
        let ids: Vec<&str> = paths
            .flat_map(|path| path.as_object().unwrap().values())
            .filter_map(|o| o["operationId"].as_str())
            .collect();
        let distinct: HashSet<&str> = ids.iter().copied().collect();
        let described = operations().iter().filter(|operation| operation.description.is_some()).count();
        assert_eq!((ids.len(), distinct.len()), (described, described));
    }
}
