//! Request heads: the request line, the fields that matter to a counter, and the framing that follows from them.

use std::mem::{MaybeUninit, replace};

use super::grammar::{has_member, is_field, is_host, is_token, parse_decimal, split_before};
use super::{Body, CRLF, RequestError, Status};

/// A method, as far as a counter distinguishes them (RFC 9110, section 9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `GET`.
    Get,
    /// `HEAD`: like `GET`, without the body.
    Head,
    /// `POST`.
    Post,
    /// `OPTIONS`: allowed only for the preflight requests of CORS.
    Options,
    /// Known, and allowed for no path.
    Other,
}

/// A request head, borrowed from the received bytes.
pub struct Head<'a> {
    /// The method.
    pub method: Method,
    /// The target's path, as it was sent, without the query.
    pub path: &'a [u8],
    /// The query: what follows the path and a question mark, up to a fragment.
    pub query: &'a [u8],
    /// The `Accept` fields; empty where there is none.
    pub accept: [&'a [u8]; MAX_ACCEPT],
    /// `Origin`: the origin of the page that sends the request; empty if there is no such field.
    pub origin: &'a [u8],
    /// The head has an `Access-Control-Request-Method`, which makes an `OPTIONS` request a preflight.
    pub is_preflight: bool,
    /// The request fetches a page before a visit that may never happen (`Sec-Purpose`, `Purpose`, `X-Purpose`,
    /// `X-Moz`).
    pub is_prefetch: bool,
    /// The framing of the message.
    pub framing: Framing,
}

/// The facts that the transport needs about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framing {
    /// The request is HTTP/1.0, where connections close by default.
    pub is_http10: bool,
    /// The connection serves another request after this one (RFC 9112, section 9.3).
    pub keep_alive: bool,
    /// The client waits for a `100 Continue` before it sends the body.
    pub expect_continue: bool,
    /// The body.
    pub body: Body,
}

/// Parses the head at the front of `bytes`. Returns it with its length in bytes; `None` if it has not arrived whole.
///
/// # Errors
/// A [`RequestError`] as soon as it is certain. The caller decides what to do with an incomplete head that fills its
/// buffer: see [`overflow_error`].
///
/// # Examples
/// ```
/// use notch::http::{Method, parse_head};
///
/// let bytes = b"GET /count/blog?x=1 HTTP/1.1\r\nHost: example.org\r\n\r\nGET /";
/// let (head, length) = parse_head(bytes).unwrap_or_else(|_| panic!("malformed")).expect("it has arrived whole");
/// assert_eq!((head.method, head.path, head.query), (Method::Get, &b"/count/blog"[..], &b"x=1"[..]));
/// assert!(head.framing.keep_alive && head.framing.body.is_complete());
/// assert_eq!(&bytes[length..], b"GET /", "the next request");
///
/// assert!(parse_head(&bytes[..20]).is_ok_and(|head| head.is_none()), "incomplete");
/// assert!(parse_head(b"GET /\r\n\r\n").is_err(), "malformed");
/// ```
pub fn parse_head(bytes: &[u8]) -> Result<Option<(Head<'_>, usize)>, &'static RequestError> {
    let mut headers = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    let used = match request.parse_with_uninit_headers(bytes, &mut headers) {
        Ok(httparse::Status::Complete(used)) => used,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::Version) if has_http_version(bytes) => {
            return Err(UNSUPPORTED_VERSION);
        }
        Err(httparse::Error::TooManyHeaders) => return Err(FIELDS_TOO_LARGE),
        Err(_) => return Err(MALFORMED),
    };
    let (method, target) = (request.method.unwrap_or_default(), request.path.unwrap_or_default());
    let method = parse_method(method)?;
    if target.len() > MAX_TARGET {
        return Err(TARGET_TOO_LONG);
    }
    let mut fields = Fields::default();
    for field in request.headers.iter() {
        fields.add(field.name.as_bytes(), field.value)?;
    }
    let is_http10 = request.version == Some(0);
    let (path, query) = split_target(method, target.as_bytes())?;
    let framing = fields.framing(is_http10)?;
    let Fields { accept, origin, is_preflight, is_prefetch, .. } = fields;
    Ok(Some((Head { method, path, query, accept, origin, is_preflight, is_prefetch, framing }, used)))
}

