//! Host names to addresses: what a stub resolver asks a name server and makes of the reply (RFC 1035), and the two files
//! that say whom to ask.
//!
//! The C library has all this too, but as a tenth of the image, and it cannot be given a deadline. Left out on purpose
//! is what finding a Redis does not need: TCP (a reply that was cut short is used as far as it goes, since any address
//! will do), EDNS, DNSSEC, caching, and sources other than the hosts file and name servers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// What `/etc/resolv.conf` says (resolv.conf(5)); of its options, `ndots` alone is heeded.
#[derive(Debug, PartialEq, Eq)]
pub struct Conf {
    /// The name servers in the order in which to ask them, 1 to [`MAX_SERVERS`].
    pub servers: Vec<IpAddr>,
    /// Domains in which a short name is looked for.
    search: Vec<Vec<u8>>,
    /// A name with fewer dots is a short one.
    ndots: usize,
}

impl Conf {
    /// Reads the file's text. Where it names no server, the one on this machine is meant.
    #[must_use]
    pub fn parse(text: &[u8]) -> Self {
        let mut conf = Self { servers: Vec::new(), search: Vec::new(), ndots: 1 };
        for mut words in lines(text) {
            match words.next() {
                Some(b"nameserver") if conf.servers.len() < MAX_SERVERS => {
                    conf.servers.extend(words.next().and_then(address));
                }
                // Of several, the last holds.
                Some(b"search" | b"domain") => conf.search = words.map(<[u8]>::to_vec).collect(),
                Some(b"options") => {
                    let ndots = words.find_map(|word| word.strip_prefix(b"ndots:"));
                    conf.ndots = ndots.and_then(parsed).unwrap_or(conf.ndots);
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
    pub fn candidates(&self, host: &[u8]) -> Vec<Vec<u8>> {
        if let Some(full) = host.strip_suffix(b".") {
            return vec![full.to_vec()];
        }
        let mut names: Vec<_> = self.search.iter().map(|domain| [host, domain].join(&b'.')).collect();
        let dots = host.iter().filter(|&&byte| byte == b'.').count();
        let at = if dots < self.ndots { names.len() } else { 0 };
        names.insert(at, host.to_vec());
        names
    }
}

/// The addresses that the hosts file (hosts(5)) lists for `host`.
#[must_use]
pub fn listed(hosts: &[u8], host: &[u8]) -> Vec<IpAddr> {
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
pub fn known(host: &[u8]) -> Vec<IpAddr> {
    match address(host) {
        Some(address) => vec![address],
        None if host.eq_ignore_ascii_case(b"localhost") => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        None => Vec::new(),
    }
}

/// One question to a name server, for [`A`] or [`AAAA`] (RFC 1035, section 4.1). `None` if this can be no host's name: a
/// label has 1 to 63 bytes, a name 253.
#[must_use]
pub fn query(id: u16, host: &[u8], kind: u8) -> Option<Vec<u8>> {
    if host.len() > MAX_NAME {
        return None;
    }
    let mut query = Vec::with_capacity(HEAD + host.len() + 6);
    query.extend(id.to_be_bytes());
    // Recursion desired; one question, and no records.
    query.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in host.split(|&byte| byte == b'.') {
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
fn lines(text: &[u8]) -> impl Iterator<Item = impl Iterator<Item = &[u8]>> {
    text.split(|&byte| byte == b'\n').map(|line| {
        let line = line.split(|&byte| byte == b'#' || byte == b';').next().unwrap_or_default();
        line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty())
    })
}

fn address(word: &[u8]) -> Option<IpAddr> {
    parsed(word)
}

fn parsed<T: FromStr>(word: &[u8]) -> Option<T> {
    str::from_utf8(word).ok()?.parse().ok()
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
