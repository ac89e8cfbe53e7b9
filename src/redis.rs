//! One conversation with Redis, over a [`Buffers`]: greeting first, then one batch at a time.
//!
//! Replies carry no name, only their order; so a session that has lost step, or of which a byte cannot be explained, is
//! [`SessionError`] and is dropped with its socket: there is no way back, and no late reply that could reach the next
//! visitor. What it owed comes back by [`Session::into_leftover`], with the one fact that matters for exactly-once: whether
//! it may be sent again.
//!
//! `INCRBY` alone may not, because a reply that was lost may have been one of success. So it goes with a **receipt**:
//! in the same atomic step, a script writes down the number of the batch and what the counter stood at before, under a
//! key of its own for each sender and counter. Sent again, by whatever session of the same sender, it finds its number
//! there, counts nothing, and tells again what it told before. A number below the one written down comes from a
//! connection long given up, whose bytes Redis reads late: it counts nothing either.
//!
//! The script is left with Redis by the greeting and called by its digest. Where Redis has it no more, or does not take
//! it from us, it goes along each time; where Redis refuses scripts, or us the keys of receipts, `INCRBY` goes alone
//! and is never sent twice.
//!
//! A receipt has to be there as long as its batch may be sent again. Redis may drop it before its time where memory is
//! bounded and `maxmemory-policy` allows eviction, so the greeting reads both (`INFO memory`), and where receipts can be
//! evicted no batch is sent again ([`Receipts`]).
//!
//! Left out on purpose: RESP3, pipelining of several batches.

use std::time::Duration;

use crate::batch::Batch;
use crate::buffers::Buffers;
use crate::counter::{Command, Decimal, Key, Rejection, StoreError};
use crate::resp::{self, Malformed, Reply};

/// Where Redis is and who we are there.
#[derive(Clone)]
pub struct RedisConfig {
    /// Host name or address, resolved anew at each connect.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// User of the ACL; the default user if absent.
    pub username: Option<String>,
    /// Never shown anywhere.
    pub password: Option<String>,
    /// Number of the database (`SELECT`).
    pub db: u32,
}

/// Who counts, as receipts know it: the same for all sessions of one worker, and another for everyone else.
#[derive(Clone, Copy)]
pub struct Producer {
    /// A number that nobody else has.
    pub id: u64,
    /// How long a batch may be sent again after it was sent first.
    pub retry_window: Duration,
    /// Set where clients choose the names of counters.
    pub bound: Option<Bound>,
}

/// How many named counters visits may create in one store. Their keys are the members of a set, `{visits}:<names>`, which
/// the script keeps.
#[derive(Clone, Copy)]
pub struct Bound {
    /// The counter that needs no place in the set.
    pub main: Key,
    /// Most members of the set.
    pub most: usize,
}

/// A session, from the connect to the first thing that goes wrong.
pub struct Session<W> {
    /// Replies to the greeting that have not come yet, the last four of them to `SCRIPT LOAD`, `INFO memory`,
    /// `GET` and `PING`.
    handshake_replies: usize,
    producer: Producer,
    mode: IncrementMode,
    receipts_evictable: bool,
    /// What the counter without a name held at the greeting, if it may be read.
    total: Option<Result<i64, Rejection>>,
    /// How a visit to this key is written, up to its number: what can be counted on to come again.
    prefix: (Option<Key>, Vec<u8>),
    in_flight: Batch<W>,
    encoded: usize,
    /// It is a replica that we talk to.
    is_replica: bool,
}

/// Whether a batch whose reply was lost may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receipts {
    /// Yes: its receipt shows whether it was counted.
    Kept,
    /// No: Redis runs no scripts for this user, or refuses it the keys of receipts.
    Refused,
    /// No: Redis may evict receipts, or does not show whether it may.
    Evictable,
}

/// By what visits are counted, the best first.
enum IncrementMode {
    /// The script that Redis keeps, under its digest (`EVALSHA`).
    EvalSha([u8; 40]),
    /// The script, which goes along (`EVAL`).
    Eval,
    /// `INCRBY`, without a receipt.
    Plain,
}

/// Why a session is over. The socket has to go with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionError {
    /// Redis refused the greeting: password, user or database, or it is not there to count yet.
    Handshake(Rejection),
    /// We talk to a replica: after a failover, connecting anew may find the primary.
    Replica,
    /// Not RESP, or a reply of a kind that the command cannot have, or one that nobody asked for.
    Protocol,
}

impl From<Malformed> for SessionError {
    fn from(_: Malformed) -> Self {
        Self::Protocol
    }
}

/// What a session leaves behind.
pub struct Leftover<W> {
    /// Asks without a reply.
    pub batch: Batch<W>,
    /// What may be done with them.
    pub recovery: Recovery,
}

/// What may be done with asks that have no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// No byte of them went to the socket: they may be sent at any time, along with others.
    Requeue,
    /// They may have been counted, and carry a receipt: they may be sent again as they are, before any other.
    Resend,
    /// There is nothing to send again, or nobody may: they are to be told what they were replied, or that it is in
    /// doubt.
    Fail,
}

impl<W> Session<W> {
    /// Begins: writes `AUTH` and `SELECT` as far as `login` needs them, a `SCRIPT LOAD`, an `INFO memory`, a `GET` of
    /// `main`, the counter without a name, and a `PING` that shows whether Redis, when it has just started, is there to
    /// count.
    #[must_use]
    pub fn open(config: &RedisConfig, main: &Key, producer: Producer, buffers: &mut Buffers) -> Self {
        let mut greetings = 0;
        let mut greet = |words: &[&[u8]]| {
            resp::command(buffers.output(), words);
            greetings += 1;
        };
        match (&config.username, &config.password) {
            (Some(user), Some(password)) => greet(&[b"AUTH", user.as_bytes(), password.as_bytes()]),
            (None, Some(password)) => greet(&[b"AUTH", password.as_bytes()]),
            (_, None) => {}
        }
        if config.db != 0 {
            greet(&[b"SELECT", &Decimal::new(i64::from(config.db))]);
        }
        greet(&[b"SCRIPT", b"LOAD", SCRIPT]);
        greet(&[b"INFO", b"memory"]);
        greet(&[b"GET", main.as_bytes()]);
        greet(&[b"PING"]);
        Self {
            handshake_replies: greetings,
            producer,
            mode: IncrementMode::Plain,
            receipts_evictable: true,
            total: None,
            prefix: (None, Vec::new()),
            in_flight: Batch::default(),
            encoded: 0,
            is_replica: false,
        }
    }

    /// Whether a batch may be sent again that was in doubt before. Known when the greeting is over, and
    /// [`Receipts::Refused`] from then on where a batch shows that no receipt can be written.
    #[must_use]
    pub fn receipts(&self) -> Receipts {
        match self.mode {
            IncrementMode::Plain => Receipts::Refused,
            _ if self.receipts_evictable => Receipts::Evictable,
            _ => Receipts::Kept,
        }
    }

    /// Whether visits go by the script.
    fn has_script(&self) -> bool {
        !matches!(self.mode, IncrementMode::Plain)
    }

