//! Whose pages may read what is answered here: those of the origins in `CORS_ORIGINS`.
//!
//! It is browsers that keep to it. Whoever else asks is served as ever, and a visit from anywhere counts; only the page
//! that it came from does not get to see the number. Credentials mean nothing here, so none are ever allowed.
//!
//! Source: Fetch standard, "HTTP-CORS protocol" (<https://fetch.spec.whatwg.org/#http-cors-protocol>).

/// The origins whose pages may count and read: none, some, or every one.
#[derive(Default)]
pub struct Origins(Vec<String>);

/// What an answer says of the origin that asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CorsDecision {
    /// Nothing, as it would to any other.
    #[default]
    NotApplicable,
    /// Nothing, but it might to another.
    Denied,
    /// Its page may read the answer. The number is the origin's place.
    Allowed(u8),
}

impl Origins {
    /// Most origins.
    pub const MAX: usize = 32;

    /// Takes `*` alone, or origins as browsers write them.
    #[must_use]
    pub fn new(origins: Vec<String>) -> Self {
        Self(origins)
    }

    /// What an answer that may be shared says to the origin of a request; an empty one is none.
    #[must_use]
    pub fn decide(&self, origin: &[u8]) -> CorsDecision {
        match self.0.iter().position(|allowed| allowed == ANY || allowed.as_bytes() == origin) {
            Some(place) => CorsDecision::Allowed(place as u8),
            None if self.0.is_empty() => CorsDecision::NotApplicable,
            None => CorsDecision::Denied,
        }
    }

    /// What stands in the answer: an origin or `*`; nothing for one that might be shared with another; `None` if there
    /// is nothing to say.
    #[must_use]
    pub fn header_value(&self, share: CorsDecision) -> Option<&str> {
        match share {
            CorsDecision::NotApplicable => None,
            CorsDecision::Denied => Some(""),
            CorsDecision::Allowed(place) => self.0.get(usize::from(place)).map(String::as_str),
        }
    }
}

/// Stands for every origin.
pub const ANY: &str = "*";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_shared_with_those_allowed() {
        let list = &["https://a.example", "http://b.example:81"][..];
        for (allowed, origin, said) in [
            (&[][..], "", None),
            (&[], "https://a.example", None),
            (&["*"], "", Some("*")),
            (&["*"], "null", Some("*")),
            (&["*"], "https://a.example", Some("*")),
            (list, "https://a.example", Some("https://a.example")),
            (list, "http://b.example:81", Some("http://b.example:81")),
            (list, "", Some("")),
            (list, "null", Some("")),
            (list, "*", Some("")),
            (list, "http://a.example", Some("")),
            (list, "https://a.example:81", Some("")),
            (list, "https://a.example.evil", Some("")),
            (list, "https://A.example", Some("")),
        ] {
            let origins = Origins::new(allowed.iter().copied().map(str::to_owned).collect());
            assert_eq!(origins.header_value(origins.decide(origin.as_bytes())), said, "{allowed:?} {origin}");
        }
    }
}
