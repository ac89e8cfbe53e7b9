//! The two files of a stub resolver: hosts(5) and resolv.conf(5).
//!
//! Both are lines of words. Neither limits its size or the length of its lines, and their bytes need not be UTF-8, so
//! they are parsed in pieces of any length, and at most one word is buffered. Invalid parts are skipped, as the C
//! libraries do.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// Parses an address: `10.0.0.1`, `fd00::1`, or `fe80::1%eth0` with the name or number of the network interface to
/// which a link-local address belongs (RFC 4007, section 11). Returns `None` if `word` is not an address, or if the
/// interface does not exist.
#[must_use]
pub fn parse_address(word: &[u8], port: u16, interface: Interfaces) -> Option<SocketAddr> {
    let text = str::from_utf8(word).ok()?;
    let (ip, zone) = text.split_once('%').unwrap_or((text, ""));
    match ip.parse().ok()? {
        IpAddr::V4(_) if !zone.is_empty() => None,
        IpAddr::V4(ip) => Some(SocketAddr::new(ip.into(), port)),
        IpAddr::V6(ip) => {
            let scope = if zone.is_empty() { 0 } else { zone.parse().ok().or_else(|| interface(zone))? };
            Some(SocketAddrV6::new(ip, port, 0, scope).into())
        }
    }
}

/// Finds the number of a network interface by its name.
pub type Interfaces = fn(&str) -> Option<u32>;

/// Returns the loopback addresses for `localhost` and its subdomains, independent of the files, and no addresses for
/// other names (RFC 6761, section 6.3).
#[must_use]
pub fn loopback_addresses(host: &str) -> Vec<IpAddr> {
    let name = host.strip_suffix('.').unwrap_or(host).as_bytes();
    let domain = name.rsplit(|&byte| byte == b'.').next().unwrap_or_default();
    if domain.eq_ignore_ascii_case(b"localhost") {
        vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
    } else {
        Vec::new()
    }
}

/// The hosts file, searched for one host.
pub struct Hosts<'a> {
    host: &'a [u8],
    port: u16,
    interfaces: Interfaces,
    words: Words,
    /// The address at the start of the current line.
    address: Option<SocketAddr>,
    found: Vec<SocketAddr>,
}

impl<'a> Hosts<'a> {
    /// Starts a search for `host`. `port` is the port of the returned addresses.
    #[must_use]
    pub fn new(host: &'a str, port: u16, interfaces: Interfaces) -> Self {
        Self { host: host.as_bytes(), port, interfaces, words: Words::new(b"#"), address: None, found: Vec::new() }
    }

    /// Parses the next piece of the file.
    pub fn read(&mut self, piece: &[u8]) {
        let Self { host, port, interfaces, words, address, found } = self;
        words.split(piece, &mut |index, word| {
            if index == 0 {
                *address = parse_address(word, *port, *interfaces);
            } else if word.eq_ignore_ascii_case(host) {
                match *address {
                    Some(new) if found.len() < MAX_ADDRESSES && !found.contains(&new) => found.push(new),
                    _ => {}
                }
            }
        });
    }

    /// Returns the addresses of the host in the order of the file, at most [`MAX_ADDRESSES`].
    #[must_use]
    pub fn finish(mut self) -> Vec<SocketAddr> {
        self.read(b"\n");
        self.found
    }
}

/// The settings in `/etc/resolv.conf`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conf {
    /// The name servers, 1 to [`MAX_SERVERS`].
    pub servers: Vec<SocketAddr>,
    /// Domains of the search list, without leading and trailing dots; the root is empty.
    pub search: Vec<Vec<u8>>,
    /// A name with fewer dots is tried in the search list first.
    pub ndots: usize,
    /// Timeout for one name in milliseconds.
    pub timeout: u64,
    /// Number of queries to one server for one name.
    pub attempts: u32,
}

impl Conf {
    /// Returns the full names that `host` may stand for, in the order in which to try them. A name that ends with a dot
    /// is a full name.
    #[must_use]
    pub fn candidates(&self, host: &str) -> Vec<Vec<u8>> {
        let mut names: Vec<Vec<u8>> = Vec::new();
        let mut add = |name: Vec<u8>| {
            if !names.contains(&name) {
                names.push(name);
            }
        };
        if let Some(full) = host.strip_suffix('.') {
            add(full.into());
            return names;
        }
        let is_short = host.bytes().filter(|&byte| byte == b'.').count() < self.ndots;
        if !is_short {
            add(host.into());
        }
        for domain in &self.search {
            let dot: &[u8] = if domain.is_empty() { b"" } else { b"." };
            add([host.as_bytes(), dot, domain].concat());
        }
        add(host.into());
        names
    }

    fn set_option(&mut self, option: &[u8]) {
        if let Some(number) = option_value(option, b"ndots:") {
            self.ndots = number.min(MAX_NDOTS) as usize;
        } else if let Some(number) = option_value(option, b"timeout:") {
            self.timeout = u64::from(number.clamp(1, MAX_TIMEOUT)) * 1000;
        } else if let Some(number) = option_value(option, b"attempts:") {
            self.attempts = number.clamp(1, MAX_ATTEMPTS);
        }
    }
}

/// Returns the number after the name of an option. As in the C libraries, bytes after the digits are ignored.
fn option_value(option: &[u8], name: &[u8]) -> Option<u32> {
    let digits = option.strip_prefix(name)?;
    digits.first().filter(|first| first.is_ascii_digit())?;
    let digits = digits.iter().take_while(|digit| digit.is_ascii_digit());
    Some(digits.fold(0, |number: u32, digit| number.saturating_mul(10).saturating_add((digit - b'0').into())))
}

