//! The query to a Sentinel: the address of the primary of this name.
//!
//! One connection sends one query: `AUTH` if the Sentinels have a password, then `SENTINEL get-master-addr-by-name`.
//! The answer may be out of date, so the handshake of a [`super::Session`] checks the role of the node.
//!
//! Source: <https://redis.io/docs/latest/develop/reference/sentinel-clients/>

use super::errors::rejection;
use super::{Address, Credentials};
use crate::buffers::Buffers;
use crate::counter::Rejection;
use crate::resp::{self, Malformed, Reply};

/// One query to a Sentinel.
pub struct SentinelQuery {
    /// The reply to `AUTH` has not arrived.
    is_logging_in: bool,
}

/// Why a Sentinel did not name the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SentinelError {
    /// It monitors no primary of this name.
    UnknownName,
    /// It rejected a command.
    Rejected(Rejection),
    /// It named an address that is none.
    InvalidAddress,
    /// Its reply is not RESP, or not a reply to this query.
    Protocol,
}

impl From<Malformed> for SentinelError {
    fn from(_: Malformed) -> Self {
        Self::Protocol
    }
}

impl SentinelQuery {
    /// Writes the query for the primary called `name`.
    #[must_use]
    pub fn open(name: &str, credentials: &Credentials, buffers: &mut Buffers) -> Self {
        let is_logging_in = credentials.write_auth(buffers.output());
        resp::write_command(buffers.output(), &[b"SENTINEL", b"get-master-addr-by-name", name.as_bytes()]);
        Self { is_logging_in }
    }

    /// Processes the received bytes. Returns the address once it has arrived.
    ///
    /// # Errors
    /// [`SentinelError`]
    pub fn process_replies(&mut self, buffers: &mut Buffers) -> Result<Option<Address>, SentinelError> {
        while let Some((reply, length)) = resp::decode(buffers.received())? {
            match (self.is_logging_in, reply) {
                (_, Reply::Error(line)) => return Err(SentinelError::Rejected(rejection(line))),
                (true, Reply::Simple(b"OK")) => self.is_logging_in = false,
                (false, Reply::Null) => return Err(SentinelError::UnknownName),
                (false, Reply::Array(mut items)) => {
                    return match (items.next(), items.next(), items.next()) {
                        (Some(Reply::Bulk(host)), Some(Reply::Bulk(port)), None) => {
                            Address::parse(host, port).map(Some).ok_or(SentinelError::InvalidAddress)
                        }
                        _ => Err(SentinelError::Protocol),
                    };
                }
                _ => return Err(SentinelError::Protocol),
            }
            buffers.consume(length);
        }
        if buffers.is_full() { Err(SentinelError::Protocol) } else { Ok(None) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "mymaster";

    #[test]
    fn a_query_has_the_credentials_that_it_needs() {
        const QUESTION: &str = "*3\r\n$8\r\nSENTINEL\r\n$23\r\nget-master-addr-by-name\r\n$8\r\nmymaster\r\n";
        for (username, password, login) in [
            (None, None, ""),
            (None, Some("p"), "*2\r\n$4\r\nAUTH\r\n$1\r\np\r\n"),
            (Some("u"), Some("p"), "*3\r\n$4\r\nAUTH\r\n$1\r\nu\r\n$1\r\np\r\n"),
        ] {
            let credentials =
                Credentials { username: username.map(str::to_owned), password: password.map(str::to_owned) };
            let mut buffers = Buffers::default();
            let _ = SentinelQuery::open(NAME, &credentials, &mut buffers);
            assert_eq!(String::from_utf8_lossy(buffers.pending()), [login, QUESTION].concat());
        }
    }

    #[test]
    fn each_reply_has_one_meaning_however_it_arrives() {
        let address = |host: &str, port| Ok(Some(Address { host: host.to_owned(), port }));
        let long = format!("*2\r\n$256\r\n{}\r\n$4\r\n6379\r\n", "x".repeat(256));
        for (password, replies, expected) in [
            (false, "*2\r\n$9\r\n127.0.0.1\r\n$4\r\n6379\r\n", address("127.0.0.1", 6379)),
            (true, "+OK\r\n*2\r\n$7\r\nredis-2\r\n$5\r\n65535\r\n", address("redis-2", 65535)),
            (false, "*2\r\n$3\r\n::1\r\n$4\r\n6379\r\n", address("::1", 6379)),
            (false, "*-1\r\n", Err(SentinelError::UnknownName)),
            (false, "$-1\r\n", Err(SentinelError::UnknownName)),
            (false, "-NOAUTH Authentication required.\r\n", Err(SentinelError::Rejected(Rejection::Password))),
            (true, "-WRONGPASS invalid password\r\n", Err(SentinelError::Rejected(Rejection::Password))),
            (false, "-ERR unknown command 'SENTINEL'\r\n", Err(SentinelError::Rejected(Rejection::Other))),
            (false, "-NOPERM no permissions\r\n", Err(SentinelError::Rejected(Rejection::Permission))),
            (false, "*2\r\n$9\r\n127.0.0.1\r\n$1\r\n0\r\n", Err(SentinelError::InvalidAddress)),
            (false, "*2\r\n$9\r\n127.0.0.1\r\n$5\r\n65536\r\n", Err(SentinelError::InvalidAddress)),
            (false, "*2\r\n$9\r\n127.0.0.1\r\n$3\r\n+80\r\n", Err(SentinelError::InvalidAddress)),
            (false, "*2\r\n$0\r\n\r\n$4\r\n6379\r\n", Err(SentinelError::InvalidAddress)),
            (false, "*2\r\n$3\r\na\tb\r\n$4\r\n6379\r\n", Err(SentinelError::InvalidAddress)),
            (false, "*2\r\n$3\r\na b\r\n$4\r\n6379\r\n", Err(SentinelError::InvalidAddress)),
            (false, &long, Err(SentinelError::InvalidAddress)),
            (false, "*1\r\n$9\r\n127.0.0.1\r\n", Err(SentinelError::Protocol)),
            (false, "*3\r\n$1\r\na\r\n$1\r\n1\r\n$1\r\n1\r\n", Err(SentinelError::Protocol)),
            (false, "*2\r\n$1\r\na\r\n:1\r\n", Err(SentinelError::Protocol)),
            (false, "+OK\r\n", Err(SentinelError::Protocol)),
            (true, "*-1\r\n", Err(SentinelError::Protocol)),
            (false, "HTTP/1.1 400 Bad Request\r\n", Err(SentinelError::Protocol)),
        ] {
            let credentials = Credentials { username: None, password: password.then(|| "p".to_owned()) };
            for piece in [1, usize::MAX] {
                let mut buffers = Buffers::default();
                let mut query = SentinelQuery::open(NAME, &credentials, &mut buffers);
                let mut result = Ok(None);
                for bytes in replies.as_bytes().chunks(piece.min(replies.len())) {
                    assert_eq!(result, Ok(None), "{replies}");
                    buffers.receive(bytes);
                    result = query.process_replies(&mut buffers);
                    if result.is_err() {
                        break;
                    }
                }
                assert_eq!(result, expected, "{replies}");
            }
        }
    }
}
