//! What usage is counted in. Each unit is declared once, here; the ledger's SQL, the journal, prices, `textgen price`,
//! `/api/usage`, its OpenAPI schema, the pages and the CSV download are all derived from the declaration.
//!
//! To add a unit, add an entry to [`units!`](self) below and a migration like this one. Nothing else lists the units. What
//! was recorded before, in the database or in a journal, counts as 0 of the new unit.
//!
//! ```sql
//! ALTER TABLE usage_events ADD COLUMN video_millis bigint NOT NULL DEFAULT 0;
//! ALTER TABLE usage_daily ADD COLUMN video_millis bigint NOT NULL DEFAULT 0;
//! ALTER TABLE prices ADD COLUMN video_per_second bigint NOT NULL DEFAULT 0
//!     CHECK (video_per_second BETWEEN 0 AND 1000000000000);
//! ```

mod by_unit;

pub use by_unit::{ByUnit, Units};

/// The most of one unit that a single charge can hold, so that sums of charges stay far from overflowing.
pub const MAX_UNITS: i64 = 1_000_000_000_000;

/// A number of a unit. What is larger than an amount can be becomes the largest one, which charges cut to [`MAX_UNITS`].
pub fn amount(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

/// How pages describe the use of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Display {
    /// It is not shown.
    Hidden,
    /// Added to the other units shown as tokens.
    Tokens,
    /// Milliseconds, shown as whole seconds.
    Seconds,
    /// A number of these: singular and plural.
    Count(&'static str, &'static str),
}

/// Everything there is to know about a unit. The methods of [`Unit`] with the names of the fields say what they are.
struct Declaration {
    column: &'static str,
    csv_column: &'static str,
    display: Display,
    description: &'static str,
    price_column: &'static str,
    price_divisor: i64,
    price_flag: &'static str,
    price_heading: &'static str,
    price_description: &'static str,
    catalogue_price: &'static str,
    catalogue_digits: u32,
    price_fallback: Option<Unit>,
}

macro_rules! units {
    ($($unit:ident { description: $description:literal, $($field:ident: $value:expr,)* })*) => {
        /// A unit that usage is counted in.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Unit {
            $(#[doc = $description] $unit,)*
        }

        impl Unit {
            /// Every unit, in the order of declaration.
            pub const ALL: [Unit; Unit::COUNT] = [$(Unit::$unit),*];

            /// How many units there are.
            pub const COUNT: usize = [$(Unit::$unit),*].len();

            const fn declaration(self) -> Declaration {
                match self {
                    $(Unit::$unit => Declaration { description: $description, $($field: $value),* },)*
                }
            }
        }
    };
}

