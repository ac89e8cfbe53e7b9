//! One conversation with Redis, over a [`Wire`]: greeting first, then one batch at a time.
//!
//! Replies carry no name, only their order; so a session that has lost step, or of which a byte cannot be explained, is
//! [`Broken`] and is dropped with its socket: there is no way back, and no late reply that could reach the next visitor.
//! What it owed comes back by [`Session::into_owed`], with the one fact that matters for exactly-once: whether any of
//! it may have reached Redis.
//!
//! Left out on purpose: RESP3, pipelining of several batches.

use crate::batch::Batch;
use crate::counter::{Ask, Cause, Decimal, Fault};
use crate::resp::{self, Malformed, Reply};
use crate::wire::Wire;

/// Where Redis is and who we are there.
#[derive(Clone)]
pub struct Login {
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

/// A session, from the connect to the first thing that goes wrong.
pub struct Session<W> {
    /// Replies to the greeting that have not come yet, the last of them to a `PING`.
    greetings: usize,
    owed: Batch<W>,
    encoded: usize,
    /// It is a replica that we talk to.
    replica: bool,
}

/// Why a session is over. The socket has to go with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// Redis refused the greeting: password, user or database, or it is not there to count yet.
    Greeting(Cause),
    /// We talk to a replica: after a failover, connecting anew may find the primary.
    Replica,
    /// Not RESP, or a reply of a kind that the command cannot have, or one that nobody asked for.
    Garbage,
}

impl From<Malformed> for Broken {
    fn from(_: Malformed) -> Self {
        Self::Garbage
    }
}

/// What a session leaves behind.
pub struct Owed<W> {
    /// Asks without a reply.
    pub batch: Batch<W>,
    /// Whether a byte of them went to the socket: then nobody knows if they were counted.
    pub doubtful: bool,
}

impl<W> Session<W> {
    /// Begins: writes `AUTH` and `SELECT` as far as `login` needs them, and a `PING` that shows whether Redis, when it
    /// has just started, is there to count.
    #[must_use]
    pub fn open(login: &Login, wire: &mut Wire) -> Self {
        let mut greetings = 0;
        let mut greet = |words: &[&[u8]]| {
            resp::command(wire.output(), words);
            greetings += 1;
        };
        match (&login.username, &login.password) {
            (Some(user), Some(password)) => greet(&[b"AUTH", user.as_bytes(), password.as_bytes()]),
            (None, Some(password)) => greet(&[b"AUTH", password.as_bytes()]),
            (_, None) => {}
        }
        if login.db != 0 {
            greet(&[b"SELECT", &Decimal::new(i64::from(login.db))]);
        }
        greet(&[b"PING"]);
        Self { greetings, owed: Batch::default(), encoded: 0, replica: false }
    }

    /// Whether Redis has answered everything so far, so that a batch may be submitted.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.greetings == 0 && self.owed.is_empty()
    }

    /// Writes a batch, leaving `batch` empty. Only for a session that [`Session::is_free`].
    pub fn submit(&mut self, batch: &mut Batch<W>, wire: &mut Wire) {
        debug_assert!(self.is_free(), "one batch at a time");
        std::mem::swap(&mut self.owed, batch);
        let before = wire.unsent().len();
        for ask in self.owed.asks() {
            write(ask, wire);
        }
        self.encoded = wire.unsent().len() - before;
    }

    /// Takes what has arrived. A batch of which all is answered is returned, to be told its numbers at once.
    ///
    /// # Errors
    /// The session is [`Broken`] and must be ended by [`Session::into_owed`].
    pub fn settle(&mut self, wire: &mut Wire) -> Result<Option<&mut Batch<W>>, Broken> {
        while let Some((reply, used)) = resp::decode(wire.unread())? {
            if self.greetings > 0 {
                self.greetings -= 1;
                greeted(reply, self.greetings == 0)?;
            } else {
                let ask = self.owed.expected().ok_or(Broken::Garbage)?;
                let total = read(ask, reply).ok_or(Broken::Garbage)?;
                self.replica |= total == Err(Fault::Refused(Cause::ReadOnly));
                self.owed.reply(total);
            }
            wire.consume(used);
        }
        // Half a reply that fills the wire will never be whole, and half a reply that nobody asked for is one too many.
        let done = self.greetings == 0 && self.owed.expected().is_none();
        if wire.is_full() || (done && !wire.unread().is_empty()) {
            return Err(Broken::Garbage);
        }
        if done && self.replica {
            return Err(Broken::Replica);
        }
        Ok((done && !self.owed.is_empty()).then_some(&mut self.owed))
    }

    /// Ends the session and hands back what it owes.
    #[must_use]
    pub fn into_owed(self, wire: &Wire) -> Owed<W> {
        Owed { doubtful: wire.unsent().len() < self.encoded, batch: self.owed }
    }
}

