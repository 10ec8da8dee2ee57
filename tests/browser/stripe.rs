//! The Stripe of the tests as a program, for the browser tests: `stripe WEB`. Prints its address, and sends web-hooks to the
//! web server whose address is written to its standard input.

#![allow(missing_docs, unreachable_pub, dead_code, unused_imports, clippy::unwrap_used, clippy::expect_used)]

#[path = "../it/harness/client.rs"]
mod client;
#[path = "../it/harness/random.rs"]
mod random;
#[path = "../it/harness/stripe/mod.rs"]
mod stripe;
#[path = "../it/harness/upstream.rs"]
mod upstream;

use std::io::{self, BufRead};

fn main() {
    let stripe = stripe::Stripe::start();
    stripe.price("price_monthly", 1900, "month");
    stripe.price("price_annual", 19_000, "year");
    println!("{}", stripe.url);
    // Until the standard input ends.
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        stripe.deliver_to(&client::Address(line).anonymous());
    }
}