/// The readable part of a head that is rejected, complete or not.
pub struct PartialHead<'a> {
    /// The method is `HEAD`.
    pub is_head: bool,
    /// The target's path; empty if there is none.
    pub path: &'a [u8],
    /// The `Accept` fields; empty where there is none.
    pub accept: [&'a [u8]; MAX_ACCEPT],
    /// `Origin`; empty if there is no such field.
    pub origin: &'a [u8],
}

/// Reads from a rejected head what the response's format and CORS fields depend on. Nothing else depends on the result,
/// so it may be a guess. Reading stops at a malformed line or after [`MAX_FIELDS`] fields, so that the result does not
/// depend on how many bytes had arrived when the head was rejected.
#[must_use]
pub fn parse_partial_head(bytes: &[u8]) -> PartialHead<'_> {
    // Empty lines in front are skipped.
    let mut lines = bytes.split_inclusive(|&byte| byte == b'\n').skip_while(|line| matches!(*line, b"\n" | b"\r\n"));
    let first = lines.next().unwrap_or_default();
    let is_well_formed = httparse::Request::new(&mut []).parse_with_uninit_headers(first, &mut []).is_ok();
    let mut fields = Fields::default();
    for line in lines.take(MAX_FIELDS).map_while(strip_line_end).take_while(|line| is_well_formed && is_field(line)) {
        let (name, value) = split_before(line, b":");
        // An invalid field changes nothing: the head is rejected already.
        let _ = fields.add(name, value[1..].trim_ascii());
    }
    let path = split_target(Method::Get, request_line(first).1).map_or(&b""[..], |(path, _)| path);
    PartialHead { is_head: first.starts_with(b"HEAD "), path, accept: fields.accept, origin: fields.origin }
}

/// Returns a line without its end; `None` if the end has not arrived.
fn strip_line_end(line: &[u8]) -> Option<&[u8]> {
    let line = line.strip_suffix(b"\n")?;
    Some(line.strip_suffix(b"\r").unwrap_or(line))
}

/// Returns whether there are only empty lines, which begin no request (RFC 9112, section 2.2).
#[must_use]
pub fn is_blank(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| CRLF.contains(byte))
}

/// Returns the method and the path of a head without validating them, for a log alone: they exist for any head.
#[must_use]
pub fn request_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    let (line, _) = split_before(bytes.trim_ascii_start(), b"\r\n");
    let (method, target) = split_before(line, b" ");
    (method, split_before(target.trim_ascii_start(), b" ?#").0)
}

/// Returns whether a request line ends in a version of HTTP, supported or not.
fn has_http_version(bytes: &[u8]) -> bool {
    let line = bytes.trim_ascii_start().split(|&byte| byte == b'\n').next().unwrap_or_default();
    line.split(|&byte| byte == b' ').nth(2).is_some_and(|version| version.starts_with(b"HTTP/"))
}

/// Returns the error of an incomplete head that fills its buffer: the target is too long, or the fields are too large.
#[must_use]
pub fn overflow_error(bytes: &[u8]) -> &'static RequestError {
    match bytes.trim_ascii_start() {
        [] => NO_REQUEST,
        bytes if bytes.contains(&b'\n') => FIELDS_TOO_LARGE,
        _ => TARGET_TOO_LONG,
    }
}

/// Distinguishes a known method that is not allowed here from an unknown one (RFC 9110, section 9.1). `CONNECT` counts
/// as unknown: the bytes after it may be meant for a tunnel and must not be read as a request (RFC 9931).
fn parse_method(name: &str) -> Result<Method, &'static RequestError> {
    match name {
        "GET" => Ok(Method::Get),
        "HEAD" => Ok(Method::Head),
        "POST" => Ok(Method::Post),
        "OPTIONS" => Ok(Method::Options),
        "DELETE" | "PATCH" | "PUT" | "TRACE" => Ok(Method::Other),
        _ => Err(UNKNOWN_METHOD),
    }
}