units! {
    Requests {
        description: "Requests: 1, or as many as a bulk request stands for",
        column: "requests",
        csv_column: "requests",
        display: Display::Hidden,
        price_column: "per_request",
        price_divisor: 1,
        price_flag: "request",
        price_heading: "REQUEST",
        price_description: "Per request",
        catalogue_price: "request",
        catalogue_digits: 6,
        price_fallback: None,
    }
    PromptTokens {
        description: "Tokens read",
        column: "prompt_tokens",
        csv_column: "prompt_tokens",
        display: Display::Tokens,
        price_column: "prompt_per_million",
        price_divisor: 1_000_000,
        price_flag: "prompt",
        price_heading: "PROMPT/M",
        price_description: "Per million prompt tokens",
        catalogue_price: "input",
        catalogue_digits: 6,
        price_fallback: None,
    }
    CachedInputTokens {
        description: "Prompt tokens that the model server had cached; not in prompt_tokens",
        column: "cached_input_tokens",
        csv_column: "cached_input_tokens",
        display: Display::Tokens,
        price_column: "cached_input_per_million",
        price_divisor: 1_000_000,
        price_flag: "cached-input",
        price_heading: "CACHED/M",
        price_description: "Per million prompt tokens that the model server had cached",
        catalogue_price: "cached_input",
        catalogue_digits: 6,
        price_fallback: Some(Unit::PromptTokens),
    }
    CacheWriteTokens {
        description: "Prompt tokens that the model server wrote to its cache; not in prompt_tokens",
        column: "cache_write_tokens",
        csv_column: "cache_write_tokens",
        display: Display::Tokens,
        price_column: "cache_write_per_million",
        price_divisor: 1_000_000,
        price_flag: "cache-write",
        price_heading: "CACHE-WRITE/M",
        price_description: "Per million prompt tokens that the model server wrote to its cache",
        catalogue_price: "cache_write",
        catalogue_digits: 6,
        price_fallback: Some(Unit::PromptTokens),
    }
    CompletionTokens {
        description: "Tokens written",
        column: "completion_tokens",
        csv_column: "completion_tokens",
        display: Display::Tokens,
        price_column: "completion_per_million",
        price_divisor: 1_000_000,
        price_flag: "completion",
        price_heading: "COMPLETION/M",
        price_description: "Per million completion tokens",
        catalogue_price: "output",
        catalogue_digits: 6,
        price_fallback: None,
    }
    EmbeddingTokens {
        description: "Tokens embedded",
        column: "embedding_tokens",
        csv_column: "embedding_tokens",
        display: Display::Tokens,
        price_column: "embedding_per_million",
        price_divisor: 1_000_000,
        price_flag: "embedding",
        price_heading: "EMBEDDING/M",
        price_description: "Per million embedded tokens",
        catalogue_price: "embedding",
        catalogue_digits: 6,
        price_fallback: Some(Unit::PromptTokens),
    }
    AudioMillis {
        description: "Milliseconds of audio transcribed",
        column: "audio_millis",
        csv_column: "audio_milliseconds",
        display: Display::Seconds,
        price_column: "audio_per_second",
        price_divisor: 1_000,
        price_flag: "audio-second",
        price_heading: "AUDIO/S",
        price_description: "Per second of audio transcribed",
        catalogue_price: "audio_second",
        catalogue_digits: 6,
        price_fallback: None,
    }
    Characters {
        description: "Characters of text turned into speech",
        column: "characters",
        csv_column: "characters",
        display: Display::Count("character", "characters"),
        price_column: "characters_per_million",
        price_divisor: 1_000_000,
        price_flag: "characters",
        price_heading: "CHARACTERS/M",
        price_description: "Per million characters turned into speech",
        catalogue_price: "character",
        catalogue_digits: 12,
        price_fallback: None,
    }
    Images {
        description: "Images generated",
        column: "images",
        csv_column: "images",
        display: Display::Count("image", "images"),
        price_column: "per_image",
        price_divisor: 1,
        price_flag: "image",
        price_heading: "IMAGE",
        price_description: "Per image generated",
        catalogue_price: "image",
        catalogue_digits: 6,
        price_fallback: None,
    }
}

impl Unit {
    /// The column of the ledger and of the daily totals, and the field in JSON.
    pub const fn column(self) -> &'static str {
        self.declaration().column
    }

    /// The column of the CSV download.
    pub const fn csv_column(self) -> &'static str {
        self.declaration().csv_column
    }

    /// What is counted, in English.
    pub const fn description(self) -> &'static str {
        self.declaration().description
    }

    /// The column of its price in the table `prices`.
    pub const fn price_column(self) -> &'static str {
        self.declaration().price_column
    }

    /// How many of it a price buys, such as a million tokens. It divides a million.
    pub const fn price_divisor(self) -> i64 {
        self.declaration().price_divisor
    }

    /// The flag of `textgen price set`, without its dashes.
    pub const fn price_flag(self) -> &'static str {
        self.declaration().price_flag
    }

    /// The heading of its price in `textgen price list`.
    pub const fn price_heading(self) -> &'static str {
        self.declaration().price_heading
    }

    /// A description of what its price applies to, in English.
    pub const fn price_description(self) -> &'static str {
        self.declaration().price_description
    }

    /// The name of its price in the catalogue.
    pub const fn catalogue_price(self) -> &'static str {
        self.declaration().catalogue_price
    }

    /// Maximum number of decimal places of its price in the catalogue, which is in US dollars.
    pub const fn catalogue_digits(self) -> u32 {
        self.declaration().catalogue_digits
    }

    /// The unit whose price applies if the catalogue has no price for this one.
    pub const fn price_fallback(self) -> Option<Unit> {
        self.declaration().price_fallback
    }

    fn from_column(column: &str) -> Option<Unit> {
        Unit::ALL.into_iter().find(|unit| unit.column() == column)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declarations_do_not_clash() {
        let distinct = |name: fn(Unit) -> &'static str| {
            let mut names = Unit::ALL.map(name).to_vec();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), Unit::COUNT, "{names:?}");
        };
        distinct(Unit::column);
        distinct(Unit::csv_column);
        distinct(Unit::price_column);
        distinct(Unit::price_flag);
        for (n, unit) in Unit::ALL.into_iter().enumerate() {
            assert_eq!(unit as usize, n);
            assert_eq!(1_000_000 % unit.price_divisor(), 0, "{unit:?}");
        }
    }
}
