//! The RESP2 decoder: one test vector per line, each decoded whole, at every cut, and with trailing bytes.
//!
//! Every vector was compared with hiredis 1.3 (hiredis-py 3.5.0). The decoders agree except for the following cases,
//! where notch is stricter, because notch connects only to Redis, and a byte that Redis would not send means that the
//! stream is out of sync:
//!
//! - A line feed without CR does not end a line, and is rejected at once (`+OK\n`, `:1\n`): hiredis waits for CR LF.
//! - The two bytes behind a bulk string have to be CR LF (`$1\r\nab\r\n`): hiredis skips them.
//! - Lengths are bounded (`$536870913`, `*2147483648`): hiredis waits for as many bytes as an address can count.
//! - The types of RESP3 (`_ # , ( = % ~ > |`) are rejected: Redis sends them only after `HELLO 3`.

#[path = "support/escape.rs"]
mod escape;

use escape::unescape;
use notch::resp::{MAX_BULK, MAX_DEPTH, MAX_ITEMS, MAX_LINE, Malformed, Reply, decode};

/// Bytes with `\r`, `\n`, `\0`, `\\` and `\xFF`; then the decoded reply, `...` if it is incomplete, `!` if it is
/// malformed.
type Vector = (&'static str, &'static str);

const SIMPLE: &[Vector] = &[
    (r"+OK\r\n", "+OK"),
    (r"+PONG\r\n", "+PONG"),
    (r"+QUEUED\r\n", "+QUEUED"),
    (r"+\r\n", "+"),
    (r"+ \r\n", "+ "),
    (r"+Background saving started\r\n", "+Background saving started"),
    (r"++\r\n", "++"),
    (r"+:1\r\n", "+:1"),
    (r"+\0\r\n", "+\0"),
    (r"+caf\xc3\xa9\r\n", "+café"),
    (r"+OK", "..."),
    (r"+OK\r", "..."),
    (r"+", "..."),
    (r"+O\rK\r\n", "!"),
    (r"+O\nK\r\n", "!"),
    (r"+OK\n", "!"),
    (r"+OK\n\r\n", "!"),
    (r"+OK\r\r\n", "!"),
    (r"+\n\r\n", "!"),
];

const ERRORS: &[Vector] = &[
    (r"-ERR unknown command\r\n", "-ERR unknown command"),
    (r"-WRONGTYPE Operation against a key\r\n", "-WRONGTYPE Operation against a key"),
    (r"-MOVED 866 127.0.0.1:7001\r\n", "-MOVED 866 127.0.0.1:7001"),
    (r"-\r\n", "-"),
    (r"-1\r\n", "-1"),
    (r"- \r\n", "- "),
    (r"-ERR \xff\0\r\n", "-ERR \u{fffd}\0"),
    (r"-ERR", "..."),
    (r"-ERR\r", "..."),
    (r"-ERR\rx\r\n", "!"),
    (r"-ERR\nx\r\n", "!"),
    (r"-ERR\n", "!"),
];

const INTEGERS: &[Vector] = &[
    (r":0\r\n", ":0"),
    (r":1\r\n", ":1"),
    (r":42\r\n", ":42"),
    (r":-1\r\n", ":-1"),
    (r":-10\r\n", ":-10"),
    (r":1000000000000000000\r\n", ":1000000000000000000"),
    (r":9223372036854775806\r\n", ":9223372036854775806"),
    (r":9223372036854775807\r\n", ":9223372036854775807"),
    (r":-9223372036854775807\r\n", ":-9223372036854775807"),
    (r":-9223372036854775808\r\n", ":-9223372036854775808"),
    (r":9223372036854775808\r\n", "!"),
    (r":-9223372036854775809\r\n", "!"),
    (r":9223372036854775810\r\n", "!"),
    (r":18446744073709551615\r\n", "!"),
    (r":18446744073709551616\r\n", "!"),
    (r":99999999999999999999\r\n", "!"),
    (r":-99999999999999999999\r\n", "!"),
    (r":123456789012345678901234567890\r\n", "!"),
    (r":\r\n", "!"),
    (r":-\r\n", "!"),
    (r":--1\r\n", "!"),
    (r":+1\r\n", "!"),
    (r":-0\r\n", "!"),
    (r":00\r\n", "!"),
    (r":01\r\n", "!"),
    (r":-01\r\n", "!"),
    (r": 1\r\n", "!"),
    (r":1 \r\n", "!"),
    (r":1 2\r\n", "!"),
    (r":1.0\r\n", "!"),
    (r":1e3\r\n", "!"),
    (r":0x1\r\n", "!"),
    (r":1a\r\n", "!"),
    (r":a\r\n", "!"),
    (r":\xd9\xa1\r\n", "!"),
    (r":1\0\r\n", "!"),
    (r":1\n", "!"),
    (r":1\r1\r\n", "!"),
    (r":/\r\n", "!"),
    (r"::\r\n", "!"),
    (r":", "..."),
    (r":1", "..."),
    (r":-", "..."),
    (r":1\r", "..."),
];

