//! Host names to addresses: what a stub resolver asks a name server and makes of the reply (RFC 1035), and the two
//! files that say whom to ask.
//!
//! The C library has all this too, but as a tenth of the image, and it cannot be given a deadline. Left out on purpose
//! is what finding a Redis does not need: TCP (a reply that was cut short is used as far as it goes, since any address
//! will do), EDNS, DNSSEC, caching, and sources other than the hosts file and name servers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::SplitAsciiWhitespace;

/// What `/etc/resolv.conf` says (resolv.conf(5)); of its options, `ndots` alone is heeded.
pub struct Conf<'a> {
    /// The name servers in the order in which to ask them, 1 to [`MAX_SERVERS`].
    pub servers: Vec<IpAddr>,
    /// Domains in which a short name is looked for.
    search: SplitAsciiWhitespace<'a>,
    /// A name with fewer dots is a short one.
    ndots: usize,
}

impl<'a> Conf<'a> {
    /// Reads the file's text. Where it names no server, the one on this machine is meant.
    #[must_use]
    pub fn parse(text: &'a str) -> Self {
        let mut conf = Self { servers: Vec::new(), search: "".split_ascii_whitespace(), ndots: 1 };
        for mut words in lines(text) {
            match words.next() {
                Some("nameserver") if conf.servers.len() < MAX_SERVERS => {
                    conf.servers.extend(words.next().and_then(address));
                }
                // Of several, the last holds.
                Some("search" | "domain") => conf.search = words,
                Some("options") => {
                    let ndots = words.find_map(|word| word.strip_prefix("ndots:"));
                    conf.ndots = ndots.and_then(|digits| digits.parse().ok()).unwrap_or(conf.ndots);
                }
                _ => {}
            }
        }
        if conf.servers.is_empty() {
            conf.servers.push(Ipv4Addr::LOCALHOST.into());
        }
        conf
    }

    /// The full names that `host` may stand for, in the order in which to try them. One that ends with a dot is full.
    #[must_use]
    pub fn candidates(&self, host: &str) -> Vec<String> {
        let mut names = Vec::new();
        if let Some(full) = host.strip_suffix('.') {
            names.push(full.to_owned());
            return names;
        }
        let is_short = host.bytes().filter(|&byte| byte == b'.').count() < self.ndots;
        if !is_short {
            names.push(host.to_owned());
        }
        for domain in self.search.clone() {
            names.push([host, ".", domain].concat());
        }
        if is_short {
            names.push(host.to_owned());
        }
        names
    }
}

/// The addresses that the hosts file (hosts(5)) lists for `host`.
#[must_use]
pub fn listed(hosts: &str, host: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for mut words in lines(hosts) {
        let first = words.next().and_then(address);
        if words.any(|name| name.eq_ignore_ascii_case(host)) {
            found.extend(first);
        }
    }
    found
}

/// Takes an address as it is, and `localhost` as what it always means (RFC 6761, section 6.3).
#[must_use]
pub fn known(host: &str) -> Vec<IpAddr> {
    match address(host) {
        Some(address) => vec![address],
        None if host.eq_ignore_ascii_case("localhost") => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        None => Vec::new(),
    }
}

/// One question to a name server, for [`A`] or [`AAAA`] (RFC 1035, section 4.1). `None` if this can be no host's name:
/// a label has 1 to 63 bytes, a name 253.
#[must_use]
pub fn query(id: u16, host: &str, kind: u8) -> Option<Vec<u8>> {
    if host.len() > MAX_NAME {
        return None;
    }
    let mut query = Vec::with_capacity(HEAD + host.len() + 6);
    query.extend(id.to_be_bytes());
    // Recursion desired; one question, and no records.
    query.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in host.as_bytes().split(|&byte| byte == b'.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..=MAX_LABEL).contains(length))?;
        query.push(length);
        query.extend(label);
    }
    query.extend([0, 0, kind, 0, INTERNET]);
    Some(query)
}

