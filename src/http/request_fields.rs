//! The fields that a request takes, declared as a struct.

use super::form::{FieldError, Fields};

/// A type that a field of a request can have.
pub trait FromField<'f>: Sized {
    /// Whether the field must be there.
    const IS_REQUIRED: bool;

    /// Takes the field from those that were sent.
    ///
    /// # Errors
    /// It is missing or has another type.
    fn from_field(fields: &'f Fields, name: &'static str) -> Result<Self, FieldError>;
}

impl<'f> FromField<'f> for &'f str {
    const IS_REQUIRED: bool = true;

    fn from_field(fields: &'f Fields, name: &'static str) -> Result<&'f str, FieldError> {
        fields.text(name)
    }
}

impl<'f> FromField<'f> for Option<&'f str> {
    const IS_REQUIRED: bool = false;

    fn from_field(fields: &'f Fields, name: &'static str) -> Result<Option<&'f str>, FieldError> {
        fields.optional_text(name)
    }
}

impl FromField<'_> for Option<i64> {
    const IS_REQUIRED: bool = false;

    fn from_field(fields: &Fields, name: &'static str) -> Result<Option<i64>, FieldError> {
        fields.optional_integer(name)
    }
}

impl FromField<'_> for Option<bool> {
    const IS_REQUIRED: bool = false;

    fn from_field(fields: &Fields, name: &'static str) -> Result<Option<bool>, FieldError> {
        fields.optional_bool(name)
    }
}

/// What a request says of something that it may leave as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<T> {
    /// The field is missing: it stays.
    Keep,
    /// `null`: it is removed.
    Clear,
    /// It becomes this.
    Set(T),
}

impl<T> Change<T> {
    /// The same with another value, of which `map` may also find that there is none.
    ///
    /// # Errors
    /// Those of `map`.
    pub fn try_map<U, E>(self, map: impl FnOnce(T) -> Result<Option<U>, E>) -> Result<Change<U>, E> {
        Ok(match self {
            Change::Keep => Change::Keep,
            Change::Clear => Change::Clear,
            Change::Set(value) => map(value)?.map_or(Change::Clear, Change::Set),
        })
    }

    /// The value after the change.
    pub fn apply(self, current: Option<T>) -> Option<T> {
        match self {
            Change::Keep => current,
            Change::Clear => None,
            Change::Set(value) => Some(value),
        }
    }
}

impl<'f, T> FromField<'f> for Change<T>
where
    Option<T>: FromField<'f>,
{
    const IS_REQUIRED: bool = false;

    fn from_field(fields: &'f Fields, name: &'static str) -> Result<Change<T>, FieldError> {
        if !fields.has(name) {
            return Ok(Change::Keep);
        }
        Ok(Option::<T>::from_field(fields, name)?.map_or(Change::Clear, Change::Set))
    }
}

impl<T: schemars::JsonSchema> schemars::JsonSchema for Change<T> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        Option::<T>::schema_name()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        Option::<T>::json_schema(generator)
    }

    fn inline_schema() -> bool {
        true
    }
}

/// Declares the fields that a request takes, as a struct with the function `read` and a schema. Its doc comments are the
/// words of the API reference.
macro_rules! request_fields {
    (
        $(#[$attribute:meta])*
        $visibility:vis struct $name:ident<$lifetime:lifetime> {
            $($(#[$field_attribute:meta])* $field:ident: $type:ty,)+
        }
    ) => {
        $(#[$attribute])*
        #[derive(schemars::JsonSchema)]
        $visibility struct $name<$lifetime> {
            $($(#[$field_attribute])* $field: $type,)+
        }

        impl<$lifetime> $name<$lifetime> {
            /// Takes them from those that were sent.
            fn read(
                fields: &$lifetime $crate::http::form::Fields,
            ) -> ::std::result::Result<Self, $crate::http::form::FieldError> {
                let all = [$((stringify!($field), <$type as $crate::http::request_fields::FromField<$lifetime>>::IS_REQUIRED)),+];
                let required = all.into_iter().filter_map(|(name, is_required)| is_required.then_some(name));
                fields.require(&required.collect::<Vec<&'static str>>())?;
                Ok($name { $($field: $crate::http::request_fields::FromField::from_field(fields, stringify!($field))?,)+ })
            }
        }
    };
}
pub(crate) use request_fields;