const BULKS: &[Vector] = &[
    (r"$0\r\n\r\n", "\"\""),
    (r"$1\r\na\r\n", "\"a\""),
    (r"$5\r\nhello\r\n", "\"hello\""),
    (r"$10\r\n0123456789\r\n", "\"0123456789\""),
    (r"$2\r\n\r\n\r\n", "\"\r\n\""),
    (r"$4\r\n\r\n\r\n\r\n", "\"\r\n\r\n\""),
    (r"$1\r\n\0\r\n", "\"\0\""),
    (r"$3\r\n:1\r\r\n", "\":1\r\""),
    (r"$6\r\n$1\r\na\r\r\n", "\"$1\r\na\r\""),
    (r"$2\r\n\xff\xfe\r\n", "\"\u{fffd}\u{fffd}\""),
    (r"$20\r\n-9223372036854775808\r\n", "\"-9223372036854775808\""),
    (r"$-1\r\n", "nil"),
    (r"$-2\r\n", "!"),
    (r"$-10\r\n", "!"),
    (r"$-0\r\n", "!"),
    (r"$-01\r\n", "!"),
    (r"$-\r\n", "!"),
    (r"$\r\n", "!"),
    (r"$+1\r\na\r\n", "!"),
    (r"$01\r\na\r\n", "!"),
    (r"$00\r\n\r\n", "!"),
    (r"$ 1\r\na\r\n", "!"),
    (r"$1 \r\na\r\n", "!"),
    (r"$a\r\n", "!"),
    (r"$1a\r\na\r\n", "!"),
    (r"$1.0\r\na\r\n", "!"),
    (r"$0x1\r\na\r\n", "!"),
    (r"$?\r\n;1\r\na\r\n;0\r\n", "!"),
    (r"$1\na\r\n", "!"),
    (r"$1\ra\r\n", "!"),
    (r"$1\r\nab\r\n", "!"),
    (r"$1\r\na\n", "!"),
    (r"$1\r\na\rb", "!"),
    (r"$1\r\na\n\r", "!"),
    (r"$0\r\nab", "!"),
    (r"$3\r\nab\r\n", "!"),
    (r"$2147483648\r\n", "!"),
    (r"$9223372036854775807\r\n", "!"),
    (r"$9223372036854775808\r\n", "!"),
    (r"$18446744073709551617\r\na\r\n", "!"),
    (r"$536870913\r\n", "!"),
    (r"$", "..."),
    (r"$-", "..."),
    (r"$-1", "..."),
    (r"$-1\r", "..."),
    (r"$5", "..."),
    (r"$5\r", "..."),
    (r"$5\r\n", "..."),
    (r"$5\r\nhell", "..."),
    (r"$5\r\nhello", "..."),
    (r"$5\r\nhello\r", "..."),
    (r"$4\r\nab\r\n", "..."),
];

