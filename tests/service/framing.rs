//! HTTP/1.1 as RFC 9110 and 9112 frame it, case by case.
//!
//! Every case is sent whole, byte by byte, and cut in two at every position, and must have the same outcome each time,
//! because the network may split a request anywhere. After every case, one more visit is sent on the same connection.
//! It gets a response exactly if the case leaves the connection open. So a byte of the case that is read as the next
//! request, or a request that is executed after an error, shows in the responses and in the total.

use std::ops::Add;

use crate::support::{Client, Notch, Response, Settings, unescape};

/// An outcome is written as the statuses in their order, `keep` or `close`, and what was counted: `200 200 keep +1`.
/// `head:200` answers a HEAD. Where the RFC leaves a choice, outcomes are separated by ` | `.
type Case = (&'static str, &'static str, &'static str);

/// A body that looks like a request.
const VISIT: &str = r"GET /count HTTP/1.1\r\nHost: h\r\n\r\n";

/// Request lines, followed by a `Host` field only.
const LINES: &[Case] = &[
    // Persistence (RFC 9112, section 9.3).
    ("1.1 stays open", r"GET /livez HTTP/1.1", "200 keep"),
    ("1.0 with a host closes", r"GET /livez HTTP/1.0", "200 close"),
    // The request line (RFC 9112, section 3).
    ("a space ahead", r" GET /livez HTTP/1.1", "400 close"),
    ("two spaces", r"GET  /livez HTTP/1.1", "400 close"),
    ("two spaces before the version", r"GET /livez  HTTP/1.1", "400 close"),
    ("a space in the target", r"GET /li vez HTTP/1.1", "400 close"),
    ("a word too many", r"GET /livez HTTP/1.1 x", "400 close"),
    ("no target", r"GET HTTP/1.1", "400 close"),
    ("no protocol", r"GET /livez 1.1", "400 close"),
    ("another protocol", r"GET /livez ICY/1.1", "400 close"),
    ("a protocol in small letters", r"GET /livez http/1.1", "400 close"),
    ("half a version", r"GET /livez HTTP/1", "400 close | 505 close"),
    ("a target that is no path", r"GET livez HTTP/1.1", "400 close"),
    ("a NUL in the target", r"GET /\0 HTTP/1.1", "400 close"),
    ("a method that is no token", r"G{T /livez HTTP/1.1", "400 close"),
    ("tabs for spaces", r"GET\t/livez\tHTTP/1.1", "400 close"),
    ("a space behind the version", r"GET /livez HTTP/1.1 ", "400 close"),
    ("two versions", r"GET /livez HTTP/1.1 HTTP/1.1", "400 close"),
    ("a bare CR in the target", r"GET /livez\r HTTP/1.1", "400 close"),
    ("a version with a zero ahead", r"GET /livez HTTP/01.1", "400 close | 505 close"),
    // Versions (RFC 9110, section 2.5).
    ("2.0", r"GET /livez HTTP/2.0", "505 close"),
    ("3.0", r"GET /livez HTTP/3.0", "505 close"),
    ("0.9", r"GET /livez HTTP/0.9", "505 close | 400 close"),
    ("1.2 is compatible with 1.1", r"GET /livez HTTP/1.2", "200 keep | 505 close"),
    // Methods (RFC 9110, section 9).
    ("an unknown method", r"BREW /count HTTP/1.1", "501 keep | 501 close"),
    ("a method is case-sensitive", r"get /livez HTTP/1.1", "501 keep | 501 close"),
    ("an unknown method on nothing", r"BREW /unknown HTTP/1.1", "501 keep | 501 close"),
    ("DELETE", r"DELETE /count HTTP/1.1", "405 keep"),
    ("OPTIONS", r"OPTIONS /count HTTP/1.1", "405 keep"),
    ("TRACE", r"TRACE /count HTTP/1.1", "405 keep"),
    // Targets (RFC 9112, section 3.2).
    ("the absolute form", r"GET http://h/count HTTP/1.1", "200 keep +1"),
    ("the absolute form in other letters", r"GET HTTP://H:80/count?x HTTP/1.1", "200 keep +1"),
    ("the absolute form without a path", r"GET http://h HTTP/1.1", "200 keep"),
    ("the absolute form with a query only", r"GET http://h?/count HTTP/1.1", "200 keep"),
    ("the absolute form of nothing", r"GET http://h/unknown HTTP/1.1", "404 keep"),
    ("the absolute form of another host", r"GET http://other/count HTTP/1.1", "200 keep +1 | 400 close"),
    ("the absolute form with a user", r"GET http://u@h/count HTTP/1.1", "400 close"),
    ("the absolute form of another scheme", r"GET https://h/count HTTP/1.1", "400 close"),
    ("the asterisk form", r"OPTIONS * HTTP/1.1", "405 keep | 204 keep | 200 keep | 404 keep | 400 close"),
];

/// Fields of a `GET /count HTTP/1.1`.
const FIELDS: &[Case] = &[
    // Persistence (RFC 9112, section 9.3).
    ("1.1 with close", r"Host: h\r\nConnection: close", "200 close +1"),
    ("close in other letters", r"Host: h\r\nconnection: CLOSE", "200 close +1"),
    ("close among others", r"Host: h\r\nConnection: x, close ,y", "200 close +1"),
    ("close in a second line", r"Host: h\r\nConnection: x\r\nConnection: close", "200 close +1"),
    ("close overrides keep-alive", r"Host: h\r\nConnection: keep-alive, close", "200 close +1"),
    ("a word like close", r"Host: h\r\nConnection: closed", "200 keep +1"),
    ("close among names of fields", r"Host: h\r\nConnection: X-Served-By, close, Host", "200 close +1"),
    ("a host that is hop-by-hop", r"Host: h\r\nConnection: Host", "200 keep +1"),
    ("an unknown upgrade", r"Host: h\r\nConnection: Upgrade\r\nUpgrade: h2c", "200 keep +1"),
    // Host (RFC 9112, section 3.2).
    ("a host with a port", r"Host: h.example:8080", "200 keep +1"),
    ("a host that is an address", r"Host: [::1]:8080", "200 keep +1"),
    ("a host with blanks around", r"Host:  \t h \t ", "200 keep +1"),
    ("a host without a blank", r"hOST:h", "200 keep +1"),
    ("two hosts", r"Host: h\r\nHost: h", "400 close"),
    ("two hosts that differ", r"Host: h\r\nHost: other", "400 close"),
    ("two hosts in a list", r"Host: h, other", "400 close"),
    ("an empty host", r"Host:", "200 keep +1 | 400 close"),
    ("a host with a space", r"Host: a b", "400 close"),
    ("a host with a path", r"Host: a/b", "400 close"),
    ("a host with a user", r"Host: u@h", "400 close"),
    ("a host with a port that is none", r"Host: h:http", "400 close"),
    ("a host with half an address", r"Host: [::1", "400 close"),
    // Field lines (RFC 9112, section 5).
    ("an empty value", r"Host: h\r\nX:", "200 keep +1"),
    ("bytes beyond ASCII in a value", r"Host: h\r\nX: \xc3\xa4\xff", "200 keep +1"),
    ("a blank before the colon", r"Host: h\r\nX : y", "400 close"),
    ("a tab before the colon", r"Host: h\r\nX\t: y", "400 close"),
    ("a blank before the first colon", r"Host : h", "400 close"),
    ("no name", r"Host: h\r\n: y", "400 close"),
    ("no colon", r"Host: h\r\nX", "400 close"),
    ("a name that is no token", r"Host: h\r\nX(: y", "400 close"),
    ("a name beyond ASCII", r"Host: h\r\n\xc3\xa4: y", "400 close"),
    ("obs-fold", r"Host: h\r\nX: y\r\n z", "400 close"),
    ("obs-fold by a tab", r"Host: h\r\nX: y\r\n\tz", "400 close"),
    ("obs-fold ahead of all", r" Host: h\r\nHost: h", "400 close"),
    ("a bare CR in a value", r"Host: h\r\nX: a\rb", "400 close"),
    ("a bare CR at the end of a value", r"Host: h\r\nX: a\r", "400 close"),
    ("a NUL in a value", r"Host: h\r\nX: a\0b", "400 close"),
    ("a NUL in a name", r"Host: h\r\nX\0: b", "400 close"),
    ("a control character in a value", r"Host: h\r\nX: a\x01b", "400 close"),
    ("two CRs ahead of the LF", r"Host: h\r\nX: a\r\r\nY: b", "400 close"),
    ("a request behind bare CRs", r"Host: h\r\nX: a\r\rGET /count HTTP/1.1\rHost: h", "400 close"),
    ("a line of a blank", r"Host: h\r\n ", "400 close"),
    // Bodies with a length (RFC 9112, section 6.3).
    ("a length past the limit behind a GET", r"Host: h\r\nContent-Length: 1000000", "413 close"),
    // Chunked bodies (RFC 9112, section 7.1).
    ("a chunked body behind a GET", r"Host: h\r\nTransfer-Encoding: chunked\r\n\r\n0", "200 keep +1"),
    // Expectations (RFC 9110, section 10.1.1).
    ("100-continue without a body", r"Host: h\r\nExpect: 100-continue", "200 keep +1 | 100 200 keep +1"),
];

/// Fields and body that follow `POST /count HTTP/1.1` and its `Host`.
const BODIES: &[Case] = &[
    // The request line (RFC 9112, section 3).
    ("an empty line behind a body", r"Content-Length: 1\r\n\r\na\r\n", "200 keep +1"),
    // Bodies with a length (RFC 9112, section 6.3).
    ("a body is discarded", r"Content-Length: 5\r\n\r\nhello", "200 keep +1"),
    ("a body of nothing", r"Content-Length: 0\r\n\r\n", "200 keep +1"),
    ("a length with zeros ahead", r"Content-Length: 0005\r\n\r\nhello", "200 keep +1 | 400 close"),
    ("a body that is a request", r"Content-Length: 32\r\n\r\n{visit}", "200 keep +1"),
    ("two lengths", r"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", "400 close"),
    ("a length doubled", r"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", "400 close"),
    ("a length doubled in a list", r"Content-Length: 5, 5\r\n\r\nhello", "400 close"),
    ("a length with a plus", r"Content-Length: +5\r\n\r\nhello", "400 close"),
    ("a length below nothing", r"Content-Length: -5\r\n\r\nhello", "400 close"),
    ("a length with a letter", r"Content-Length: 5x\r\n\r\nhello", "400 close"),
    ("a length in hexadecimal", r"Content-Length: 0x5\r\n\r\nhello", "400 close"),
    ("a length of two words", r"Content-Length: 5 5\r\n\r\nhello", "400 close"),
    ("an empty length", r"Content-Length:\r\n\r\nhello", "400 close"),
    ("a length with a point", r"Content-Length: 5.0\r\n\r\nhello", "400 close"),
    ("a length in quotes", r"Content-Length: \x225\x22\r\n\r\nhello", "400 close"),
    ("a length behind a vertical tab", r"Content-Length: \x0b5\r\n\r\nhello", "400 close"),
    ("a length that is folded", r"Content-Length:\r\n 5\r\n\r\nhello", "400 close"),
    ("a blank before the colon of a length", r"Content-Length : 5\r\n\r\nhello", "400 close"),
    ("a length past 32 bits", r"Content-Length: 4294967328\r\n\r\n{visit}", "413 close"),
    ("two lengths, the first of a request", r"Content-Length: 32\r\nContent-Length: 0\r\n\r\n{visit}", "400 close"),
    ("two lengths in a list", r"Content-Length: 0, 32\r\n\r\n{visit}", "400 close"),
    (
        "a length that is hop-by-hop (RFC 9110, section 7.6.1)",
        r"Connection: Content-Length\r\nContent-Length: 32\r\n\r\n{visit}",
        "200 keep +1",
    ),
    ("a length past 64 bits", r"Content-Length: 18446744073709551617\r\n\r\nx", "400 close | 413 close"),
    ("a length past the limit", r"Content-Length: 65537\r\n\r\n", "413 close"),
    // Chunked bodies (RFC 9112, section 7.1).
    ("chunked in other letters", r"transfer-encoding: Chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "200 keep +1"),
    // Transfer codings, and both framings at once (RFC 9112, section 6.1).
    ("chunked and a length", r"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", "400 close"),
    ("a length and chunked", r"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400 close"),
    (
        "a length of all, and chunked until the request inside",
        r"Content-Length: 37\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{visit}",
        "400 close",
    ),
    (
        "chunked until behind the request inside, and a length of less",
        r"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n20\r\n{visit}\r\n0\r\n\r\n",
        "400 close",
    ),
    (
        "chunked that is hop-by-hop (RFC 9110, section 7.6.1)",
        r"Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n20\r\n{visit}\r\n0\r\n\r\n",
        "200 keep +1",
    ),
    ("chunked between tabs", r"Transfer-Encoding:\tchunked\t\r\n\r\n20\r\n{visit}\r\n0\r\n\r\n", "200 keep +1"),
    ("chunked, then identity", r"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", "400 close"),
    ("an empty member, then chunked", r"Transfer-Encoding: , chunked\r\n\r\n0\r\n\r\n", "400 close"),
    ("chunked with a parameter", r"Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n", "400 close"),
    ("chunked in quotes", r"Transfer-Encoding: \x22chunked\x22\r\n\r\n0\r\n\r\n", "400 close"),
    ("chunked before a NUL", r"Transfer-Encoding: chunked\0\r\n\r\n0\r\n\r\n", "400 close"),
    ("chunked behind a no-break space", r"Transfer-Encoding: \xa0chunked\r\n\r\n0\r\n\r\n", "400 close"),
    ("chunked that is folded", r"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", "400 close"),
    ("a fold behind chunked", r"Transfer-Encoding: chunked\r\n , identity\r\n\r\n0\r\n\r\n", "400 close"),
    ("a blank before the colon of chunked", r"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", "400 close"),
    ("a blank before the name of chunked", r" Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400 close"),
    (
        "chunked behind a bare CR",
        r"X: y\rTransfer-Encoding: chunked\r\nContent-Length: 37\r\n\r\n0\r\n\r\n{visit}",
        "400 close",
    ),
    (
        "chunked behind a bare LF",
        r"X: y\nTransfer-Encoding: chunked\r\nContent-Length: 37\r\n\r\n0\r\n\r\n{visit}",
        "400 close",
    ),
    (
        "chunked with an underscore is another field",
        r"Transfer_Encoding: chunked\r\nContent-Length: 37\r\n\r\n0\r\n\r\n{visit}",
        "200 keep +1",
    ),
    // Without chunked as the last coding, the end of the body is unknown (RFC 9112, section 6.3, item 4.3).
    ("gzip", r"Transfer-Encoding: gzip\r\n\r\n", "400 close"),
    ("gzip and a length", r"Transfer-Encoding: gzip\r\nContent-Length: 32\r\n\r\n{visit}", "400 close"),
    ("gzip with a parameter, then chunked", r"Transfer-Encoding: gzip;q=1, chunked\r\n\r\n0\r\n\r\n", "501 close"),
    ("gzip, deflate, then chunked", r"Transfer-Encoding: gzip ,\tdeflate,Chunked\r\n\r\n0\r\n\r\n", "501 close"),
    ("gzip, chunked, gzip", r"Transfer-Encoding: gzip, chunked, gzip\r\n\r\n0\r\n\r\n", "400 close"),
    ("gzip, chunked, chunked", r"Transfer-Encoding: gzip, chunked, chunked\r\n\r\n0\r\n\r\n", "400 close"),
    (
        "gzip, then chunked, and a length",
        r"Transfer-Encoding: gzip, chunked\r\nContent-Length: 32\r\n\r\n{visit}",
        "400 close",
    ),
    (
        "chunked, then gzip, in two lines",
        r"Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n\r\n20\r\n{visit}\r\n0\r\n\r\n",
        "400 close",
    ),
    (
        "chunked, then an empty line of codings",
        r"Transfer-Encoding: chunked\r\nTransfer-Encoding:\r\n\r\n20\r\n{visit}\r\n0\r\n\r\n",
        "400 close",
    ),
    ("two words for a coding", r"Transfer-Encoding: gzip chunked\r\n\r\n0\r\n\r\n", "400 close"),
    ("gzip, then chunked", r"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "501 close"),
    (
        "gzip, then chunked, in two lines",
        r"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "501 close",
    ),
    ("chunked, then gzip", r"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", "400 close"),
    ("identity", r"Transfer-Encoding: identity\r\n\r\n", "400 close"),
    ("chunked twice", r"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400 close"),
    ("chunked twice in a list", r"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", "400 close"),
    ("a word like chunked", r"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", "400 close"),
    ("chunked behind a vertical tab", r"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", "400 close"),
    ("an empty encoding", r"Transfer-Encoding:\r\n\r\n0\r\n\r\n", "400 close"),
    // Expectations (RFC 9110, section 10.1.1).
    (
        "100-continue, and the body at once",
        r"Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
        "200 keep +1 | 100 200 keep +1",
    ),
    (
        "100-continue in other letters",
        r"expect: 100-Continue\r\nContent-Length: 5\r\n\r\nhello",
        "200 keep +1 | 100 200 keep +1",
    ),
    (
        "100-continue, chunked",
        r"Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "200 keep +1 | 100 200 keep +1",
    ),
    ("100-continue for what is too large", r"Expect: 100-continue\r\nContent-Length: 65537\r\n\r\n", "413 close"),
    ("another expectation", r"Expect: 200-ok\r\nContent-Length: 5\r\n\r\nhello", "417 close | 417 keep"),
];

/// The bodies of a `POST /count HTTP/1.1` that is `Transfer-Encoding: chunked`.
const CHUNKS: &[Case] = &[
    // Chunked bodies (RFC 9112, section 7.1).
    ("a chunked body", r"5\r\nhello\r\n0\r\n\r\n", "200 keep +1"),
    ("chunks of all sizes", r"1\r\na\r\n0A\r\n0123456789\r\n00b\r\n0123456789a\r\n000\r\n\r\n", "200 keep +1"),
    ("a chunk of line ends", r"7\r\n0\r\n\r\n\r\n\r\n0\r\n\r\n", "200 keep +1"),
    ("chunk extensions", r"5;a=b;c\r\nhello\r\n0;d=\x22e\x22\r\n\r\n", "200 keep +1"),
    ("trailers", r"5\r\nhello\r\n0\r\nX: y\r\nContent-Length: 9\r\n\r\n", "200 keep +1"),
    ("a size that is none", r"g\r\nhello\r\n0\r\n\r\n", "400 close"),
    ("a size of nothing", r"\r\nhello\r\n0\r\n\r\n", "400 close"),
    ("a size with a minus", r"-5\r\nhello\r\n0\r\n\r\n", "400 close"),
    ("a size with a plus", r"+5\r\nhello\r\n0\r\n\r\n", "400 close"),
    ("a size with 0x", r"0x5\r\nhello\r\n0\r\n\r\n", "400 close"),
    ("a size with many zeros ahead", r"00000000000000000005\r\nhello\r\n0\r\n\r\n", "200 keep +1 | 400 close"),
    ("a size past 32 bits", r"100000020\r\n{visit}\r\n0\r\n\r\n", "400 close | 413 close"),
    ("a size with a blank behind", r"5 \r\nhello\r\n0\r\n\r\n", "400 close"),
    ("a size with a blank inside", r"2 0\r\n{visit}\r\n0\r\n\r\n", "400 close"),
    ("a size ended by CR CR LF", r"5\r\r\nhello\r\n0\r\n\r\n", "400 close"),
    ("a blank before an extension", r"20 ;a=b\r\n{visit}\r\n0\r\n\r\n", "200 keep +1 | 400 close"),
    ("an extension without a name", r"20;\r\n{visit}\r\n0\r\n\r\n", "200 keep +1 | 400 close"),
    ("a bare LF in an extension that hides a size", r"2;\nxx\r\n20\r\n{visit}\r\n0\r\n\r\n", "400 close"),
    ("a chunk ended by two other bytes", r"5\r\nhelloxx0\r\n\r\n", "400 close"),
    ("a last chunk ended by bare LFs", r"5\r\nhello\r\n0\n\n", "400 close"),
    ("a last line ended by a bare LF", r"5\r\nhello\r\n0\r\n\n", "400 close"),
    ("a trailer that is a request", r"0\r\n{visit}", "400 close"),
    ("a trailer with a bare LF", r"0\r\nX: y\nZ: z\r\n\r\n", "400 close"),
    ("a trailer that is folded", r"0\r\nX: y\r\n z\r\n\r\n", "400 close"),
    ("a size with a blank ahead", r" 5\r\nhello\r\n0\r\n\r\n", "400 close"),
    ("a size past 64 bits", r"10000000000000005\r\nhello\r\n0\r\n\r\n", "400 close | 413 close"),
    ("a size past the limit", r"fffff\r\n", "413 close"),
    ("a chunk longer than its size", r"5\r\nhello!\r\n0\r\n\r\n", "400 close"),
    ("a chunk ended by a bare LF", r"5\r\nhello\n0\r\n\r\n", "400 close"),
    ("a size ended by a bare LF", r"5\nhello\r\n0\r\n\r\n", "400 close"),
    ("a size ended by a bare CR", r"5\rhello\r\n0\r\n\r\n", "400 close"),
    ("an extension with a bare LF", r"5;a\nhello\r\n0\r\n\r\n", "400 close"),
    ("an extension with a NUL", r"5;a=\0b\r\nhello\r\n0\r\n\r\n", "400 close"),
    ("an extension with a control character", r"5;a=\x01\r\nhello\r\n0\r\n\r\n", "400 close"),
    ("an extension with a DEL", r"5;a\x7f=b\r\nhello\r\n0\r\n\r\n", "400 close"),
    ("an extension with a control character in quotes", r"5;a=\x22\x08\x22\r\nhello\r\n0\r\n\r\n", "400 close"),
    ("an extension behind a vertical tab", r"5;\x0ba\r\nhello\r\n0\r\n\r\n", "400 close"),
    ("an extension of the last chunk with a control character", r"5\r\nhello\r\n0;a=\x1b\r\n\r\n", "400 close"),
    ("a form feed before an extension", r"5\x0c;a\r\nhello\r\n0\r\n\r\n", "400 close"),
    ("a NUL behind a size", r"5\0\r\nhello\r\n0\r\n\r\n", "400 close"),
    ("an extension between tabs", r"5\t;\ta=b\r\nhello\r\n0\r\n\r\n", "200 keep +1"),
    ("an extension beyond ASCII in quotes", r"5;a=\x22\xc3\xa4\x22\r\nhello\r\n0\r\n\r\n", "200 keep +1"),
    ("a trailer with a NUL", r"0\r\nX: a\0b\r\n\r\n", "400 close"),
    ("a trailer with a control character", r"0\r\nX: \x1b[0m\r\n\r\n", "400 close"),
    ("a trailer with a DEL", r"0\r\nX: a\x7f\r\n\r\n", "400 close"),
    ("a trailer with a tab, and beyond ASCII", r"0\r\nX:\ta\tb\xff\r\n\r\n", "200 keep +1"),
    ("a trailer without a value", r"0\r\nX:\r\n\r\n", "200 keep +1"),
    ("a trailer without a colon", r"0\r\nX\r\n\r\n", "400 close"),
    ("an extension with a bare CR", r"5;a\rb\r\nhello\r\n0\r\n\r\n", "400 close"),
];

/// Pipelined requests: method and path of each, and a word for its error, or `last` if it has `Connection: close`.
const PIPELINES: &[Case] = &[
    (
        "answers in the order",
        "GET/count GET/no GET/favicon.ico HEAD/count POST/count",
        "200 404 204 head:200 200 keep +2",
    ),
    ("counts among others", "GET/livez GET/count GET/livez GET/count GET/total", "200 200 200 200 200 keep +2"),
    ("refusals among others", "PUT/count GET/count POST/ GET/count", "405 200 405 200 keep +2"),
    ("nothing after the last", "GET/count GET/count:last GET/count", "200 200 close +2"),
    ("nothing after an error", "GET/count GET/count:unhosted GET/count", "200 400 close +1"),
    ("nothing after a broken length", "GET/count POST/count:endless GET/count", "200 400 close +1"),
];

/// Other requests.
const WHOLE: &[Case] = &[
    // Persistence (RFC 9112, section 9.3).
    ("1.0 closes", r"GET /livez HTTP/1.0\r\n\r\n", "200 close"),
    ("nothing behind close", r"GET /count HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n{visit}", "200 close +1"),
    (
        "close and keep-alive in two lines",
        r"GET /count HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n{visit}",
        "200 close +1",
    ),
    (
        "1.0 with keep-alive and a body that is a request",
        r"POST /count HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 32\r\n\r\n{visit}",
        "200 keep +1",
    ),
    ("1.0 without a length", r"POST /count HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "200 keep +1"),
    ("1.0 with keep-alive", r"GET /livez HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "200 keep"),
    ("1.0 with Keep-Alive in other case", r"GET /livez HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", "200 keep"),
    ("1.0 counts", r"GET /count HTTP/1.0\r\n\r\n", "200 close +1"),
    (
        "1.0 with a body",
        r"POST /count HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nabc",
        "200 keep +1",
    ),
    // The request line (RFC 9112, section 3).
    ("an empty line ahead", r"\r\nGET /livez HTTP/1.1\r\nHost: h\r\n\r\n", "200 keep"),
    ("no version, which was HTTP/0.9", r"GET /livez\r\n\r\n", "400 close"),
    ("no version, and fields", r"GET /count\r\nHost: h\r\n\r\n", "400 close"),
    (
        "bare LFs for line ends (RFC 9112, section 2.2)",
        r"POST /count HTTP/1.1\nHost: h\nContent-Length: 32\n\n{visit}",
        "200 keep +1 | 400 close",
    ),
    ("a bare LF ends the head", r"POST /count HTTP/1.1\r\nHost: h\r\nContent-Length: 32\r\n\n{visit}", "200 keep +1"),
    ("garbage", r"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n\r\n\r\n", "400 close"),
    ("a reply of Redis", r"+OK\r\n\r\n", "400 close"),
    // Versions (RFC 9110, section 2.5).
    ("the preface of HTTP/2", r"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505 close"),
    // Methods (RFC 9110, section 9).
    ("PUT", r"PUT /count HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n42", "405 keep"),
    ("PATCH", r"PATCH /count HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", "405 keep"),
    (
        "POST to another path, with a body that is a request",
        r"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 32\r\n\r\n{visit}",
        "405 keep",
    ),
    // Targets (RFC 9112, section 3.2).
    ("the absolute form still needs a host", r"GET http://h/count HTTP/1.1\r\n\r\n", "400 close"),
    ("the authority form", r"CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n", "501 close | 400 close"),
    // What follows a CONNECT may be meant for a tunnel (RFC 9931).
    ("a tunnel that is a request", r"CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n{visit}", "501 close | 400 close"),
    // Host (RFC 9112, section 3.2).
    ("no host", r"GET /count HTTP/1.1\r\n\r\n", "400 close"),
    ("two hosts in 1.0", r"GET /count HTTP/1.0\r\nHost: h\r\nHost: h\r\n\r\n", "400 close"),
    ("an invalid host in 1.0", r"GET /count HTTP/1.0\r\nHost: a b\r\n\r\n", "400 close"),
    // Field lines (RFC 9112, section 5).
    ("a bare CR for a line end", r"GET /count HTTP/1.1\rHost: h\r\n\r\n", "400 close"),
    // Bodies with a length (RFC 9112, section 6.3).
    ("a body behind a GET", r"GET /count HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello", "200 keep +1"),
    ("a body behind a HEAD", r"HEAD /count HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello", "head:200 keep"),
    (
        "a body behind what is not there",
        r"POST /unknown HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello",
        "404 keep",
    ),
    // Chunked bodies (RFC 9112, section 7.1).
    (
        "a chunked body that is a request",
        r"POST /livez HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n20\r\n{visit}\r\n0\r\n\r\n",
        "405 keep",
    ),
    // Transfer codings in other orders, and both framings at once (RFC 9112, section 6.1).
    ("chunked in 1.0", r"POST /count HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400 close"),
    (
        "chunked in 1.0 with keep-alive",
        r"POST /count HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "400 close",
    ),
    // Expectations (RFC 9110, section 10.1.1).
    (
        "100-continue in 1.0 is overlooked",
        r"POST /count HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
        "200 close +1",
    ),
];

#[test]
fn request_lines() {
    run(LINES, |line| format!("{line}\\r\\nHost: h\\r\\n\\r\\n"));
}

#[test]
fn fields() {
    run(FIELDS, |fields| format!("GET /count HTTP/1.1\\r\\n{fields}\\r\\n\\r\\n"));
}

#[test]
fn bodies() {
    run(BODIES, |rest| format!("POST /count HTTP/1.1\\r\\nHost: h\\r\\n{rest}"));
}

#[test]
fn chunks() {
    let head = "POST /count HTTP/1.1\\r\\nHost: h\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n";
    run(CHUNKS, |body| format!("{head}{body}"));
}

#[test]
fn pipelines() {
    run(PIPELINES, |requests| {
        let requests = requests.split(' ').map(|request| {
            let (method, path) = request.split_once('/').expect("a method and a path");
            let (path, fields) = match path.split_once(':') {
                None => (path, "Host: h"),
                Some((path, "last")) => (path, "Host: h\\r\\nConnection: close"),
                Some((path, "unhosted")) => (path, "X: y"),
                Some((path, "endless")) => (path, "Host: h\\r\\nContent-Length: -1"),
                Some((_, other)) => panic!("unknown expectation {other}"),
            };
            format!("{method} /{path} HTTP/1.1\\r\\n{fields}\\r\\n\\r\\n")
        });
        requests.collect()
    });
}

#[test]
fn whole_requests() {
    run(WHOLE, str::to_owned);
}

#[test]
fn limits_hold_however_the_bytes_come() {
    let head = |fields: &str| format!("GET /count HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
    let chunked = |body: &str| format!("POST /count HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
    let post =
        |length| format!("POST /count HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n{}", "x".repeat(length));
    let line_of = |method: &str, octets: usize| {
        let target = "/livez?".to_owned() + &"x".repeat(octets - method.len() - " /livez? HTTP/1.1".len());
        format!("{method} {target} HTTP/1.1\r\nHost: h\r\n\r\n")
    };
    let cases = [
        ("a target of 1 KiB", format!("GET /livez?{} HTTP/1.1\r\nHost: h\r\n\r\n", "x".repeat(1 << 10)), "200 keep"),
        // RFC 9112, section 3.
        ("a request line of 8000 octets", line_of("GET", 8000), "200 keep"),
        ("a target of 8 KiB", line_of("GET", (8 << 10) + "GET  HTTP/1.1".len()), "200 keep"),
        ("a target of more", line_of("GET", (8 << 10) + "GET  HTTP/1.1".len() + 1), "414 close"),
        ("HEAD of a target of 9 KiB", line_of("HEAD", 9 << 10), "head:414 close"),
        ("HEAD of a target without end", format!("HEAD /{}", "x".repeat(40 << 10)), "head:414 close"),
        ("a target without end", format!("GET /{}", "x".repeat(40 << 10)), "414 close"),
        ("a method without end", "X".repeat(40 << 10), "400 close | 414 close | 431 close | 501 close"),
        ("a field of 4 KiB", head(&format!("X: {}\r\n", "x".repeat(4 << 10))), "200 keep +1"),
        ("a field of 20 KiB", head(&format!("X: {}\r\n", "x".repeat(20 << 10))), "431 close"),
        ("a field name without end", format!("GET / HTTP/1.1\r\n{}", "x".repeat(40 << 10)), "431 close | 400 close"),
        ("fields of 20 KiB", head(&"Name: value\r\n".repeat(1600)), "431 close"),
        ("fields without end", format!("GET / HTTP/1.1\r\nHost: h\r\n{}", "Name: value\r\n".repeat(4000)), "431 close"),
        ("twenty fields", head(&"X: y\r\n".repeat(20)), "200 keep +1"),
        ("too many fields", head(&"X: y\r\n".repeat(2000)), "431 close"),
        ("empty lines without end", "\r\n".repeat(20_000), "400 close | 431 close"),
        ("a body of 64 KiB", post(64 << 10), "200 keep +1"),
        ("a body of more", post(80 << 10), "413 close"),
        ("a chunk of 60 KiB", chunked(&format!("f000\r\n{}\r\n0\r\n\r\n", "x".repeat(60 << 10))), "200 keep +1"),
        (
            "chunks of more than 64 KiB",
            chunked(&"800\r\n".to_owned().add(&"x".repeat(2 << 10)).add("\r\n").repeat(40)),
            "413 close",
        ),
        (
            "an extension without end",
            chunked(&format!("5;{}", "x".repeat(100 << 10))),
            "400 close | 413 close | 431 close",
        ),
        ("a size of zeros without end", chunked(&"0".repeat(100 << 10)), "400 close | 413 close | 431 close"),
        (
            "trailers without end",
            chunked(&format!("0\r\n{}", "X: y\r\n".repeat(20_000))),
            "400 close | 413 close | 431 close",
        ),
    ];
    let notch = quiet();
    let mut nudge = notch.client();
    let mut wrong = Vec::new();
    for (name, request, outcomes) in cases {
        let mut ways = [usize::MAX, 1009, 4096].into_iter().map(|size| request.as_bytes().chunks(size).collect());
        wrong.extend(ways.find_map(|parts: Vec<_>| check(&notch, &mut nudge, name, &parts, outcomes).err()));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_client_that_expects_100_continue() {
    let notch = quiet();
    let mut client = notch.client();
    for number in 1..=3 {
        client.send("POST /count HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
        assert_eq!(client.response().status, 100);
        client.send("hello");
        assert_eq!(client.response().number(), number);
    }
}

#[test]
fn keep_alive_of_http_1_0_is_confirmed() {
    let notch = quiet();
    let mut client = notch.client();
    for number in 1..=3 {
        client.send("GET /count HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        let response = client.response();
        assert!(
            response.field("Connection").is_some_and(|message| message.eq_ignore_ascii_case("keep-alive")),
            "{response:?}"
        );
        assert_eq!(response.number(), number);
    }
}

#[test]
fn a_host_is_needed_since_1_1() {
    let notch = quiet();
    for (version, host, status) in [
        ("1.0", "", 200),
        ("1.0", "Host:\r\n", 200),
        ("1.0", "Host: h\r\n", 200),
        ("1.0", "Host: h, i\r\n", 400),
        ("1.0", "Host: h\r\nHost: h\r\n", 400),
        ("1.1", "", 400),
        ("1.1", "Host:\r\n", 200),
        ("1.1", "Host: h\r\n", 200),
    ] {
        for request in
            ["GET /", "GET /count", "POST /count", "HEAD /count", "GET /total", "GET /badge.svg", "GET /livez"]
        {
            let mut client = notch.client();
            client.send(format!("{request} HTTP/{version}\r\n{host}\r\n"));
            let response = client.response_to(if request.starts_with("HEAD") { "HEAD" } else { "GET" });
            assert_eq!(response.status, status, "{request} {version} {host}: {response:?}");
            assert_eq!(
                response.closes(),
                version == "1.0" || status == 400,
                "{request} {version} {host}: {response:?}"
            );
        }
    }
    // GET and POST of /count and the badge, five times served.
    assert_eq!(notch.total(), 15);
}

#[test]
fn a_thousand_pipelined_requests() {
    let notch = quiet();
    let mut client = notch.client();
    let lap = "GET /count HTTP/1.1\r\nHost: h\r\n\r\nGET /livez HTTP/1.1\r\nHost: h\r\n\r\n\
               POST /count HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabcGET /total HTTP/1.1\r\nHost: h\r\n\r\n";
    client.send(lap.repeat(250));
    for lap in 0..250 {
        assert_eq!(client.response().number(), 2 * lap + 1);
        assert_eq!(client.response().status, 200);
        assert_eq!(client.response().number(), 2 * lap + 2);
        assert_eq!(client.response().number(), 2 * lap + 2);
    }
}

#[test]
fn requests_sent_before_the_client_closed_its_half_are_answered() {
    let notch = quiet();
    let mut client = notch.client();
    client.send("GET /count HTTP/1.1\r\nHost: h\r\n\r\nGET /count HTTP/1.1\r\nHost: h\r\n\r\n");
    client.close_write();
    let numbers: Vec<_> = client.remaining_responses().iter().map(Response::number).collect();
    assert_eq!(numbers, [1, 2]);
}

#[test]
fn an_incomplete_request_is_not_counted() {
    let notch = quiet();
    let whole = "POST /count HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello";
    for length in 0..whole.len() {
        let mut client = notch.client();
        client.send(&whole[..length]);
        client.close_write();
        // An error response is optional; a count is an error.
        let responses = client.remaining_responses();
        assert!(responses.iter().all(|response| matches!(response.status, 400 | 408)), "{length} bytes: {responses:?}");
    }
    assert_eq!(notch.total(), 0);
}

#[test]
fn errors_before_routing_have_the_format_of_all_errors() {
    let notch = quiet();
    let errors = [
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: h\r\nno field\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 65537\r\n\r\n".to_owned(), 413),
        ("GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5;\0\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\n".to_owned(), 413),
        (format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "x".repeat(9 << 10)), 414),
        (format!("GET /{}", "x".repeat(20 << 10)), 414),
        ("GET / HTTP/1.1\r\nHost: h\r\nExpect: tea\r\n\r\n".to_owned(), 417),
        (format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "x".repeat(20 << 10)), 431),
        (format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "X: y\r\n".repeat(100)), 431),
        ("BREW / HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), 501),
        ("GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n".to_owned(), 501),
        ("GET / HTTP/2.0\r\nHost: h\r\n\r\n".to_owned(), 505),
    ];
    for (request, status) in errors {
        for (accept, media) in [
            ("", "text/plain; charset=utf-8"),
            ("Accept: image/png\r\n", "text/plain; charset=utf-8"),
            ("accept:application/json\r\n", "application/json"),
            ("ACCEPT: text/plain;q=0.5\r\nAccept: \tapplication/json\r\n", "application/json"),
            ("Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\n", "text/html; charset=utf-8"),
        ] {
            let (line, rest) = request.split_once("\r\n").unwrap_or((&request, ""));
            let whole = if rest.is_empty() { line.to_owned() } else { format!("{line}\r\n{accept}{rest}") };
            // Rejected because of its first line, with any bytes after it.
            let media = if rest.is_empty() || status == 505 { "text/plain; charset=utf-8" } else { media };
            let response = refused(&notch, &whole, "GET");
            assert_eq!(
                (response.status, response.field("Content-Type")),
                (status, Some(media)),
                "{whole}: {response:?}"
            );
            response.assert_one_line();
            if media == "application/json" {
                assert!(response.json()["error"].is_string(), "{response:?}");
            }
            // The same response without its body, with the same fields.
            if let Some(rest) = whole.strip_prefix("GET") {
                let head = refused(&notch, &["HEAD", rest].concat(), "HEAD");
                assert_eq!((head.status, head.field("Content-Type")), (status, Some(media)), "{whole}: {head:?}");
                assert_eq!(head.field("Content-Length"), response.field("Content-Length"), "{whole}");
            }
        }
    }
}

/// Sends a request that must be rejected, and asserts that nothing follows the response.
fn refused(notch: &Notch, request: &str, method: &str) -> Response {
    // The client checks Date, X-Served-By and one line of text in every response.
    let mut client = notch.client();
    // The server may have closed the connection already.
    let _ = client.try_send(request);
    let response = client.response_to(method);
    assert!(response.closes(), "{request}: {response:?}");
    assert!(client.remaining_responses().is_empty(), "{request}");
    response
}

#[test]
fn a_late_head_is_rejected_in_the_format_that_it_accepts() {
    let notch = Settings::ledger().with("FSYNC", "never").with("REQUEST_TIMEOUT", "300ms").start();
    for (begun, method, media) in [
        ("GET /coun", "GET", "text/plain; charset=utf-8"),
        ("GET /count HTTP/1.1\r\nAccept: application/json\r\nHo", "GET", "application/json"),
        ("HEAD /coun", "HEAD", "text/plain; charset=utf-8"),
        ("HEAD /count HTTP/1.1\r\nAccept: application/json\r\n", "HEAD", "application/json"),
        (
            "POST /count HTTP/1.1\r\nHost: h\r\nAccept: application/json\r\nContent-Length: 3\r\n\r\nab",
            "POST",
            "application/json",
        ),
        (
            "HEAD /count HTTP/1.1\r\nHost: h\r\nAccept: text/html\r\nContent-Length: 3\r\n\r\nab",
            "HEAD",
            "text/html; charset=utf-8",
        ),
    ] {
        let response = refused(&notch, begun, method);
        assert_eq!((response.status, response.field("Content-Type")), (408, Some(media)), "{begun}: {response:?}");
    }
    assert_eq!(notch.total(), 0);
}

/// Other tests cover the sync of every visit.
fn quiet() -> Notch {
    Settings::ledger().with("FSYNC", "never").with("WORKERS", "1").start()
}

/// Runs each case of a table, inserted into `frame`, with every cut.
fn run(table: &[Case], frame: impl Fn(&str) -> String) {
    let notch = quiet();
    let mut nudge = notch.client();
    let mut wrong = Vec::new();
    for (name, request, outcomes) in table {
        let bytes = unescape(&frame(request).replace("{visit}", VISIT));
        let halves = (1..bytes.len()).map(|cut| vec![&bytes[..cut], &bytes[cut..]]);
        let mut ways = [vec![&bytes[..]], bytes.chunks(1).collect()].into_iter().chain(halves);
        wrong.extend(ways.find_map(|parts| check(&notch, &mut nudge, name, &parts, outcomes).err()));
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), table.len(), wrong.join("\n"));
}

/// Sends `parts` one by one, the last one with a further visit, and compares the outcome.
fn check(notch: &Notch, nudge: &mut Client, name: &str, parts: &[&[u8]], outcomes: &str) -> Result<(), String> {
    let before = nudge.get("/total").number();
    let mut client = notch.client();
    let (last, first) = parts.split_last().expect("no case is empty");
    for part in first {
        // The server may have closed the connection already.
        let _ = client.try_send(part);
        // A request on another connection gives notch time to read this part alone.
        nudge.get("/livez");
    }
    let _ =
        client.try_send([last, &b"GET /count HTTP/1.1\r\nHost: sentinel\r\nConnection: close\r\n\r\n"[..]].concat());
    let mut methods = outcomes.split(' ').filter(|word| word.ends_with(|c: char| c.is_ascii_digit()));
    let method = || if methods.next().is_some_and(|word| word.starts_with("head:")) { "HEAD" } else { "GET" };
    let responses = client.remaining_responses_to(method);
    let counted = nudge.get("/total").number() - before;
    if outcomes.split(" | ").any(|outcome| agrees(outcome, &responses, counted)) {
        return Ok(());
    }
    let shape: Vec<_> = parts.iter().map(|part| part.len()).take(3).collect();
    let seen: Vec<_> = responses.iter().map(|response| (response.status, response.field("Connection"))).collect();
    Err(format!("{name}, sent as {shape:?}...: expected {outcomes}, saw {seen:?} and {counted} counted"))
}

fn agrees(outcome: &str, responses: &[Response], counted: i64) -> bool {
    let mut statuses = Vec::new();
    let (mut kept, mut expected) = (false, 0);
    for word in outcome.split(' ') {
        match word {
            "keep" => kept = true,
            "close" => {}
            _ if word.starts_with('+') => expected = word.parse().expect("how many are counted"),
            _ => statuses.push(word.trim_start_matches("head:").parse::<u16>().expect("a status")),
        }
    }
    if kept {
        statuses.push(200);
        expected += 1;
    }
    let closing: Vec<bool> = responses.iter().map(Response::closes).collect();
    let announced = closing.split_last().is_some_and(|(last, others)| *last && others.iter().all(|closes| !closes));
    statuses.iter().eq(responses.iter().map(|response| &response.status)) && counted == expected && announced
}