fn write(ask: Ask, wire: &mut Wire) {
    let out = wire.output();
    match ask {
        Ask::Count { key, by: 1 } => resp::command(out, &[b"INCR", key.as_bytes()]),
        Ask::Count { key, by } => resp::command(out, &[b"INCRBY", key.as_bytes(), &Decimal::new(by)]),
        Ask::Total { key } => resp::command(out, &[b"GET", key.as_bytes()]),
        Ask::Ping => resp::command(out, &[b"PING"]),
    }
}

/// What `reply` says to `ask`; `None` if it cannot be a reply to it.
fn read(ask: Ask, reply: Reply<'_>) -> Option<Result<i64, Fault>> {
    match (ask, reply) {
        (_, Reply::Error(line)) => Some(Err(Fault::Refused(cause(line)))),
        (Ask::Count { .. }, Reply::Integer(total)) => Some(Ok(total)),
        (Ask::Total { .. }, Reply::Bulk(digits)) => {
            Some(resp::integer(digits).ok_or(Fault::Refused(Cause::NotANumber)))
        }
        (Ask::Total { .. }, Reply::Null) => Some(Ok(0)),
        (Ask::Ping, Reply::Simple(b"PONG")) => Some(Ok(0)),
        _ => None,
    }
}

fn greeted(reply: Reply<'_>, last: bool) -> Result<(), Broken> {
    match reply {
        Reply::Simple(b"OK") if !last => Ok(()),
        Reply::Simple(b"PONG") if last => Ok(()),
        Reply::Error(line) => match cause(line) {
            // Who may not ping may still count, and a store that cannot write can still be read.
            Cause::Permission | Cause::CannotPersist if last => Ok(()),
            cause => Err(Broken::Greeting(cause)),
        },
        _ => Err(Broken::Garbage),
    }
}