    /// What the counter without a name held at the greeting, or why it holds no count; `None` if it may not be read.
    #[must_use]
    pub fn total(&self) -> Option<Result<i64, Rejection>> {
        self.total
    }

    /// Who has waited longest for the batch under way.
    #[must_use]
    pub fn first_waiter(&self) -> Option<&W> {
        self.in_flight.first_waiter()
    }

    /// Ends those at the front of the batch under way for whom `is_late` holds: their visits are in doubt. What was
    /// sent stays as it is.
    pub fn expire(&mut self, is_late: impl Fn(&W) -> bool, tell: impl FnMut(W, Result<i64, StoreError>)) {
        self.in_flight.expire(StoreError::OutcomeUnknown, is_late, tell);
    }

    /// Whether Redis has answered everything so far, so that a batch may be submitted.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.handshake_replies == 0 && self.in_flight.is_empty()
    }

    /// Writes what a batch asks for and was not told yet, leaving `batch` empty. Only for a session that
    /// [`Session::is_idle`].
    pub fn submit(&mut self, batch: &mut Batch<W>, buffers: &mut Buffers) {
        debug_assert!(self.is_idle(), "one batch at a time");
        std::mem::swap(&mut self.in_flight, batch);
        self.write(buffers);
    }

    /// Writes what has no reply yet.
    fn write(&mut self, buffers: &mut Buffers) {
        let before = buffers.pending().len();
        let script: Option<[&[u8]; 2]> = match &self.mode {
            IncrementMode::EvalSha(digest) => Some([b"EVALSHA", digest]),
            IncrementMode::Eval => Some([b"EVAL", SCRIPT]),
            IncrementMode::Plain => None,
        };
        if script.is_none() {
            // To look first and count then would be two steps, and others could come in between.
            let refused = Err(StoreError::Rejected(Rejection::ScriptsRequired));
            self.in_flight.resolve_where(|command| self.producer.bound(command).is_some(), refused);
        }
        for command in self.in_flight.pending_commands() {
            let out = buffers.output();
            match (command, script) {
                (Command::Increment { key, by }, Some(script)) => {
                    let bound = self.producer.bound(command);
                    if self.prefix.0.as_ref() != Some(key) {
                        self.prefix = (Some(*key), increment_prefix(script, key, bound, &self.producer));
                    }
                    out.extend_from_slice(&self.prefix.1);
                    resp::argument(out, &Decimal::new(FIRST + self.in_flight.sequence()));
                    resp::argument(out, &Decimal::new(*by));
                    if let Some(bound) = bound {
                        resp::argument(out, &Decimal::new(bound.most as i64));
                    }
                }
                (Command::Increment { key, by: 1 }, None) => resp::command(out, &[b"INCR", key.as_bytes()]),
                (Command::Increment { key, by }, None) => {
                    resp::command(out, &[b"INCRBY", key.as_bytes(), &Decimal::new(*by)]);
                }
                (Command::Get { key }, _) => resp::command(out, &[b"GET", key.as_bytes()]),
                (Command::Ping, _) => resp::command(out, &[b"PING"]),
            }
        }
        self.encoded = buffers.pending().len() - before;
    }

    /// Takes what has arrived. A batch of which all is answered is returned, to be told its numbers at once.
    ///
    /// # Errors
    /// The session is [`SessionError`] and must be ended by [`Session::into_leftover`].
    pub fn process_replies(&mut self, buffers: &mut Buffers) -> Result<Option<&mut Batch<W>>, SessionError> {
        while let Some((reply, used)) = resp::decode(buffers.received())? {
            if self.handshake_replies > 0 {
                self.handshake_replies -= 1;
                match self.handshake_replies {
                    0 => expect_reply(reply, b"PONG")?,
                    1 => self.total = parse_total(reply)?,
                    2 => self.receipts_evictable = may_evict(reply)?,
                    3 => self.mode = parse_digest(reply)?,
                    _ => expect_reply(reply, b"OK")?,
                }
            } else {
                let command = self.in_flight.next_command().ok_or(SessionError::Protocol)?;
                let total = self.read(command, reply).ok_or(SessionError::Protocol)?;
                self.is_replica |= total == Err(StoreError::Rejected(Rejection::ReadOnly));
                // It may have been refused before its receipt was looked at.
                let in_doubt =
                    self.in_flight.may_be_applied() && command.is_increment() && !self.will_fall_back(command, total);
                self.in_flight
                    .record_reply(total.map_err(|refused| if in_doubt { StoreError::OutcomeUnknown } else { refused }));
            }
            buffers.consume(used);
        }
        // Half a reply that fills the wire will never be whole, and half a reply that nobody asked for is one too many.
        let done = self.handshake_replies == 0 && self.in_flight.next_command().is_none();
        if buffers.is_full() || (done && !buffers.received().is_empty()) {
            return Err(SessionError::Protocol);
        }
        if done && self.is_replica {
            return Err(SessionError::Replica);
        }
        // Refused whole, so nothing was counted; who may not keep receipts may still count.
        let refusal = self.in_flight.replies().find(|(command, total)| self.has_fallback(command, *total));
        if let (true, true, Some((command, refusal))) = (done, self.has_script(), refusal) {
            self.mode = if self.will_fall_back(command, refusal) { IncrementMode::Eval } else { IncrementMode::Plain };
            self.prefix.0 = None;
            self.in_flight.clear_replies(refusal);
            self.write(buffers);
        }
        let done = done && self.in_flight.next_command().is_none();
        Ok((done && !self.in_flight.is_empty()).then_some(&mut self.in_flight))
    }

    /// Whether a visit that is refused like this is sent again with the script, so that nothing is decided yet.
    fn will_fall_back(&self, command: &Command, total: Result<i64, StoreError>) -> bool {
        matches!(self.mode, IncrementMode::EvalSha(_)) && self.has_fallback(command, total)
    }

    /// Whether a visit that is refused like this may be counted by other means. That names may not be kept says nothing
    /// of receipts, and names need a script.
    fn has_fallback(&self, command: &Command, total: Result<i64, StoreError>) -> bool {
        let is_bound = self.producer.bound(command).is_some();
        match total {
            Err(StoreError::Rejected(Rejection::NoScript)) => {
                command.is_increment() && (!is_bound || matches!(self.mode, IncrementMode::EvalSha(_)))
            }
            Err(StoreError::Rejected(Rejection::Permission)) => command.is_increment() && !is_bound,
            _ => false,
        }
    }

    /// What `reply` says to `ask`; `None` if it cannot be a reply to it.
    fn read(&self, command: &Command, reply: Reply<'_>) -> Option<Result<i64, StoreError>> {
        match (command, reply) {
            (_, Reply::Error(line)) => Some(Err(StoreError::Rejected(rejection(line)))),
            (Command::Increment { by, .. }, Reply::Bulk(before)) if self.has_script() => Some(after(before, *by)),
            (Command::Increment { .. }, Reply::Integer(total)) if !self.has_script() => Some(Ok(total)),
            (Command::Get { .. }, Reply::Bulk(digits)) => Some(number(digits)),
            (Command::Get { .. }, Reply::Null) => Some(Ok(0)),
            (Command::Ping, Reply::Simple(b"PONG")) => Some(Ok(0)),
            _ => None,
        }
    }

    /// Ends the session and hands back what it owes.
    #[must_use]
    pub fn into_leftover(mut self, buffers: &Buffers) -> Leftover<W> {
        if buffers.pending().len() < self.encoded || self.in_flight.replies().next().is_some() {
            self.in_flight.mark_sent();
        }
        let fate = match (self.in_flight.may_be_applied(), self.in_flight.next_command()) {
            (false, _) => Recovery::Requeue,
            (true, Some(_)) if self.receipts() == Receipts::Kept => Recovery::Resend,
            (true, _) => Recovery::Fail,
        };
        Leftover { recovery: fate, batch: self.in_flight }
    }
}

