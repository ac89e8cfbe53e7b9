//! The state machine of one connection to Redis, over [`Buffers`].
//!
//! ```text
//! open -> Login (AUTH, SELECT) -> LoadScript -> Memory -> Total -> Role -> Ping -> Ready
//! Ready: idle -- submit --> in flight -- all replies --> Acks, if replicas acknowledge -- reply to WAIT --> idle
//! any state -- SessionError, or the socket closes --> into_leftover
//! ```
//!
//! Replies are matched to commands by their order alone. After an unexpected byte, that order is lost: the session ends
//! with a [`SessionError`] and is dropped with its socket, so that a late reply cannot reach another client.
//! [`Session::into_leftover`] returns the batch in flight and whether it may be sent again ([`Recovery`]).
//!
//! Increments are made by the first [`IncrementMode`] that Redis allows. The handshake loads the script, which is then
//! called by its digest. If Redis has lost it or does not load it for this user, each increment carries the script. If
//! Redis runs no scripts, or rejects the keys of receipts, increments are plain `INCRBY` and are never sent twice.
//!
//! The session ends with a node that is a replica, by its `ROLE` or a `READONLY` error: after a failover, a new
//! connection may reach the primary. It also ends when the node rejects commands that it, or another node, may accept
//! soon ([`Rejection::is_of_node`]): if there are several servers, or if the batch was sent before. Such an error does
//! not show whether an earlier attempt was applied, so a command in doubt stays in doubt. One that was never sent before
//! was not applied, and is put back, whatever became of the others of its batch.
//!
//! With `REDIS_ACKS`, one `WAIT` follows the commands of each batch with increments. Until enough replicas have
//! acknowledged them the batch is in doubt.
//!
//! A receipt must exist as long as its batch may be sent again. Redis may evict it earlier where memory is bounded and
//! `maxmemory-policy` allows it. The handshake reads both (`INFO memory`), and where receipts can be evicted no batch
//! is sent again ([`Receipts`]).

use std::time::Duration;

use super::errors::rejection;
use super::receipt::{Producer, Receipts, SCRIPT, increment_prefix, write_arguments};
use super::{Redirect, RedisConfig, Servers};
use crate::batch::Batch;
use crate::buffers::Buffers;
use crate::counter::{Command, Key, Rejection, StoreError};
use crate::decimal::Decimal;
use crate::resp::{self, Malformed, Reply};

/// One connection, from the handshake to the first error. `W` identifies a waiter to the driver.
pub struct Session<W> {
    phase: Phase,
    producer: Producer,
    mode: IncrementMode,
    receipts_evictable: bool,
    /// The total of the main counter at the handshake, if the user may read it.
    total: Option<Result<i64, Rejection>>,
    /// The key of the last increment by the script, and the start of its command, which is likely to be needed again.
    prefix: (Option<Key>, Vec<u8>),
    in_flight: Batch<W>,
    /// Floors of the counters in flight that have one.
    floors: Vec<(Key, i64)>,
    /// Bytes of the batch in flight.
    encoded: usize,
    /// Commands in flight that the node rejected for the moment: the first cause.
    refusal: Option<Rejection>,
    /// An increment was rejected by a replica.
    is_replica: bool,
    /// Where a `MOVED` error points to.
    redirect: Option<Redirect>,
    servers: ServerKind,
    acks: Acks,
}

/// The kind of [`Servers`].
#[derive(Clone, Copy, PartialEq, Eq)]
enum ServerKind {
    Single,
    Sentinel,
    Cluster,
}

/// How many replicas must acknowledge, and whether they have.
struct Acks {
    /// `REDIS_ACKS`.
    required: u32,
    /// How long they may take, in milliseconds.
    timeout: i64,
    state: AcksState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum AcksState {
    /// The batch in flight needs none.
    NotNeeded,
    /// `WAIT` was sent.
    Pending,
    /// Enough replicas have acknowledged the batch.
    Enough,
    /// Fewer have.
    TooFew,
    /// Redis rejected `WAIT`.
    Rejected,
}

/// The reply that is expected next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// To `AUTH` and `SELECT`: this many of them.
    Login(usize),
    /// To `SCRIPT LOAD`.
    LoadScript,
    /// To `INFO memory`.
    Memory,
    /// To `GET` of the main counter.
    Total,
    /// To `ROLE`.
    Role,
    /// To `PING`.
    Ping,
    /// To the batch in flight, if there is one.
    Ready,
}