/// What a reply comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It answers something else; the reply may still come.
    Foreign,
    /// The name exists; what addresses there are have been added.
    Exists,
    /// There is no such name (RFC 1035, section 4.1.1: NXDOMAIN).
    NoName,
    /// This server cannot say.
    Unable,
}

/// Reads a datagram as the reply to `query`, and adds the addresses in it to `found`. Aliases need no following: a name
/// server that was asked for recursion sends the addresses along with them.
pub fn reply(datagram: &[u8], query: &[u8], found: &mut Vec<IpAddr>) -> Verdict {
    let Some((head, rest)) = datagram.split_at_checked(HEAD) else { return Verdict::Foreign };
    let [asked, question] = [&query[..2], &query[HEAD..]];
    let is_ours = head.starts_with(asked) && head[2] & 0x80 != 0;
    let Some(records) = rest.get(..question.len()).filter(|echo| is_ours && echo.eq_ignore_ascii_case(question)) else {
        // A server that fails need not repeat the question.
        return if is_ours && head[3] & 0xf != 0 { Verdict::Unable } else { Verdict::Foreign };
    };
    match head[3] & 0xf {
        0 => {}
        3 => return Verdict::NoName,
        _ => return Verdict::Unable,
    }
    let mut rest = &rest[records.len()..];
    for _ in 0..u16::from_be_bytes([head[6], head[7]]) {
        let Some((address, left)) = record(rest) else { break };
        found.extend(address);
        rest = left;
    }
    Verdict::Exists
}

/// Takes one record (RFC 1035, section 4.1.3) and gives its address, if it is that of one, and what follows. `None` if
/// it is cut short.
fn record(bytes: &[u8]) -> Option<(Option<IpAddr>, &[u8])> {
    // Type, class, how long it holds, and the length of the data.
    let (&[_, kind, _, class, _, _, _, _, high, low], rest) = after_name(bytes)?.split_first_chunk()?;
    let (data, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
    let address = match (class, kind) {
        (INTERNET, A) => <[u8; 4]>::try_from(data).ok().map(IpAddr::from),
        (INTERNET, AAAA) => <[u8; 16]>::try_from(data).ok().map(IpAddr::from),
        _ => None,
    };
    Some((address, rest))
}

/// What follows a name, which ends with an empty label or says where in the message it goes on (RFC 1035, section
/// 4.1.4).
fn after_name(mut bytes: &[u8]) -> Option<&[u8]> {
    loop {
        let (&length, rest) = bytes.split_first()?;
        match length {
            0 => return Some(rest),
            0xc0.. => return rest.get(1..),
            _ => bytes = rest.get(usize::from(length)..)?,
        }
    }
}

/// The words of each line, without comments.
fn lines(text: &str) -> impl Iterator<Item = SplitAsciiWhitespace<'_>> {
    text.as_bytes().split(|&byte| byte == b'\n').map(|line| {
        let words = line.split(|byte| b"#;".contains(byte)).next().unwrap_or_default();
        str::from_utf8(words).unwrap_or_default().split_ascii_whitespace()
    })
}

fn address(word: &str) -> Option<IpAddr> {
    word.parse().ok()
}

/// Asks for IPv4 addresses (RFC 1035, section 3.2.2).
pub const A: u8 = 1;

/// Asks for IPv6 addresses (RFC 3596, section 2.1).
pub const AAAA: u8 = 28;

/// Longest reply over UDP (RFC 1035, section 2.3.4), in bytes.
pub const MAX_REPLY: usize = 512;

/// Most name servers that are asked, as in the C library.
pub const MAX_SERVERS: usize = 3;

/// Longest name (RFC 1035, section 2.3.4), as it is written with dots.
const MAX_NAME: usize = 253;

/// Longest label of a name (RFC 1035, section 2.3.4).
const MAX_LABEL: u8 = 63;

/// Bytes in front of the question.
const HEAD: usize = 12;

