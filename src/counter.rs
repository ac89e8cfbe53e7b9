//! The types shared by all other modules: the counter ([`Key`]), the command ([`Command`]), and the errors
//! ([`StoreError`], [`Rejection`]).
//!
//! All of them are small `Copy` values, so that a waiting visit owns no heap memory.

use std::cmp::Ordering;
use std::fmt;

/// The key of a counter in the store: 1 to [`Key::MAX`] bytes of printable ASCII.
///
/// Quotes, backslash, angle brackets and ampersand are not allowed, so that a key needs no escaping in JSON and HTML.
/// It is aligned so that it is copied by words and not by bytes.
#[derive(Clone, Copy)]
#[repr(align(8))]
pub struct Key {
    len: u8,
    bytes: [u8; Self::MAX],
}

impl Key {
    /// Longest key in bytes: long enough for a prefix, a colon and a name, and cheap to copy.
    pub const MAX: usize = 95;

    /// Returns the key, or `None` if `name` is empty, too long, or contains a byte that is not allowed in a key.
    #[must_use]
    pub fn new(name: &[u8]) -> Option<Self> {
        let has_valid_length = (1..=Self::MAX).contains(&name.len());
        if !has_valid_length || !name.iter().all(|byte| byte.is_ascii_graphic() && !br#""'\<>&"#.contains(byte)) {
            return None;
        }
        let mut bytes = [0; Self::MAX];
        bytes[..name.len()].copy_from_slice(name);
        Some(Self { len: name.len() as u8, bytes })
    }

    /// Returns the key as it is sent to the store.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// Compares the used bytes only: comparing all [`Key::MAX`] bytes would cost more than parsing a request.
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

/// One command to the store. Its result is one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Counts `by` visits (`INCRBY`). The result is the number of the last of them. A command with 0 visits only checks
    /// whether the store accepts increments.
    Increment {
        /// The counter to increment.
        key: Key,
        /// Number of visits.
        by: i64,
    },
    /// Reads the total (`GET`) and counts nothing.
    Get {
        /// The counter to read.
        key: Key,
    },
    /// Checks whether the store replies (`PING`). The number in the result has no meaning.
    Ping,
}

impl Command {
    /// Returns `true` for [`Command::Increment`].
    #[must_use]
    pub fn is_increment(&self) -> bool {
        matches!(self, Self::Increment { .. })
    }

    /// Returns the counter that the command increments or reads.
    #[must_use]
    pub fn key(&self) -> Option<&Key> {
        match self {
            Self::Increment { key, .. } | Self::Get { key } => Some(key),
            Self::Ping => None,
        }
    }
}

/// Why there is no number, and whether the visit may be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// The command did not reach the store. It was not counted and may be retried.
    Unavailable,
    /// The queue was full. The command was not counted and may be retried.
    Overloaded,
    /// The command was sent and no reply arrived. It may have been counted and must not be repeated.
    OutcomeUnknown,
    /// The store rejected the command. It was not counted.
    Rejected(Rejection),
}

/// Why the store rejected a command. [`Rejection::message`] is its text for users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// `NOAUTH`, `WRONGPASS`: no password, or the wrong one.
    Password,
    /// `NOPERM`: the user lacks a permission.
    Permission,
    /// `NOSCRIPT`: the script is not in the cache of Redis.
    NoScript,
    /// `DENIED`: protected mode, which rejects remote clients while no password is set.
    Protected,
    /// `ERR max number of clients reached`.
    MaxClients,
    /// `ERR DB index is out of range`: the database does not exist.
    Database,
    /// `WRONGTYPE`: the key holds a list, a set or the like.
    WrongType,
    /// The key holds a string that is not a 64-bit integer.
    NotANumber,
    /// The count would exceed 2^63 - 1.
    Overflow,
    /// `LOADING`: Redis is starting and loads its data.
    Loading,
    /// `MISCONF`: Redis cannot write its data to disk.
    CannotPersist,
    /// `READONLY`, `UNBLOCKED`: the server is a replica, or has just become one.
    ReadOnly,
    /// `OOM`: `maxmemory` is reached.
    OutOfMemory,
    /// `MASTERDOWN`: the server is a replica without a connection to its primary.
    NoPrimary,
    /// `NOREPLICAS`: fewer replicas than `min-replicas-to-write`.
    NoReplicas,
    /// `WAIT`: fewer replicas than `REDIS_ACKS` have acknowledged a batch, which is in doubt.
    Unacknowledged,
    /// `BUSY`: a running script blocks all other commands.
    Busy,
    /// `CLUSTERDOWN`: the cluster is incomplete.
    ClusterDown,
    /// `ASK`, `TRYAGAIN`: the slot of the key is being moved to another node.
    Resharding,
    /// `MOVED`: the key is on another node.
    Moved,
    /// A named counter with a bound needs a script, and Redis runs none.
    ScriptsRequired,
    /// The disk of the ledger is full or failed, or the ledger file was replaced.
    Disk,
    /// The number of named counters has reached `MAX_COUNTERS`.
    TooManyCounters,
    /// Any other error.
    Other,
}