/// Returns the path and the query of a target in any of its four forms (RFC 9112, section 3.2).
fn split_target(method: Method, target: &[u8]) -> Result<(&[u8], &[u8]), &'static RequestError> {
    let rest = if target.starts_with(b"/") {
        target
    } else if matches!(method, Method::Options | Method::Other) {
        return Ok((target, b""));
    } else {
        let (scheme, authority) = target.split_at_checked(7).ok_or(INVALID_TARGET)?;
        if !scheme.eq_ignore_ascii_case(b"http://") {
            return Err(INVALID_TARGET);
        }
        let (host, rest) = split_before(authority, b"/?");
        if matches!(host, [] | [b':', ..]) || !is_host(host) {
            return Err(INVALID_TARGET);
        }
        rest
    };
    let (path, rest) = split_before(rest, b"?#");
    let (query, _) = split_before(rest.strip_prefix(b"?").unwrap_or_default(), b"#");
    Ok((if path.is_empty() { b"/" } else { path }, query))
}

/// The fields of one head, as far as they have been read.
#[derive(Default)]
struct Fields<'a> {
    accept: [&'a [u8]; MAX_ACCEPT],
    origin: &'a [u8],
    is_preflight: bool,
    is_prefetch: bool,
    has_host: bool,
    close: bool,
    keep_alive: bool,
    expect_continue: bool,
    content_length: Option<u64>,
    codings: Codings,
}

/// The transfer codings of one head: the members of all `Transfer-Encoding` fields (RFC 9112, sections 6.1 and 7).
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Codings {
    #[default]
    None,
    /// Unknown codings, without `chunked`.
    Unknown,
    /// `chunked` alone.
    Chunked,
    /// Unknown codings, then `chunked`.
    UnknownChunked,
}

impl Codings {
    /// Adds the codings of one more field. `chunked` frames the body, so nothing may follow it, not even a second
    /// `chunked`; it has no parameters (RFC 9112, section 7.1).
    fn add(&mut self, list: &[u8]) -> Result<(), &'static RequestError> {
        for member in list.split(|&byte| byte == b',') {
            let mut parts = member.splitn(2, |&byte| byte == b';');
            let name = parts.next().unwrap_or_default().trim_ascii();
            if !is_token(name) {
                return Err(INVALID_CODING);
            }
            *self = match (*self, name.eq_ignore_ascii_case(b"chunked"), parts.next()) {
                (Self::Chunked | Self::UnknownChunked, ..) => return Err(CHUNKED_NOT_LAST),
                (_, true, Some(_)) => return Err(INVALID_CODING),
                (Self::None, true, None) => Self::Chunked,
                (Self::Unknown, true, None) => Self::UnknownChunked,
                (_, false, _) => Self::Unknown,
            };
        }
        Ok(())
    }
}

