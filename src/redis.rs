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
use crate::counter::{Command, Key, Rejection, StoreError};
use crate::decimal::Decimal;
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
mod tests;
