//! HTTP/1.1 framing: where a request begins and ends, and how an answer is written.
//!
//! httparse splits the head; this file decides what of it to accept, and errs on the strict side wherever two readers
//! might disagree about where a request ends, because that is how requests are smuggled past a balancer. A request
//! that cannot be framed for certain is a [`RequestError`], which knows its status, and its connection is closed. In a head,
//! a line may end in LF alone, as RFC 9112, section 2.2, allows, for the sake of requests typed by hand.
//!
//! Bodies mean nothing to a counter, so they are read away, up to [`MAX_BODY`].
//!
//! Left out on purpose: HTTP/2, TLS, compression, ranges, conditional requests.
//!
//! Source: RFC 9110 (semantics), RFC 9112 (framing).

use std::mem::MaybeUninit;

use crate::counter::Decimal;
use crate::date::Date;

/// What an answer is, in a number and a reason (RFC 9110, section 15; 507 is of RFC 4918, section 11.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "Status::line says each")]
pub enum Status {
    Ok,
    NoContent,
    BadRequest,
    Forbidden,
    NotFound,
    NotAllowed,
    TimedOut,
    TooMuch,
    TooLong,
    Unexpected,
    TooLarge,
    NotImplemented,
    Unavailable,
    InDoubt,
    Version,
    InsufficientStorage,
}

impl Status {
    /// The code alone.
    #[must_use]
    pub fn code(self) -> u64 {
        self.line().bytes().take(3).fold(0, |code, digit| code * 10 + u64::from(digit - b'0'))
    }

    /// Code and reason.
    #[must_use]
    pub fn line(self) -> &'static str {
        match self {
            Self::Ok => "200 OK",
            Self::NoContent => "204 No Content",
            Self::BadRequest => "400 Bad Request",
            Self::Forbidden => "403 Forbidden",
            Self::NotFound => "404 Not Found",
            Self::NotAllowed => "405 Method Not Allowed",
            Self::TimedOut => "408 Request Timeout",
            Self::TooMuch => "413 Content Too Large",
            Self::TooLong => "414 URI Too Long",
            Self::Unexpected => "417 Expectation Failed",
            Self::TooLarge => "431 Request Header Fields Too Large",
            Self::NotImplemented => "501 Not Implemented",
            Self::Unavailable => "503 Service Unavailable",
            Self::InDoubt => "504 Gateway Timeout",
            Self::Version => "505 HTTP Version Not Supported",
            Self::InsufficientStorage => "507 Insufficient Storage",
        }
    }
}

/// A request that is not served. The connection cannot be trusted any further. All that there are stand in constants,
/// so that to refuse is to hand on one reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestError {
    /// What the answer says.
    pub status: Status,
    /// One line for people, in lower case.
    pub words: &'static str,
}

const fn reject(status: Status, words: &'static str) -> RequestError {
    RequestError { status, words }
}

const fn bad(words: &'static str) -> RequestError {
    reject(Status::BadRequest, words)
}

/// The methods that a counter has to tell apart (RFC 9110, section 9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `GET`.
    Get,
    /// `HEAD`: like `GET`, without the body.
    Head,
    /// `POST`.
    Post,
    /// `OPTIONS`: allowed for nothing but to ask from a page of another origin what else is.
    Options,
    /// Known, and never allowed here.
    Other,
}

/// What a request says, borrowed from the bytes it came in.
pub struct Head<'a> {
    /// The method.
    pub method: Method,
    /// The target's path, as it was sent, without the query.
    pub path: &'a [u8],
    /// What follows the path behind a question mark, up to a fragment.
    pub query: &'a [u8],
    /// The `Accept` fields, empty where there is none.
    pub accept: [&'a [u8]; MAX_ACCEPT],
    /// `Origin`: where the page is from that asks, if it is a page; empty if there is no such field.
    pub origin: &'a [u8],
    /// There is an `Access-Control-Request-Method`: with `OPTIONS`, it asks what a page of another origin may do.
    pub preflight: bool,
    /// Marked as fetched ahead of a visit that may never come (`Sec-Purpose`, `Purpose`, `X-Purpose`, `X-Moz`).
    pub prefetch: bool,
    /// How the message goes on behind the head.
    pub framing: Framing,
}