/// The class of all that is asked here (RFC 1035, section 3.2.4).
const INTERNET: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(words: &str) -> Vec<IpAddr> {
        words.split_ascii_whitespace().map(|word| word.parse().expect("an address")).collect()
    }

    #[test]
    fn resolv_conf_says_whom_to_ask_and_for_what() {
        for (text, servers, host, names) in [
            ("", "127.0.0.1", "redis", "redis"),
            ("nameserver 127.0.0.11\noptions ndots:0\n", "127.0.0.11", "redis", "redis"),
            ("nameserver 10.0.0.1\nnameserver ::1\n", "10.0.0.1 ::1", "redis", "redis"),
            (
                "nameserver 1.1.1.1\nnameserver 1.1.1.2\nnameserver 1.1.1.3\nnameserver 1.1.1.4",
                "1.1.1.1 1.1.1.2 1.1.1.3",
                "r",
                "r",
            ),
            ("nameserver fe80::1%eth0\nnameserver\nnameserver x\nserver 1.1.1.1", "127.0.0.1", "r", "r"),
            ("# nameserver 1.1.1.1\n;nameserver 1.1.1.1\nnameserver 2.2.2.2 # here", "2.2.2.2", "r", "r"),
            ("search a.org b.org\n", "127.0.0.1", "redis", "redis.a.org redis.b.org redis"),
            ("search a.org\ndomain b.org\n", "127.0.0.1", "redis", "redis.b.org redis"),
            ("search a.org\n", "127.0.0.1", "redis.local", "redis.local redis.local.a.org"),
            ("search a.org\n", "127.0.0.1", "redis.", "redis"),
            ("search svc.cluster.local\noptions edns0 ndots:5\n", "127.0.0.1", "a.b", "a.b.svc.cluster.local a.b"),
            ("search a.org\noptions ndots:x\n", "127.0.0.1", "a.b", "a.b a.b.a.org"),
            ("\tnameserver\t3.3.3.3\r\n", "3.3.3.3", "r", "r"),
        ] {
            let conf = Conf::parse(text);
            assert_eq!(conf.servers, ips(servers), "{text:?}");
            assert_eq!(conf.candidates(host).join(" "), names, "{text:?}");
        }
    }

    #[test]
    fn the_hosts_file_lists_addresses() {
        let hosts =
            "127.0.0.1 localhost\n::1\tlocalhost ip6-localhost\n10.0.0.7 web.a.org  web # redis\nbad redis\nredis\n";
        for (host, addresses) in [
            ("localhost", "127.0.0.1 ::1"),
            ("web", "10.0.0.7"),
            ("WEB.a.org", "10.0.0.7"),
            ("redis", ""),
            ("10.0.0.7", ""),
            ("", ""),
        ] {
            assert_eq!(listed(hosts, host), ips(addresses), "{host:?}");
        }
    }

    #[test]
    fn some_addresses_need_no_asking() {
        for (host, addresses) in [
            ("10.1.2.3", "10.1.2.3"),
            ("fd00::1", "fd00::1"),
            ("LocalHost", "127.0.0.1 ::1"),
            ("redis", ""),
            ("10.1", ""),
        ] {
            assert_eq!(known(host), ips(addresses), "{host:?}");
        }
    }

    #[test]
    fn a_query_is_as_the_rfc_writes_it() {
        let redis = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x05redis\x03org\0\0\x1c\0\x01";
        assert_eq!(query(0x1234, "redis.org", AAAA).as_deref(), Some(&redis[..]));
        for (host, good) in [
            ("a".repeat(63), true),
            ("a".repeat(64), false),
            (["a"; 127].join("."), true),
            (["a"; 128].join("."), false),
            (String::new(), false),
            ("a..b".to_owned(), false),
            (".a".to_owned(), false),
            ("a.".to_owned(), false),
        ] {
            assert_eq!(query(0, &host, A).is_some(), good, "{host}");
        }
    }

    /// The head of a reply to `query`: its flags in two bytes, how many records it says it has, and the question.
    fn head(query: &[u8], flags: [u8; 2], records: u8) -> Vec<u8> {
        [&query[..2], &flags, &[0, 1, 0, records, 0, 0, 0, 0], &query[HEAD..]].concat()
    }

    const CNAME: &[u8] = b"\xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x06\x03www\xc0\x0c";
    const ADDRESS: &[u8] = b"\x03www\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x0a\0\0\x09";
    const ADDRESS6: &[u8] = b"\xc0\x0c\0\x1c\0\x01\0\0\0\x3c\0\x10\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01";
    const CHAOS: &[u8] = b"\xc0\x0c\0\x01\0\x03\0\0\0\x3c\0\x04\x0a\0\0\x08";
    const SHORT: &[u8] = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x03\x0a\0\0";

    #[test]
    fn a_reply_is_read_as_far_as_it_goes() {
        let query = query(7, "redis", A).expect("a good name");
        for (flags, records, said, verdict, addresses) in [
            ([0x81, 0x80], 1, vec![ADDRESS], Verdict::Exists, "10.0.0.9"),
            ([0x81, 0x80], 2, vec![CNAME, ADDRESS], Verdict::Exists, "10.0.0.9"),
            ([0x81, 0x80], 2, vec![ADDRESS6, ADDRESS], Verdict::Exists, "fd00::1 10.0.0.9"),
            ([0x81, 0x80], 0, vec![], Verdict::Exists, ""),
            ([0x81, 0x80], 3, vec![CHAOS, SHORT, ADDRESS], Verdict::Exists, "10.0.0.9"),
            // What it says is not there is not looked at; what it says is there but is not, is not waited for.
            ([0x81, 0x80], 1, vec![ADDRESS, ADDRESS6], Verdict::Exists, "10.0.0.9"),
            ([0x83, 0x80], 9, vec![ADDRESS], Verdict::Exists, "10.0.0.9"),
            ([0x81, 0x83], 0, vec![], Verdict::NoName, ""),
            ([0x81, 0x82], 0, vec![], Verdict::Unable, ""),
            ([0x81, 0x85], 0, vec![], Verdict::Unable, ""),
            ([0x01, 0x00], 1, vec![ADDRESS], Verdict::Foreign, ""),
        ] {
            let reply = [head(&query, flags, records), said.concat()].concat();
            let mut found = Vec::new();
            assert_eq!(super::reply(&reply, &query, &mut found), verdict, "{reply:?}");
            assert_eq!(found, ips(addresses), "{reply:?}");
        }
    }

    #[test]
    fn a_reply_to_something_else_is_none() {
        let query = query(7, "redis", A).expect("a good name");
        let good = [&*head(&query, [0x81, 0x80], 1), ADDRESS].concat();
        let at = |index: usize, byte: u8| {
            let mut reply = good.clone();
            reply[index] = byte;
            reply
        };
        for (reply, verdict) in [
            (at(0, 1), Verdict::Foreign),
            (at(1, 8), Verdict::Foreign),
            (at(HEAD + 1, b'R'), Verdict::Exists),
            (at(HEAD + 1, b'x'), Verdict::Foreign),
            (at(HEAD + 8, 28), Verdict::Foreign),
            (good[..2].to_vec(), Verdict::Foreign),
            (Vec::new(), Verdict::Foreign),
            // A server that fails may leave the question out.
            ([&query[..2], &[0x81, 0x82, 0, 0, 0, 0, 0, 0, 0, 0]].concat(), Verdict::Unable),
        ] {
            assert_eq!(super::reply(&reply, &query, &mut Vec::new()), verdict, "{reply:?}");
        }
    }

    #[test]
    fn no_cut_and_no_change_of_a_byte_does_harm() {
        let query = query(7, "redis", A).expect("a good name");
        let good = [&*head(&query, [0x81, 0x80], 3), CNAME, ADDRESS, ADDRESS6].concat();
        for length in 0..good.len() {
            let mut found = Vec::new();
            reply(&good[..length], &query, &mut found);
            assert!(ips("10.0.0.9 fd00::1").starts_with(&found), "{length}");
            for byte in 0..=255 {
                let mut changed = good.clone();
                changed[length] = byte;
                found.clear();
                reply(&changed, &query, &mut found);
                assert!(found.len() <= 3, "{changed:?}");
            }
        }
    }
}
