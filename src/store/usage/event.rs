//! A charge as a row of the ledger.

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::money::Cost;
use crate::store::leases::Settlement;
use crate::store::replies::KeptReply;
use crate::units::Units;

/// A charge, a row of the ledger, and more rows if other models had a part in it. Serialised, it is a record of the journal, which newer versions must be able to read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Unique in the ledger.
    pub id: String,
    /// Whether a client chose the id, and may choose it again for another request. An id that was generated for this
    /// charge can only come again with this very event, `created` included. Old journals do not say which it is.
    #[serde(rename = "may_repeat", default = "unknown_is_client_supplied")]
    pub client_supplied: bool,
    /// Who pays.
    pub user_id: String,
    /// The id of the API key that was used; empty for none.
    pub key_id: String,
    /// The server that did the work.
    pub server: Cow<'static, str>,
    /// The route that was called.
    pub route: Cow<'static, str>,
    /// The model that did the work.
    pub model: String,
    /// What was used: in JSON, a field for each unit.
    #[serde(flatten)]
    pub units: Units,
    /// What it costs: whole micro-dollars.
    pub cost_micros: i64,
    /// What it costs beyond them, in picodollars: 0 to 999,999. Old journals have whole micro-dollars only.
    #[serde(default)]
    pub cost_picos: i64,
    /// Whether the units are an estimate, since the model server gave no numbers.
    #[serde(default)]
    pub estimated: bool,
    /// How long the model took, in microseconds.
    pub latency_micros: i64,
    /// When it was charged, to the microsecond.
    #[serde(with = "unix_micros")]
    pub created: OffsetDateTime,
    /// The leases that pay for it, if its account or key has a budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leases: Option<Arc<LeaseUse>>,
    /// The reply that is kept with the charge. The user's key makes it unique: if another reply is kept for that, this
    /// charge is not made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<Box<KeptReply>>,
    /// What other models did of the same request. It is charged with this or not at all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part>,
}

/// What another model did of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Unique in the ledger.
    pub id: String,
    /// The model.
    pub model: String,
    /// What was used.
    #[serde(flatten)]
    pub units: Units,
    /// What it costs: whole micro-dollars.
    pub cost_micros: i64,
    /// What it costs beyond them, in picodollars.
    pub cost_picos: i64,
    /// As that of the event.
    pub estimated: bool,
    /// As that of the event.
    pub latency_micros: i64,
}

/// A row that an event adds to the ledger.
pub(super) struct Row<'e> {
    pub(super) event: &'e Event,
    pub(super) id: &'e str,
    pub(super) model: &'e str,
    pub(super) units: &'e Units,
    pub(super) cost: Cost,
    pub(super) estimated: bool,
    pub(super) latency_micros: i64,
}

/// Which leases pay for a charge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseUse {
    /// The process that holds them.
    pub holder: Arc<str>,
    /// Their budgets.
    #[serde(with = "ids")]
    pub budgets: Vec<LeaseBudget>,
}

/// A budget that pays for a charge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseBudget {
    /// Its id.
    pub id: Arc<str>,
    /// The number that stands for it in notes, if that is known; journals do not have it.
    pub number: Option<i64>,
}

impl Event {
    /// What it settles: one for each of its budgets.
    pub fn settlements(&self) -> impl Iterator<Item = Settlement<'_>> {
        let (created, cost) = (self.created, self.cost().total_picos());
        self.leases.iter().flat_map(move |leases| {
            leases.budgets.iter().map(move |budget| {
                let LeaseBudget { id, number } = budget;
                Settlement { budget_id: id, number: *number, holder_id: &leases.holder, created, cost }
            })
        })
    }

    /// About how many bytes it takes beyond those of any event.
    pub fn reply_bytes(&self) -> usize {
        let body = self.reply.as_ref().and_then(|reply| reply.body.as_ref());
        body.map_or(0, Vec::len)
    }

    /// What all of it costs.
    pub fn cost(&self) -> Cost {
        let own = Cost::new(self.cost_micros, self.cost_picos);
        self.parts.iter().fold(own, |mut sum, part| {
            sum += Cost::new(part.cost_micros, part.cost_picos);
            sum
        })
    }

    /// The rows that it adds to the ledger.
    pub(super) fn rows<'e>(&'e self) -> impl Iterator<Item = Row<'e>> {
        let own = Row {
            event: self,
            id: &self.id,
            model: &self.model,
            units: &self.units,
            cost: Cost::new(self.cost_micros, self.cost_picos),
            estimated: self.estimated,
            latency_micros: self.latency_micros,
        };
        let part = move |part: &'e Part| Row {
            event: self,
            id: &part.id,
            model: &part.model,
            units: &part.units,
            cost: Cost::new(part.cost_micros, part.cost_picos),
            estimated: part.estimated,
            latency_micros: part.latency_micros,
        };
        std::iter::once(own).chain(self.parts.iter().map(part))
    }
}

fn unknown_is_client_supplied() -> bool {
    true
}

/// Budgets as a list of their ids.
mod ids {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::LeaseBudget;

    pub(super) fn serialize<S: Serializer>(budgets: &[LeaseBudget], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(budgets.iter().map(|budget| &*budget.id))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<LeaseBudget>, D::Error> {
        let ids = Vec::<String>::deserialize(deserializer)?;
        Ok(ids.into_iter().map(|id| LeaseBudget { id: id.into(), number: None }).collect())
    }
}

/// A time as microseconds since 1970.
mod unix_micros {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use time::OffsetDateTime;

    pub(super) fn serialize<S: Serializer>(time: &OffsetDateTime, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(i64::try_from(time.unix_timestamp_nanos() / 1000).unwrap_or(i64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<OffsetDateTime, D::Error> {
        let micros = i64::deserialize(deserializer)?;
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000).map_err(D::Error::custom)
    }
}
