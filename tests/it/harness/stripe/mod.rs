//! Stripe, for tests: a server on a real socket that keeps the rules of its API, with faults if a test wants them. Each
//! kind of object has a file; [`ROUTES`] lists them.

mod checkout;
mod customers;
mod events;
mod exchange;
mod faults;
mod idempotency;
mod invoices;
mod meters;
mod pages;
mod params;
mod payments;
mod prices;
mod refusal;
mod server;
mod state;
mod subscriptions;

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::Value;

pub use events::{WEBHOOK_SECRET, signature};
pub use exchange::{ApiRequest, Call};
pub use faults::{Fault, Faults};
pub use params::Params;
pub use refusal::Refusal;
pub use state::State;

/// The only key that the server takes.
pub const SECRET_KEY: &str = "sk_test_of_the_fake";

/// What answers a request; `None` if the path is another's.
type Route = fn(&mut State, &ApiRequest) -> Option<Answer>;

/// An object, or why there is none.
pub type Answer = Result<Value, Refusal>;

/// Tried in this order.
const ROUTES: &[Route] = &[
    customers::answer,
    meters::answer,
    prices::answer,
    subscriptions::answer,
    invoices::answer,
    checkout::answer,
    payments::answer,
    events::answer,
];

/// A running server, until the test process ends. Clones are of one server.
#[derive(Clone)]
pub struct Stripe {
    /// For `STRIPE_API_URL`.
    pub url: String,
    state: Arc<Mutex<State>>,
}

impl Stripe {
    /// Starts an empty account.
    pub fn start() -> Stripe {
        let state = Arc::new(Mutex::new(State::default()));
        let url = server::start(state.clone());
        state.lock().unwrap().url.clone_from(&url);
        Stripe { url, state }
    }

    /// The settings of a textgen that uses it.
    pub fn settings(&self) -> [(&str, &str); 3] {
        let api = ("STRIPE_API_URL", self.url.as_str());
        [("STRIPE_SECRET_KEY", SECRET_KEY), api, ("STRIPE_WEBHOOK_SECRET", WEBHOOK_SECRET)]
    }

    /// Everything that it holds.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Moves its clock forward.
    pub fn advance(&self, time: Duration) {
        self.state().clock_ahead += time;
    }

    /// Has requests fail from now on, as the plan says.
    pub fn inject(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// The requests so far, with their statuses.
    pub fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    /// Makes an active meter, whose sums lag by so much. Returns its id.
    pub fn meter(&self, event_name: &str, lag: Duration) -> String {
        meters::create(&mut self.state(), event_name, lag)
    }

    /// What a customer was counted with a meter, added up or not.
    pub fn used(&self, event_name: &str, customer: &str) -> i64 {
        self.state().used(event_name, customer)
    }

    /// Makes a customer. Returns its id.
    pub fn customer(&self, email: &str) -> String {
        let customer = customers::create(&mut self.state(), &Params::of(&[("email", email)])).unwrap();
        customer["id"].as_str().unwrap().to_owned()
    }
}