impl Rejection {
    /// Returns one clause for users, in lower case and without text from the store: what failed and its remedy.
    #[must_use]
    pub fn message(self) -> &'static str {
        match self {
            Self::Password => "the store rejected the password: check REDIS_PASSWORD",
            Self::Permission => "the store's user has no permission to count: check its ACL",
            Self::NoScript => "the store does not keep the script that it loaded",
            Self::Protected => "the store is in protected mode: give it a password",
            Self::MaxClients => "the store has reached its limit of clients: raise its maxclients",
            Self::Database => "the store has no such database: check REDIS_DB",
            Self::WrongType => "the key holds something other than a count: check COUNTER_KEY",
            Self::NotANumber => "the key holds something other than a whole number: check COUNTER_KEY",
            Self::Overflow => "the counter has reached its maximum",
            Self::Loading => "the store is loading its data",
            Self::CannotPersist => "the store cannot write to its disk",
            Self::ReadOnly => "the store is a read-only replica: point REDIS_HOST to the primary",
            Self::OutOfMemory => "the store is out of memory",
            Self::NoPrimary => "the store has lost its primary",
            Self::NoReplicas => "the store has too few replicas to accept writes",
            Self::Unacknowledged => "too few replicas acknowledge visits: check the replicas and REDIS_ACKS",
            Self::Busy => "the store is busy with a script",
            Self::ClusterDown => "the store's cluster is down",
            Self::Resharding => "the key is being moved to another node of the cluster",
            Self::Moved => "the key is on another node of a cluster: set REDIS_URL=redis+cluster://host:port",
            Self::ScriptsRequired => {
                "the store runs no scripts for this user, which MAX_COUNTERS needs: list the names in COUNTERS"
            }
            Self::Disk => "the ledger cannot be written: check its disk and its file",
            Self::TooManyCounters => {
                "MAX_COUNTERS is reached: existing counters are counted, new names are rejected; \
                 raise MAX_COUNTERS or remove counters"
            }
            Self::Other => "the store returned an unknown error: try INCR in redis-cli",
        }
    }

    /// Returns `true` if the cause is expected to pass without intervention, so that a visit may wait.
    #[must_use]
    pub fn is_transient(self) -> bool {
        matches!(
            self,
            Self::Loading | Self::NoPrimary | Self::Busy | Self::ClusterDown | Self::Resharding | Self::MaxClients
        )
    }

    /// Returns `true` if the cause concerns the node and not the command: the command was not executed, and this node
    /// or another may execute it soon. It does not show whether an earlier attempt was executed.
    #[must_use]
    pub(crate) fn is_of_node(self) -> bool {
        matches!(
            self,
            Self::Moved
                | Self::Resharding
                | Self::ClusterDown
                | Self::ReadOnly
                | Self::Loading
                | Self::NoPrimary
                | Self::NoReplicas
        )
    }

    /// Returns `true` if the cause concerns one key, so that other counters may still be counted.
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

    /// Returns `true` if reads succeed while increments are rejected for this cause. A successful read then does not
    /// prove that the store has recovered.
    #[must_use]
    pub fn allows_reads(self) -> bool {
        !self.is_transient() && !matches!(self, Self::Password | Self::Protected | Self::Other)
    }
}

/// The counters of one server: the main counter and the named ones.
#[derive(Clone)]
pub struct Counters {
    /// The key of the main counter.
    pub main: Key,
    /// The names that are allowed.
    pub names: Names,
}

/// The names that visits may be counted under.
#[derive(Clone)]
pub enum Names {
    /// Every name that [`Names::is_well_formed`].
    Any,
    /// The names in this list; it is empty by default.
    List(Vec<String>),
}

impl Names {
    /// Longest name in bytes.
    pub const MAX: usize = 32;

