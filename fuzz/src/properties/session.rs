//! A Redis that says anything at all to a [`Session`].
//!
//! - Every ask is told exactly once: its number, or why there is none; what was not settled is handed back.
//! - A number comes from a reply to its own batch, in the order of lines, and from nothing else.
//! - Nothing is in doubt of which no byte was sent, and nothing is sent again without a receipt.
//! - A session that goes on has room for more bytes, and ends when nothing else comes than what makes no reply.

use std::time::Duration;

use bytes::BufMut;
use notch::batch::Batch;
use notch::buffers::{Buffers, MAX_RECEIVED};
use notch::counter::{Command, Key, StoreError};
use notch::redis::{Producer, Receipts, Recovery, RedisConfig, Session};
use notch::resp::{self, Reply, decode};

use super::arrival::{Arrival, Pieces};

/// The first line of `data` is what we do: a word for the login (`u` user, `w` password, `d` database, else nothing),
/// then a word for each batch, with a letter for each ask (`c`, `C` count, `t` total, `p` ping, else nothing). The rest
/// is what Redis says.
pub fn holds(data: &[u8]) {
    let (plan, says) = data.split_at(data.iter().position(|&byte| byte == b'\n').map_or(data.len(), |end| end + 1));
    let mut words = plan.split(u8::is_ascii_whitespace);
    let config = config(words.next().unwrap_or_default());
    let batches: Vec<Vec<Command>> = words.map(|word| word.iter().filter_map(command).collect()).collect();
    for pieces in Pieces::of(data) {
        for sends in [usize::MAX, 1, 0] {
            let arrival = Arrival::new(says, pieces);
            converse(&config, &batches, says, arrival, sends);
        }
    }
}

fn config(word: &[u8]) -> RedisConfig {
    let has = |letter| word.contains(&letter);
    RedisConfig {
        host: "redis".to_owned(),
        port: 6379,
        username: has(b'u').then(|| "u".to_owned()),
        password: has(b'w').then(|| "p".to_owned()),
        db: has(b'd').into(),
    }
}

fn command(letter: &u8) -> Option<Command> {
    let key = |name| Key::new(name).expect("a good name");
    match letter {
        b'c' => Some(Command::Increment { key: key(b"visits"), by: 1 }),
        b'C' => Some(Command::Increment { key: key(b"visits:blog"), by: 3 }),
        b't' => Some(Command::Get { key: key(b"visits") }),
        b'p' => Some(Command::Ping),
        _ => None,
    }
}

/// Plays it through, with a socket that takes `sends` bytes of each batch.
fn converse(config: &RedisConfig, batches: &[Vec<Command>], says: &[u8], mut arrival: Arrival<'_>, sends: usize) {
    let mut buffers = Buffers::default();
    let mut session = Session::open(
        config,
        &Key::new(b"visits").expect("a good name"),
        Producer { id: 84, retry_window: Duration::from_secs(2), bound: None },
        &mut buffers,
    );
    let greetings = 4 + usize::from(config.password.is_some()) + usize::from(config.db != 0);
    send(&mut buffers, usize::MAX);
    // Who has no such script, or may not keep receipts, is asked again in another way, so that what replies belong to
    // is not told by their order.
    let asks_again = |line: &[u8]| line.starts_with(b"NOPERM") || line.starts_with(b"NOSCRIPT");
    let again = replies(says).skip(greetings).any(|reply| matches!(reply, Reply::Error(line) if asks_again(line)));
    let mut replies = replies(says).skip(greetings);
    let mut left = batches.iter().filter(|commands| !commands.is_empty());
    let mut owed: Option<&Vec<Command>> = None;
    let mut broken = false;
    while !arrival.is_over() {
        if session.is_idle() && owed.is_none() {
            let Some(commands) = left.next() else { break };
            owed = Some(commands);
            send(&mut buffers, usize::MAX);
            let mut batch = Batch::default();
            for (who, command) in commands.iter().enumerate() {
                assert!(batch.push(command, who));
            }
            batch.set_sequence(1);
            session.submit(&mut batch, &mut buffers);
            assert_eq!(batch.waiter_count(), 0);
            send(&mut buffers, sends);
        }
        let room = buffers.read_buf().remaining_mut();
        assert!(room > 0, "it waits for more, and has no room for it");
        buffers.read_buf().put_slice(arrival.next(room));
        // Settled by the greeting, before the first batch.
        let receipts = session.receipts() != Receipts::Refused;
        match session.process_replies(&mut buffers) {
            Err(_) => {
                broken = true;
                break;
            }
            Ok(None) => {}
            Ok(Some(batch)) => {
                let commands = owed.take().expect("a batch that somebody submitted");
                let mut told = Told::new(commands, receipts);
                batch.complete(StoreError::OutcomeUnknown, |who, total| told.take(who, total));
                told.check(&mut replies, true, again);
            }
        }
        assert!(buffers.received().len() < MAX_RECEIVED);
    }
    if !broken {
        let room = buffers.read_buf().remaining_mut();
        buffers.read_buf().put_slice(&vec![b'x'; room]);
        assert!(session.process_replies(&mut buffers).is_err(), "it waits for what will never be whole");
    }
    let receipts = session.receipts() != Receipts::Refused;
    let kept = session.receipts() == Receipts::Kept;
    let mut rest = session.into_leftover(&buffers);
    let Some(commands) = owed else {
        assert!(rest.batch.waiter_count() == 0, "it owes what nobody asked for");
        return;
    };
    // A reply to what was not sent is from a Redis that lies; but what it is told counts as counted.
    let untouched = sends == 0 && rest.batch.replies().next().is_none();
    assert!(again || (rest.recovery == Recovery::Requeue) == untouched);
    assert!(kept || rest.recovery != Recovery::Resend, "it may count twice");
    let mut told = Told::new(commands, receipts);
    rest.batch.complete(StoreError::OutcomeUnknown, |who, total| told.take(who, total));
    told.check(&mut replies, false, again);
}