const ARRAYS: &[Vector] = &[
    (r"*0\r\n", "[]"),
    (r"*-1\r\n", "nil"),
    (r"*1\r\n:1\r\n", "[:1]"),
    (r"*2\r\n$3\r\nfoo\r\n$3\r\nbar\r\n", "[\"foo\" \"bar\"]"),
    (r"*3\r\n:1\r\n+two\r\n$5\r\nthree\r\n", "[:1 +two \"three\"]"),
    (r"*3\r\n$3\r\nfoo\r\n$-1\r\n$3\r\nbar\r\n", "[\"foo\" nil \"bar\"]"),
    (r"*2\r\n-ERR one\r\n:2\r\n", "[-ERR one :2]"),
    (r"*1\r\n*0\r\n", "[[]]"),
    (r"*1\r\n*-1\r\n", "[nil]"),
    (r"*2\r\n*2\r\n:1\r\n:2\r\n*1\r\n+a\r\n", "[[:1 :2] [+a]]"),
    (r"*2\r\n*0\r\n:1\r\n", "[[] :1]"),
    (r"*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n", "[[[[:1]]]]"),
    (r"*1\r\n$0\r\n\r\n", "[\"\"]"),
    (r"*1\r\n$2\r\n\r\n\r\n", "[\"\r\n\"]"),
    (r"*10\r\n:0\r\n:1\r\n:2\r\n:3\r\n:4\r\n:5\r\n:6\r\n:7\r\n:8\r\n:9\r\n", "[:0 :1 :2 :3 :4 :5 :6 :7 :8 :9]"),
    (r"*-2\r\n", "!"),
    (r"*-0\r\n", "!"),
    (r"*\r\n", "!"),
    (r"*+1\r\n:1\r\n", "!"),
    (r"*01\r\n:1\r\n", "!"),
    (r"* 1\r\n:1\r\n", "!"),
    (r"*1 \r\n:1\r\n", "!"),
    (r"*a\r\n", "!"),
    (r"*1.0\r\n:1\r\n", "!"),
    (r"*?\r\n:1\r\n.\r\n", "!"),
    (r"*1\n:1\r\n", "!"),
    (r"*1\r:1\r\n", "!"),
    (r"*2147483648\r\n", "!"),
    (r"*4294967297\r\n:1\r\n", "!"),
    (r"*9223372036854775807\r\n", "!"),
    (r"*9223372036854775808\r\n", "!"),
    (r"*1\r\n:01\r\n", "!"),
    (r"*1\r\n\r\n", "!"),
    (r"*1\r\nx\r\n", "!"),
    (r"*2\r\n:1\r\nx\r\n", "!"),
    (r"*2\r\n:1\r\n*1\r\n$1\r\nab\r\n", "!"),
    (r"*1\r\n*-2\r\n", "!"),
    (r"*", "..."),
    (r"*1", "..."),
    (r"*1\r", "..."),
    (r"*1\r\n", "..."),
    (r"*2\r\n:1\r\n", "..."),
    (r"*2\r\n:1\r\n:2\r", "..."),
    (r"*1\r\n*1\r\n", "..."),
    (r"*2\r\n*1\r\n:1\r\n", "..."),
];

/// What is no RESP2 at all: its successor, other protocols, and noise.
const FOREIGN: &[Vector] = &[
    (r"", "..."),
    (r"_\r\n", "!"),
    (r"#t\r\n", "!"),
    (r",1.5\r\n", "!"),
    (r"(12345678901234567890\r\n", "!"),
    (r"!5\r\nERR x\r\n", "!"),
    (r"=7\r\ntxt:abc\r\n", "!"),
    (r"%1\r\n+a\r\n:1\r\n", "!"),
    (r"~1\r\n:1\r\n", "!"),
    (r">1\r\n+message\r\n", "!"),
    (r"|1\r\n+a\r\n:1\r\n:2\r\n", "!"),
    (r".\r\n", "!"),
    (r";4\r\nabcd\r\n", "!"),
    (r"1\r\n", "!"),
    (r"OK\r\n", "!"),
    (r" +OK\r\n", "!"),
    (r"\r\n", "!"),
    (r"\n+OK\r\n", "!"),
    (r"\0", "!"),
    (r"\xff", "!"),
    (r"HTTP/1.1 400 Bad Request\r\n\r\n", "!"),
    (r"220 mail.example ESMTP\r\n", "!"),
    (r"\x15\x03\x01\x00\x02\x02\x46", "!"),
    (r"INCR visits\r\n", "!"),
];

#[test]
fn every_vector_whole_cut_and_followed() {
    let tables = [SIMPLE, ERRORS, INTEGERS, BULKS, ARRAYS, FOREIGN];
    assert!(tables.iter().map(|table| table.len()).sum::<usize>() > 150);
    for (text, expected) in tables.into_iter().flatten() {
        check(&unescape(text), expected);
    }
}

