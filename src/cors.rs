//! CORS: which pages may read responses, namely those of the origins in `CORS_ORIGINS`.
//!
//! Only browsers enforce the decision. Every request is served and every visit counts; a page of another origin merely
//! cannot read the number. Credentials are not used, so none are ever allowed.
//!
//! Source: Fetch standard, "HTTP-CORS protocol" (<https://fetch.spec.whatwg.org/#http-cors-protocol>).

/// The origins whose pages may read responses: none, some, or all.
#[derive(Default)]
pub struct Origins(Vec<String>);

/// The CORS fields of a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CorsDecision {
    /// None, whatever the origin.
    #[default]
    NotApplicable,
    /// None, but another origin may get some.
    Denied,
    /// A page of this origin may read the response. The number is the origin's index in [`Origins`].
    Allowed(u8),
}

impl Origins {
    /// Most origins in a list.
    pub const MAX: usize = 32;

    /// Takes `*` alone, or origins as browsers write them.
    #[must_use]
    pub fn new(origins: Vec<String>) -> Self {
        Self(origins)
    }

    /// Decides whether pages of `origin` may read a response; an empty one stands for no `Origin` field.
    #[doc(hidden)]
    #[must_use]
    pub fn decide(&self, origin: &[u8]) -> CorsDecision {
        match self.0.iter().position(|allowed| allowed == ANY || allowed.as_bytes() == origin) {
            Some(index) => CorsDecision::Allowed(index as u8),
            None if self.0.is_empty() => CorsDecision::NotApplicable,
            None => CorsDecision::Denied,
        }
    }

    /// Returns the value of `Access-Control-Allow-Origin`: an origin or `*`; empty for a response that only varies by
    /// origin; `None` for one without CORS fields.
    #[doc(hidden)]
    #[must_use]
    pub fn header_value(&self, decision: CorsDecision) -> Option<&str> {
        match decision {
            CorsDecision::NotApplicable => None,
            CorsDecision::Denied => Some(""),
            CorsDecision::Allowed(index) => self.0.get(usize::from(index)).map(String::as_str),
        }
    }
}

/// Stands for every origin.
pub const ANY: &str = "*";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_value_depends_on_the_origin() {
        let list = &["https://a.example", "http://b.example:81"][..];
        for (allowed, origin, value) in [
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
            assert_eq!(origins.header_value(origins.decide(origin.as_bytes())), value, "{allowed:?} {origin}");
        }
    }
}
