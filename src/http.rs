//! HTTP/1.1 framing: where a request begins and ends, and how a response is written.
//!
//! httparse splits the head. This module decides which heads to accept, and is strict wherever two parsers could
//! disagree about the end of a request, because such a disagreement lets requests be smuggled past a balancer. A
//! request without a certain end is a [`RequestError`], which has a status, and its connection is closed. A line of a
//! head may end in LF alone, as RFC 9112, section 2.2, allows, so that requests can be typed by hand.
//!
//! A counter needs no body, so bodies up to [`MAX_BODY`] are read and discarded.
//!
//! Left out on purpose: HTTP/2, TLS, compression, ranges, conditional requests.
//!
//! Source: RFC 9110 (semantics), RFC 9112 (framing).

mod body;
mod grammar;
mod head;
mod response;

pub use body::{Body, MAX_BODY};
pub use grammar::decode_query_value;
pub use head::{
    Framing, Head, MAX_ACCEPT, MAX_FIELDS, MAX_TARGET, Method, PartialHead, is_blank, overflow_error, parse_head,
    parse_partial_head, request_line,
};
pub use response::{BodyMode, Persistence, ResponseHead, format_date, write_continue, write_response};

/// The status of a response (RFC 9110, section 15; 507 is of RFC 4918, section 11.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "Status::line has the code and the reason of each")]
pub enum Status {
    Ok,
    NoContent,
    BadRequest,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    RequestTimeout,
    ContentTooLarge,
    UriTooLong,
    ExpectationFailed,
    FieldsTooLarge,
    NotImplemented,
    ServiceUnavailable,
    GatewayTimeout,
    VersionNotSupported,
    InsufficientStorage,
}

impl Status {
    /// Returns the code alone.
    #[must_use]
    pub fn code(self) -> u64 {
        self.line().bytes().take(3).fold(0, |code, digit| code * 10 + u64::from(digit - b'0'))
    }

    /// Returns the code and the reason.
    #[must_use]
    pub fn line(self) -> &'static str {
        match self {
            Self::Ok => "200 OK",
            Self::NoContent => "204 No Content",
            Self::BadRequest => "400 Bad Request",
            Self::Forbidden => "403 Forbidden",
            Self::NotFound => "404 Not Found",
            Self::MethodNotAllowed => "405 Method Not Allowed",
            Self::RequestTimeout => "408 Request Timeout",
            Self::ContentTooLarge => "413 Content Too Large",
            Self::UriTooLong => "414 URI Too Long",
            Self::ExpectationFailed => "417 Expectation Failed",
            Self::FieldsTooLarge => "431 Request Header Fields Too Large",
            Self::NotImplemented => "501 Not Implemented",
            Self::ServiceUnavailable => "503 Service Unavailable",
            Self::GatewayTimeout => "504 Gateway Timeout",
            Self::VersionNotSupported => "505 HTTP Version Not Supported",
            Self::InsufficientStorage => "507 Insufficient Storage",
        }
    }
}

/// A request that is not served. The rest of its connection cannot be framed. Each error is a constant and is passed on
/// by reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestError {
    /// The status of the response.
    pub status: Status,
    /// One line for people, in lower case.
    pub message: &'static str,
}

impl RequestError {
    const fn new(status: Status, message: &'static str) -> Self {
        Self { status, message }
    }

    const fn bad_request(message: &'static str) -> Self {
        Self::new(Status::BadRequest, message)
    }
}

/// Returns the request of `notch healthcheck`: HTTP/1.0, so that the server closes the connection after the response.
#[must_use]
pub fn probe_request(path: &str) -> Vec<u8> {
    ["GET ", path, " HTTP/1.0\r\n\r\n"].concat().into_bytes()
}

/// Returns the code and the last body line of a response that ends with its connection, or `None` if it is none.
#[must_use]
pub fn parse_probe_response(response: &[u8]) -> Option<(&str, &str)> {
    let code = response.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
    let last = response.trim_ascii_end().rsplit(|&byte| byte == b'\n').next()?;
    Some((str::from_utf8(code).ok()?, str::from_utf8(last).ok()?))
}

/// For a request that has not arrived whole within `REQUEST_TIMEOUT`.
pub const REQUEST_TIMEOUT: &RequestError =
    &RequestError::new(Status::RequestTimeout, "the request did not arrive in time");

const CRLF: &[u8] = b"\r\n";
