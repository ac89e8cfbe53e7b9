//! Character classes and small productions of RFC 9110, RFC 9112 and RFC 3986.

/// Splits before the first of `delimiters`, or at the end.
pub(super) fn split_before<'a>(bytes: &'a [u8], delimiters: &[u8]) -> (&'a [u8], &'a [u8]) {
    let end = bytes.iter().position(|byte| delimiters.contains(byte)).unwrap_or(bytes.len());
    bytes.split_at(end)
}

/// Returns whether a line is a field: a name, a colon and a value (RFC 9112, section 5).
pub(super) fn is_field(line: &[u8]) -> bool {
    let (name, rest) = split_before(line, b":");
    is_token(name) && !rest.is_empty() && is_field_text(rest)
}

/// Returns whether `bytes` is a `token` (RFC 9110, section 5.6.2).
pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

/// Returns whether a field value may contain these bytes: no control character but the tab (RFC 9110, section 5.5).
pub(super) fn is_field_text(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == b'\t' || !byte.is_ascii_control())
}

/// Returns whether a comma-separated list has this member, parameters aside (RFC 9110, section 5.6.1).
pub(super) fn has_member(list: &[u8], token: &str) -> bool {
    list.split(|&byte| byte == b',').any(|member| {
        let name = member.split(|&byte| byte == b';').next().unwrap_or_default();
        name.trim_ascii().eq_ignore_ascii_case(token.as_bytes())
    })
}

/// Parses `1*DIGIT`, at most 18 digits, which always fit.
pub(super) fn parse_decimal(digits: &[u8]) -> Option<u64> {
    let is_valid = (1..=18).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    is_valid.then(|| digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

/// Decodes a value of a query: `%20` and `+` are spaces (URL Standard, section 5.1). `None` if a `%` is not followed by
/// two hexadecimal digits.
pub fn decode_query_value(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        bytes.push(match (byte, tail) {
            (b'%', [high, low, tail @ ..]) => {
                rest = tail;
                let digit = |byte: u8| char::from(byte).to_digit(16);
                (digit(*high)? * 16 + digit(*low)?) as u8
            }
            (b'+', _) => b' ',
            _ => *byte,
        });
    }
    Some(bytes)
}

/// Returns whether `value` is `uri-host [ ":" port ]` or empty (RFC 9110, section 7.2; RFC 3986, section 3.2.2).
pub(super) fn is_host(value: &[u8]) -> bool {
    let (is_valid, port) = if let [b'[', rest @ ..] = value {
        let (address, rest) = split_before(rest, b"]");
        let [b']', port @ ..] = rest else { return false };
        (is_ipv6(address), port)
    } else {
        let (name, port) = split_before(value, b":");
        (is_reg_name(name), port)
    };
    is_valid && matches!(port.split_first(), None | Some((b':', _))) && port.iter().skip(1).all(u8::is_ascii_digit)
}

/// Returns whether all characters may occur in an address in brackets.
fn is_ipv6(address: &[u8]) -> bool {
    !address.is_empty() && address.iter().all(|byte| byte.is_ascii_hexdigit() || b":.".contains(byte))
}

/// Returns whether `name` is `*( unreserved / pct-encoded / sub-delims )`.
fn is_reg_name(name: &[u8]) -> bool {
    let mut rest = name;
    while let [byte, tail @ ..] = rest {
        rest = match (byte, tail) {
            (b'%', [high, low, tail @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => tail,
            _ if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(byte) => tail,
            _ => return false,
        };
    }
    true
}