/// What the transport has to know of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framing {
    /// HTTP/1.0, where connections close by default.
    pub old: bool,
    /// Whether the connection serves another request after this one (RFC 9112, section 9.3).
    pub keep_alive: bool,
    /// The client waits for a `100 Continue` before it sends the body.
    pub expect_continue: bool,
    /// The body.
    pub body: Body,
}

/// Reads the head at the front of `bytes` and says how many bytes it took; `None` if it has not arrived whole.
///
/// # Errors
/// A [`RequestError`] as soon as it is certain. Whether a head that fills all the room there is will ever be whole is for the
/// caller to say: see [`overflow`].
pub fn parse_head(bytes: &[u8]) -> Result<Option<(Head<'_>, usize)>, &'static RequestError> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    let used = match request.parse_with_uninit_headers(bytes, &mut fields) {
        Ok(httparse::Status::Complete(used)) => used,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::Version) if names_http(bytes) => {
            return Err(OTHER_VERSION);
        }
        Err(httparse::Error::TooManyHeaders) => return Err(TOO_LARGE),
        Err(_) => return Err(MALFORMED),
    };
    let (method, target) = (request.method.unwrap_or_default(), request.path.unwrap_or_default());
    let method = self::method(method)?;
    if target.len() > MAX_TARGET {
        return Err(TOO_LONG);
    }
    let mut read = Fields::default();
    for field in request.headers.iter() {
        read.take(field.name.as_bytes(), field.value)?;
    }
    let old = request.version == Some(0);
    let (path, query) = path(method, target.as_bytes())?;
    let framing = read.framing(old)?;
    let Fields { accept, origin, preflight, prefetch, .. } = read;
    let parsed = Head { method, path, query, accept, origin, preflight, prefetch, framing };
    Ok(Some((parsed, used)))
}

/// What can be read of a head that is refused, whole or not.
pub struct Glimpse<'a> {
    /// The method is `HEAD`.
    pub is_head: bool,
    /// The target's path; empty if there is none.
    pub path: &'a [u8],
    /// The `Accept` fields, empty where there is none.
    pub accept: [&'a [u8]; MAX_ACCEPT],
    /// `Origin`; empty if there is no such field.
    pub origin: &'a [u8],
}

/// Reads of a head that is refused what the form of the answer depends on, and who may read it. It decides on nothing
/// else, so it need not be sure. What follows a line that is not well-formed, or one too many, is not looked at: more or
/// less of it may have come when the head is refused.
#[must_use]
pub fn peek(bytes: &[u8]) -> Glimpse<'_> {
    // Empty lines in front are skipped.
    let mut lines = bytes.split_inclusive(|&byte| byte == b'\n').skip_while(|line| matches!(*line, b"\n" | b"\r\n"));
    let first = lines.next().unwrap_or_default();
    let is_well_formed = httparse::Request::new(&mut []).parse_with_uninit_headers(first, &mut []).is_ok();
    let mut read = Fields::default();
    for line in lines.take(MAX_FIELDS).map_while(without_end).take_while(|line| is_well_formed && is_field(line)) {
        let (name, value) = split_before(line, b":");
        // Whatever is wrong with a field, the head is refused already.
        let _ = read.take(name, value[1..].trim_ascii());
    }
    let path = path(Method::Get, request_line(first).1).map_or(&b""[..], |(path, _)| path);
    Glimpse { is_head: first.starts_with(b"HEAD "), path, accept: read.accept, origin: read.origin }
}

/// A line without its end; `None` if that has not come.
fn without_end(line: &[u8]) -> Option<&[u8]> {
    let line = line.strip_suffix(b"\n")?;
    Some(line.strip_suffix(b"\r").unwrap_or(line))
}

/// Whether no request has begun: empty lines are none (RFC 9112, section 2.2).
#[must_use]
pub fn is_empty(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| CRLF.contains(byte))
}

/// Method and path of a head, as far as its first line can be split into words. For a log alone: any head has them.
#[must_use]
pub fn request_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    let (line, _) = split_before(bytes.trim_ascii_start(), b"\r\n");
    let (method, target) = split_before(line, b" ");
    (method, split_before(target.trim_ascii_start(), b" ?#").0)
}

