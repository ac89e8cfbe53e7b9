//! A Redis that says anything at all to a [`Session`].
//!
//! - Every ask is told exactly once: its number, or why there is none; what was not settled is handed back.
//! - A number comes from a reply to its own batch, in the order of lines, and from nothing else.
//! - Nothing is in doubt of which no byte was sent, and nothing is sent again without a receipt.
//! - A session that goes on has room for more bytes, and ends when nothing else comes than what makes no reply.

use std::time::Duration;

use bytes::BufMut;
use notch::batch::Batch;
use notch::counter::{Ask, Fault, Key};
use notch::redis::{Fate, Login, Receipts, Sender, Session};
use notch::resp::{self, Reply, decode};
use notch::wire::{MAX_UNREAD, Wire};

use super::arrival::{Arrival, Pieces};

/// The first line of `data` is what we do: a word for the login (`u` user, `w` password, `d` database, else nothing),
/// then a word for each batch, with a letter for each ask (`c`, `C` count, `t` total, `p` ping, else nothing). The rest
/// is what Redis says.
pub fn holds(data: &[u8]) {
    let (plan, says) = data.split_at(data.iter().position(|&byte| byte == b'\n').map_or(data.len(), |end| end + 1));
    let mut words = plan.split(u8::is_ascii_whitespace);
    let login = login(words.next().unwrap_or_default());
    let batches: Vec<Vec<Ask>> = words.map(|word| word.iter().filter_map(ask).collect()).collect();
    for pieces in Pieces::of(data) {
        for sends in [usize::MAX, 1, 0] {
            let arrival = Arrival::new(says, pieces);
            converse(&login, &batches, says, arrival, sends);
        }
    }
}

fn login(word: &[u8]) -> Login {
    let has = |letter| word.contains(&letter);
    Login {
        host: "redis".to_owned(),
        port: 6379,
        username: has(b'u').then(|| "u".to_owned()),
        password: has(b'w').then(|| "p".to_owned()),
        db: has(b'd').into(),
    }
}

fn ask(letter: &u8) -> Option<Ask> {
    let key = |name| Key::new(name).expect("a good name");
    match letter {
        b'c' => Some(Ask::Count { key: key(b"visits"), by: 1 }),
        b'C' => Some(Ask::Count { key: key(b"visits:blog"), by: 3 }),
        b't' => Some(Ask::Total { key: key(b"visits") }),
        b'p' => Some(Ask::Ping),
        _ => None,
    }
}

/// Plays it through, with a socket that takes `sends` bytes of each batch.
fn converse(login: &Login, batches: &[Vec<Ask>], says: &[u8], mut arrival: Arrival<'_>, sends: usize) {
    let mut wire = Wire::default();
    let mut session = Session::open(
        login,
        &Key::new(b"visits").expect("a good name"),
        Sender { id: 84, patience: Duration::from_secs(2), bound: None },
        &mut wire,
    );
    let greetings = 4 + usize::from(login.password.is_some()) + usize::from(login.db != 0);
    send(&mut wire, usize::MAX);
    // Who has no such script, or may not keep receipts, is asked again in another way, so that what replies belong to
    // is not told by their order.
    let asks_again = |line: &[u8]| line.starts_with(b"NOPERM") || line.starts_with(b"NOSCRIPT");
    let again = replies(says).skip(greetings).any(|reply| matches!(reply, Reply::Error(line) if asks_again(line)));
    let mut replies = replies(says).skip(greetings);
    let mut left = batches.iter().filter(|asks| !asks.is_empty());
    let mut owed: Option<&Vec<Ask>> = None;
    let mut broken = false;
    while !arrival.is_over() {
        if session.is_free() && owed.is_none() {
            let Some(asks) = left.next() else { break };
            owed = Some(asks);
            send(&mut wire, usize::MAX);
            let mut batch = Batch::default();
            for (who, ask) in asks.iter().enumerate() {
                assert!(batch.push(ask, who));
            }
            batch.begin(1);
            session.submit(&mut batch, &mut wire);
            assert_eq!(batch.waiters(), 0);
            send(&mut wire, sends);
        }
        let room = wire.room().remaining_mut();
        assert!(room > 0, "it waits for more, and has no room for it");
        wire.room().put_slice(arrival.next(room));
        // Settled by the greeting, before the first batch.
        let receipts = session.receipts() != Receipts::Refused;
        match session.settle(&mut wire) {
            Err(_) => {
                broken = true;
                break;
            }
            Ok(None) => {}
            Ok(Some(batch)) => {
                let asks = owed.take().expect("a batch that somebody submitted");
                let mut told = Told::new(asks, receipts);
                batch.tell(Fault::Lost, |who, total| told.take(who, total));
                told.check(&mut replies, true, again);
            }
        }
        assert!(wire.unread().len() < MAX_UNREAD);
    }
    if !broken {
        let room = wire.room().remaining_mut();
        wire.room().put_slice(&vec![b'x'; room]);
        assert!(session.settle(&mut wire).is_err(), "it waits for what will never be whole");
    }
    let receipts = session.receipts() != Receipts::Refused;
    let kept = session.receipts() == Receipts::Kept;
    let mut rest = session.into_owed(&wire);
    let Some(asks) = owed else {
        assert!(rest.batch.waiters() == 0, "it owes what nobody asked for");
        return;
    };
    // A reply to what was not sent is from a Redis that lies; but what it is told counts as counted.
    let untouched = sends == 0 && rest.batch.replies().next().is_none();
    assert!(again || (rest.fate == Fate::Unsent) == untouched);
    assert!(kept || rest.fate != Fate::Repeatable, "it may count twice");
    let mut told = Told::new(asks, receipts);
    rest.batch.tell(Fault::Lost, |who, total| told.take(who, total));
    told.check(&mut replies, false, again);
}

