//! Parsing of the JSON that notch writes.

use serde_json::Value;

/// Parses one JSON value, in which no object may have two members of the same name.
pub(crate) fn parse_json(text: &str) -> Value {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    // `serde_json` accepts two members of one name and keeps the last. A quote inside a string has a backslash before
    // it.
    for name in value.as_object().into_iter().flat_map(|members| members.keys()) {
        let written = [",", "{"].map(|before| text.matches(&format!("{before}\"{name}\":")).count());
        assert_eq!(written.iter().sum::<usize>(), 1, "{name} in {text}");
    }
    value
}