/// Whether a request line ends in a version of HTTP, if in none that is spoken here.
fn names_http(bytes: &[u8]) -> bool {
    let line = bytes.trim_ascii_start().split(|&byte| byte == b'\n').next().unwrap_or_default();
    line.split(|&byte| byte == b' ').nth(2).is_some_and(|version| version.starts_with(b"HTTP/"))
}

/// The reject for an incomplete head that has no room to grow: its target is too long, or its fields too large.
#[must_use]
pub fn overflow(bytes: &[u8]) -> &'static RequestError {
    match bytes.trim_ascii_start() {
        [] => EMPTY,
        bytes if bytes.contains(&b'\n') => TOO_LARGE,
        _ => TOO_LONG,
    }
}

/// Telling a known method that is not allowed here from an unknown one (RFC 9110, section 9.1). `CONNECT` is among the
/// unknown, since what follows it may be meant for a tunnel and must not be read as a request (RFC 9931).
fn method(name: &str) -> Result<Method, &'static RequestError> {
    match name {
        "GET" => Ok(Method::Get),
        "HEAD" => Ok(Method::Head),
        "POST" => Ok(Method::Post),
        "OPTIONS" => Ok(Method::Options),
        "DELETE" | "PATCH" | "PUT" | "TRACE" => Ok(Method::Other),
        _ => Err(UNKNOWN_METHOD),
    }
}

/// Path and query of a target in any of its four forms (RFC 9112, section 3.2).
fn path(method: Method, target: &[u8]) -> Result<(&[u8], &[u8]), &'static RequestError> {
    let rest = if target.starts_with(b"/") {
        target
    } else if matches!(method, Method::Options | Method::Other) {
        return Ok((target, b""));
    } else {
        let (scheme, authority) = target.split_at_checked(7).ok_or(NO_PATH)?;
        if !scheme.eq_ignore_ascii_case(b"http://") {
            return Err(NO_PATH);
        }
        let (host, rest) = split_before(authority, b"/?");
        if matches!(host, [] | [b':', ..]) || !is_host(host) {
            return Err(NO_PATH);
        }
        rest
    };
    let (path, rest) = split_before(rest, b"?#");
    let (query, _) = split_before(rest.strip_prefix(b"?").unwrap_or_default(), b"#");
    Ok((if path.is_empty() { b"/" } else { path }, query))
}

/// Splits before the first of these bytes, or at the end.
fn split_before<'a>(bytes: &'a [u8], ends: &[u8]) -> (&'a [u8], &'a [u8]) {
    let end = bytes.iter().position(|byte| ends.contains(byte)).unwrap_or(bytes.len());
    bytes.split_at(end)
}

/// What the fields of one head have said so far.
#[derive(Default)]
struct Fields<'a> {
    accept: [&'a [u8]; MAX_ACCEPT],
    origin: &'a [u8],
    preflight: bool,
    prefetch: bool,
    host: bool,
    close: bool,
    keep_alive: bool,
    expects: bool,
    length: Option<u64>,
    codings: Codings,
}

/// The transfer codings of one head, of all its `Transfer-Encoding` fields together (RFC 9112, sections 6.1 and 7).
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Codings {
    #[default]
    None,
    /// Codings that are not known here, and `chunked` not yet.
    Unknown,
    /// `chunked`, and nothing before it.
    Chunked,
    /// `chunked`, and what is not known here before it.
    UnknownChunked,
}

impl Codings {
    /// Takes the codings of one more field. `chunked` frames the body, so nothing may follow it, not even itself; and it
    /// has no parameters (RFC 9112, section 7.1).
    fn take(&mut self, list: &[u8]) -> Result<(), &'static RequestError> {
        for member in list.split(|&byte| byte == b',') {
            let mut parts = member.splitn(2, |&byte| byte == b';');
            let name = parts.next().unwrap_or_default().trim_ascii();
            if !is_token(name) {
                return Err(NO_CODING);
            }
            *self = match (*self, name.eq_ignore_ascii_case(b"chunked"), parts.next()) {
                (Self::Chunked | Self::UnknownChunked, ..) => return Err(NOT_LAST),
                (_, true, Some(_)) => return Err(NO_CODING),
                (Self::None, true, None) => Self::Chunked,
                (Self::Unknown, true, None) => Self::UnknownChunked,
                (_, false, _) => Self::Unknown,
            };
        }
        Ok(())
    }
}

