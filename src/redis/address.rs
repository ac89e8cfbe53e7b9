//! Addresses of servers, as the configuration, a Sentinel or a `MOVED` error names them.

use std::fmt;

use crate::resp;

/// A host and a port. The host is a name or an IP address without brackets; it is resolved for each connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl Address {
    /// Parses an address that a server sent in two parts. Returns `None` if it is none: the host is empty, longer than
    /// [`MAX_HOST`] or contains another byte than printable ASCII, or the port is not a number from 1 to 65535.
    #[must_use]
    pub fn parse(host: &[u8], port: &[u8]) -> Option<Self> {
        let redirect = Redirect::new(host, port)?;
        (!host.is_empty()).then_some(Self { host: redirect.host, port: redirect.port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// Writes addresses, separated by commas.
pub(crate) struct DisplayList<'a>(pub &'a [Address]);

impl fmt::Display for DisplayList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, address) in self.0.iter().enumerate() {
            f.write_str(if index == 0 { "" } else { "," })?;
            address.fmt(f)?;
        }
        Ok(())
    }
}

/// The address in a `MOVED` error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// Empty if it is the host of the node that sent the error.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl Redirect {
    fn new(host: &[u8], port: &[u8]) -> Option<Self> {
        let is_host = host.len() <= MAX_HOST && host.iter().all(u8::is_ascii_graphic);
        let port = resp::parse_integer(port).and_then(|port| u16::try_from(port).ok()).filter(|&port| port > 0)?;
        is_host.then(|| Self { host: String::from_utf8_lossy(host).into_owned(), port })
    }

    /// Parses the error line `MOVED 866 127.0.0.1:7001`. An IPv6 address has no brackets, so the last colon precedes
    /// the port. `None` if it has no valid address; `?` means that the node has not configured its host name.
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        let address = line.split(|&byte| byte == b' ').nth(2)?;
        let colon = address.iter().rposition(|&byte| byte == b':')?;
        let (host, port) = (&address[..colon], &address[colon + 1..]);
        let inside = host.strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]"));
        Self::new(inside.unwrap_or(host), port).filter(|redirect| redirect.host != "?")
    }

    /// Returns the address that it means in an error of `node`.
    pub(super) fn resolve(self, node: Option<&Address>) -> Option<Address> {
        let host = if self.host.is_empty() { node?.host.clone() } else { self.host };
        Some(Address { host, port: self.port })
    }
}

/// Longest host name in bytes.
pub const MAX_HOST: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_in_a_url() {
        let all = [("redis", 6379), ("127.0.0.1", 1), ("::1", 65535)];
        let all = all.map(|(host, port)| Address { host: host.to_owned(), port });
        assert_eq!(DisplayList(&all).to_string(), "redis:6379,127.0.0.1:1,[::1]:65535");
        assert_eq!(DisplayList(&[]).to_string(), "");
    }

    #[test]
    fn a_redirection_has_a_valid_address_or_none() {
        let node = Address { host: "here".to_owned(), port: 1 };
        let long = format!("MOVED 866 {}:7001", "x".repeat(256));
        for (line, expected) in [
            ("MOVED 866 127.0.0.1:7001", Some(("127.0.0.1", 7001))),
            ("MOVED 866 redis-2.example:6379", Some(("redis-2.example", 6379))),
            ("MOVED 866 :7001", Some(("here", 7001))),
            ("MOVED 866 ::1:7001", Some(("::1", 7001))),
            ("MOVED 866 [fe80::1]:7001", Some(("fe80::1", 7001))),
            ("MOVED 866 127.0.0.1:7001 more", Some(("127.0.0.1", 7001))),
            ("MOVED 866 ?:7001", None),
            ("MOVED 866 127.0.0.1:0", None),
            ("MOVED 866 127.0.0.1:65536", None),
            ("MOVED 866 127.0.0.1:-1", None),
            ("MOVED 866 127.0.0.1:", None),
            ("MOVED 866 127.0.0.1", None),
            ("MOVED 866 a\u{7f}b:7001", None),
            ("MOVED 866 a\tb:7001", None),
            ("MOVED 866 zébra:7001", None),
            (&long, None),
            ("MOVED 866", None),
            ("MOVED", None),
        ] {
            let address = Redirect::parse(line.as_bytes()).and_then(|redirect| redirect.resolve(Some(&node)));
            let expected = expected.map(|(host, port)| Address { host: host.to_owned(), port });
            assert_eq!(address, expected, "{line}");
        }
    }
}