/// A parser of `/etc/resolv.conf`.
pub struct ConfParser {
    interfaces: Interfaces,
    words: Words,
    keyword: Keyword,
    /// The file has a search list, which may be empty.
    has_search: bool,
    conf: Conf,
}

/// The keyword of the current line.
#[derive(Clone, Copy, PartialEq)]
enum Keyword {
    NameServer,
    Search,
    Options,
    Other,
}

impl ConfParser {
    /// Starts with the settings of an empty file.
    #[must_use]
    pub fn new(interfaces: Interfaces) -> Self {
        let timeout = DEFAULT_TIMEOUT * 1000;
        let conf = Conf { servers: Vec::new(), search: Vec::new(), ndots: 1, timeout, attempts: DEFAULT_ATTEMPTS };
        Self { interfaces, words: Words::new(b"#;"), keyword: Keyword::Other, has_search: false, conf }
    }

    /// Parses the next piece of the file.
    pub fn read(&mut self, piece: &[u8]) {
        let Self { interfaces, words, keyword, has_search, conf } = self;
        words.split(piece, &mut |index, word| match *keyword {
            _ if index == 0 => {
                *keyword = match word {
                    b"nameserver" => Keyword::NameServer,
                    b"search" | b"domain" => Keyword::Search,
                    b"options" => Keyword::Options,
                    _ => Keyword::Other,
                };
                // The last search list replaces the earlier ones.
                if *keyword == Keyword::Search {
                    *has_search = true;
                    conf.search.clear();
                }
            }
            Keyword::NameServer if index == 1 && conf.servers.len() < MAX_SERVERS => {
                match parse_address(word, PORT, *interfaces) {
                    Some(new) if !conf.servers.contains(&new) => conf.servers.push(new),
                    _ => {}
                }
            }
            Keyword::Search if conf.search.len() < MAX_SEARCH => conf.search.push(trim_dots(word).to_vec()),
            Keyword::Options => conf.set_option(word),
            _ => {}
        });
    }

    /// Returns the settings. The default name server is on the loopback address; the default search list is the domain
    /// of `hostname`.
    #[must_use]
    pub fn finish(mut self, hostname: &str) -> Conf {
        self.read(b"\n");
        let mut conf = self.conf;
        if conf.servers.is_empty() {
            conf.servers.push((Ipv4Addr::LOCALHOST, PORT).into());
        }
        let domain = hostname.trim_ascii().split_once('.').map(|(_, domain)| trim_dots(domain.as_bytes()));
        if let (false, Some(domain @ [_, ..])) = (self.has_search, domain) {
            conf.search.push(domain.to_vec());
        }
        conf
    }
}

fn trim_dots(mut domain: &[u8]) -> &[u8] {
    while let [b'.', rest @ ..] | [rest @ .., b'.'] = domain {
        domain = rest;
    }
    domain
}

/// Splits the lines of a file into words.
struct Words {
    /// Bytes that start a comment, which ends with its line.
    comments: &'static [u8],
    is_comment: bool,
    /// The current word, of which at most `MAX_WORD + 1` bytes are kept.
    word: Vec<u8>,
    /// Its index in the line.
    index: usize,
}

impl Words {
    fn new(comments: &'static [u8]) -> Self {
        Self { comments, is_comment: false, word: Vec::new(), index: 0 }
    }

    /// Passes each word that ends in this piece to `handle`, with its index in the line. A word longer than
    /// [`MAX_WORD`] is passed as an empty one.
    fn split(&mut self, piece: &[u8], handle: &mut dyn FnMut(usize, &[u8])) {
        for &byte in piece {
            match byte {
                b'\n' => {
                    self.end_word(handle);
                    (self.index, self.is_comment) = (0, false);
                }
                _ if self.is_comment => {}
                _ if self.comments.contains(&byte) => {
                    self.end_word(handle);
                    self.is_comment = true;
                }
                _ if byte.is_ascii_whitespace() => self.end_word(handle),
                _ if self.word.len() <= MAX_WORD => self.word.push(byte),
                _ => {}
            }
        }
    }

    fn end_word(&mut self, handle: &mut dyn FnMut(usize, &[u8])) {
        if self.word.is_empty() {
            return;
        }
        handle(self.index, if self.word.len() <= MAX_WORD { &self.word } else { &[] });
        self.index += 1;
        self.word.clear();
    }
}

/// The port of name servers.
const PORT: u16 = 53;

/// Most name servers that are used, as in the C libraries.
pub const MAX_SERVERS: usize = 3;

/// Most addresses of one host, as in musl.
pub const MAX_ADDRESSES: usize = 48;

/// Most domains of a search list, as in Kubernetes.
pub const MAX_SEARCH: usize = 32;

/// Longest word of a file in bytes: longer than any name or address.
const MAX_WORD: usize = 256;

/// Limits and defaults of the options, from resolv.conf(5); timeouts are in seconds.
const MAX_NDOTS: u32 = 15;
const MAX_TIMEOUT: u32 = 30;
const MAX_ATTEMPTS: u32 = 5;
const DEFAULT_TIMEOUT: u64 = 5;
const DEFAULT_ATTEMPTS: u32 = 2;

#[cfg(test)]
mod tests;