impl<'a> Fields<'a> {
    fn take(&mut self, name: &[u8], value: &'a [u8]) -> Result<(), &'static RequestError> {
        let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        if is("host") {
            let first = !std::mem::replace(&mut self.host, true);
            return if first && is_host(value) { Ok(()) } else { Err(NO_HOST) };
        } else if is("accept") {
            if let Some(free) = self.accept.iter_mut().find(|field| field.is_empty()) {
                *free = value;
            }
        } else if is("origin") {
            self.origin = value;
        } else if is("access-control-request-method") {
            self.preflight = true;
        } else if is("connection") {
            self.close |= has_token(value, "close");
            self.keep_alive |= has_token(value, "keep-alive");
        } else if is("content-length") {
            let length = decimal(value).ok_or(NO_LENGTH)?;
            if self.length.replace(length).is_some() {
                return Err(TWO_LENGTHS);
            }
        } else if is("transfer-encoding") {
            self.codings.take(value)?;
        } else if is("expect") {
            if !value.eq_ignore_ascii_case(b"100-continue") {
                return Err(UNEXPECTED);
            }
            self.expects = true;
        } else if is("sec-purpose") || is("purpose") || is("x-purpose") || is("x-moz") {
            self.prefetch |= has_token(value, "prefetch") || has_token(value, "preview");
        }
        Ok(())
    }

    fn framing(&self, old: bool) -> Result<Framing, &'static RequestError> {
        if !self.host && !old {
            return Err(NO_HOST);
        }
        let body = match (self.codings, self.length) {
            (Codings::None, Some(length)) if length > MAX_BODY => return Err(TOO_MUCH),
            (Codings::None, Some(length)) => Body { next: BodyState::Length(length), seen: 0 },
            (Codings::None, None) => Body::NONE,
            (_, Some(_)) => return Err(TWO_ENDS),
            (_, None) if old => return Err(OLD_CODING),
            (Codings::Unknown, None) => return Err(NOT_LAST),
            (Codings::UnknownChunked, None) => return Err(UNKNOWN_CODING),
            (Codings::Chunked, None) => Body { next: BodyState::Size, seen: 0 },
        };
        Ok(Framing {
            old,
            keep_alive: !self.close && (!old || self.keep_alive),
            expect_continue: self.expects && !old && !body.is_complete(),
            body,
        })
    }
}

/// `uri-host [ ":" port ]` or nothing (RFC 9110, section 7.2; RFC 3986, section 3.2.2).
fn is_host(value: &[u8]) -> bool {
    let (host, port) = if let [b'[', rest @ ..] = value {
        let (address, rest) = split_before(rest, b"]");
        let [b']', port @ ..] = rest else { return false };
        (is_ipv6(address), port)
    } else {
        let (name, port) = split_before(value, b":");
        (is_name(name), port)
    };
    host && matches!(port.split_first(), None | Some((b':', _))) && port.iter().skip(1).all(u8::is_ascii_digit)
}

/// The characters of an address in brackets.
fn is_ipv6(address: &[u8]) -> bool {
    !address.is_empty() && address.iter().all(|byte| byte.is_ascii_hexdigit() || b":.".contains(byte))
}