#[test]
fn bounds_hold_on_both_sides() {
    let line = |kind: u8, length: usize| [&[kind][..], &vec![b'x'; length], b"\r\n"].concat();
    let bulk = |length: usize| [format!("${length}\r\n").as_bytes(), &vec![b'x'; length], b"\r\n"].concat();
    let array = |count: usize| [format!("*{count}\r\n").into_bytes(), b":1\r\n".repeat(count)].concat();
    let nested = |depth: usize| [b"*1\r\n".repeat(depth), b":1\r\n".to_vec()].concat();
    for good in [line(b'+', MAX_LINE), line(b'-', MAX_LINE), bulk(MAX_BULK), array(MAX_ITEMS), nested(MAX_DEPTH)] {
        let start = String::from_utf8_lossy(&good[..12]).into_owned();
        assert!(matches!(decode(&good), Ok(Some((_, used))) if used == good.len()), "{start}");
        assert_eq!(decode(&good[..good.len() - 1]), Ok(None), "{start}");
    }
    let too_much = [line(b'+', MAX_LINE + 1), line(b'-', MAX_LINE + 1), bulk(MAX_BULK + 1), array(MAX_ITEMS + 1)];
    for bad in too_much.into_iter().chain([nested(MAX_DEPTH + 1)]) {
        let start = String::from_utf8_lossy(&bad[..12]).into_owned();
        assert_eq!(decode(&bad), Err(Malformed), "{start}");
    }
}

#[test]
fn an_endless_value_is_rejected_at_its_limit() {
    // What exceeds a bound is refused by its header, or after as many bytes as the bound allows, and not at its end.
    for (endless, known_after) in [
        (&b"$16385\r\n"[..], 0),
        (b"*1025\r\n", 0),
        (b"+", MAX_LINE + 2),
        (b"-", MAX_LINE + 2),
        (b":1", 32),
        (b"$1", 32),
        (b"*1", 32),
        (b"$-", 32),
    ] {
        let bytes = [endless, &vec![b'1'; known_after]].concat();
        assert_eq!(decode(&bytes), Err(Malformed), "{}", endless.escape_ascii());
    }
}

#[test]
fn replies_in_a_row_are_read_one_by_one() {
    let row = unescape(r"+OK\r\n:1\r\n$2\r\n42\r\n*1\r\n:7\r\n$-1\r\n-ERR x\r\n");
    let (mut rest, mut seen) = (&row[..], Vec::new());
    while let Ok(Some((reply, used))) = decode(rest) {
        seen.push(show(reply));
        rest = &rest[used..];
    }
    assert_eq!(seen, ["+OK", ":1", "\"42\"", "[:7]", "nil", "-ERR x"]);
    assert!(rest.is_empty());
}

fn check(bytes: &[u8], expected: &str) {
    let name = bytes.escape_ascii().to_string();
    let outcome = |bytes: &[u8]| match decode(bytes) {
        Ok(Some((reply, used))) => (show(reply), used),
        Ok(None) => ("...".to_owned(), 0),
        Err(Malformed) => ("!".to_owned(), 0),
    };
    let used = if matches!(expected, "..." | "!") { 0 } else { bytes.len() };
    assert_eq!(outcome(bytes), (expected.to_owned(), used), "{name}");
    let mut refused = false;
    for cut in 0..bytes.len() {
        let (cut_short, _) = outcome(&bytes[..cut]);
        refused |= cut_short == "!" && expected == "!";
        let fits = if refused { "!" } else { "..." };
        assert_eq!(cut_short, fits, "{name} cut at {cut}: what is refused once stays so, and nothing good is");
    }
    if expected == "..." {
        return;
    }
    for behind in [&b"\r\n"[..], b"\n", b"x", b"\0", b":1\r\n", b"$-1\r\n", b"+OK\r\n+OK\r\n"] {
        let followed = [bytes, behind].concat();
        assert_eq!(outcome(&followed), (expected.to_owned(), used), "{name} followed by {}", behind.escape_ascii());
    }
}

fn show(reply: Reply<'_>) -> String {
    let text = String::from_utf8_lossy;
    match reply {
        Reply::Simple(line) => format!("+{}", text(line)),
        Reply::Error(line) => format!("-{}", text(line)),
        Reply::Integer(number) => format!(":{number}"),
        Reply::Bulk(bytes) => format!("\"{}\"", text(bytes)),
        Reply::Null => "nil".to_owned(),
        Reply::Array(items) => {
            let count = items.len();
            let shown: Vec<_> = items.map(show).collect();
            assert_eq!(shown.len(), count, "as many as announced");
            format!("[{}]", shown.join(" "))
        }
    }
}