impl<'a> Fields<'a> {
    fn add(&mut self, name: &[u8], value: &'a [u8]) -> Result<(), &'static RequestError> {
        let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        if is("host") {
            let is_first = !replace(&mut self.has_host, true);
            return if is_first && is_host(value) { Ok(()) } else { Err(INVALID_HOST) };
        } else if is("accept") {
            if let Some(unused) = self.accept.iter_mut().find(|field| field.is_empty()) {
                *unused = value;
            }
        } else if is("origin") {
            self.origin = value;
        } else if is("access-control-request-method") {
            self.is_preflight = true;
        } else if is("connection") {
            self.close |= has_member(value, "close");
            self.keep_alive |= has_member(value, "keep-alive");
        } else if is("content-length") {
            let length = parse_decimal(value).ok_or(INVALID_LENGTH)?;
            if self.content_length.replace(length).is_some() {
                return Err(DUPLICATE_LENGTH);
            }
        } else if is("transfer-encoding") {
            self.codings.add(value)?;
        } else if is("expect") {
            if !value.eq_ignore_ascii_case(b"100-continue") {
                return Err(UNKNOWN_EXPECTATION);
            }
            self.expect_continue = true;
        } else if is("sec-purpose") || is("purpose") || is("x-purpose") || is("x-moz") {
            self.is_prefetch |= has_member(value, "prefetch") || has_member(value, "preview");
        }
        Ok(())
    }

    /// Returns the framing of the message (RFC 9112, section 6.3).
    fn framing(&self, is_http10: bool) -> Result<Framing, &'static RequestError> {
        if !self.has_host && !is_http10 {
            return Err(INVALID_HOST);
        }
        let body = match (self.codings, self.content_length) {
            (Codings::None, Some(length)) => Body::with_length(length)?,
            (Codings::None, None) => Body::NONE,
            (_, Some(_)) => return Err(LENGTH_AND_CODING),
            (_, None) if is_http10 => return Err(HTTP10_CODING),
            (Codings::Unknown, None) => return Err(CHUNKED_NOT_LAST),
            (Codings::UnknownChunked, None) => return Err(UNKNOWN_CODING),
            (Codings::Chunked, None) => Body::CHUNKED,
        };
        Ok(Framing {
            is_http10,
            keep_alive: !self.close && (!is_http10 || self.keep_alive),
            expect_continue: self.expect_continue && !is_http10 && !body.is_complete(),
            body,
        })
    }
}

const fn bad_request(message: &'static str) -> RequestError {
    RequestError::bad_request(message)
}

const UNSUPPORTED_VERSION: &RequestError =
    &RequestError::new(Status::VersionNotSupported, "this HTTP version is not supported: use HTTP/1.1 or HTTP/1.0");
const MALFORMED: &RequestError = &bad_request("this is not a well-formed HTTP/1.1 request");
const NO_REQUEST: &RequestError = &bad_request("empty lines are no request");
const UNKNOWN_METHOD: &RequestError =
    &RequestError::new(Status::NotImplemented, "this method is not supported: use GET");
const INVALID_TARGET: &RequestError = &bad_request("the request target has to begin with a slash");
const INVALID_HOST: &RequestError = &bad_request("one valid Host field is needed");
const INVALID_LENGTH: &RequestError = &bad_request("the Content-Length is not a number");
const DUPLICATE_LENGTH: &RequestError = &bad_request("one Content-Length is enough");
const UNKNOWN_CODING: &RequestError =
    &RequestError::new(Status::NotImplemented, "the only transfer coding supported is chunked");
const INVALID_CODING: &RequestError = &bad_request("the Transfer-Encoding is no list of transfer codings");
const CHUNKED_NOT_LAST: &RequestError = &bad_request("the last transfer coding has to be chunked, once");
const UNKNOWN_EXPECTATION: &RequestError =
    &RequestError::new(Status::ExpectationFailed, "the only expectation supported is 100-continue");
const LENGTH_AND_CODING: &RequestError = &bad_request("Content-Length and Transfer-Encoding contradict each other");
const HTTP10_CODING: &RequestError = &bad_request("HTTP/1.0 has no Transfer-Encoding");
const TARGET_TOO_LONG: &RequestError = &RequestError::new(Status::UriTooLong, "the request target is too long");
const FIELDS_TOO_LARGE: &RequestError =
    &RequestError::new(Status::FieldsTooLarge, "the request has too many or too large fields");

/// Longest request target in bytes: a request line of 8000 has to be accepted (RFC 9112, section 3).
pub const MAX_TARGET: usize = 8 * 1024;

/// Most fields in one head; browsers send about twenty.
pub const MAX_FIELDS: usize = 64;

/// Most `Accept` fields that are read; clients send one.
pub const MAX_ACCEPT: usize = 4;
