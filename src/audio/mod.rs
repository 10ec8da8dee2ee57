//! The audio server: for programs, which turn speech to text and back with a secret.

use crate::call::Endpoint;
use crate::http::Route;

/// Its routes, beside those that every server has. The models' own are not there yet.
pub fn routes() -> Vec<Route<Endpoint>> {
    Vec::new()
}
