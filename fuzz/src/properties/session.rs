//! Arbitrary bytes from Redis to a [`Session`].
//!
//! - Every command gets exactly one result, a number or an error; a batch without all replies is returned at the end.
//! - A number is computed from a reply to its own batch, in the order of entries.
//! - A batch of which no byte was sent is not in doubt, and a batch is not sent again without a receipt.
//! - An open session accepts more bytes, and ends if they never complete a reply.

use std::time::Duration;

use bytes::BufMut;
use notch::batch::Batch;
use notch::buffers::{Buffers, MAX_RECEIVED};
use notch::counter::{Command, Key, StoreError};
use notch::redis::{Address, Credentials, Leftover, Producer, Receipts, Recovery, RedisConfig, Servers, Session};
use notch::resp::{self, Reply, decode};

use super::arrival::{Arrival, Pieces};

/// The first line of `data` is the script of the client: a word for the config (`u` user, `w` password, `d` database),
/// then a word for each batch, with a letter for each command (`c`, `C` increment, `t` get, `p` ping); other letters
/// are ignored. The rest is sent by Redis.
pub fn holds(data: &[u8]) {
    let (plan, sent) = data.split_at(data.iter().position(|&byte| byte == b'\n').map_or(data.len(), |end| end + 1));
    let mut parts = plan.split(u8::is_ascii_whitespace);
    let config = config(parts.next().unwrap_or_default());
    let batches: Vec<Vec<Command>> = parts.map(|word| word.iter().filter_map(command).collect()).collect();
    for pieces in Pieces::of(data) {
        for accepted in [usize::MAX, 1, 0] {
            let arrival = Arrival::new(sent, pieces);
            run(&config, &batches, sent, arrival, accepted);
        }
    }
}

fn config(word: &[u8]) -> RedisConfig {
    let has = |letter| word.contains(&letter);
    RedisConfig {
        servers: Servers::Single(Address { host: "redis".to_owned(), port: 6379 }),
        credentials: Credentials {
            username: has(b'u').then(|| "u".to_owned()),
            password: has(b'w').then(|| "p".to_owned()),
        },
        db: has(b'd').into(),
        acks: 0,
        tls: None,
    }
}

fn command(letter: &u8) -> Option<Command> {
    let key = |name| Key::new(name).expect("a valid key");
    match letter {
        b'c' => Some(Command::Increment { key: key(b"visits"), by: 1 }),
        b'C' => Some(Command::Increment { key: key(b"visits:blog"), by: 3 }),
        b't' => Some(Command::Get { key: key(b"visits") }),
        b'p' => Some(Command::Ping),
        _ => None,
    }
}

/// Runs a session over a socket that accepts `accepted` bytes of each batch.
fn run(config: &RedisConfig, batches: &[Vec<Command>], sent: &[u8], mut arrival: Arrival<'_>, accepted: usize) {
    let mut buffers = Buffers::default();
    let mut session = Session::open(
        config,
        &Key::new(b"visits").expect("a valid key"),
        Producer { id: 84, retry_window: Duration::from_secs(2), name_limit: None },
        &mut buffers,
    );
    let handshake = 5 + usize::from(config.credentials.password.is_some()) + usize::from(config.db != 0);
    send(&mut buffers, usize::MAX);
    // After these errors the commands are sent again in another form, so that replies no longer match the first order.
    let is_fallback = |line: &[u8]| line.starts_with(b"NOPERM") || line.starts_with(b"NOSCRIPT");
    let falls_back =
        replies(sent).skip(handshake).any(|reply| matches!(reply, Reply::Error(line) if is_fallback(line)));
    let mut replies = replies(sent).skip(handshake);
    let mut remaining = batches.iter().filter(|commands| !commands.is_empty());
    let mut in_flight: Option<&Vec<Command>> = None;
    let mut has_failed = false;
    while !arrival.is_over() {
        if session.is_idle() && in_flight.is_none() {
            let Some(commands) = remaining.next() else { break };
            in_flight = Some(commands);
            send(&mut buffers, usize::MAX);
            let mut batch = Batch::default();
            for (waiter, command) in commands.iter().enumerate() {
                assert!(batch.push(command, waiter));
            }
            batch.set_sequence(1);
            session.submit(&mut batch, &mut |_| 0, &mut buffers);
            assert_eq!(batch.waiter_count(), 0);
            send(&mut buffers, accepted);
        }
        let space = buffers.read_buf().remaining_mut();
        assert!(space > 0, "the session needs bytes and its buffer is full");
        buffers.read_buf().put_slice(arrival.next(space));
        // Determined by the handshake, before the first batch.
        let receipts = session.receipts() != Receipts::Refused;
        match session.process_replies(&mut buffers) {
            Err(_) => {
                has_failed = true;
                break;
            }
            Ok(None) => {}
            Ok(Some(batch)) => {
                let commands = in_flight.take().expect("a batch that was submitted");
                let mut results = Results::new(commands, receipts);
                batch.complete(StoreError::OutcomeUnknown, |waiter, total| results.record(waiter, total));
                results.check(&mut replies, true, falls_back);
            }
        }
        assert!(buffers.received().len() < MAX_RECEIVED);
    }
    if !has_failed {
        let space = buffers.read_buf().remaining_mut();
        buffers.read_buf().put_slice(&vec![b'x'; space]);
        assert!(
            session.process_replies(&mut buffers).is_err(),
            "the session waits for a reply that cannot be completed"
        );
    }
    let receipts = session.receipts() != Receipts::Refused;
    let kept = session.receipts() == Receipts::Kept;
    let Leftover { replied, unsent, batch, recovery } = session.into_leftover(&buffers);
    let Some(commands) = in_flight else {
        assert!([replied, unsent, batch].iter().all(|batch| batch.waiter_count() == 0), "waiters without a command");
        return;
    };
    // A reply to a command that was not sent is invalid, but the command then counts as sent.
    let is_unsent = accepted == 0 && replied.is_empty() && unsent.is_empty();
    assert_eq!(recovery == Recovery::None, batch.is_empty());
    assert!(falls_back || batch.is_empty() || (recovery == Recovery::Requeue) == is_unsent);
    assert!(kept || recovery != Recovery::Resend, "visits may be counted twice");
    let mut results = Results::new(commands, receipts);
    for mut batch in [replied, unsent, batch] {
        batch.complete(StoreError::OutcomeUnknown, |waiter, total| results.record(waiter, total));
    }
    results.check(&mut replies, false, falls_back);
}