    /// Returns `true` for 1 to 32 letters, digits, dots, hyphens and underscores that do not end in `.gif`, because
    /// `/count/NAME.gif` is an image.
    #[must_use]
    pub fn is_well_formed(name: &[u8]) -> bool {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        (1..=Self::MAX).contains(&name.len()) && name.iter().copied().all(is_allowed) && !name.ends_with(PIXEL)
    }
}

/// The end of the path of an image without a number.
pub(crate) const PIXEL: &[u8] = b".gif";

/// The limit of named counters that visits may create in one store. Counters that exist already are not affected.
///
/// In Redis their keys are the members of a set, `{visits}:<names>`, which a script maintains.
#[derive(Clone, Copy, Debug)]
pub struct NameLimit {
    /// Key of the main counter, which the limit does not include.
    pub main: Key,
    /// Largest number of named counters, `main:NAME`.
    pub most: usize,
}

impl Counters {
    /// Longest key of a main counter in bytes: a colon and a name of any length can follow.
    pub const MAX_MAIN: usize = Key::MAX - 1 - Names::MAX;

    /// Returns the key of a named counter, `visits:NAME`, or `None` if the name is not allowed.
    #[must_use]
    pub fn key_of(&self, name: &[u8]) -> Option<Key> {
        let is_allowed = match &self.names {
            Names::Any => Names::is_well_formed(name),
            Names::List(names) => names.iter().any(|allowed| allowed.as_bytes() == name),
        };
        if !is_allowed {
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

    /// Returns the name in a key of this server, or an empty slice for the main counter: the inverse of
    /// [`Counters::key_of`].
    #[must_use]
    pub(crate) fn name_of<'a>(&self, key: &'a Key) -> &'a [u8] {
        key.as_bytes().get(self.main.as_bytes().len() + 1..).unwrap_or_default()
    }
}

/// The last totals of the first [`LastTotals::MAX`] counters.
#[derive(Default)]
pub(crate) struct LastTotals {
    /// Sorted by key.
    totals: Vec<(Key, i64)>,
}

impl LastTotals {
    /// Most counters.
    pub(crate) const MAX: usize = 1024;

    /// Creates it without totals.
    #[must_use]
    pub(crate) const fn new() -> Self {
        Self { totals: Vec::new() }
    }

    /// Returns the last total of a counter.
    #[must_use]
    pub(crate) fn get(&self, key: &Key) -> Option<i64> {
        self.position(key).ok().map(|at| self.totals[at].1)
    }

    /// Replaces the last total of a counter. Returns the previous one. Does nothing for a new counter if it is full.
    pub(crate) fn replace(&mut self, key: &Key, total: i64) -> Option<i64> {
        match self.position(key) {
            Ok(at) => return Some(std::mem::replace(&mut self.totals[at].1, total)),
            Err(_) if self.is_full() => {}
            Err(at) => self.totals.insert(at, (*key, total)),
        }
        None
    }

    /// Returns whether there is no room for another counter.
    #[must_use]
    pub(crate) fn is_full(&self) -> bool {
        self.totals.len() >= Self::MAX
    }

    fn position(&self, key: &Key) -> Result<usize, usize> {
        self.totals.binary_search_by(|(known, _)| known.cmp(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_last_totals_is_bounded() {
        let mut totals = LastTotals::new();
        let key = |number: usize| Key::new(format!("visits:{number}").as_bytes()).expect("a valid key");
        for number in 0..=LastTotals::MAX {
            assert_eq!(totals.is_full(), number == LastTotals::MAX);
            assert_eq!(totals.replace(&key(number), 5), None);
        }
        assert_eq!((totals.get(&key(LastTotals::MAX - 1)), totals.get(&key(LastTotals::MAX))), (Some(5), None));
        assert_eq!((totals.replace(&key(3), 6), totals.get(&key(3))), (Some(5), Some(6)));
    }

    #[test]
    fn keys_are_printable_and_bounded() {
        let longest = [b'a'; Key::MAX];
        for valid in [&b"visits"[..], b"app:prod:{visits}.total", b"a/b@c=1", &longest] {
            assert_eq!(Key::new(valid).map(|key| key.as_bytes().to_vec()).as_deref(), Some(valid));
        }
        for invalid in [&b""[..], b"a b", b"a\"b", b"a<b", b"a\\b", b"a\nb", b"\xc3\xa9", &[b'a'; Key::MAX + 1]] {
            assert!(Key::new(invalid).is_none(), "{invalid:?}");
        }
    }
}
