//! What requests wait for. Each kind has a number of places of its own (a bulkhead), so that none takes those of
//! another.

/// A kind of wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// A password hash, or other log-ins from the same place.
    LogIn,
    /// A database connection, a commit, or another request that asks the database for the same. They are short. So is
    /// the wait for the lists of models after the start.
    Database,
    /// A model server: one that has not answered yet, or whose reply is passed on while it is made.
    Model,
    /// The client, which sends a body that is not kept in memory.
    Upload,
    /// A server of the internet from which a recording is fetched.
    Fetch,
}

/// What is to be known of a kind.
struct Properties {
    name: &'static str,
    label: &'static str,
    /// The setting that says how many requests may wait.
    setting: &'static str,
    /// How many by default.
    places: usize,
    /// Whether all that the request waits for afterwards is covered: once a model was called, nothing may be refused.
    covers_the_rest: bool,
}

impl Wait {
    /// All kinds, in the order in which they are declared.
    pub const ALL: [Wait; 5] = [Wait::LogIn, Wait::Database, Wait::Model, Wait::Upload, Wait::Fetch];

    const fn properties(self) -> Properties {
        let (name, label, setting, places, covers_the_rest) = match self {
            Wait::LogIn => ("log-ins", "login", "MAX_WAITING", 512, false),
            Wait::Database => ("the database", "database", "MAX_WAITING", 512, false),
            // An account can have two thirds: 4,096.
            Wait::Model => ("model servers", "model", "MAX_MODEL_CALLS", 6144, true),
            Wait::Upload => ("uploads", "upload", "MAX_UPLOADS", 256, true),
            Wait::Fetch => ("audio_url", "fetch", "MAX_FETCHES", 256, true),
        };
        Properties { name, label, setting, places, covers_the_rest }
    }

    /// What is waited for, for the log.
    pub const fn name(self) -> &'static str {
        self.properties().name
    }

    /// The same, as metrics have it.
    pub const fn label(self) -> &'static str {
        self.properties().label
    }

    /// The setting that says how many requests may wait.
    pub const fn setting(self) -> &'static str {
        self.properties().setting
    }

    /// Whether a request that waits for this is not refused any other wait later.
    pub const fn covers_the_rest(self) -> bool {
        self.properties().covers_the_rest
    }
}

/// How many requests may wait for each kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places([usize; Wait::ALL.len()]);

impl Places {
    /// As many as `of` says of each kind, at least one.
    pub fn new(of: impl Fn(Wait) -> usize) -> Places {
        Places(Wait::ALL.map(|wait| of(wait).max(1)))
    }

    /// So many for this kind.
    pub fn of(&self, wait: Wait) -> usize {
        self.0[wait as usize]
    }

    /// All places: the most threads that wait at once.
    pub fn total(&self) -> usize {
        self.0.iter().sum()
    }

    /// The same, or fewer so that there are at most about `most` together: an eighth of them for each kind, and what is
    /// left for model servers.
    #[must_use]
    pub fn at_most(self, most: usize) -> Places {
        if self.total() <= most {
            return self;
        }
        let others = Places::new(|wait| if wait == Wait::Model { 0 } else { self.of(wait).min(most / 8) });
        let left = most.saturating_sub(others.total());
        Places::new(|wait| if wait == Wait::Model { self.of(wait).min(left) } else { others.of(wait) })
    }
}

impl Default for Places {
    fn default() -> Places {
        Places::new(|wait| wait.properties().places)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_places_are_taken_from_the_model_servers_first_and_none_is_left_without() {
        let places = Places::new(|wait| if wait == Wait::Model { 6000 } else { 500 });
        assert_eq!((places.total(), places.at_most(8000)), (8000, places));
        for (most, model, other) in [(4000, 1999, 500), (1000, 499, 125), (3, 1, 1)] {
            let fewer = places.at_most(most);
            assert_eq!((fewer.of(Wait::Model), fewer.of(Wait::LogIn)), (model, other), "of {most}");
            assert!(fewer.total() <= most.max(Wait::ALL.len()));
        }
    }
}