/// How visits are counted, in the order of preference.
enum IncrementMode {
    /// By the script that Redis has loaded, with its digest (`EVALSHA`).
    EvalSha([u8; 40]),
    /// By the script, which is sent each time (`EVAL`).
    Eval,
    /// By `INCRBY`, without a receipt.
    Plain,
}

/// Why a session ended. Its socket must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionError {
    /// Redis rejected the handshake: password, user or database, or it is not ready yet.
    Handshake(Rejection),
    /// The server is a replica: after a failover, a new connection may reach the primary.
    Replica,
    /// The node rejects commands that it, or another node, may accept soon.
    Refused(Rejection),
    /// Another node of the cluster has the keys: see [`Session::redirect`].
    Moved,
    /// Fewer replicas than required have acknowledged a batch.
    Unacknowledged,
    /// Redis rejected `WAIT`.
    WaitRejected,
    /// A `MOVED` error has no valid address.
    InvalidAddress,
    /// A reply is not RESP, has a type that the command cannot return, or belongs to no command.
    Protocol,
}

impl From<Malformed> for SessionError {
    fn from(_: Malformed) -> Self {
        Self::Protocol
    }
}

/// The batch that was in flight when a session ended, in parts. Each may be empty.
pub struct Leftover<W> {
    /// The commands that have their final replies.
    pub replied: Batch<W>,
    /// The commands that the store refused and that no earlier attempt has executed, and reads: they may be sent at any
    /// time, merged with others.
    pub unsent: Batch<W>,
    /// The other commands.
    pub batch: Batch<W>,
    /// What may be done with `batch`.
    pub recovery: Recovery,
}

/// What may be done with commands without a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// There are none.
    None,
    /// No byte of them was sent: they may be sent at any time, merged with others.
    Requeue,
    /// They may have been counted, and have receipts: they may be sent again unchanged, before any other batch.
    Resend,
    /// They may not be sent again. Their visits are in doubt.
    Fail,
}

impl<W> Session<W> {
    /// Starts a session: writes the commands of the handshake. These are `AUTH` and `SELECT` as far as `config` needs
    /// them, `SCRIPT LOAD`, `INFO memory`, `GET` of the `main` counter, `ROLE`, and `PING`, which fails while Redis is
    /// starting.
    #[must_use]
    pub fn open(config: &RedisConfig, main: &Key, producer: Producer, buffers: &mut Buffers) -> Self {
        let has_password = config.credentials.write_auth(buffers.output());
        let mut write = |arguments: &[&[u8]]| resp::write_command(buffers.output(), arguments);
        if config.db != 0 {
            write(&[b"SELECT", &Decimal::new(i64::from(config.db))]);
        }
        write(&[b"SCRIPT", b"LOAD", SCRIPT]);
        write(&[b"INFO", b"memory"]);
        write(&[b"GET", main.as_bytes()]);
        write(&[b"ROLE"]);
        write(&[b"PING"]);
        let phase = match usize::from(has_password) + usize::from(config.db != 0) {
            0 => Phase::LoadScript,
            logins => Phase::Login(logins),
        };
        Self {
            phase,
            producer,
            mode: IncrementMode::Plain,
            receipts_evictable: true,
            total: None,
            prefix: (None, Vec::new()),
            in_flight: Batch::default(),
            floors: Vec::new(),
            encoded: 0,
            refusal: None,
            is_replica: false,
            redirect: None,
            servers: match config.servers {
                Servers::Single(_) | Servers::Unix(_) => ServerKind::Single,
                Servers::Sentinel { .. } => ServerKind::Sentinel,
                Servers::Cluster { .. } => ServerKind::Cluster,
            },
            acks: Acks {
                required: config.acks,
                // A shorter time than any reply timeout. WAIT would wait for ever with 0.
                timeout: (producer.retry_window / 8).min(MAX_WAIT).as_millis().max(1) as i64,
                state: AcksState::NotNeeded,
            },
        }
    }