impl Producer {
    /// The bound that a visit is under: only named counters are.
    fn bound(&self, command: &Command) -> Option<&Bound> {
        self.bound.as_ref().filter(|bound| command.is_increment() && command.key() != Some(&bound.main))
    }
}

/// The number that a counter holds.
fn number(digits: &[u8]) -> Result<i64, StoreError> {
    resp::parse_integer(digits).ok_or(StoreError::Rejected(Rejection::NotANumber))
}

/// The number of the last of `by` visits, counted on top of what there was before.
fn after(before: &[u8], by: i64) -> Result<i64, StoreError> {
    number(before)?.checked_add(by).ok_or(StoreError::Rejected(Rejection::Overflow))
}

/// The front of an increment that is done once, however often it is sent: all but the number of the batch, how many
/// visits it is and, under a bound, how many names there may be.
fn increment_prefix([command, script]: [&[u8]; 2], key: &Key, bound: Option<&Bound>, producer: &Producer) -> Vec<u8> {
    let (kept, id) = ((producer.retry_window + RECEIPT_GRACE).as_millis() as i64, (producer.id >> 1) as i64);
    let (kept, id) = (Decimal::new(kept), Decimal::new(id));
    let receipt = [b"{", hash_tag(key.as_bytes()), b"}:receipt:", &id].concat();
    // No counter can have this key, because a `Key` has no angle brackets.
    let names = bound.map(|bound| [b"{", hash_tag(bound.main.as_bytes()), b"}:<names>"].concat());
    let (keys, count) = if bound.is_some() { (b"3", 10) } else { (b"2", 8) };
    let mut front = Vec::new();
    resp::command_prefix(&mut front, count, &[command, script, keys, key.as_bytes(), &receipt]);
    names.iter().for_each(|names| resp::argument(&mut front, names));
    resp::argument(&mut front, &kept);
    front
}

/// The part of a key that decides on its slot in a cluster: what the first pair of braces holds, if that is something,
/// or else all of it (Redis cluster specification, hash tags).
fn hash_tag(key: &[u8]) -> &[u8] {
    let after = |byte| key.iter().position(|&other| other == byte).map(|at| &key[at + 1..]);
    let tag = after(b'{').and_then(|rest| rest.split(|&byte| byte == b'}').next().filter(|tag| tag.len() < rest.len()));
    tag.filter(|tag| !tag.is_empty()).unwrap_or(key)
}

fn expect_reply(reply: Reply<'_>, well: &[u8]) -> Result<(), SessionError> {
    match reply {
        Reply::Simple(word) if word == well => Ok(()),
        Reply::Error(line) => match rejection(line) {
            // Who may not ping may still count, and a store that cannot write can still be read.
            Rejection::Permission | Rejection::CannotPersist if well == b"PONG" => Ok(()),
            rejection => Err(SessionError::Handshake(rejection)),
        },
        _ => Err(SessionError::Protocol),
    }
}

/// What can be counted by, as `SCRIPT LOAD` shows. Who may not leave a script with Redis may be allowed to bring one.
fn parse_digest(reply: Reply<'_>) -> Result<IncrementMode, SessionError> {
    match reply {
        Reply::Bulk(digest) => digest.try_into().map(IncrementMode::EvalSha).map_err(|_| SessionError::Protocol),
        Reply::Error(line) => match rejection(line) {
            Rejection::Permission => Ok(IncrementMode::Eval),
            Rejection::Other => Ok(IncrementMode::Plain),
            rejection => Err(SessionError::Handshake(rejection)),
        },
        _ => Err(SessionError::Protocol),
    }
}

/// What a counter holds, as the greeting asks for it.
fn parse_total(reply: Reply<'_>) -> Result<Option<Result<i64, Rejection>>, SessionError> {
    match reply {
        Reply::Null => Ok(Some(Ok(0))),
        Reply::Bulk(digits) => Ok(Some(resp::parse_integer(digits).ok_or(Rejection::NotANumber))),
        Reply::Error(line) => match rejection(line) {
            Rejection::Permission | Rejection::Other | Rejection::CannotPersist => Ok(None),
            rejection if rejection.is_key_specific() => Ok(Some(Err(rejection))),
            rejection => Err(SessionError::Handshake(rejection)),
        },
        _ => Err(SessionError::Protocol),
    }
}

/// Whether Redis may drop keys that have an expiry before their time, as `INFO memory` shows: memory is bounded, and the
/// policy is another than `noeviction`. Where it shows no policy, it may if memory is nearly used up, and where the user
/// may not ask, it may.
fn may_evict(reply: Reply<'_>) -> Result<bool, SessionError> {
    let info = match reply {
        Reply::Bulk(info) => info,
        Reply::Error(line) => match rejection(line) {
            Rejection::Permission | Rejection::Other | Rejection::CannotPersist => return Ok(true),
            rejection => return Err(SessionError::Handshake(rejection)),
        },
        _ => return Err(SessionError::Protocol),
    };
    let field = |name: &str| info.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(name.as_bytes()));
    let bytes = |name| field(name).and_then(|digits| resp::parse_integer(digits.trim_ascii_end())).unwrap_or(0);
    let most = bytes("maxmemory:");
    Ok(match field("maxmemory_policy:") {
        Some(policy) => most > 0 && policy.trim_ascii_end() != b"noeviction",
        None => most > 0 && bytes("used_memory:") > most / 10 * 9,
    })
}

/// The cause behind an error reply, by how it begins. Redis up to 6.2 wraps errors that are raised within a script:
/// `ERR Error running script (call to f_…): @user_script:4: -READONLY You can't write against a read only replica.`
fn rejection(line: &[u8]) -> Rejection {
    let mut line = line;
    while let Some(at) = line.windows(SCRIPT_LINE.len()).position(|window| window == SCRIPT_LINE)
        && let Some(error) = raised(&line[at + SCRIPT_LINE.len()..])
    {
        line = error;
    }
    let line = line.strip_prefix(b"ERR ").unwrap_or(line);
    let begins = |words: &str| matches!(line.strip_prefix(words.as_bytes()), Some([] | [b' ', ..]));
    ERRORS.iter().find(|(words, _)| begins(words)).map_or(Rejection::Other, |&(_, rejection)| rejection)
}

/// What follows the place of an error in a script, `:4: ` or `: 4: `.
fn raised(place: &[u8]) -> Option<&[u8]> {
    let place = place.strip_prefix(b":")?.trim_ascii_start();
    let digits = place.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let error = place[digits..].strip_prefix(b": ")?;
    Some(error.strip_prefix(b"-").unwrap_or(error))
}

