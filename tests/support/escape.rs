//! Escape sequences for bytes in the texts of tests.

/// Decodes `\r`, `\n`, `\t`, `\0`, `\\` and `\xFF`, as in a Rust literal.
pub(crate) fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let escaped = if byte == b'\\' { rest.next() } else { None };
        bytes.push(match (byte, escaped) {
            (b'\\', Some(b'r')) => b'\r',
            (b'\\', Some(b'n')) => b'\n',
            (b'\\', Some(b't')) => b'\t',
            (b'\\', Some(b'0')) => 0,
            (b'\\', Some(b'x')) => {
                let digits = [rest.next(), rest.next()].map(|digit| digit.expect("two digits after \\x"));
                let digits = std::str::from_utf8(&digits).expect("digits are ASCII").to_owned();
                u8::from_str_radix(&digits, 16).expect("hexadecimal digits")
            }
            (b'\\', Some(b'\\')) => b'\\',
            (b'\\', other) => panic!("an unknown escape: {other:?}"),
            (plain, _) => plain,
        });
    }
    bytes
}
