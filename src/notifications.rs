//! What a process is told of by the database, over one connection: revocations, changes of the catalogue and
//! of prices, and of budgets.

use std::sync::Arc;

use crate::auth::revocation::{self, Revocations};
use crate::catalogue::{self, Refresher};
use crate::db::listen::Listener;
use crate::db::probe::{self, Probe};
use crate::limits;
use crate::usage::Meter;

/// The channels that are listened on.
pub const CHANNELS: &[&str] = &[revocation::CHANNEL, catalogue::CHANNEL, limits::CHANNEL, probe::CHANNEL];

/// Hands each notification to whom it concerns.
pub struct Notifications {
    /// Drops cached callers.
    pub revocations: Revocations,
    /// Hands leases back.
    pub meter: Arc<Meter>,
    /// Reads the catalogue and the prices anew.
    pub catalogue: Arc<Refresher>,
    /// Measures how late they are.
    pub probe: Arc<Probe>,
}

impl Listener for Notifications {
    fn connected(&self) {
        self.revocations.connected();
        // Changes may have been missed while nobody listened.
        self.meter.limits().notifications_missed();
        self.catalogue.set_listening(true);
        self.probe.missed();
    }

    fn notified(&self, channel: &str, payload: &str) {
        match channel {
            catalogue::CHANNEL => self.catalogue.catalogue_changed(),
            probe::CHANNEL => self.probe.arrived(payload),
            limits::CHANNEL => self.meter.limits().notified(payload),
            _ => self.revocations.notified(channel, payload),
        }
    }

    fn lost(&self, reason: &str, silently: bool) {
        self.revocations.lost(reason, silently);
        self.catalogue.set_listening(false);
    }

    fn stopped(&self) -> bool {
        self.revocations.stopped()
    }
}