/// How the place of an error in a script begins.
const SCRIPT_LINE: &[u8] = b"@user_script";

/// Counts once. Keys: the counter, its receipt, and for a counter under a [`Bound`] the set of names. Arguments: how long
/// to keep the receipt in milliseconds, the number of the batch in sixteen digits, how many visits, and under a bound
/// the most names. Gives what the counter stood at before, as text, since Lua's numbers have 53 bits.
///
/// The receipt is written first, so that a store that takes no writes refuses before anything is counted; a name or an
/// increment that is refused takes it back. A count of no visits makes no counter.
const SCRIPT: &[u8] = b"\
local r=redis.call('GET',KEYS[2])or''
if r>=ARGV[2]then return r:sub(18)end
local b=redis.call('GET',KEYS[1])
local new=KEYS[3]and not b and redis.call('SISMEMBER',KEYS[3],KEYS[1])==0
if new and redis.call('SCARD',KEYS[3])>=tonumber(ARGV[4])then return redis.error_reply('MAXNAMES')end
redis.call('SET',KEYS[2],ARGV[2]..' '..(b or'0'),'PX',ARGV[1])
if not b then b='0'if ARGV[3]=='0'then return b end end
local n=new and redis.pcall('SADD',KEYS[3],KEYS[1])
if type(n)~='table'then n=redis.pcall('INCRBY',KEYS[1],ARGV[3])end
if type(n)~='table'then return b end
redis.call('SET',KEYS[2],r,'PX',ARGV[1])
if new then redis.pcall('SREM',KEYS[3],KEYS[1])end
return n";

/// Added to the number of a batch, so that all have sixteen digits and compare as text.
const FIRST: i64 = 1_000_000_000_000_000;

/// How long a connection that was given up may still bring bytes to Redis; so much longer than a batch may be sent
/// again, its receipt is kept.
const RECEIPT_GRACE: Duration = Duration::from_secs(300);

