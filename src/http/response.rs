//! Responses: the head, its fields, and the date.

use super::{CRLF, Status};
use crate::date::Date;
use crate::decimal::Decimal;

/// The head of a response.
#[derive(Clone, Copy, Debug)]
pub struct ResponseHead<'a> {
    /// The status.
    pub status: Status,
    /// `Content-Type`; `None` if there is no body at all.
    pub media: Option<&'static str>,
    /// `Cache-Control`.
    pub cache: &'static str,
    /// `Content-Security-Policy` for what a browser displays; `nosniff` and `no-referrer` come with it.
    pub policy: Option<&'static str>,
    /// `Allow`: the methods of the path (RFC 9110, section 15.5.6).
    pub allow: Option<&'static str>,
    /// `Access-Control-Allow-Origin`: the origin whose pages may read the response. Any value but `*` adds `Vary:
    /// Origin`; an empty one adds that alone. A response without content and with `allow` is that to a preflight
    /// request (Fetch standard, "CORS protocol").
    pub origin: Option<&'a str>,
    /// Whether the body follows.
    pub body: BodyMode,
    /// Whether the connection stays open.
    pub persistence: Persistence,
}

/// Whether the body of a response follows its head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyMode {
    /// It follows.
    #[default]
    Sent,
    /// It is left out although the fields describe it: the response to `HEAD`.
    Omitted,
    /// It is left out, and so is `Content-Length`, because the length of the body that `GET` would get is unknown (RFC
    /// 9110, section 8.6).
    OmittedUnsized,
}

/// Whether a connection stays open after a response, and whether a field announces it (RFC 9112, section 9.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Persistence {
    /// It stays open, the default of HTTP/1.1.
    #[default]
    Open,
    /// It stays open, which an HTTP/1.0 client expects only after `Connection: keep-alive`.
    KeepAlive,
    /// It closes after this response.
    Close,
}

/// Appends a response with the body that `write_body` appends. A 503 gets `Retry-After: 1`. `date` is the current
/// second as [`format_date`] renders it, and `served_by` the value of `X-Served-By`.
pub fn write_response(
    out: &mut Vec<u8>,
    head: &ResponseHead<'_>,
    date: &[u8],
    served_by: &str,
    write_body: &mut dyn FnMut(&mut Vec<u8>),
) {
    out.reserve(TYPICAL_LENGTH);
    let length_at = write_head(out, head, date, served_by);
    let start = out.len();
    write_body(out);
    let length = out.len() - start;
    if head.body != BodyMode::Sent {
        out.truncate(start);
    }
    if let Some(index) = length_at {
        insert(out, index, &Decimal::new(length as i64));
    }
}

/// Appends the head of a response. Returns the index of the value of `Content-Length`, which is still empty, if there
/// is such a field.
fn write_head(out: &mut Vec<u8>, head: &ResponseHead<'_>, date: &[u8], served_by: &str) -> Option<usize> {
    for piece in ["HTTP/1.1 ", head.status.line(), "\r\nDate: "] {
        out.extend_from_slice(piece.as_bytes());
    }
    out.extend_from_slice(date);
    let mut length_at = None;
    if let Some(media) = head.media {
        write_field(out, "Content-Type", media.as_bytes());
        if head.body != BodyMode::OmittedUnsized {
            write_field(out, "Content-Length", b"");
            length_at = Some(out.len());
        }
    }
    write_field(out, "Cache-Control", head.cache.as_bytes());
    write_field(out, "X-Served-By", served_by.as_bytes());
    if let Some(policy) = head.policy {
        write_field(out, "Content-Security-Policy", policy.as_bytes());
        write_field(out, "X-Content-Type-Options", b"nosniff");
        write_field(out, "Referrer-Policy", b"no-referrer");
    }
    if let Some(allow) = head.allow {
        write_field(out, "Allow", allow.as_bytes());
    }
    if head.status == Status::ServiceUnavailable {
        write_field(out, "Retry-After", b"1");
    }
    if let Some(origin) = head.origin {
        write_cors(out, head, origin);
    }
    match head.persistence {
        Persistence::Open => {}
        Persistence::KeepAlive => write_field(out, "Connection", b"keep-alive"),
        Persistence::Close => write_field(out, "Connection", b"close"),
    }
    out.extend_from_slice(b"\r\n\r\n");
    length_at
}

/// Inserts bytes at an index.
fn insert(out: &mut Vec<u8>, index: usize, bytes: &[u8]) {
    let end = out.len();
    out.extend_from_slice(bytes);
    out.copy_within(index..end, index + bytes.len());
    out[index..][..bytes.len()].copy_from_slice(bytes);
}

/// Appends the CORS fields: the origin, and the readable fields or, for a preflight request, the allowed methods.
fn write_cors(out: &mut Vec<u8>, head: &ResponseHead<'_>, origin: &str) {
    if origin != "*" {
        write_field(out, "Vary", b"Origin");
    }
    if origin.is_empty() {
        return;
    }
    write_field(out, "Access-Control-Allow-Origin", origin.as_bytes());
    match (head.status, head.allow) {
        (Status::NoContent, Some(methods)) => {
            write_field(out, "Access-Control-Allow-Methods", methods.as_bytes());
            write_field(out, "Access-Control-Max-Age", b"86400");
        }
        _ => write_field(out, "Access-Control-Expose-Headers", b"X-Served-By, Retry-After"),
    }
}

fn write_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(CRLF);
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
}

/// Returns the `Date` of a response; `second` counts from 1970 (RFC 9110, section 5.6.7).
#[must_use]
pub fn format_date(second: u64) -> [u8; 29] {
    // The year has exactly four digits.
    let second = second.min(LAST_SECOND);
    let (days, rest) = (second / 86_400, second % 86_400);
    let Date { year, month, day } = Date::of(days);
    let mut date = *b"Thu, 01 Jan 1970 00:00:00 GMT";
    let mut put = |start: usize, text: &[u8]| date[start..][..text.len()].copy_from_slice(text);
    put(0, &WEEKDAYS[(days % 7) as usize]);
    put(8, &MONTHS[(month - 1) as usize]);
    for (start, number) in
        [(5, day), (12, year / 100), (14, year % 100), (17, rest / 3600), (20, rest / 60 % 60), (23, rest % 60)]
    {
        put(start, &[b'0' + (number / 10) as u8, b'0' + (number % 10) as u8]);
    }
    date
}

/// Appends the interim response that lets a client send its body (RFC 9110, section 15.2.1).
pub fn write_continue(out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
}

/// Begins with the first of January 1970, a Thursday.
const WEEKDAYS: [[u8; 3]; 7] = [*b"Thu", *b"Fri", *b"Sat", *b"Sun", *b"Mon", *b"Tue", *b"Wed"];

const MONTHS: [[u8; 3]; 12] =
    [*b"Jan", *b"Feb", *b"Mar", *b"Apr", *b"May", *b"Jun", *b"Jul", *b"Aug", *b"Sep", *b"Oct", *b"Nov", *b"Dec"];

/// The last second of the year 9999.
const LAST_SECOND: u64 = 253_402_300_799;

/// Typical length of a response in bytes, reserved at once.
const TYPICAL_LENGTH: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn date_follows_the_calendar() {
        for (second, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (1_735_689_599, "Tue, 31 Dec 2024 23:59:59 GMT"),
            (u64::MAX, "Fri, 31 Dec 9999 23:59:59 GMT"),
        ] {
            assert_eq!(format_date(second).escape_ascii().to_string(), text);
        }
    }
}