    /// Returns whether a batch in doubt may be sent again. Valid after the handshake; changes to [`Receipts::Refused`]
    /// when a batch shows that Redis rejects receipts.
    #[must_use]
    pub fn receipts(&self) -> Receipts {
        match self.mode {
            IncrementMode::Plain => Receipts::Refused,
            _ if self.receipts_evictable => Receipts::Evictable,
            _ => Receipts::Kept,
        }
    }

    /// Returns `true` if visits are counted by the script.
    fn has_script(&self) -> bool {
        !matches!(self.mode, IncrementMode::Plain)
    }

    /// Returns the total of the main counter at the handshake, or why its value is not a count; `None` if the user may
    /// not read it.
    #[must_use]
    pub fn total(&self) -> Option<Result<i64, Rejection>> {
        self.total
    }

    /// Returns whether the server seems to expect TLS: it has closed the connection before the handshake was past the
    /// login, or its reply is an alert (RFC 8446, section 6).
    #[must_use]
    pub fn expects_tls(&self, buffers: &Buffers) -> bool {
        matches!(self.phase, Phase::Login(_) | Phase::LoadScript) && matches!(buffers.received(), [] | [TLS_ALERT, ..])
    }

    /// Returns where the keys are, after [`SessionError::Moved`].
    #[must_use]
    pub fn redirect(&self) -> Option<&Redirect> {
        self.redirect.as_ref()
    }

    /// Returns the waiter of the batch in flight that arrived first.
    #[must_use]
    pub fn first_waiter(&self) -> Option<&W> {
        self.in_flight.first_waiter()
    }

    /// Removes the expired waiters at the front of the batch in flight; their visits are in doubt. The commands stay as
    /// they were sent. See [`Batch::expire`].
    pub fn expire(&mut self, is_expired: impl Fn(&W) -> bool, notify: impl FnMut(W, Result<i64, StoreError>)) {
        self.in_flight.expire(StoreError::OutcomeUnknown, is_expired, notify);
    }

