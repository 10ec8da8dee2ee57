//! Table `prices`: what a model costs.

use postgres::Row;

use crate::db::{Error, Executor};

/// The row whose price holds for every model that has none of its own.
pub const DEFAULT: &str = "default";

/// The highest price of one unit, in micro-dollars: the constraints of the table.
pub const HIGHEST: i64 = 1_000_000_000_000;

/// A price, in whole micro-dollars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Price {
    /// Per million prompt tokens.
    pub prompt_per_million: i64,
    /// Per million completion tokens.
    pub completion_per_million: i64,
    /// Per million tokens that were embedded.
    pub embedding_per_million: i64,
    /// Per second of audio that was heard.
    pub audio_per_second: i64,
    /// Per million characters that were spoken.
    pub characters_per_million: i64,
    /// Per request, whatever else it used.
    pub per_request: i64,
}

/// What of a price is to change; what is `None` stays, or is 0 where there was no price.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change {
    /// See [`Price::prompt_per_million`].
    pub prompt_per_million: Option<i64>,
    /// See [`Price::completion_per_million`].
    pub completion_per_million: Option<i64>,
    /// See [`Price::embedding_per_million`].
    pub embedding_per_million: Option<i64>,
    /// See [`Price::audio_per_second`].
    pub audio_per_second: Option<i64>,
    /// See [`Price::characters_per_million`].
    pub characters_per_million: Option<i64>,
    /// See [`Price::per_request`].
    pub per_request: Option<i64>,
}

fn from_row(row: &Row) -> Result<(String, Price), Error> {
    let price = Price {
        prompt_per_million: row.try_get(1)?,
        completion_per_million: row.try_get(2)?,
        embedding_per_million: row.try_get(3)?,
        audio_per_second: row.try_get(4)?,
        characters_per_million: row.try_get(5)?,
        per_request: row.try_get(6)?,
    };
    Ok((row.try_get(0)?, price))
}

/// All prices by their models' names, in the order of those.
///
/// # Errors
/// See [`Error`].
pub fn all(db: &mut impl Executor) -> Result<Vec<(String, Price)>, Error> {
    const SQL: &str = "SELECT model, prompt_per_million, completion_per_million, embedding_per_million, \
        audio_per_second, characters_per_million, per_request FROM prices ORDER BY model";
    db.query(SQL, &[])?.iter().map(from_row).collect()
}

/// Changes a model's price, or gives it one; the price it has then.
///
/// # Errors
/// See [`Error`].
pub fn set(db: &mut impl Executor, model: &str, change: Change) -> Result<Price, Error> {
    const SQL: &str = "INSERT INTO prices AS p (model, prompt_per_million, completion_per_million, \
            embedding_per_million, audio_per_second, characters_per_million, per_request)
        SELECT $1, coalesce($2, d.prompt_per_million, 0), coalesce($3, d.completion_per_million, 0),
            coalesce($4, d.embedding_per_million, 0), coalesce($5, d.audio_per_second, 0),
            coalesce($6, d.characters_per_million, 0), coalesce($7, d.per_request, 0)
        FROM (SELECT 'default' AS model) AS fallback LEFT JOIN prices d USING (model)
        ON CONFLICT (model) DO UPDATE SET prompt_per_million = coalesce($2, p.prompt_per_million),
            completion_per_million = coalesce($3, p.completion_per_million),
            embedding_per_million = coalesce($4, p.embedding_per_million),
            audio_per_second = coalesce($5, p.audio_per_second),
            characters_per_million = coalesce($6, p.characters_per_million),
            per_request = coalesce($7, p.per_request), updated = now()
        RETURNING model, prompt_per_million, completion_per_million, embedding_per_million, audio_per_second, \
            characters_per_million, per_request";
    let row = db.query_one(
        SQL,
        &[
            &model,
            &change.prompt_per_million,
            &change.completion_per_million,
            &change.embedding_per_million,
            &change.audio_per_second,
            &change.characters_per_million,
            &change.per_request,
        ],
    )?;
    from_row(&row).map(|(_, price)| price)
}