/// How error replies begin: by a word of their own, or by a sentence where Redis has only `ERR` for them, which is left
/// out here.
const ERRORS: [(&str, Rejection); 26] = [
    ("MAXNAMES", Rejection::TooManyCounters),
    ("NOAUTH", Rejection::Password),
    ("WRONGPASS", Rejection::Password),
    ("AUTH", Rejection::Password),
    ("NOPERM", Rejection::Permission),
    ("The user executing the script", Rejection::Permission),
    ("ACL failure in script:", Rejection::Permission),
    ("NOSCRIPT", Rejection::NoScript),
    ("DENIED", Rejection::Protected),
    ("max number of clients reached", Rejection::MaxClients),
    ("DB index", Rejection::Database),
    ("invalid DB index", Rejection::Database),
    ("WRONGTYPE", Rejection::WrongType),
    ("value is not an integer or out of range", Rejection::NotANumber),
    ("increment or decrement would overflow", Rejection::Overflow),
    ("LOADING", Rejection::Loading),
    ("MISCONF", Rejection::CannotPersist),
    ("READONLY", Rejection::ReadOnly),
    ("OOM", Rejection::OutOfMemory),
    ("MASTERDOWN", Rejection::NoPrimary),
    ("NOREPLICAS", Rejection::NoReplicas),
    ("BUSY", Rejection::Busy),
    ("CLUSTERDOWN", Rejection::ClusterDown),
    ("TRYAGAIN", Rejection::ClusterDown),
    ("MOVED", Rejection::Moved),
    ("ASK", Rejection::Moved),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counter::Key;
    use bytes::BufMut;

    fn config() -> RedisConfig {
        RedisConfig { host: "redis".into(), port: 6379, username: None, password: None, db: 0 }
    }

    const SENDER: Producer = Producer { id: 84, retry_window: Duration::from_secs(2), bound: None };

    const INFO: &str = "$22\r\nmaxmemory:0\r\nother:1\r\n\r\n";

    const DIGEST: &str = "$40\r\n0123456789abcdef0123456789abcdef01234567\r\n";

    fn visits() -> Key {
        Key::new(b"visits").expect("a good name")
    }

    fn batch(commands: &[Command]) -> Batch<usize> {
        let mut batch = Batch::default();
        for (who, command) in commands.iter().enumerate() {
            assert!(batch.push(command, who));
        }
        batch.set_sequence(7);
        batch
    }

    /// A session with a Redis that keeps scripts, or has none.
    fn greeted_session<W>(buffers: &mut Buffers, receipts: bool) -> Session<W> {
        let mut session = Session::open(&config(), &visits(), SENDER, buffers);
        let sent = buffers.pending().len();
        buffers.mark_sent(sent);
        buffers.receive(if receipts { DIGEST.as_bytes() } else { b"-ERR unknown command\r\n" });
        buffers.receive(INFO.as_bytes());
        buffers.receive(b"$-1\r\n");
        buffers.receive(b"+PONG\r\n");
        assert!(session.process_replies(buffers).is_ok_and(|answered| answered.is_none()));
        assert!(session.is_idle() && session.has_script() == receipts);
        session
    }

    /// Who was told what.
    type Told = Vec<(usize, Result<i64, StoreError>)>;

    /// Submits `asks`, has Redis say `says`, and returns who was told what and how it ended.
    fn converse(commands: &[Command], receipts: bool, says: &[u8]) -> (Told, Result<(), SessionError>) {
        let mut buffers = Buffers::default();
        let mut session = greeted_session(&mut buffers, receipts);
        session.submit(&mut batch(commands), &mut buffers);
        let sent = buffers.pending().len();
        buffers.mark_sent(sent);
        buffers.read_buf().put_slice(says);
        let mut told = Vec::new();
        let end = session.process_replies(&mut buffers).map(|_| ());
        let mut owed = session.into_leftover(&buffers);
        assert_ne!(owed.recovery, Recovery::Requeue);
        owed.batch.complete(StoreError::OutcomeUnknown, |who, total| told.push((who, total)));
        (told, end)
    }

    #[test]
    fn greets_with_what_the_login_needs() {
        const ASKS: &[u8] =
            b"*2\r\n$4\r\nINFO\r\n$6\r\nmemory\r\n*2\r\n$3\r\nGET\r\n$6\r\nvisits\r\n*1\r\n$4\r\nPING\r\n";
        for (username, password, db, greeting) in [
            (None, None, 0, &b""[..]),
            (None, Some("p w"), 0, b"*2\r\n$4\r\nAUTH\r\n$3\r\np w\r\n"),
            (Some("u"), Some("p"), 0, b"*3\r\n$4\r\nAUTH\r\n$1\r\nu\r\n$1\r\np\r\n"),
            (None, None, 15, b"*2\r\n$6\r\nSELECT\r\n$2\r\n15\r\n"),
        ] {
            let config = RedisConfig {
                username: username.map(str::to_owned),
                password: password.map(str::to_owned),
                db,
                ..config()
            };
            let mut buffers = Buffers::default();
            let session = Session::<()>::open(&config, &visits(), SENDER, &mut buffers);
            let load = format!("*3\r\n$6\r\nSCRIPT\r\n$4\r\nLOAD\r\n${}\r\n", SCRIPT.len());
            assert_eq!(buffers.pending(), [greeting, load.as_bytes(), SCRIPT, b"\r\n", ASKS].concat());
            assert!(!session.is_idle());
        }
    }

    #[test]
    fn a_greeting_ends_well_or_with_its_cause() {
        let refused = |rejection| Err(SessionError::Handshake(rejection));
        for (says, end) in [
            ("+OK\r\nDIGESTINFO+PONG\r\n", Ok(true)),
            ("+OK\r\nDIGESTINFO$1\r\n7\r\n-MISCONF Redis is configured to save\r\n", Ok(true)),
            ("+OK\r\nDIGESTINFO$1\r\n7\r\n-NOPERM this user has no permissions\r\n", Ok(true)),
            ("+OK\r\n-NOPERM this user has no permissions\r\nINFO+PONG\r\n", Ok(true)),
            ("+OK\r\n-ERR unknown command 'SCRIPT'\r\nINFO+PONG\r\n", Ok(false)),
            ("+OK\r\n-LOADING Redis is loading the dataset in memory\r\n", refused(Rejection::Loading)),
            ("+OK\r\nDIGEST-ERR max number of clients reached\r\n", refused(Rejection::MaxClients)),
            ("+OK\r\nDIGEST-DENIED Redis is running in protected mode\r\n", refused(Rejection::Protected)),
            ("+OK\r\nDIGESTINFO$1\r\n7\r\n-ERR something new\r\n", refused(Rejection::Other)),
            ("+OK\r\n-NOAUTH Authentication required.\r\n", refused(Rejection::Password)),
            ("-WRONGPASS invalid username-password pair or user is disabled.\r\n", refused(Rejection::Password)),
            ("-ERR AUTH <password> called without any password configured\r\n", refused(Rejection::Password)),
            ("-ERR DB index is out of range\r\n", refused(Rejection::Database)),
            ("+PONG\r\n", Err(SessionError::Protocol)),
            ("+OK\r\n+OK\r\n", Err(SessionError::Protocol)),
            ("+OK\r\n$3\r\nabc\r\n", Err(SessionError::Protocol)),
            ("+OK\r\nDIGEST+OK\r\n", Err(SessionError::Protocol)),
            ("+OK\r\nDIGESTINFO+PONG\r\nDIGEST", Err(SessionError::Protocol)),
        ] {
            let mut buffers = Buffers::default();
            let mut session = Session::<()>::open(&RedisConfig { db: 3, ..config() }, &visits(), SENDER, &mut buffers);
            buffers.read_buf().put_slice(
                says.replace("DIGEST", DIGEST).replace("INFO", INFO).replace("+PONG", "$1\r\n7\r\n+PONG").as_bytes(),
            );
            let settled = session.process_replies(&mut buffers).map(|_| ());
            assert_eq!(settled.map(|()| session.has_script()), end, "{says}");
        }
    }

    #[test]
    fn receipts_are_trusted_where_none_can_be_evicted() {
        let bulk = |info: &str| format!("${}\r\n{info}\r\n", info.len());
        for (says, receipts) in [
            (bulk("# Memory\r\nused_memory:9\r\nmaxmemory:0\r\nmaxmemory_policy:volatile-ttl\r\n"), Receipts::Kept),
            (bulk("maxmemory:10\r\nmaxmemory_policy:noeviction\r\n"), Receipts::Kept),
            (bulk("maxmemory:10\r\nmaxmemory_policy:volatile-lru\r\n"), Receipts::Evictable),
            (bulk("maxmemory:10\r\nmaxmemory_policy:allkeys-random\r\n"), Receipts::Evictable),
            (bulk("used_memory:899\r\nmaxmemory:1000\r\n"), Receipts::Kept),
            (bulk("used_memory:901\r\nmaxmemory:1000\r\n"), Receipts::Evictable),
            (bulk(""), Receipts::Kept),
            ("-NOPERM this user has no permissions to run the 'info' command\r\n".into(), Receipts::Evictable),
            ("-ERR unknown command 'INFO'\r\n".into(), Receipts::Evictable),
        ] {
            let mut buffers = Buffers::default();
            let mut session = Session::<()>::open(&config(), &visits(), SENDER, &mut buffers);
            buffers.receive([DIGEST, &says, "$-1\r\n+PONG\r\n"].concat().as_bytes());
            assert!(session.process_replies(&mut buffers).is_ok());
            assert_eq!(session.receipts(), receipts, "{says}");
        }
    }

    #[test]
    fn errors_behind_a_script_are_known_by_their_code() {
        const CALL: &str = "ERR Error running script (call to f_cf49228d90873fd38614ce7a84ca486dfc1ede32): ";
        for (error, expected) in [
            ("@user_script:4: -READONLY You can't write against a read only replica. ", Rejection::ReadOnly),
            (
                "@user_script:2: @user_script: 2: -READONLY You can't write against a read only replica.",
                Rejection::ReadOnly,
            ),
            ("@user_script:2: @user_script: 2: -OOM command not allowed when used memory > 'maxmemory'.", {
                Rejection::OutOfMemory
            }),
            ("@user_script:2: -MISCONF Redis is configured to save RDB snapshots", Rejection::CannotPersist),
            ("@user_script:2: -NOREPLICAS Not enough good replicas to write.", Rejection::NoReplicas),
            ("@user_script:3: WRONGTYPE Operation against a key holding the wrong kind of value", Rejection::WrongType),
            ("@user_script:2: @user_script: 2: The user executing the script can't run this command or subcommand", {
                Rejection::Permission
            }),
            ("@user_script:1: @user_script: 1: The user executing the script can't access at least one of the keys", {
                Rejection::Permission
            }),
            (
                "@user_script:1: @user_script: 1: Wrong number of args calling Redis command From Lua script",
                Rejection::Other,
            ),
            ("@user_script", Rejection::Other),
            ("@user_script:", Rejection::Other),
            ("@user_script:4", Rejection::Other),
            ("@user_script:4: ", Rejection::Other),
            ("READONLY", Rejection::Other),
        ] {
            assert_eq!(rejection(format!("{CALL}{error}").as_bytes()), expected, "{error}");
        }
        assert_eq!(rejection(b"READONLY You can't write. script: 9dc3, on @user_script:4."), Rejection::ReadOnly);
        assert_eq!(rejection(b"MAXNAMES"), Rejection::TooManyCounters);
        assert_eq!(rejection(b"ERR MAXNAMES"), Rejection::TooManyCounters);
    }

    #[test]
    fn names_that_clients_choose_are_counted_under_their_bound() {
        let producer = Producer { bound: Some(Bound { main: visits(), most: 9 }), ..SENDER };
        let named = Key::new(b"visits:blog").expect("a good name");
        let commands = [Command::Increment { key: visits(), by: 1 }, Command::Increment { key: named, by: 2 }];
        let mut buffers = Buffers::default();
        let mut session = Session::open(&config(), &visits(), producer, &mut buffers);
        buffers.mark_sent(buffers.pending().len());
        buffers.receive([DIGEST, INFO, "$-1\r\n+PONG\r\n"].concat().as_bytes());
        assert!(session.process_replies(&mut buffers).is_ok());
        session.submit(&mut batch(&commands), &mut buffers);
        let sent = String::from_utf8(buffers.pending().to_vec()).expect("text");
        let bounded = "3\r\n$11\r\nvisits:blog\r\n$24\r\n{visits:blog}:receipt:42\r\n$16\r\n{visits}:<names>\r\n\
                       $6\r\n302000\r\n$16\r\n1000000000000007\r\n$1\r\n2\r\n$1\r\n9\r\n";
        assert!(sent.starts_with("*8\r\n") && sent.ends_with(bounded), "{sent}");
        buffers.mark_sent(sent.len());
        // That there is no room for a name leaves the receipts of all others as they are.
        for error in ["-MAXNAMES\r\n", "-NOPERM No permissions to access a key\r\n"] {
            buffers.receive(format!("$1\r\n4\r\n{error}").as_bytes());
            let mut told = Vec::new();
            let done = session.process_replies(&mut buffers).expect("a sound session").expect("all is answered");
            done.complete(StoreError::OutcomeUnknown, |who, total| told.push((who, total)));
            let rejection = if error.starts_with("-MAX") { Rejection::TooManyCounters } else { Rejection::Permission };
            assert_eq!(told, [(0, Ok(5)), (1, Err(StoreError::Rejected(rejection)))]);
            assert!(session.has_script());
            session.submit(&mut batch(&commands), &mut buffers);
            buffers.mark_sent(buffers.pending().len());
        }
    }

    #[test]
    fn a_script_is_brought_along_for_names_as_well() {
        let producer = Producer { bound: Some(Bound { main: visits(), most: 9 }), ..SENDER };
        let named = Key::new(b"visits:blog").expect("a good name");
        let lost = Err(StoreError::OutcomeUnknown);
        let refused = Err(StoreError::Rejected(Rejection::Permission));
        for (sent_before, replies, expected) in [
            (false, &["-NOSCRIPT No matching script.\r\n", "$1\r\n4\r\n"][..], Ok(5)),
            (true, &["-NOSCRIPT No matching script.\r\n", "$1\r\n4\r\n"], Ok(5)),
            (false, &["-NOPERM No permissions to access a key\r\n"], refused),
            (true, &["-NOPERM No permissions to access a key\r\n"], lost),
            (true, &["-NOSCRIPT No matching script.\r\n", "-NOPERM No permissions\r\n"], lost),
        ] {
            let mut buffers = Buffers::default();
            let mut session = Session::open(&config(), &visits(), producer, &mut buffers);
            buffers.mark_sent(buffers.pending().len());
            buffers.receive([DIGEST, INFO, "$-1\r\n+PONG\r\n"].concat().as_bytes());
            assert!(session.process_replies(&mut buffers).is_ok());
            let mut batch = batch(&[Command::Increment { key: named, by: 1 }]);
            if sent_before {
                batch.mark_sent();
            }
            session.submit(&mut batch, &mut buffers);
            let mut told = Vec::new();
            for (reply, command) in replies.iter().zip(["EVALSHA", "EVAL"]) {
                assert!(told.is_empty(), "{replies:?}");
                assert_eq!(send(&mut buffers)[0], command, "{replies:?}");
                buffers.receive(reply.as_bytes());
                if let Some(done) = session.process_replies(&mut buffers).expect("a sound session") {
                    done.complete(StoreError::OutcomeUnknown, |who, total| told.push((who, total)));
                }
            }
            assert_eq!(told, [(0, expected)], "{sent_before} {replies:?}");
        }
    }

    #[test]
    fn without_scripts_there_is_no_room_for_names() {
        let producer = Producer { bound: Some(Bound { main: visits(), most: 9 }), ..SENDER };
        let named = Key::new(b"visits:blog").expect("a good name");
        let refused = Err(StoreError::Rejected(Rejection::ScriptsRequired));
        let (main, named) = (Command::Increment { key: visits(), by: 1 }, Command::Increment { key: named, by: 2 });
        for (commands, reply, expected) in [
            (&[named][..], &b""[..], vec![(0, refused)]),
            (&[named, main, named], b":5\r\n", vec![(0, refused), (1, Ok(5)), (2, refused)]),
        ] {
            let mut buffers = Buffers::default();
            let mut session = Session::open(&config(), &visits(), producer, &mut buffers);
            buffers.receive(["-ERR unknown command\r\n", INFO, "$-1\r\n+PONG\r\n"].concat().as_bytes());
            assert!(session.process_replies(&mut buffers).is_ok());
            session.submit(&mut batch(commands), &mut buffers);
            buffers.receive(reply);
            let mut told = Vec::new();
            let done = session.process_replies(&mut buffers).expect("a sound session").expect("all is answered");
            done.complete(StoreError::OutcomeUnknown, |who, total| told.push((who, total)));
            assert_eq!(told, expected);
            assert!(session.is_idle());
        }
    }

    #[test]
    fn one_line_per_key_goes_out() {
        let key = visits();
        let commands =
            [Command::Increment { key, by: 1 }, Command::Get { key }, Command::Ping, Command::Increment { key, by: 2 }];
        let reads = "*2\r\n$3\r\nGET\r\n$6\r\nvisits\r\n*1\r\n$4\r\nPING\r\n";
        let once = format!(
            "*8\r\n$7\r\nEVALSHA\r\n{DIGEST}$1\r\n2\r\n$6\r\nvisits\r\n$19\r\n{{visits}}:receipt:42\r\n\
             $6\r\n302000\r\n$16\r\n1000000000000007\r\n$1\r\n3\r\n"
        );
        for (receipts, count) in [(false, "*3\r\n$6\r\nINCRBY\r\n$6\r\nvisits\r\n$1\r\n3\r\n"), (true, &once)] {
            let mut buffers = Buffers::default();
            let mut session = greeted_session(&mut buffers, receipts);
            session.submit(&mut batch(&commands), &mut buffers);
            assert_eq!(buffers.pending(), [count, reads].concat().as_bytes());
            assert!(!session.is_idle());
        }
    }

    #[test]
    fn a_receipt_lies_in_the_slot_of_its_counter() {
        for (key, tag) in [
            ("visits", "visits"),
            ("{shop}visits", "shop"),
            ("a{b}{c}", "b"),
            ("{}visits", "{}visits"),
            ("a{b", "a{b"),
            ("{{a}", "{a"),
        ] {
            assert_eq!(hash_tag(key.as_bytes()), tag.as_bytes(), "{key}");
        }
    }

    #[test]
    fn what_a_receipt_says_makes_the_number() {
        let count = Command::Increment { key: visits(), by: 3 };
        let lost = (Err(StoreError::OutcomeUnknown), Err(SessionError::Protocol));
        let refused = |rejection| (Err(StoreError::Rejected(rejection)), Ok(()));
        for (says, (told, end)) in [
            (&b"$1\r\n4\r\n"[..], (Ok(7), Ok(()))),
            (b"$2\r\n-4\r\n", (Ok(-1), Ok(()))),
            (b"$19\r\n9223372036854775804\r\n", (Ok(i64::MAX), Ok(()))),
            (b"$19\r\n9223372036854775805\r\n", refused(Rejection::Overflow)),
            (b"$3\r\nabc\r\n", refused(Rejection::NotANumber)),
            (b"$0\r\n\r\n", refused(Rejection::NotANumber)),
            (b"-ERR increment or decrement would overflow\r\n", refused(Rejection::Overflow)),
            (b"-WRONGTYPE Operation against a key holding the wrong kind of value script: 9dc3, on @user_script:4.\r\n", {
                refused(Rejection::WrongType)
            }),
            (b":7\r\n", lost),
            (b"$-1\r\n", lost),
        ] {
            assert_eq!(converse(&[count], true, says), (vec![(0, told)], end), "{}", says.escape_ascii());
        }
    }

    #[test]
    fn each_reply_has_its_meaning_for_each_ask() {
        let key = visits();
        let (count, total, ping) = (Command::Increment { key, by: 1 }, Command::Get { key }, Command::Ping);
        let lost = (Err(StoreError::OutcomeUnknown), Err(SessionError::Protocol));
        let refused = |rejection| (Err(StoreError::Rejected(rejection)), Ok(()));
        for (command, says, (told, end)) in [
            (count, &b":7\r\n"[..], (Ok(7), Ok(()))),
            (count, b"$1\r\n7\r\n", lost),
            (count, b"+OK\r\n", lost),
            (count, b"$-1\r\n", lost),
            (count, b"*1\r\n:7\r\n", lost),
            (count, b"HTTP/1.1 400 Bad Request\r\n", lost),
            (count, b":7\r\n:8\r\n", (Ok(7), Err(SessionError::Protocol))),
            (count, b":7\r\n:", (Ok(7), Err(SessionError::Protocol))),
            (count, b"-READONLY You can't write against a read only replica.\r\n", {
                (Err(StoreError::Rejected(Rejection::ReadOnly)), Err(SessionError::Replica))
            }),
            (count, b"-NOAUTH Authentication required.\r\n", refused(Rejection::Password)),
            (count, b"-NOPERM this user has no permissions\r\n", refused(Rejection::Permission)),
            (count, b"-ERR The user executing the script can't run this command or subcommand script: 9dc3\r\n", {
                refused(Rejection::Permission)
            }),
            (
                count,
                b"-ERR ACL failure in script: User u has no permissions to run the 'set' command script: 9dc3\r\n",
                { refused(Rejection::Permission) },
            ),
            (count, b"-WRONGTYPE Operation against a key\r\n", refused(Rejection::WrongType)),
            (count, b"-LOADING Redis is loading\r\n", refused(Rejection::Loading)),
            (count, b"-MISCONF Redis is configured to save\r\n", refused(Rejection::CannotPersist)),
            (count, b"-OOM command not allowed\r\n", refused(Rejection::OutOfMemory)),
            (count, b"-MASTERDOWN Link with MASTER is down\r\n", refused(Rejection::NoPrimary)),
            (count, b"-NOREPLICAS Not enough good replicas to write.\r\n", refused(Rejection::NoReplicas)),
            (count, b"-BUSY Redis is busy running a script.\r\n", refused(Rejection::Busy)),
            (count, b"-CLUSTERDOWN The cluster is down\r\n", refused(Rejection::ClusterDown)),
            (count, b"-MOVED 866 127.0.0.1:7001\r\n", refused(Rejection::Moved)),
            (count, b"-ERR value is not an integer or out of range\r\n", refused(Rejection::NotANumber)),
            (count, b"-ERR increment or decrement would overflow\r\n", refused(Rejection::Overflow)),
            (count, b"-ERR something new\r\n", refused(Rejection::Other)),
            (total, b"$2\r\n42\r\n", (Ok(42), Ok(()))),
            (total, b"$-1\r\n", (Ok(0), Ok(()))),
            (total, b"$3\r\nabc\r\n", refused(Rejection::NotANumber)),
            (total, b":42\r\n", (Err(StoreError::Unavailable), Err(SessionError::Protocol))),
            (ping, b"+PONG\r\n", (Ok(0), Ok(()))),
            (ping, b"-MISCONF Redis is configured to save\r\n", refused(Rejection::CannotPersist)),
            (ping, b"+OK\r\n", (Err(StoreError::Unavailable), Err(SessionError::Protocol))),
        ] {
            assert_eq!(
                converse(&[command], false, says),
                (vec![(0, told)], end),
                "{command:?} {}",
                says.escape_ascii()
            );
        }
    }

    #[test]
    fn a_reply_may_come_byte_by_byte() {
        let mut buffers = Buffers::default();
        let mut session = greeted_session(&mut buffers, false);
        let key = visits();
        session.submit(&mut batch(&[Command::Increment { key, by: 1 }, Command::Get { key }]), &mut buffers);
        let mut told = Vec::new();
        for byte in b":7\r\n$1\r\n7\r\n" {
            assert!(told.is_empty());
            buffers.read_buf().put_u8(*byte);
            if let Some(batch) = session.process_replies(&mut buffers).expect("a sound session") {
                batch.complete(StoreError::OutcomeUnknown, |who, total| told.push((who, total)));
            }
        }
        assert_eq!(told, [(0, Ok(7)), (1, Ok(7))]);
        assert!(session.is_idle());
    }

    #[test]
    fn an_endless_reply_is_not_waited_for() {
        let mut says = b"$16000\r\n".to_vec();
        says.resize(says.len() + 15_999, b'x');
        says.push(b'y');
        says.resize(crate::buffers::MAX_RECEIVED, b'z');
        let command = Command::Get { key: visits() };
        assert_eq!(
            converse(&[command], false, &says),
            (vec![(0, Err(StoreError::Unavailable))], Err(SessionError::Protocol))
        );
    }

    #[test]
    fn what_is_owed_may_be_sent_or_sent_again_or_neither() {
        let key = visits();
        let commands = [Command::Increment { key, by: 1 }, Command::Ping];
        for (receipts, sent, says, fate) in [
            (false, 0, &b""[..], Recovery::Requeue),
            (true, 0, b"", Recovery::Requeue),
            (false, 1, b"", Recovery::Fail),
            (true, 1, b"", Recovery::Resend),
            (true, 1, b"$1\r\n0\r\n", Recovery::Resend),
            (true, 1, b"$1\r\n0\r\n+PONG\r\n", Recovery::Fail),
            (true, 1, b"-READONLY replica\r\n+PONG\r\n", Recovery::Fail),
        ] {
            let mut buffers = Buffers::default();
            let mut session = greeted_session(&mut buffers, receipts);
            session.submit(&mut batch(&commands), &mut buffers);
            buffers.mark_sent(sent);
            buffers.read_buf().put_slice(says);
            let _ = session.process_replies(&mut buffers);
            let owed = session.into_leftover(&buffers);
            assert_eq!((owed.recovery, owed.batch.is_empty()), (fate, false), "{}", says.escape_ascii());
        }
    }

    /// Sends what is unsent, one command for one key, and says which.
    fn send(buffers: &mut Buffers) -> [String; 2] {
        let text = String::from_utf8(buffers.pending().to_vec()).expect("text");
        buffers.mark_sent(text.len());
        let words: Vec<_> = text.split("\r\n").skip(2).step_by(2).collect();
        [words[0].to_owned(), words[if words.len() > 4 { 3 } else { 1 }].to_owned()]
    }

    #[test]
    fn a_script_that_redis_has_lost_is_brought_along() {
        for sent_before in [false, true] {
            let mut buffers = Buffers::default();
            let mut session = greeted_session(&mut buffers, true);
            let mut batch = batch(&[Command::Increment { key: visits(), by: 1 }]);
            if sent_before {
                batch.mark_sent();
            }
            session.submit(&mut batch, &mut buffers);
            assert_eq!(send(&mut buffers), ["EVALSHA", "visits"]);
            buffers.receive(b"-NOSCRIPT No matching script. Please use EVAL.\r\n");
            assert!(session.process_replies(&mut buffers).is_ok_and(|answered| answered.is_none()));
            assert_eq!(send(&mut buffers), ["EVAL", "visits"]);
            buffers.receive(b"$1\r\n4\r\n");
            let mut told = Vec::new();
            let done = session.process_replies(&mut buffers).expect("a sound session").expect("all is answered");
            done.complete(StoreError::OutcomeUnknown, |who, total| told.push((who, total)));
            assert_eq!(told, [(0, Ok(5))]);
        }
    }

    #[test]
    fn who_may_not_keep_receipts_counts_without() {
        let key = visits();
        let other = Key::new(b"visits:b").expect("a good name");
        let mut buffers = Buffers::default();
        let mut session = greeted_session(&mut buffers, true);
        let commands = [Command::Increment { key, by: 1 }, Command::Increment { key: other, by: 2 }, Command::Ping];
        session.submit(&mut batch(&commands), &mut buffers);
        let sent = buffers.pending().len();
        buffers.mark_sent(sent);
        buffers.receive(b"-NOPERM No permissions to access a key\r\n$1\r\n4\r\n+PONG\r\n");
        assert!(session.process_replies(&mut buffers).is_ok_and(|answered| answered.is_none()));
        assert_eq!(send(&mut buffers), ["EVAL", "visits"]);
        assert!(!session.is_idle() && session.has_script());
        buffers.receive(b"-NOPERM No permissions to access a key\r\n");
        assert!(session.process_replies(&mut buffers).is_ok_and(|answered| answered.is_none()));
        assert_eq!(send(&mut buffers), ["INCR", "visits"]);
        assert!(!session.is_idle() && !session.has_script());
        buffers.receive(b":5\r\n");
        let mut told = Vec::new();
        let done = session.process_replies(&mut buffers).expect("a sound session").expect("all is answered");
        done.complete(StoreError::OutcomeUnknown, |who, total| told.push((who, total)));
        assert_eq!(told, [(0, Ok(5)), (1, Ok(6)), (2, Ok(0))]);
    }

    #[test]
    fn what_was_counted_with_a_receipt_is_not_sent_again_without() {
        let [one, other] = [&b"a"[..], b"b"].map(|name| Key::new(name).expect("a good name"));
        let mut buffers = Buffers::default();
        let mut session = greeted_session(&mut buffers, true);
        session.submit(
            &mut batch(&[Command::Increment { key: one, by: 1 }, Command::Increment { key: other, by: 1 }]),
            &mut buffers,
        );
        let sent = buffers.pending().len();
        buffers.mark_sent(sent);
        buffers.receive(b"$1\r\n4\r\n-NOPERM No permissions to access a key\r\n");
        assert!(session.process_replies(&mut buffers).is_ok_and(|answered| answered.is_none()));
        assert_eq!(send(&mut buffers), ["EVAL", "b"]);
        buffers.receive(b"-NOPERM No permissions to access a key\r\n");
        assert!(session.process_replies(&mut buffers).is_ok_and(|answered| answered.is_none()));
        // It breaks before a byte of the second try has left.
        let (mut owed, mut told) = (session.into_leftover(&buffers), Vec::new());
        assert_eq!(owed.recovery, Recovery::Fail);
        owed.batch.complete(StoreError::OutcomeUnknown, |who, total| told.push((who, total)));
        assert_eq!(told, [(0, Ok(5)), (1, Err(StoreError::OutcomeUnknown))]);
    }

    #[test]
    fn what_is_refused_the_second_time_may_have_been_counted_the_first() {
        for refusal in [
            "NOPERM No permissions to access a key",
            "NOSCRIPT No matching script.",
            "BUSY Redis is busy",
            "READONLY a replica",
        ] {
            let mut buffers = Buffers::default();
            let mut session = greeted_session(&mut buffers, true);
            session.submit(&mut batch(&[Command::Increment { key: visits(), by: 1 }]), &mut buffers);
            buffers.mark_sent(1);
            let mut owed = session.into_leftover(&buffers);
            let mut buffers = Buffers::default();
            let mut session = greeted_session(&mut buffers, true);
            session.submit(&mut owed.batch, &mut buffers);
            while !buffers.pending().is_empty() {
                send(&mut buffers);
                buffers.receive(format!("-{refusal}\r\n").as_bytes());
                let _ = session.process_replies(&mut buffers);
            }
            let (mut owed, mut told) = (session.into_leftover(&buffers), Vec::new());
            assert_eq!(owed.recovery, Recovery::Fail);
            owed.batch.complete(StoreError::Unavailable, |who, total| told.push((who, total)));
            assert_eq!(told, [(0, Err(StoreError::OutcomeUnknown))], "{refusal}");
        }
    }

    #[test]
    fn what_is_sent_again_is_what_had_no_reply_under_the_same_number() {
        let [one, other] = [&b"a"[..], b"b"].map(|name| Key::new(name).expect("a good name"));
        let mut buffers = Buffers::default();
        let mut session = greeted_session(&mut buffers, true);
        session.submit(
            &mut batch(&[Command::Increment { key: one, by: 1 }, Command::Increment { key: other, by: 1 }]),
            &mut buffers,
        );
        let first = buffers.pending().to_vec();
        buffers.mark_sent(first.len());
        buffers.read_buf().put_slice(b"$1\r\n4\r\n");
        assert!(session.process_replies(&mut buffers).is_ok_and(|answered| answered.is_none()));
        let mut owed = session.into_leftover(&buffers);
        // A connection that breaks before a byte has left does not make it less doubtful.
        for sent in [0, 1] {
            assert_eq!(owed.recovery, Recovery::Resend);
            let mut buffers = Buffers::default();
            let mut session = greeted_session(&mut buffers, true);
            session.submit(&mut owed.batch, &mut buffers);
            assert!(
                first.ends_with(buffers.pending())
                    && !buffers.pending().is_empty()
                    && buffers.pending().len() < first.len()
            );
            buffers.mark_sent(sent);
            owed = session.into_leftover(&buffers);
        }
        let mut buffers = Buffers::default();
        let mut session = greeted_session(&mut buffers, true);
        session.submit(&mut owed.batch, &mut buffers);
        buffers.read_buf().put_slice(b"$1\r\n8\r\n");
        let mut told = Vec::new();
        let done = session.process_replies(&mut buffers).expect("a sound session").expect("all is answered");
        done.complete(StoreError::OutcomeUnknown, |who, total| told.push((who, total)));
        assert_eq!(told, [(0, Ok(5)), (1, Ok(9))]);
    }
}
