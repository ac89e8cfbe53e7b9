//! The kept cases: one in a line, escaped as in a Rust literal. Empty lines and lines that start with `#` are ignored.

#[path = "../../tests/support/escape.rs"]
mod escape;

/// Returns the cases in the text of a file.
#[must_use]
pub fn read(text: &str) -> Vec<Vec<u8>> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(escape::unescape).collect()
}

/// Returns a case as a line, without the line end.
#[must_use]
pub fn to_line(case: &[u8]) -> String {
    let mut line = String::new();
    for (index, &byte) in case.iter().enumerate() {
        match byte {
            b'\r' => line.push_str(r"\r"),
            b'\n' => line.push_str(r"\n"),
            b'\t' => line.push_str(r"\t"),
            b'\\' => line.push_str(r"\\"),
            b'#' if index == 0 => line.push_str(r"\x23"),
            b' '..=b'~' => line.push(byte.into()),
            _ => line.push_str(&format!("\\x{byte:02x}")),
        }
    }
    line
}