fn send(buffers: &mut Buffers, limit: usize) {
    let length = buffers.pending().len().min(limit);
    buffers.mark_sent(length);
}

/// Returns the replies in `bytes`, up to the first that is incomplete or malformed.
fn replies(mut bytes: &[u8]) -> impl Iterator<Item = Reply<'_>> {
    std::iter::from_fn(move || {
        let (reply, length) = decode(bytes).ok().flatten()?;
        bytes = &bytes[length..];
        Some(reply)
    })
}

/// The results of a batch.
struct Results<'a> {
    commands: &'a [Command],
    /// The reply to an increment is the total before it.
    receipts: bool,
    totals: Vec<Option<Result<i64, StoreError>>>,
}

impl<'a> Results<'a> {
    fn new(commands: &'a [Command], receipts: bool) -> Self {
        Self { commands, receipts, totals: vec![None; commands.len()] }
    }

    fn record(&mut self, waiter: usize, total: Result<i64, StoreError>) {
        let before = self.totals[waiter].replace(total);
        assert_eq!(before, None, "two results");
    }

    /// Compares the results with the replies: one reply for each different command, in the order of the first of each.
    /// Unless the batch `is_complete`, commands may be without a number. If it `falls_back`, only the presence of a
    /// result is checked.
    fn check(&self, replies: &mut dyn Iterator<Item = Reply<'_>>, is_complete: bool, falls_back: bool) {
        let mut kinds: Vec<Command> = Vec::new();
        for command in self.commands {
            if !kinds.contains(command) {
                kinds.push(*command);
            }
        }
        for kind in kinds {
            let reply = replies.next();
            let visits = |command: &Command| if let Command::Increment { by, .. } = command { *by } else { 0 };
            let mut later: i64 = self.commands.iter().filter(|command| **command == kind).map(visits).sum();
            let sum = later;
            let number = |reply| self.number(kind, sum, reply);
            for (_, result) in self.commands.iter().zip(&self.totals).filter(|(command, _)| **command == kind) {
                later -= visits(&kind);
                let result = result.expect("a result");
                match result {
                    _ if falls_back => {}
                    Ok(total) => {
                        assert_eq!(Some(total), reply.and_then(number).map(|number| number.wrapping_sub(later)))
                    }
                    Err(StoreError::Rejected(_)) => assert!(reply.is_some() && reply.and_then(number).is_none()),
                    Err(StoreError::Unavailable | StoreError::OutcomeUnknown | StoreError::Overloaded) => {
                        assert!(!is_complete, "a complete batch is not in doubt")
                    }
                }
                let is_in_doubt = result == Err(StoreError::OutcomeUnknown);
                assert!(kind.is_increment() || !is_in_doubt, "a read is never in doubt");
            }
        }
    }

    /// Returns the total in the reply to `command`, which stands for `sum` visits.
    fn number(&self, command: Command, sum: i64, reply: Reply<'_>) -> Option<i64> {
        match (command, reply) {
            (Command::Increment { .. }, Reply::Integer(total)) if !self.receipts => Some(total),
            (Command::Increment { .. }, Reply::Bulk(before)) if self.receipts => {
                resp::parse_integer(before)?.checked_add(sum)
            }
            (Command::Get { .. }, Reply::Bulk(digits)) => resp::parse_integer(digits),
            (Command::Get { .. }, Reply::Null) | (Command::Ping, Reply::Simple(b"PONG")) => Some(0),
            _ => None,
        }
    }
}
