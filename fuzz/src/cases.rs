//! The cases that are kept: one a line, spelled as in a Rust literal; empty lines and those with a `#` in front are for
//! the reader.

#[path = "../../tests/support/escape.rs"]
mod escape;

/// The cases in the text of a file.
#[must_use]
pub fn read(text: &str) -> Vec<Vec<u8>> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(escape::unescape).collect()
}

/// A case as a line, without its end.
#[must_use]
pub fn written(case: &[u8]) -> String {
    let mut line = String::new();
    for (place, &byte) in case.iter().enumerate() {
        match byte {
            b'\r' => line.push_str(r"\r"),
            b'\n' => line.push_str(r"\n"),
            b'\t' => line.push_str(r"\t"),
            b'\\' => line.push_str(r"\\"),
            b'#' if place == 0 => line.push_str(r"\x23"),
            b' '..=b'~' => line.push(byte.into()),
            _ => line.push_str(&format!("\\x{byte:02x}")),
        }
    }
    line
}
