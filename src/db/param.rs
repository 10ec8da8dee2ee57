//! Parameters of statements, each with its PostgreSQL type.

use postgres::types::{ToSql, Type};
use time::{Date, OffsetDateTime};

/// A parameter of a statement. As its type is known, a statement can be prepared or sent without asking the server for the
/// types of its parameters.
pub trait Param: ToSql + Sync {
    /// The type it is sent as.
    fn postgres_type(&self) -> Type;
    /// About how many bytes it takes in a message.
    fn bytes(&self) -> usize;
    /// The value, as the driver takes it.
    fn as_sql(&self) -> &(dyn ToSql + Sync);
}

macro_rules! params {
    ($($rust:ty => $sql:ident, |$value:ident| $bytes:expr;)*) => { $(
        impl Param for $rust {
            fn postgres_type(&self) -> Type {
                Type::$sql
            }
            fn bytes(&self) -> usize {
                let $value = self;
                $bytes
            }
            fn as_sql(&self) -> &(dyn ToSql + Sync) {
                self
            }
        }
        impl Param for Option<$rust> {
            fn postgres_type(&self) -> Type {
                Type::$sql
            }
            fn bytes(&self) -> usize {
                self.as_ref().map_or(0, Param::bytes)
            }
            fn as_sql(&self) -> &(dyn ToSql + Sync) {
                self
            }
        }
    )* };
}

params! {
    &str => TEXT, |text| text.len();
    String => TEXT, |text| text.len();
    bool => BOOL, |_value| 1;
    i32 => INT4, |_value| 4;
    i64 => INT8, |_value| 8;
    f64 => FLOAT8, |_value| 8;
    Date => DATE, |_value| 4;
    OffsetDateTime => TIMESTAMPTZ, |_value| 8;
    &[u8] => BYTEA, |bytes| bytes.len();
    Vec<u8> => BYTEA, |bytes| bytes.len();
    Vec<String> => TEXT_ARRAY, |list| elements(list);
    Vec<&str> => TEXT_ARRAY, |list| elements(list);
    Vec<i64> => INT8_ARRAY, |list| elements(list);
    Vec<bool> => BOOL_ARRAY, |list| elements(list);
    Vec<&[u8]> => BYTEA_ARRAY, |list| elements(list);
    Vec<Option<&[u8]>> => BYTEA_ARRAY, |list| elements(list);
    Vec<OffsetDateTime> => TIMESTAMPTZ_ARRAY, |list| elements(list);
}

/// The bytes of a list's elements, before each of which stand four that say how long it is.
fn elements(list: &[impl Param]) -> usize {
    list.iter().map(|element| 4 + element.bytes()).sum()
}