/// `*( unreserved / pct-encoded / sub-delims )`.
fn is_name(name: &[u8]) -> bool {
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

/// Whether a comma-separated list has this member, parameters aside (RFC 9110, section 5.6.1).
fn has_token(list: &[u8], token: &str) -> bool {
    list.split(|&byte| byte == b',').any(|member| {
        let name = member.split(|&byte| byte == b';').next().unwrap_or_default();
        name.trim_ascii().eq_ignore_ascii_case(token.as_bytes())
    })
}

/// `1*DIGIT`, at most 18 of them.
fn decimal(digits: &[u8]) -> Option<u64> {
    let plausible = (1..=18).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    plausible.then(|| digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

/// A body that is skipped as it comes (RFC 9112, section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Body {
    next: BodyState,
    /// Bytes so far, the framing of chunks included.
    seen: u64,
}

/// What of a body comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyState {
    /// So many bytes, then it is over.
    Length(u64),
    /// The line with the size of a chunk.
    Size,
    /// So many bytes of a chunk.
    Data(u64),
    /// The end of the line behind a chunk.
    DataEnd,
    /// A trailer field, or the empty line behind the last.
    Trailer,
}

impl Body {
    const NONE: Self = Self { next: BodyState::Length(0), seen: 0 };

    /// Whether all of it has been skipped.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.next == BodyState::Length(0)
    }

    /// Skips what `bytes` has of the body and says how many bytes that were. If it then is not over, more have to come.
    ///
    /// # Errors
    /// A [`RequestError`] for a body that is too large, or whose end cannot be told for certain.
    pub fn skip(&mut self, bytes: &[u8]) -> Result<usize, &'static RequestError> {
        let mut used = 0;
        while !self.is_complete() {
            let taken = self.step(&bytes[used..])?;
            if taken == 0 {
                break;
            }
            used += taken;
            self.seen += taken as u64;
            if self.seen > MAX_BODY {
                return Err(TOO_MUCH);
            }
        }
        Ok(used)
    }

    /// Takes one part, or as much of it as there is, or nothing.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, &'static RequestError> {
        if let BodyState::Length(left) | BodyState::Data(left) = &mut self.next {
            let used = bytes.len().min(*left as usize);
            *left -= used as u64;
            if self.next == BodyState::Data(0) {
                self.next = BodyState::DataEnd;
            }
            return Ok(used);
        }
        let Some(line) = line(bytes)? else { return Ok(0) };
        self.next = match self.next {
            BodyState::Size => match chunk_size(line).ok_or(NO_SIZE)? {
                0 => BodyState::Trailer,
                size if size > MAX_BODY => return Err(TOO_MUCH),
                size => BodyState::Data(size),
            },
            BodyState::DataEnd if line.is_empty() => BodyState::Size,
            BodyState::DataEnd => return Err(LONG_CHUNK),
            BodyState::Trailer if line.is_empty() => BodyState::Length(0),
            BodyState::Trailer if !is_field(line) => return Err(NO_FIELD),
            other => other,
        };
        Ok(line.len() + CRLF.len())
    }
}

/// The line at the front of `bytes`, without its end; `None` if it has not come whole. A body's lines end in CR LF and
/// have neither in them: to be lenient here has let requests be smuggled.
fn line(bytes: &[u8]) -> Result<Option<&[u8]>, &'static RequestError> {
    let end = bytes.iter().position(|byte| CRLF.contains(byte));
    match end.map(|end| (&bytes[..end], &bytes[end..])) {
        None if bytes.len() > MAX_LINE => Err(LONG_LINE),
        None | Some((_, b"\r")) => Ok(None),
        Some((line, [b'\r', b'\n', ..])) => Ok(Some(line)),
        Some(_) => Err(NO_CRLF),
    }
}

/// Whether a line is a field: a name, a colon and a value (RFC 9112, section 5).
fn is_field(line: &[u8]) -> bool {
    let (name, rest) = split_before(line, b":");
    is_token(name) && !rest.is_empty() && is_text(rest)
}

/// `token` (RFC 9110, section 5.6.2).
fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

/// Whether these bytes may stand in a field's value: no control character but the tab (RFC 9110, section 5.5).
fn is_text(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == b'\t' || !byte.is_ascii_control())
}

/// `chunk-size [ chunk-ext ]` (RFC 9112, section 7.1), at most eight digits. Extensions mean nothing here, but what may
/// not stand in one is a sign that somebody reads these lines otherwise.
fn chunk_size(line: &[u8]) -> Option<u64> {
    if !is_text(line) {
        return None;
    }
    let mut parts = line.splitn(2, |&byte| byte == b';');
    let digits = parts.next().unwrap_or_default();
    // White space is allowed before an extension, for the sake of old senders.
    let digits = if parts.next().is_some() { digits.trim_ascii_end() } else { digits };
    if !(1..=8).contains(&digits.len()) {
        return None;
    }
    digits.iter().try_fold(0, |size, &byte| Some(size * 16 + u64::from(char::from(byte).to_digit(16)?)))
}

