//! The words that every other file speaks: which counter ([`Key`]), what is asked of it ([`Command`]), and what can go
//! wrong ([`StoreError`], [`Rejection`]).
//!
//! All of them are small values that are copied, so that a visit waiting for its number owns no memory of its own.

use std::cmp::Ordering;
use std::fmt;
use std::ops::Deref;

/// The name of a counter as the store knows it: 1 to [`Key::MAX`] bytes of printable ASCII.
///
/// Quotes, backslash, angle brackets and ampersand are not allowed, so that a key may stand in JSON and HTML as it is.
/// It is aligned to be copied by words and not by bytes.
#[derive(Clone, Copy)]
#[repr(align(8))]
pub struct Key {
    len: u8,
    bytes: [u8; Self::MAX],
}

impl Key {
    /// Longest key in bytes: a prefix, a colon and a name have room, and a key stays cheap to copy.
    pub const MAX: usize = 95;

    /// `None` if `name` is empty, too long, or has a character that a key may not have.
    #[must_use]
    pub fn new(name: &[u8]) -> Option<Self> {
        let fits = (1..=Self::MAX).contains(&name.len());
        if !fits || !name.iter().all(|byte| byte.is_ascii_graphic() && !br#""'\<>&"#.contains(byte)) {
            return None;
        }
        let mut bytes = [0; Self::MAX];
        bytes[..name.len()].copy_from_slice(name);
        Some(Self { len: name.len() as u8, bytes })
    }

    /// The key as it goes over the wire.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// By what there is of them: to compare the room for the longest key as well would cost more than to find a request.
impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Key {}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.as_bytes()))
    }
}

/// One question to the store. Whoever asks waits for one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Count `by` visits (`INCRBY`). The answer is the number of the last of them; 0 visits only show whether the
    /// store counts.
    Increment {
        /// The counter to raise.
        key: Key,
        /// How many visits.
        by: i64,
    },
    /// The total so far (`GET`); nothing is counted.
    Get {
        /// The counter to read.
        key: Key,
    },
    /// Does the store answer (`PING`)? The answer's number means nothing.
    Ping,
}

impl Command {
    /// Whether it counts, or only reads.
    #[must_use]
    pub fn is_increment(&self) -> bool {
        matches!(self, Self::Increment { .. })
    }

    /// The counter that it is about.
    #[must_use]
    pub fn key(&self) -> Option<&Key> {
        match self {
            Self::Increment { key, .. } | Self::Get { key } => Some(key),
            Self::Ping => None,
        }
    }
}

/// Why there is no number. The difference is what a visitor may do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// It never reached the store: surely not counted, may be tried again.
    Unavailable,
    /// Too much waits already for it to wait too: surely not counted, may be tried again.
    Overloaded,
    /// It was sent and the store did not say: it may have been counted, so nobody may repeat it.
    OutcomeUnknown,
    /// The store said no before it did anything: surely not counted.
    Rejected(Rejection),
}

/// Why the store said no. [`Rejection::message`] puts it plainly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// `NOAUTH`, `WRONGPASS`: no password, or the wrong one.
    Password,
    /// `NOPERM`: the user may not do this.
    Permission,
    /// `NOSCRIPT`: it has lost a script that was left with it.
    NoScript,
    /// `DENIED`: protected mode, which answers nobody from outside as long as there is no password.
    Protected,
    /// `ERR max number of clients reached`.
    MaxClients,
    /// `ERR DB index is out of range`: there is no such database.
    Database,
    /// `WRONGTYPE`: the key holds a list, a set or the like.
    WrongType,
    /// The key holds a string that is not a 64-bit integer.
    NotANumber,
    /// The count would pass 2^63 - 1.
    Overflow,
    /// `LOADING`: Redis has just started and is reading its data.
    Loading,
    /// `MISCONF`: Redis cannot write its data to disk.
    CannotPersist,
    /// `READONLY`: a replica, not the primary.
    ReadOnly,
    /// `OOM`: `maxmemory` is reached.
    OutOfMemory,
    /// `MASTERDOWN`: a replica that lost its primary.
    NoPrimary,
    /// `NOREPLICAS`: fewer replicas than `min-replicas-to-write`.
    NoReplicas,
    /// `BUSY`: a script runs and blocks everything else.
    Busy,
    /// `CLUSTERDOWN`, `TRYAGAIN`: the cluster is not whole.
    ClusterDown,
    /// `MOVED`, `ASK`: the key lives on another node.
    Moved,
    /// There are no scripts to count names with.
    ScriptsRequired,
    /// The disk under the ledger is full or failed, or another file is in its place.
    Disk,
    /// The store holds as many named counters as `MAX_COUNTERS` allows.
    TooManyCounters,
    /// Any other error.
    Other,
}