fn send(buffers: &mut Buffers, most: usize) {
    let sent = buffers.pending().len().min(most);
    buffers.mark_sent(sent);
}

/// What Redis says, as far as it can be read.
fn replies(mut says: &[u8]) -> impl Iterator<Item = Reply<'_>> {
    std::iter::from_fn(move || {
        let (reply, used) = decode(says).ok().flatten()?;
        says = &says[used..];
        Some(reply)
    })
}

/// Who was told what.
struct Told<'a> {
    commands: &'a [Command],
    /// A count is answered by what there was before it.
    receipts: bool,
    totals: Vec<Option<Result<i64, StoreError>>>,
}

impl<'a> Told<'a> {
    fn new(commands: &'a [Command], receipts: bool) -> Self {
        Self { commands, receipts, totals: vec![None; commands.len()] }
    }

    fn take(&mut self, who: usize, total: Result<i64, StoreError>) {
        let before = self.totals[who].replace(total);
        assert_eq!(before, None, "told twice");
    }

    /// Compares with the replies, one for each kind of ask in the order in which they first came. Where not all are
    /// `settled`, some asks may have been left without a number. Where it was asked `again`, being
    /// told once is all that is looked at.
    fn check(&self, replies: &mut dyn Iterator<Item = Reply<'_>>, settled: bool, again: bool) {
        let mut kinds: Vec<Command> = Vec::new();
        for command in self.commands {
            if !kinds.contains(command) {
                kinds.push(*command);
            }
        }
        for kind in kinds {
            let reply = replies.next();
            let of = |command: &Command| if let Command::Increment { by, .. } = command { *by } else { 0 };
            let mut to_come: i64 = self.commands.iter().filter(|command| **command == kind).map(of).sum();
            let sum = to_come;
            let number = |reply| self.number(kind, sum, reply);
            for (_, told) in self.commands.iter().zip(&self.totals).filter(|(command, _)| **command == kind) {
                to_come -= of(&kind);
                let told = told.expect("told nothing");
                match told {
                    _ if again => {}
                    Ok(told) => {
                        assert_eq!(Some(told), reply.and_then(number).map(|number| number.wrapping_sub(to_come)))
                    }
                    Err(StoreError::Rejected(_)) => assert!(reply.is_some() && reply.and_then(number).is_none()),
                    Err(StoreError::Unavailable | StoreError::OutcomeUnknown | StoreError::Overloaded) => {
                        assert!(!settled, "settled, and in doubt")
                    }
                }
                let reads = !matches!(kind, Command::Increment { .. });
                assert!(!reads || told != Err(StoreError::OutcomeUnknown), "a read is never in doubt");
            }
        }
    }

    /// The number that a reply holds for `sum` asks of a kind.
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