/// An answer, but for its body.
#[derive(Clone, Copy, Debug)]
pub struct ResponseHead<'a> {
    /// The status line.
    pub status: Status,
    /// `Content-Type`; absent if there is no body at all.
    pub media: Option<&'static str>,
    /// `Cache-Control`.
    pub cache: &'static str,
    /// `Content-Security-Policy` of what a browser shows; with it come `nosniff` and `no-referrer`.
    pub policy: Option<&'static str>,
    /// `Allow`, for the methods that a path knows (RFC 9110, section 15.5.6).
    pub allow: Option<&'static str>,
    /// `Access-Control-Allow-Origin`: whose page may read it. If it is not `*`, the answer varies by who asks; an empty
    /// one only says so. With `allow` in an answer without content, it is what a preflight asks for (Fetch standard,
    /// "CORS protocol").
    pub origin: Option<&'a str>,
    /// Whether the body stays away although the fields describe it: the answer to `HEAD`.
    pub head_only: bool,
    /// Whether `Content-Length` is left out, since what `GET` would be answered is not known (RFC 9110, section 8.6).
    pub unsized_body: bool,
    /// What becomes of the connection.
    pub connection: Connection,
}

/// What an answer says of its connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Connection {
    /// It stays open, as is usual in HTTP/1.1.
    #[default]
    Open,
    /// It stays open, which an HTTP/1.0 client has to be told.
    KeepAlive,
    /// It closes after this answer.
    Close,
}

/// Appends an answer, whose body comes in pieces. What the head needs of it is what [`write_head`] says.
pub fn write_response(out: &mut Vec<u8>, head: &ResponseHead<'_>, date: &[u8], served_by: &str, body: &[&[u8]]) {
    let length = body.iter().map(|piece| piece.len()).sum();
    out.reserve(USUAL_HEAD + length);
    write_head(out, head, date, served_by, length);
    if !head.head_only {
        for piece in body {
            out.extend_from_slice(piece);
        }
    }
}

