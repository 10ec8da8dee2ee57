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
    ($($rust:ty => $sql:ident),* $(,)?) => { $(
        impl Param for $rust {
            fn postgres_type(&self) -> Type {
                Type::$sql
            }
            fn bytes(&self) -> usize {
                Size::size(self)
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
                self.as_ref().map_or(0, Size::size)
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

/// The size of a value in a message, in bytes, or about that.
trait Size {
    fn size(&self) -> usize;
}

macro_rules! sizes {
    ($($rust:ty: |$value:ident| $size:expr),* $(,)?) => { $(
        impl Size for $rust {
            fn size(&self) -> usize {
                let $value = self;
                $size
            }
        }
    )* };
}

sizes! {
    &str: |text| text.len(),
    String: |text| text.len(),
    &[u8]: |bytes| bytes.len(),
    Vec<u8>: |bytes| bytes.len(),
    Option<&[u8]>: |bytes| bytes.map_or(0, <[u8]>::len),
    bool: |_value| 1,
    i32: |_value| 4,
    i64: |_value| 8,
    f64: |_value| 8,
    Date: |_value| 4,
    OffsetDateTime: |_value| 8,
    Vec<String>: |list| elements(list),
    Vec<&str>: |list| elements(list),
    Vec<i64>: |list| elements(list),
    Vec<bool>: |list| elements(list),
    Vec<&[u8]>: |list| elements(list),
    Vec<Option<&[u8]>>: |list| elements(list),
    Vec<OffsetDateTime>: |list| elements(list),
}

/// Each has a length of four bytes.
fn elements(list: &[impl Size]) -> usize {
    list.iter().map(|element| 4 + element.size()).sum()
}
