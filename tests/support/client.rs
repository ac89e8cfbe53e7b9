//! A strict HTTP client: sends bytes exactly as given, and reads a response only up to its end.
//!
//! Properties of all responses are asserted for each response: see [`Response::check`].

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;
use std::{fmt, fs};

use serde_json::Value;

use super::{TIMEOUT, parse_json};

/// Where notch listens.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    /// The path of a Unix socket, kept until the tests end.
    Unix(&'static str),
}

impl Address {
    /// Reads the address in the log line of the start.
    pub(crate) fn in_line(line: &str) -> Option<Self> {
        let (_, rest) = line.split_once("listening on ")?;
        let (address, _) = rest.split_once(' ')?;
        match address.strip_prefix("unix:") {
            Some(path) => Some(Self::Unix(path.to_owned().leak())),
            None => address.strip_prefix("http://")?.parse().ok().map(Self::Tcp),
        }
    }

    /// Returns the address of a notch that listens on TCP.
    pub(crate) fn tcp(self) -> SocketAddr {
        match self {
            Self::Tcp(address) => address,
            Self::Unix(path) => panic!("{path} is not an address of TCP"),
        }
    }

    /// Returns the path of a notch that listens on a Unix socket.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Tcp(address) => panic!("{address} is not a path"),
            Self::Unix(path) => path,
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

/// As in `LISTEN`.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

pub(crate) struct Client {
    stream: TcpStream,
    received_bytes: Vec<u8>,
}

impl Client {
    pub(crate) fn connect(address: impl Into<Address>) -> Self {
        Self::try_connect(address).expect("notch accepts connections")
    }

    /// As [`Self::connect`], for a server that may be gone.
    pub(crate) fn try_connect(address: impl Into<Address>) -> std::io::Result<Self> {
        let stream = match address.into() {
            Address::Tcp(address) => {
                let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
                // The kernel may connect a socket with itself if no process listens on the port.
                if stream.local_addr()? == address {
                    return Err(ErrorKind::ConnectionRefused.into());
                }
                stream.set_nodelay(true)?;
                stream
            }
            Address::Unix(path) => OwnedFd::from(UnixStream::connect(path)?).into(),
        };
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        Ok(Self { stream, received_bytes: Vec::new() })
    }

    /// Waits this long for each part of a response.
    pub(crate) fn set_timeout(&mut self, timeout: Duration) {
        self.stream.set_read_timeout(Some(timeout)).expect("a timeout above zero");
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("notch reads requests");
    }

    /// As [`Self::send`], for a peer that may have closed already.
    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    pub(crate) fn close_write(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    pub(crate) fn request(&mut self, method: &str, path: &str, fields: &[(&str, &str)]) -> Response {
        self.send_request(method, path, fields);
        self.response_to(method)
    }

    pub(crate) fn send_request(&mut self, method: &str, path: &str, fields: &[(&str, &str)]) {
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: notch.test\r\n");
        for (name, value) in fields {
            request += &format!("{name}: {value}\r\n");
        }
        self.send(request + "\r\n");
    }

    pub(crate) fn get(&mut self, path: &str) -> Response {
        self.request("GET", path, &[])
    }

    /// Reads the next response; fails if there is none.
    pub(crate) fn response(&mut self) -> Response {
        self.response_to("GET")
    }

    pub(crate) fn response_to(&mut self, method: &str) -> Response {
        self.next_response(method).expect("a response, not the end of the connection")
    }

    /// Reads the next response; `None` at the end of the connection. Fails if a response is incomplete.
    pub(crate) fn next_response(&mut self, method: &str) -> Option<Response> {
        let head = loop {
            if let Some(end) = find(&self.received_bytes, b"\r\n\r\n") {
                break self.received_bytes.drain(..end + 4).collect::<Vec<_>>();
            }
            if !self.fill() {
                assert!(
                    self.received_bytes.is_empty(),
                    "the response is incomplete: {:?}",
                    String::from_utf8_lossy(&self.received_bytes)
                );
                return None;
            }
        };
        let mut response = Response::parse(&head);
        while self.received_bytes.len() < response.length(method) {
            assert!(self.fill(), "the body is incomplete: {response:?}");
        }
        response.body = self.received_bytes.drain(..response.length(method)).collect();
        response.check(method);
        Some(response)
    }

    /// Reads all responses up to the end of the connection; fails if the connection stays open.
    pub(crate) fn remaining_responses(&mut self) -> Vec<Response> {
        self.remaining_responses_to(|| "GET")
    }

    /// As [`Self::remaining_responses`]; `method` returns the method of each request.
    pub(crate) fn remaining_responses_to(&mut self, mut method: impl FnMut() -> &'static str) -> Vec<Response> {
        let responses: Vec<_> = std::iter::from_fn(|| self.next_response(method())).take(ENDLESS).collect();
        assert!(responses.len() < ENDLESS, "responses without end, the last of them {:?}", responses.last());
        responses
    }

    /// Returns `false` at the end of the connection, also after a reset.
    fn fill(&mut self) -> bool {
        let mut bytes = [0; 16 << 10];
        match self.stream.read(&mut bytes) {
            Ok(0) => false,
            Ok(length) => {
                self.received_bytes.extend_from_slice(&bytes[..length]);
                true
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => self.fill(),
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => false,
            Err(error) => panic!("neither a response nor an end: {error}; so far {:?}", self.received_bytes),
        }
    }
}

pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status)?;
        self.fields.iter().try_for_each(|(name, value)| write!(f, ", {name}: {value}"))?;
        write!(f, ", {:?}", String::from_utf8_lossy(&self.body))
    }
}