/// Appends the head of an answer whose body is so many bytes long; one that is unavailable may be asked for again in a
/// second. `date` is the second in which it is made, and `served_by` names us.
pub fn write_head(out: &mut Vec<u8>, head: &ResponseHead<'_>, date: &[u8], served_by: &str, length: usize) {
    for piece in ["HTTP/1.1 ", head.status.line(), "\r\nDate: "] {
        out.extend_from_slice(piece.as_bytes());
    }
    out.extend_from_slice(date);
    if let Some(media) = head.media {
        write_field(out, "Content-Type", media.as_bytes());
        if !head.unsized_body {
            write_field(out, "Content-Length", &Decimal::new(length as i64));
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
    if head.status == Status::Unavailable {
        write_field(out, "Retry-After", b"1");
    }
    if let Some(origin) = head.origin {
        write_cors(out, head, origin);
    }
    match head.connection {
        Connection::Open => {}
        Connection::KeepAlive => write_field(out, "Connection", b"keep-alive"),
        Connection::Close => write_field(out, "Connection", b"close"),
    }
    out.extend_from_slice(b"\r\n\r\n");
}

/// Says whose page may read the answer, and what of its head, or what else it may do.
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

/// The `Date` of an answer made so many seconds after 1970 (RFC 9110, section 5.6.7).
#[must_use]
pub fn date(second: u64) -> [u8; 29] {
    // The year has four digits and no more.
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

/// Appends the interim answer that lets a client send its body (RFC 9110, section 15.2.1).
pub fn write_continue(out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
}

/// The request of `notch healthcheck`, which asks for one answer and no more.
#[must_use]
pub fn probe_request(path: &str) -> Vec<u8> {
    ["GET ", path, " HTTP/1.0\r\n\r\n"].concat().into_bytes()
}

/// Reads an answer that was closed by its end of the connection: its code, and the last line of its body.
#[must_use]
pub fn parse_probe_response(response: &[u8]) -> Option<(&str, &str)> {
    let code = response.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
    let last = response.trim_ascii_end().rsplit(|&byte| byte == b'\n').next()?;
    Some((str::from_utf8(code).ok()?, str::from_utf8(last).ok()?))
}

/// From the first of January 1970 on.
const WEEKDAYS: [[u8; 3]; 7] = [*b"Thu", *b"Fri", *b"Sat", *b"Sun", *b"Mon", *b"Tue", *b"Wed"];

const MONTHS: [[u8; 3]; 12] =
    [*b"Jan", *b"Feb", *b"Mar", *b"Apr", *b"May", *b"Jun", *b"Jul", *b"Aug", *b"Sep", *b"Oct", *b"Nov", *b"Dec"];

/// The end of the year 9999.
const LAST_SECOND: u64 = 253_402_300_799;

const CRLF: &[u8] = b"\r\n";

const OTHER_VERSION: &RequestError = &reject(Status::Version, "the versions spoken here are HTTP/1.1 and HTTP/1.0");
const MALFORMED: &RequestError = &bad("this is not a well-formed HTTP/1.1 request");
const EMPTY: &RequestError = &bad("empty lines are no request");
const UNKNOWN_METHOD: &RequestError = &reject(Status::NotImplemented, "this method is not known here: use GET");
const NO_PATH: &RequestError = &bad("the request target has to begin with a slash");
const NO_HOST: &RequestError = &bad("one valid Host field is needed");
const NO_LENGTH: &RequestError = &bad("the Content-Length is not a number");
const TWO_LENGTHS: &RequestError = &bad("one Content-Length is enough");
const UNKNOWN_CODING: &RequestError = &reject(Status::NotImplemented, "the only transfer coding known here is chunked");
const NO_CODING: &RequestError = &bad("the Transfer-Encoding is no list of transfer codings");
const NOT_LAST: &RequestError = &bad("the last transfer coding has to be chunked, once");
const UNEXPECTED: &RequestError = &reject(Status::Unexpected, "the only expectation known here is 100-continue");
const TWO_ENDS: &RequestError = &bad("Content-Length and Transfer-Encoding contradict each other");
const OLD_CODING: &RequestError = &bad("HTTP/1.0 has no Transfer-Encoding");
const NO_SIZE: &RequestError = &bad("a chunk does not begin with a hexadecimal size and well-formed extensions");
const LONG_CHUNK: &RequestError = &bad("a chunk is longer than its size");
const NO_FIELD: &RequestError = &bad("a trailer is not a field");
const LONG_LINE: &RequestError = &bad("a line of the body is too long");
const NO_CRLF: &RequestError = &bad("a line of the body does not end in CR LF");
const TOO_LONG: &RequestError = &reject(Status::TooLong, "the request target is too long");
const TOO_LARGE: &RequestError = &reject(Status::TooLarge, "the request has too many or too large fields");
const TOO_MUCH: &RequestError = &reject(Status::TooMuch, "a visit needs no body: send less");

/// For a request that does not come to its end in time.
pub const TIMED_OUT: &RequestError = &reject(Status::TimedOut, "the request did not arrive in time");

/// Longest request target in bytes: a request line of 8000 is to be taken (RFC 9112, section 3).
pub const MAX_TARGET: usize = 8 * 1024;

/// Most fields in one head; browsers send about twenty.
pub const MAX_FIELDS: usize = 64;

/// Most `Accept` fields that are looked at; one is what clients send.
pub const MAX_ACCEPT: usize = 4;

/// Longest body in bytes, the framing of chunks included.
pub const MAX_BODY: u64 = 64 * 1024;

/// Longest line of chunk framing or trailer in bytes.
const MAX_LINE: usize = 4 * 1024;

/// What the head of an answer comes to in bytes, so that the buffer grows once.
const USUAL_HEAD: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (second, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (1_735_689_599, "Tue, 31 Dec 2024 23:59:59 GMT"),
            (u64::MAX, "Fri, 31 Dec 9999 23:59:59 GMT"),
        ] {
            assert_eq!(date(second).escape_ascii().to_string(), text);
        }
    }
}