    /// Returns `true` if all replies have arrived, so that a batch may be submitted.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.phase == Phase::Ready && self.in_flight.is_empty()
    }

    /// Writes the commands of `batch` that have no reply, and leaves `batch` empty. The session must be
    /// [idle](Session::is_idle). `floor` returns the number to which a counter is raised before it is incremented, or
    /// 0. It is not called for the counter of the last increment, which needs none.
    pub fn submit(&mut self, batch: &mut Batch<W>, floor: &mut dyn FnMut(&Key) -> i64, buffers: &mut Buffers) {
        debug_assert!(self.is_idle(), "one batch at a time");
        std::mem::swap(&mut self.in_flight, batch);
        self.floors.clear();
        for command in self.in_flight.pending_commands() {
            if let Command::Increment { key, .. } = command
                && self.prefix.0.as_ref() != Some(key)
            {
                let floor = floor(key);
                if floor > 0 {
                    self.floors.push((*key, floor));
                }
            }
        }
        self.write(buffers);
    }

    /// Writes the commands in flight that have no reply yet.
    fn write(&mut self, buffers: &mut Buffers) {
        let before = buffers.pending().len();
        let script: Option<[&[u8]; 2]> = match &self.mode {
            IncrementMode::EvalSha(digest) => Some([b"EVALSHA", digest]),
            IncrementMode::Eval => Some([b"EVAL", SCRIPT]),
            IncrementMode::Plain => None,
        };
        if script.is_none() {
            // Checking the limit and then counting would be two steps, not one atomic step.
            let rejected = Err(StoreError::Rejected(Rejection::ScriptsRequired));
            self.in_flight.resolve_where(|command| self.producer.limit_of(command).is_some(), rejected);
        }
        for command in self.in_flight.pending_commands() {
            let out = buffers.output();
            match (command, script) {
                (Command::Increment { key, by }, Some(script)) => {
                    let limit = self.producer.limit_of(command);
                    let floor = self.floors.iter().find(|(other, _)| other == key).map(|&(_, floor)| floor);
                    if floor.is_some() {
                        // The prefix is not kept: the counter needs no floor next time.
                        out.extend_from_slice(&increment_prefix(script, key, limit, true, &self.producer));
                    } else {
                        if self.prefix.0.as_ref() != Some(key) {
                            self.prefix = (Some(*key), increment_prefix(script, key, limit, false, &self.producer));
                        }
                        out.extend_from_slice(&self.prefix.1);
                    }
                    write_arguments(out, self.in_flight.sequence(), *by, limit, floor);
                }
                (Command::Increment { key, by: 1 }, None) => resp::write_command(out, &[b"INCR", key.as_bytes()]),
                (Command::Increment { key, by }, None) => {
                    resp::write_command(out, &[b"INCRBY", key.as_bytes(), &Decimal::new(*by)]);
                }
                (Command::Get { key }, _) => resp::write_command(out, &[b"GET", key.as_bytes()]),
                (Command::Ping, _) => resp::write_command(out, &[b"PING"]),
            }
        }
        self.acks.state = AcksState::NotNeeded;
        if self.acks.required > 0 && self.in_flight.has_increments() {
            let (required, timeout) = (Decimal::new(self.acks.required.into()), Decimal::new(self.acks.timeout));
            resp::write_command(buffers.output(), &[b"WAIT", &required, &timeout]);
            self.acks.state = AcksState::Pending;
            self.in_flight.hold(true);
        }
        self.encoded = buffers.pending().len() - before;
    }

    /// Processes the received bytes. Returns the batch in flight once it has all its replies; the caller must
    /// [complete](Batch::complete) it at once.
    ///
    /// # Errors
    /// [`SessionError`]: the session must be ended by [`Session::into_leftover`].
    pub fn process_replies(&mut self, buffers: &mut Buffers) -> Result<Option<&mut Batch<W>>, SessionError> {
        while let Some((reply, length)) = resp::decode(buffers.received())? {
            match self.phase {
                Phase::Ready => self.record_reply(reply)?,
                phase => self.phase = self.advance_handshake(phase, reply)?,
            }
            buffers.consume(length);
        }
        // What the node has refused needs no acknowledgement, so the reply to `WAIT` is not awaited.
        if let Some(rejection) = self.refusal
            && self.is_refused()
        {
            return Err(self.end_of_refusal(rejection));
        }
        let is_complete = self.is_complete();
        // A partial reply that fills the buffer never becomes complete, and one that belongs to no command is an error.
        if buffers.is_full() || (is_complete && !buffers.received().is_empty()) {
            return Err(SessionError::Protocol);
        }
        if !is_complete {
            return Ok(None);
        }
        if let Some(rejection) = self.refusal {
            return Err(self.end_of_refusal(rejection));
        }
        if self.is_replica {
            return Err(SessionError::Replica);
        }
        self.fall_back(buffers);
        if !self.is_complete() || self.in_flight.is_empty() {
            return Ok(None);
        }
        if self.has_counted() {
            match self.acks.state {
                AcksState::TooFew => return Err(SessionError::Unacknowledged),
                AcksState::Rejected => return Err(SessionError::WaitRejected),
                AcksState::NotNeeded | AcksState::Pending | AcksState::Enough => {}
            }
        }
        self.in_flight.hold(false);
        Ok(Some(&mut self.in_flight))
    }

    /// Returns whether all replies have arrived.
    fn is_complete(&self) -> bool {
        self.phase == Phase::Ready && self.in_flight.next_command().is_none() && self.acks.state != AcksState::Pending
    }

    /// Returns whether all commands have a reply, and the node has rejected some for the moment and counted none.
    fn is_refused(&self) -> bool {
        self.refusal.is_some() && self.in_flight.next_command().is_none() && !self.has_counted()
    }

    /// Returns whether an increment in flight has a number.
    fn has_counted(&self) -> bool {
        self.in_flight.replies().any(|(command, reply)| command.is_increment() && reply.is_ok())
    }

    /// Returns the error that ends a session with a node that rejects commands for the moment.
    fn end_of_refusal(&self, rejection: Rejection) -> SessionError {
        match rejection {
            _ if self.is_replica => SessionError::Replica,
            Rejection::Moved if self.servers == ServerKind::Cluster => match self.redirect {
                Some(_) => SessionError::Moved,
                None => SessionError::InvalidAddress,
            },
            rejection => SessionError::Refused(rejection),
        }
    }

    /// Handles a reply of the handshake and returns the next phase.
    fn advance_handshake(&mut self, phase: Phase, reply: Reply<'_>) -> Result<Phase, SessionError> {
        match phase {
            Phase::Login(remaining) => {
                expect_reply(reply, b"OK")?;
                Ok(if remaining > 1 { Phase::Login(remaining - 1) } else { Phase::LoadScript })
            }
            Phase::LoadScript => {
                self.mode = parse_digest(reply)?;
                Ok(Phase::Memory)
            }
            Phase::Memory => {
                self.receipts_evictable = may_evict(reply)?;
                Ok(Phase::Total)
            }
            Phase::Total => {
                if let Reply::Error(line) = reply
                    && self.servers == ServerKind::Cluster
                    && rejection(line) == Rejection::Moved
                {
                    self.redirect = Redirect::parse(line);
                    return Err(self.end_of_refusal(Rejection::Moved));
                }
                self.total = parse_total(reply)?;
                Ok(Phase::Role)
            }
            Phase::Role => {
                // In a cluster, a replica redirects commands to the primary.
                if is_replica(reply)? && self.servers != ServerKind::Cluster {
                    return Err(SessionError::Replica);
                }
                Ok(Phase::Ping)
            }
            Phase::Ping | Phase::Ready => {
                expect_reply(reply, b"PONG")?;
                Ok(Phase::Ready)
            }
        }
    }

    /// Records a reply to the batch in flight.
    fn record_reply(&mut self, reply: Reply<'_>) -> Result<(), SessionError> {
        let Some(command) = self.in_flight.next_command() else { return self.record_acks(reply) };
        let total = self.parse_reply(command, reply).ok_or(SessionError::Protocol)?;
        self.is_replica |= total == Err(StoreError::Rejected(Rejection::ReadOnly));
        if let (Reply::Error(line), Err(error @ StoreError::Rejected(rejection))) = (reply, total)
            && is_refusal(command, rejection, self.in_flight.may_be_applied(), self.servers)
        {
            self.refusal.get_or_insert(rejection);
            if rejection == Rejection::Moved {
                self.redirect = Redirect::parse(line);
            }
            self.in_flight.record_refusal(error);
            return Ok(());
        }
        let may_be_applied = self.in_flight.may_be_applied();
        let falls_back = if may_be_applied { Self::will_fall_back } else { Self::has_fallback };
        match total {
            Err(error) if falls_back(self, command, total) => self.in_flight.record_refusal(error),
            // A batch that is sent again may be rejected before its receipt is read.
            Err(_) if may_be_applied && command.is_increment() => {
                self.in_flight.record_reply(Err(StoreError::OutcomeUnknown));
            }
            _ => self.in_flight.record_reply(total),
        }
        Ok(())
    }

    /// Records the reply to `WAIT`.
    fn record_acks(&mut self, reply: Reply<'_>) -> Result<(), SessionError> {
        self.acks.state = match (self.acks.state, reply) {
            (AcksState::Pending, Reply::Integer(count)) if count >= self.acks.required.into() => AcksState::Enough,
            (AcksState::Pending, Reply::Integer(_)) => AcksState::TooFew,
            (AcksState::Pending, Reply::Error(line)) => match rejection(line) {
                Rejection::Permission | Rejection::Other => AcksState::Rejected,
                _ => AcksState::TooFew,
            },
            _ => return Err(SessionError::Protocol),
        };
        Ok(())
    }

    /// Writes again, in the next [`IncrementMode`], the increments that Redis rejected because of the script or its
    /// keys. They were rejected as a whole, so nothing was counted.
    fn fall_back(&mut self, buffers: &mut Buffers) {
        let Some((command, rejected)) = self.in_flight.refusals().next() else { return };
        let mode = if self.will_fall_back(command, Err(rejected)) { IncrementMode::Eval } else { IncrementMode::Plain };
        self.mode = mode;
        self.prefix.0 = None;
        self.in_flight.retry_refused(|refusal| refusal == rejected);
        self.write(buffers);
    }

    /// Returns `true` if an increment with this reply is sent again with the script, so that its outcome is still open.
    fn will_fall_back(&self, command: &Command, total: Result<i64, StoreError>) -> bool {
        matches!(self.mode, IncrementMode::EvalSha(_)) && self.has_fallback(command, total)
    }

    /// Returns `true` if an increment with this reply may be counted in another [`IncrementMode`]. Under a limit it
    /// needs a script, and `NOPERM` may concern the set of names and not the receipt.
    fn has_fallback(&self, command: &Command, total: Result<i64, StoreError>) -> bool {
        let is_limited = self.producer.limit_of(command).is_some();
        match total {
            _ if !self.has_script() => false,
            Err(StoreError::Rejected(Rejection::NoScript)) => {
                command.is_increment() && (!is_limited || matches!(self.mode, IncrementMode::EvalSha(_)))
            }
            Err(StoreError::Rejected(Rejection::Permission)) => command.is_increment() && !is_limited,
            _ => false,
        }
    }

    /// Returns the result in the reply to `command`, or `None` if the command cannot have such a reply.
    fn parse_reply(&self, command: &Command, reply: Reply<'_>) -> Option<Result<i64, StoreError>> {
        match (command, reply) {
            (_, Reply::Error(line)) => Some(Err(StoreError::Rejected(rejection(line)))),
            (Command::Increment { by, .. }, Reply::Bulk(before)) if self.has_script() => Some(total_after(before, *by)),
            (Command::Increment { .. }, Reply::Integer(total)) if !self.has_script() => Some(Ok(total)),
            (Command::Get { .. }, Reply::Bulk(digits)) => Some(parse_count(digits)),
            (Command::Get { .. }, Reply::Null) => Some(Ok(0)),
            (Command::Ping, Reply::Simple(b"PONG")) => Some(Ok(0)),
            _ => None,
        }
    }

    /// Ends the session and returns the batch in flight, in parts.
    #[must_use]
    pub fn into_leftover(self, buffers: &Buffers) -> Leftover<W> {
        let receipts = self.receipts();
        let Self { in_flight: mut batch, acks, encoded, .. } = self;
        let has_reply = batch.replies().next().is_some() || batch.refusals().next().is_some();
        let is_sent = buffers.pending().len() < encoded || has_reply;
        if acks.state == AcksState::Enough {
            batch.hold(false);
        }
        batch.discard_held();
        if batch.may_be_applied() {
            // An earlier attempt may have been executed.
            batch.retry_refused(|_| true);
        }
        let (replied, unsent) = (batch.take_replied(), batch.take_unsent(is_sent && receipts == Receipts::Kept));
        if is_sent {
            batch.mark_sent();
        }
        let recovery = match batch.may_be_applied() {
            _ if batch.is_empty() => Recovery::None,
            false => Recovery::Requeue,
            true if receipts == Receipts::Kept => Recovery::Resend,
            true => Recovery::Fail,
        };
        Leftover { replied, unsent, batch, recovery }
    }
}