impl Response {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body in UTF-8")
    }

    /// Returns the number in the body of a count: decimal digits and a newline, nothing else.
    pub(crate) fn number(&self) -> i64 {
        assert_eq!(self.status, 200, "{self:?}");
        let digits = self.text().strip_suffix('\n').unwrap_or_else(|| panic!("no newline at the end: {self:?}"));
        let number = digits.parse::<i64>().unwrap_or_else(|_| panic!("no number: {self:?}"));
        assert_eq!(digits, number.to_string(), "not the plain form of the number: {self:?}");
        number
    }

    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.field("Content-Type"), Some("application/json"), "{self:?}");
        parse_json(self.text())
    }

    /// Returns whether the response announces that the connection closes after it.
    pub(crate) fn closes(&self) -> bool {
        let options = self.field("Connection").unwrap_or_default();
        options.split(',').any(|option| option.trim().eq_ignore_ascii_case("close"))
    }

    /// Asserts 503: certainly not counted, with a time to retry.
    pub(crate) fn assert_not_counted(&self) {
        assert_eq!(self.status, 503, "certainly not counted is 503: {self:?}");
        let seconds = self.field("Retry-After").unwrap_or_else(|| panic!("503 has Retry-After: {self:?}"));
        assert!(seconds.parse::<u32>().is_ok(), "Retry-After in seconds: {self:?}");
        assert_eq!(self.field("Cache-Control"), Some("no-store"), "{self:?}");
        self.assert_one_line();
    }

    /// Asserts 504: in doubt, without `Retry-After`.
    pub(crate) fn assert_in_doubt(&self) {
        assert_eq!(self.status, 504, "in doubt is 504: {self:?}");
        assert_eq!(self.field("Retry-After"), None, "a doubtful visit must not be repeated: {self:?}");
        assert_eq!(self.field("Cache-Control"), Some("no-store"), "{self:?}");
        self.assert_one_line();
    }

    /// Asserts that the body is one line of text, or a whole page with one line of status.
    pub(crate) fn assert_one_line(&self) {
        let text = self.text();
        if self.field("Content-Type") == Some("text/html; charset=utf-8") {
            assert!(text.starts_with("<!doctype html>") && text.contains("</footer>\n"), "a whole page: {self:?}");
            let message = text.split_once("<p role=status>").and_then(|(_, rest)| rest.split_once('\n'));
            assert!(
                message.is_some_and(|(message, _)| message.ends_with("</span></p>")),
                "one complete line: {self:?}"
            );
            return;
        }
        assert!(text.len() > 1 && text.find('\n') == Some(text.len() - 1), "one complete line: {self:?}");
    }

    fn parse(head: &[u8]) -> Self {
        let head = std::str::from_utf8(head).expect("the head of a response is ASCII");
        assert!(head.is_ascii(), "the head of a response is ASCII: {head:?}");
        let mut lines = head.strip_suffix("\r\n\r\n").expect("the head ends with an empty line").split("\r\n");
        let first = lines.next().expect("split returns at least one part");
        let status = first.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let status = status.unwrap_or_else(|| panic!("not a status line: {first:?}"));
        assert_eq!(first.as_bytes().get(12), Some(&b' '), "a space before the reason, even an empty one: {first:?}");
        let field = |line: &str| {
            assert!(!line.contains(['\r', '\n', '\0']), "a field line with control characters: {line:?}");
            let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("not a field line: {line:?}"));
            assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'), "not a field name: {line:?}");
            (name.to_owned(), value.to_owned())
        };
        Self { status, fields: lines.map(field).collect(), body: Vec::new() }
    }

    /// Returns the length of the body in bytes. notch sends every body with a length, so no other framing is supported.
    fn length(&self, method: &str) -> usize {
        match self.field("Content-Length") {
            _ if self.status < 200 || self.status == 204 || method == "HEAD" => 0,
            Some(length) => length.parse().expect("a length in decimal"),
            None => panic!("a response without a length: {self:?}"),
        }
    }

    /// Asserts the properties of all responses, errors included.
    fn check(&self, method: &str) {
        if self.status < 200 {
            return assert!(self.fields.is_empty(), "an interim response has no fields: {self:?}");
        }
        for once in ["Date", "X-Served-By"] {
            assert_eq!(self.count(once), 1, "every response has one {once}: {self:?}");
        }
        assert!(self.field("Date").is_some_and(is_date), "a date in the format of RFC 9110, section 5.6.7: {self:?}");
        assert_eq!(self.field("X-Served-By"), Some(hostname().as_str()), "{self:?}");
        assert_eq!(self.count("Transfer-Encoding"), 0, "{self:?}");
        match self.status {
            204 => assert_eq!(self.count("Content-Length"), 0, "RFC 9110, 8.6: {self:?}"),
            // A HEAD request does not count, so the length of a count is unknown.
            _ if method == "HEAD" => assert!(self.count("Content-Length") <= 1, "{self:?}"),
            _ => assert_eq!(self.count("Content-Length"), 1, "{self:?}"),
        }
        let is_image = self.field("X-Content-Type-Options").is_some();
        if self.status >= 400 && method != "HEAD" && !is_image {
            self.assert_one_line();
        }
    }

    fn count(&self, name: &str) -> usize {
        self.fields.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name)).count()
    }
}

/// More responses than any test requests at once.
const ENDLESS: usize = 10_000;

fn hostname() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname").expect("a host name").trim_end().to_owned()
}

/// Returns whether a text has the form `Sun, 06 Nov 1994 08:49:37 GMT`.
fn is_date(text: &str) -> bool {
    let shape = text.bytes().map(|b| match b {
        b'0'..=b'9' => b'0',
        b'a'..=b'z' => b'a',
        b'A'..=b'Z' => b'A',
        other => other,
    });
    shape.eq("Aaa, 00 Aaa 0000 00:00:00 AAA".bytes()) && text.ends_with(" GMT")
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
