//! The parameters of a request to Stripe.

use std::fmt;

use form_urlencoded::Serializer;

/// Parameters, which Stripe reads from a form or a query: `payload[value]` is the field `value` of `payload`.
#[derive(Clone, Default)]
pub struct Form(Vec<(String, String)>);

impl Form {
    /// No parameters.
    pub fn new() -> Form {
        Form::default()
    }

    /// Adds a parameter, such as `customer`, `payload[value]` or `line_items[0][price]`.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl ToString) -> Form {
        self.0.push((key.into(), value.to_string()));
        self
    }

    /// The same, if there is a value.
    #[must_use]
    pub fn with_some(self, key: impl Into<String>, value: Option<impl ToString>) -> Form {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    /// As `application/x-www-form-urlencoded`.
    pub fn encoded(&self) -> String {
        Serializer::new(String::new()).extend_pairs(&self.0).finish()
    }

    /// Whether there are no parameters.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Shows only the names: the values may be of a person.
impl fmt::Debug for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(key, _)| key)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_are_encoded() {
        let form = Form::new().with("payload[value]", 25).with_some("e", Some("a b&c=ü")).with_some("f", None::<&str>);
        assert_eq!(form.encoded(), "payload%5Bvalue%5D=25&e=a+b%26c%3D%C3%BC");
        assert_eq!(format!("{form:?}"), r#"["payload[value]", "e"]"#);
    }
}