/// Parses the value of a counter.
fn parse_count(digits: &[u8]) -> Result<i64, StoreError> {
    resp::parse_integer(digits).ok_or(StoreError::Rejected(Rejection::NotANumber))
}

/// Returns the number of the last of `by` visits, given the value of the counter before them.
fn total_after(before: &[u8], by: i64) -> Result<i64, StoreError> {
    parse_count(before)?.checked_add(by).ok_or(StoreError::Rejected(Rejection::Overflow))
}

/// Checks a reply of the handshake that must be the simple string `expected`.
fn expect_reply(reply: Reply<'_>, expected: &[u8]) -> Result<(), SessionError> {
    match reply {
        Reply::Simple(text) if text == expected => Ok(()),
        Reply::Error(line) => match rejection(line) {
            // A user without permission for `PING` may count, and a store that cannot write to disk can be read.
            Rejection::Permission | Rejection::CannotPersist if expected == b"PONG" => Ok(()),
            rejection => Err(SessionError::Handshake(rejection)),
        },
        _ => Err(SessionError::Protocol),
    }
}

/// Returns the mode that the reply to `SCRIPT LOAD` allows. A user who may not load a script may be allowed to send
/// one.
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

/// Returns whether the command is to be sent again, to this node or another, after this rejection. `may_be_applied`:
/// the batch was sent before.
fn is_refusal(command: &Command, rejection: Rejection, may_be_applied: bool, servers: ServerKind) -> bool {
    let is_repeated = may_be_applied && command.is_increment();
    match rejection {
        _ if rejection.is_of_node() => is_repeated || servers != ServerKind::Single,
        // The receipt is written again first, which these reject.
        Rejection::Busy | Rejection::OutOfMemory | Rejection::CannotPersist => is_repeated,
        _ => false,
    }
}