impl Rejection {
    /// One clause for people: what is wrong with the store, in lower case, without the store's own wording.
    #[must_use]
    pub fn message(self) -> &'static str {
        match self {
            Self::Password => "the store wants another password: check REDIS_PASSWORD",
            Self::Permission => "the store's user may not count: check its ACL",
            Self::NoScript => "the store loses the scripts that it is given",
            Self::Protected => "the store is in protected mode: give it a password",
            Self::MaxClients => "the store has as many clients as it may have: raise its maxclients",
            Self::Database => "the store has no such database: check REDIS_DB",
            Self::WrongType => "the key holds something other than a count: check COUNTER_KEY",
            Self::NotANumber => "the key holds something other than a whole number: check COUNTER_KEY",
            Self::Overflow => "the counter is full",
            Self::Loading => "the store is starting and loads its data",
            Self::CannotPersist => "the store cannot write to its disk",
            Self::ReadOnly => "the store is a read-only replica: point REDIS_HOST to the primary",
            Self::OutOfMemory => "the store is out of memory",
            Self::NoPrimary => "the store has lost its primary",
            Self::NoReplicas => "the store has too few replicas to accept writes",
            Self::Busy => "the store is busy with a script",
            Self::ClusterDown => "the store's cluster is down",
            Self::Moved => "the key lives on another node of the cluster: point REDIS_HOST there",
            Self::ScriptsRequired => {
                "the store runs no scripts for this user, which MAX_COUNTERS needs: list the names in COUNTERS"
            }
            Self::Disk => "the ledger cannot be written: check its disk and its file",
            Self::TooManyCounters => {
                "MAX_COUNTERS is reached: existing counters count on, new names are refused; \
                 raise MAX_COUNTERS or remove counters"
            }
            Self::Other => "the store refuses for a reason of its own: try an INCR by redis-cli",
        }
    }

    /// Whether it passes by itself, so that a visit may as well wait for it.
    #[must_use]
    pub fn is_transient(self) -> bool {
        matches!(self, Self::Loading | Self::NoPrimary | Self::Busy | Self::ClusterDown | Self::MaxClients)
    }

    /// Whether it lies with one key, so that others may count well.
    #[must_use]
    pub fn is_key_specific(self) -> bool {
        matches!(
            self,
            Self::WrongType
                | Self::NotANumber
                | Self::Overflow
                | Self::TooManyCounters
                | Self::ScriptsRequired
                | Self::Moved
        )
    }

    /// Whether reads go on while counting is refused for this cause, so that a good read is no sign of recovery.
    #[must_use]
    pub fn allows_reads(self) -> bool {
        !self.is_transient() && !matches!(self, Self::Password | Self::Protected | Self::Other)
    }
}

/// The counters of one server: the main one, and those with a name of their own.
#[derive(Clone)]
pub struct Counters {
    /// The key of the counter that is not named.
    pub main: Key,
    /// Which names are allowed.
    pub names: Names,
}

/// The names that may be counted under.
#[derive(Clone)]
pub enum Names {
    /// Every one that [`Names::is_well_formed`].
    Any,
    /// These; none of them, usually.
    List(Vec<String>),
}

impl Names {
    /// Longest name in bytes.
    pub const MAX: usize = 32;

    /// 1 to 32 letters, digits, dots, hyphens and underscores.
    #[must_use]
    pub fn is_well_formed(name: &[u8]) -> bool {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        (1..=Self::MAX).contains(&name.len()) && name.iter().copied().all(plain)
    }
}

impl Counters {
    /// Longest key of a main counter in bytes, so that a colon and any name can follow.
    pub const MAX_MAIN: usize = Key::MAX - 1 - Names::MAX;

    /// The key of a named counter, `visits:NAME`, if the name is allowed.
    #[must_use]
    pub fn key_of(&self, name: &[u8]) -> Option<Key> {
        let allowed = match &self.names {
            Names::Any => Names::is_well_formed(name),
            Names::List(names) => names.iter().any(|allowed| allowed.as_bytes() == name),
        };
        if !allowed {
            return None;
        }
        let mut key = [0; Key::MAX];
        let mut length = 0;
        for part in [self.main.as_bytes(), b":", name] {
            key.get_mut(length..length + part.len())?.copy_from_slice(part);
            length += part.len();
        }
        Key::new(&key[..length])
    }

    /// The name in a key of this server, the inverse of [`Counters::key_of`]; empty for the main counter.
    #[must_use]
    pub fn name_of<'a>(&self, key: &'a Key) -> &'a [u8] {
        key.as_bytes().get(self.main.as_bytes().len() + 1..).unwrap_or_default()
    }
}

/// A number in decimal, on the stack: `-9223372036854775808` is the longest.
pub struct Decimal {
    bytes: [u8; Self::MAX],
    start: usize,
}

impl Decimal {
    const MAX: usize = 20;

    /// Renders `number` without the formatting machinery, which costs more than the rest of an answer.
    #[must_use]
    pub fn new(number: i64) -> Self {
        let mut decimal = Self { bytes: [b'0'; Self::MAX], start: Self::MAX };
        let mut rest = number.unsigned_abs();
        loop {
            decimal.start -= 1;
            decimal.bytes[decimal.start] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if number < 0 {
            decimal.start -= 1;
            decimal.bytes[decimal.start] = b'-';
        }
        decimal
    }
}

impl Deref for Decimal {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_printable_and_bounded() {
        let longest = [b'a'; Key::MAX];
        for good in [&b"visits"[..], b"app:prod:{visits}.total", b"a/b@c=1", &longest] {
            assert_eq!(Key::new(good).map(|key| key.as_bytes().to_vec()).as_deref(), Some(good));
        }
        for bad in [&b""[..], b"a b", b"a\"b", b"a<b", b"a\\b", b"a\nb", b"\xc3\xa9", &[b'a'; Key::MAX + 1]] {
            assert!(Key::new(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn decimals_match_the_standard_library() {
        for number in [0, 1, 9, 10, 99, 100, -1, -10, 1_234_567_890, i64::MAX, i64::MIN] {
            assert_eq!(&*Decimal::new(number), number.to_string().as_bytes());
        }
    }
}
