//! Parameters of statements, each with its PostgreSQL type.

use postgres::types::{ToSql, Type};
use time::{Date, OffsetDateTime};

/// A parameter of a statement. As its type is known, a statement can be prepared or sent without asking the server for the
/// types of its parameters.
pub trait Param: ToSql + Sync {
    /// The type it is sent as.
    fn postgres_type(&self) -> Type;
    /// The value, as the driver takes it.
    fn as_sql(&self) -> &(dyn ToSql + Sync);
}

macro_rules! params {
    ($($rust:ty => $sql:ident),* $(,)?) => { $(
        impl Param for $rust {
            fn postgres_type(&self) -> Type {
                Type::$sql
            }
            fn as_sql(&self) -> &(dyn ToSql + Sync) {
                self
            }
        }
        impl Param for Option<$rust> {
            fn postgres_type(&self) -> Type {
                Type::$sql
            }
            fn as_sql(&self) -> &(dyn ToSql + Sync) {
                self
            }
        }
    )* };
}

params! {
    &str => TEXT,
    String => TEXT,
    bool => BOOL,
    i32 => INT4,
    i64 => INT8,
    f64 => FLOAT8,
    Date => DATE,
    OffsetDateTime => TIMESTAMPTZ,
    &[u8] => BYTEA,
    Vec<u8> => BYTEA,
    Vec<String> => TEXT_ARRAY,
    Vec<&str> => TEXT_ARRAY,
    Vec<i64> => INT8_ARRAY,
    Vec<bool> => BOOL_ARRAY,
    Vec<&[u8]> => BYTEA_ARRAY,
    Vec<Option<&[u8]>> => BYTEA_ARRAY,
    Vec<OffsetDateTime> => TIMESTAMPTZ_ARRAY,
}