/// The cause behind an error reply: its first word, or the sentence where Redis has only `ERR` for it.
fn cause(line: &[u8]) -> Cause {
    let word = line.split(|&byte| byte == b' ').next().unwrap_or_default();
    match word {
        b"NOAUTH" | b"WRONGPASS" => Cause::Password,
        b"NOPERM" => Cause::Permission,
        b"DENIED" => Cause::Protected,
        b"WRONGTYPE" => Cause::WrongType,
        b"LOADING" => Cause::Loading,
        b"MISCONF" => Cause::CannotPersist,
        b"READONLY" => Cause::ReadOnly,
        b"OOM" => Cause::OutOfMemory,
        b"MASTERDOWN" => Cause::NoPrimary,
        b"NOREPLICAS" => Cause::NoReplicas,
        b"BUSY" => Cause::Busy,
        b"CLUSTERDOWN" | b"TRYAGAIN" => Cause::ClusterDown,
        b"MOVED" | b"ASK" => Cause::Elsewhere,
        _ if line == b"ERR value is not an integer or out of range" => Cause::NotANumber,
        _ if line == b"ERR increment or decrement would overflow" => Cause::Overflow,
        _ if line == b"ERR max number of clients reached" => Cause::Crowded,
        _ if line.starts_with(b"ERR AUTH ") => Cause::Password,
        _ if line.starts_with(b"ERR DB index ") || line == b"ERR invalid DB index" => Cause::Database,
        _ => Cause::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counter::Key;
    use bytes::BufMut;

    fn login() -> Login {
        Login { host: "redis".into(), port: 6379, username: None, password: None, db: 0 }
    }

    fn visits() -> Key {
        Key::new(b"visits").expect("a good name")
    }

    fn batch(asks: &[Ask]) -> Batch<usize> {
        let mut batch = Batch::default();
        for (who, ask) in asks.iter().enumerate() {
            batch.push(*ask, who);
        }
        batch
    }

    fn greeted_session<W>(wire: &mut Wire) -> Session<W> {
        let mut session = Session::open(&login(), wire);
        let sent = wire.unsent().len();
        wire.sent(sent);
        wire.room().put_slice(b"+PONG\r\n");
        assert!(session.settle(wire).is_ok_and(|answered| answered.is_none()));
        assert!(session.is_free());
        session
    }

    /// Who was told what.
    type Told = Vec<(usize, Result<i64, Fault>)>;

    /// Submits `asks`, has Redis say `says`, and returns who was told what and how it ended.
    fn converse(asks: &[Ask], says: &[u8]) -> (Told, Result<(), Broken>) {
        let mut wire = Wire::default();
        let mut session = greeted_session(&mut wire);
        session.submit(&mut batch(asks), &mut wire);
        let sent = wire.unsent().len();
        wire.sent(sent);
        wire.room().put_slice(says);
        let mut told = Vec::new();
        let end = session.settle(&mut wire).map(|_| ());
        let mut owed = session.into_owed(&wire);
        assert!(owed.doubtful);
        owed.batch.tell(Fault::Lost, |who, total| told.push((who, total)));
        (told, end)
    }

    #[test]
    fn greets_with_what_the_login_needs() {
        for (username, password, db, greeting) in [
            (None, None, 0, &b""[..]),
            (None, Some("p w"), 0, b"*2\r\n$4\r\nAUTH\r\n$3\r\np w\r\n"),
            (Some("u"), Some("p"), 0, b"*3\r\n$4\r\nAUTH\r\n$1\r\nu\r\n$1\r\np\r\n"),
            (None, None, 15, b"*2\r\n$6\r\nSELECT\r\n$2\r\n15\r\n"),
        ] {
            let login =
                Login { username: username.map(str::to_owned), password: password.map(str::to_owned), db, ..login() };
            let mut wire = Wire::default();
            let session = Session::<()>::open(&login, &mut wire);
            assert_eq!(wire.unsent(), [greeting, b"*1\r\n$4\r\nPING\r\n"].concat());
            assert!(!session.is_free());
        }
    }

    #[test]
    fn a_greeting_ends_well_or_with_its_cause() {
        let refused = |cause| Err(Broken::Greeting(cause));
        for (says, end) in [
            (&b"+OK\r\n+PONG\r\n"[..], Ok(())),
            (b"+OK\r\n-MISCONF Redis is configured to save\r\n", Ok(())),
            (b"+OK\r\n-NOPERM this user has no permissions\r\n", Ok(())),
            (b"+OK\r\n-ERR max number of clients reached\r\n", refused(Cause::Crowded)),
            (b"+OK\r\n-DENIED Redis is running in protected mode\r\n", refused(Cause::Protected)),
            (b"+OK\r\n-ERR something new\r\n", refused(Cause::Other)),
            (b"+OK\r\n-LOADING Redis is loading the dataset in memory\r\n", refused(Cause::Loading)),
            (b"+OK\r\n-NOAUTH Authentication required.\r\n", refused(Cause::Password)),
            (b"-WRONGPASS invalid username-password pair or user is disabled.\r\n", refused(Cause::Password)),
            (b"-ERR AUTH <password> called without any password configured\r\n", refused(Cause::Password)),
            (b"-ERR DB index is out of range\r\n", refused(Cause::Database)),
            (b"+PONG\r\n", Err(Broken::Garbage)),
            (b"+OK\r\n+OK\r\n", Err(Broken::Garbage)),
            (b"+OK\r\n+PONG\r\n:1\r\n", Err(Broken::Garbage)),
        ] {
            let mut wire = Wire::default();
            let mut session = Session::<()>::open(&Login { db: 3, ..login() }, &mut wire);
            wire.room().put_slice(says);
            assert_eq!(session.settle(&mut wire).map(|_| ()), end, "{}", says.escape_ascii());
        }
    }

    #[test]
    fn one_line_per_key_goes_out() {
        let mut wire = Wire::default();
        let mut session = greeted_session(&mut wire);
        let key = visits();
        let asks = [Ask::Count { key, by: 1 }, Ask::Total { key }, Ask::Ping, Ask::Count { key, by: 2 }];
        session.submit(&mut batch(&asks), &mut wire);
        assert_eq!(
            wire.unsent(),
            b"*3\r\n$6\r\nINCRBY\r\n$6\r\nvisits\r\n$1\r\n3\r\n*2\r\n$3\r\nGET\r\n$6\r\nvisits\r\n*1\r\n$4\r\nPING\r\n"
        );
        assert!(!session.is_free());
    }

    #[test]
    fn each_reply_has_its_meaning_for_each_ask() {
        let key = visits();
        let (count, total, ping) = (Ask::Count { key, by: 1 }, Ask::Total { key }, Ask::Ping);
        let lost = (Err(Fault::Lost), Err(Broken::Garbage));
        let refused = |cause| (Err(Fault::Refused(cause)), Ok(()));
        for (ask, says, (told, end)) in [
            (count, &b":7\r\n"[..], (Ok(7), Ok(()))),
            (count, b"$1\r\n7\r\n", lost),
            (count, b"+OK\r\n", lost),
            (count, b"$-1\r\n", lost),
            (count, b"*1\r\n:7\r\n", lost),
            (count, b"HTTP/1.1 400 Bad Request\r\n", lost),
            (count, b":7\r\n:8\r\n", (Ok(7), Err(Broken::Garbage))),
            (count, b":7\r\n:", (Ok(7), Err(Broken::Garbage))),
            (count, b"-READONLY You can't write against a read only replica.\r\n", {
                (Err(Fault::Refused(Cause::ReadOnly)), Err(Broken::Replica))
            }),
            (count, b"-NOAUTH Authentication required.\r\n", refused(Cause::Password)),
            (count, b"-NOPERM this user has no permissions\r\n", refused(Cause::Permission)),
            (count, b"-WRONGTYPE Operation against a key\r\n", refused(Cause::WrongType)),
            (count, b"-LOADING Redis is loading\r\n", refused(Cause::Loading)),
            (count, b"-MISCONF Redis is configured to save\r\n", refused(Cause::CannotPersist)),
            (count, b"-OOM command not allowed\r\n", refused(Cause::OutOfMemory)),
            (count, b"-MASTERDOWN Link with MASTER is down\r\n", refused(Cause::NoPrimary)),
            (count, b"-NOREPLICAS Not enough good replicas to write.\r\n", refused(Cause::NoReplicas)),
            (count, b"-BUSY Redis is busy running a script.\r\n", refused(Cause::Busy)),
            (count, b"-CLUSTERDOWN The cluster is down\r\n", refused(Cause::ClusterDown)),
            (count, b"-MOVED 866 127.0.0.1:7001\r\n", refused(Cause::Elsewhere)),
            (count, b"-ERR value is not an integer or out of range\r\n", refused(Cause::NotANumber)),
            (count, b"-ERR increment or decrement would overflow\r\n", refused(Cause::Overflow)),
            (count, b"-ERR something new\r\n", refused(Cause::Other)),
            (total, b"$2\r\n42\r\n", (Ok(42), Ok(()))),
            (total, b"$-1\r\n", (Ok(0), Ok(()))),
            (total, b"$3\r\nabc\r\n", refused(Cause::NotANumber)),
            (total, b":42\r\n", (Err(Fault::Down), Err(Broken::Garbage))),
            (ping, b"+PONG\r\n", (Ok(0), Ok(()))),
            (ping, b"-MISCONF Redis is configured to save\r\n", refused(Cause::CannotPersist)),
            (ping, b"+OK\r\n", (Err(Fault::Down), Err(Broken::Garbage))),
        ] {
            assert_eq!(converse(&[ask], says), (vec![(0, told)], end), "{ask:?} {}", says.escape_ascii());
        }
    }

    #[test]
    fn a_reply_may_come_byte_by_byte() {
        let mut wire = Wire::default();
        let mut session = greeted_session(&mut wire);
        let key = visits();
        session.submit(&mut batch(&[Ask::Count { key, by: 1 }, Ask::Total { key }]), &mut wire);
        let mut told = Vec::new();
        for byte in b":7\r\n$1\r\n7\r\n" {
            assert!(told.is_empty());
            wire.room().put_u8(*byte);
            if let Some(batch) = session.settle(&mut wire).expect("a sound session") {
                batch.tell(Fault::Lost, |who, total| told.push((who, total)));
            }
        }
        assert_eq!(told, [(0, Ok(7)), (1, Ok(7))]);
        assert!(session.is_free());
    }

    #[test]
    fn an_endless_reply_is_not_waited_for() {
        let mut says = b"$16000\r\n".to_vec();
        says.resize(says.len() + 15_999, b'x');
        says.push(b'y');
        says.resize(crate::wire::MAX_UNREAD, b'z');
        let ask = Ask::Total { key: visits() };
        assert_eq!(converse(&[ask], &says), (vec![(0, Err(Fault::Down))], Err(Broken::Garbage)));
    }

    #[test]
    fn what_never_left_is_not_in_doubt() {
        for (sent, doubtful) in [(0, false), (1, true)] {
            let mut wire = Wire::default();
            let mut session = greeted_session(&mut wire);
            session.submit(&mut batch(&[Ask::Ping]), &mut wire);
            wire.sent(sent);
            let owed = session.into_owed(&wire);
            assert_eq!((owed.doubtful, owed.batch.is_empty()), (doubtful, false));
        }
    }
}