fn send(wire: &mut Wire, most: usize) {
    let sent = wire.unsent().len().min(most);
    wire.sent(sent);
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
    asks: &'a [Ask],
    /// A count is answered by what there was before it.
    receipts: bool,
    totals: Vec<Option<Result<i64, Fault>>>,
}

impl<'a> Told<'a> {
    fn new(asks: &'a [Ask], receipts: bool) -> Self {
        Self { asks, receipts, totals: vec![None; asks.len()] }
    }

    fn take(&mut self, who: usize, total: Result<i64, Fault>) {
        let before = self.totals[who].replace(total);
        assert_eq!(before, None, "told twice");
    }

    /// Compares with the replies, one for each kind of ask in the order in which they first came. Where not all are
    /// `settled`, some asks may have been left without a number. Where it was asked `again`, being
    /// told once is all that is looked at.
    fn check(&self, replies: &mut dyn Iterator<Item = Reply<'_>>, settled: bool, again: bool) {
        let mut kinds: Vec<Ask> = Vec::new();
        for ask in self.asks {
            if !kinds.contains(ask) {
                kinds.push(*ask);
            }
        }
        for kind in kinds {
            let reply = replies.next();
            let of = |ask: &Ask| if let Ask::Count { by, .. } = ask { *by } else { 0 };
            let mut to_come: i64 = self.asks.iter().filter(|ask| **ask == kind).map(of).sum();
            let sum = to_come;
            let number = |reply| self.number(kind, sum, reply);
            for (_, told) in self.asks.iter().zip(&self.totals).filter(|(ask, _)| **ask == kind) {
                to_come -= of(&kind);
                let told = told.expect("told nothing");
                match told {
                    _ if again => {}
                    Ok(told) => {
                        assert_eq!(Some(told), reply.and_then(number).map(|number| number.wrapping_sub(to_come)))
                    }
                    Err(Fault::Refused(_)) => assert!(reply.is_some() && reply.and_then(number).is_none()),
                    Err(Fault::Down | Fault::Lost | Fault::Full) => assert!(!settled, "settled, and in doubt"),
                }
                let reads = !matches!(kind, Ask::Count { .. });
                assert!(!reads || told != Err(Fault::Lost), "a read is never in doubt");
            }
        }
    }

    /// The number that a reply holds for `sum` asks of a kind.
    fn number(&self, ask: Ask, sum: i64, reply: Reply<'_>) -> Option<i64> {
        match (ask, reply) {
            (Ask::Count { .. }, Reply::Integer(total)) if !self.receipts => Some(total),
            (Ask::Count { .. }, Reply::Bulk(before)) if self.receipts => resp::integer(before)?.checked_add(sum),
            (Ask::Total { .. }, Reply::Bulk(digits)) => resp::integer(digits),
            (Ask::Total { .. }, Reply::Null) | (Ask::Ping, Reply::Simple(b"PONG")) => Some(0),
            _ => None,
        }
    }
}