/// Returns whether the reply to `ROLE` is that of a replica. A user who may not ask is served as before.
fn is_replica(reply: Reply<'_>) -> Result<bool, SessionError> {
    match reply {
        Reply::Array(mut items) => match items.next() {
            Some(Reply::Bulk(b"master")) => Ok(false),
            Some(Reply::Bulk(b"slave")) => Ok(true),
            _ => Err(SessionError::Protocol),
        },
        Reply::Error(line) => match rejection(line) {
            Rejection::Permission | Rejection::Other | Rejection::CannotPersist => Ok(false),
            rejection => Err(SessionError::Handshake(rejection)),
        },
        _ => Err(SessionError::Protocol),
    }
}

/// Parses the reply to `GET` in the handshake. Returns `None` if the user may not read the counter.
fn parse_total(reply: Reply<'_>) -> Result<Option<Result<i64, Rejection>>, SessionError> {
    match reply {
        Reply::Null => Ok(Some(Ok(0))),
        Reply::Bulk(digits) => Ok(Some(resp::parse_integer(digits).ok_or(Rejection::NotANumber))),
        Reply::Error(line) => match rejection(line) {
            // The key is on both nodes, or on its way.
            Rejection::Resharding => Ok(None),
            Rejection::Permission | Rejection::Other | Rejection::CannotPersist => Ok(None),
            rejection if rejection.is_key_specific() => Ok(Some(Err(rejection))),
            rejection => Err(SessionError::Handshake(rejection)),
        },
        _ => Err(SessionError::Protocol),
    }
}

/// Returns `true` if Redis may evict keys that have an expiry, by the reply to `INFO memory`: memory is bounded, and
/// the policy is not `noeviction`. If the reply has no policy, Redis may evict when memory is more than 90 % used. If
/// the user may not run `INFO`, it may.
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
    let limit = bytes("maxmemory:");
    Ok(match field("maxmemory_policy:") {
        Some(policy) => limit > 0 && policy.trim_ascii_end() != b"noeviction",
        None => limit > 0 && bytes("used_memory:") > limit / 10 * 9,
    })
}

/// Longest time that replicas may take to acknowledge a batch, which is also at most an eighth of the retry window.
const MAX_WAIT: Duration = Duration::from_millis(500);

/// First byte of a record of TLS with an alert.
const TLS_ALERT: u8 = 0x15;

#[cfg(test)]
mod tests;
