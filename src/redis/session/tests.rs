use std::time::Duration;

use bytes::BufMut;

use super::super::{Address, Credentials, Servers};
use super::*;
use crate::counter::NameLimit;

fn config() -> RedisConfig {
    let servers = Servers::Single(Address { host: "redis".into(), port: 6379 });
    RedisConfig { servers, credentials: Credentials::default(), db: 0, acks: 0, tls: None }
}

const PRODUCER: Producer = Producer { id: 84, retry_window: Duration::from_secs(2), name_limit: None };

const INFO: &str = "$22\r\nmaxmemory:0\r\nother:1\r\n\r\n";

/// A primary with one replica.
const ROLE: &str = "*3\r\n$6\r\nmaster\r\n:9\r\n*1\r\n*3\r\n$2\r\n::\r\n$1\r\n7\r\n$1\r\n9\r\n";

/// The end of a handshake: no total, and a primary.
const READY: &str = concat!("$-1\r\n", "*3\r\n$6\r\nmaster\r\n:9\r\n*0\r\n", "+PONG\r\n");

const DIGEST: &str = "$40\r\n0123456789abcdef0123456789abcdef01234567\r\n";

fn visits() -> Key {
    Key::new(b"visits").expect("a valid key")
}

fn batch(commands: &[Command]) -> Batch<usize> {
    let mut batch = Batch::default();
    for (waiter, command) in commands.iter().enumerate() {
        assert!(batch.push(command, waiter));
    }
    batch.set_sequence(7);
    batch
}

/// Returns a session after the handshake, with a Redis that runs scripts or none.
fn ready_session<W>(buffers: &mut Buffers, receipts: bool) -> Session<W> {
    let mut session = Session::open(&config(), &visits(), PRODUCER, buffers);
    let sent = buffers.pending().len();
    buffers.mark_sent(sent);
    buffers.receive(if receipts { DIGEST.as_bytes() } else { b"-ERR unknown command\r\n" });
    buffers.receive(INFO.as_bytes());
    buffers.receive(b"$-1\r\n");
    buffers.receive(ROLE.as_bytes());
    buffers.receive(b"+PONG\r\n");
    assert!(session.process_replies(buffers).is_ok_and(|batch| batch.is_none()));
    assert!(session.is_idle() && session.has_script() == receipts);
    session
}

/// Returns a session with a limit of nine names, after the handshake. `loaded` is the reply to `SCRIPT LOAD`.
fn session_with_limit(loaded: &str, buffers: &mut Buffers) -> Session<usize> {
    let producer = Producer { name_limit: Some(NameLimit { main: visits(), most: 9 }), ..PRODUCER };
    let mut session = Session::open(&config(), &visits(), producer, buffers);
    buffers.mark_sent(buffers.pending().len());
    buffers.receive([loaded, INFO, READY].concat().as_bytes());
    assert!(session.process_replies(buffers).is_ok_and(|batch| batch.is_none()) && session.is_idle());
    session
}

/// A counter under the limit of names.
fn blog() -> Key {
    Key::new(b"visits:blog").expect("a valid key")
}

/// Waiters and their results.
type Results = Vec<(usize, Result<i64, StoreError>)>;

/// Completes a batch, and returns what each waiter got.
fn results_of(batch: &mut Batch<usize>, without_reply: StoreError) -> Results {
    let mut results = Vec::new();
    batch.complete(without_reply, |waiter, total| results.push((waiter, total)));
    results
}

/// Returns what each waiter gets if no part of a batch is sent again.
fn results_of_leftover(leftover: Leftover<usize>) -> Results {
    let Leftover { mut replied, mut unsent, mut batch, recovery } = leftover;
    let without_reply =
        if recovery == Recovery::Requeue { StoreError::Unavailable } else { StoreError::OutcomeUnknown };
    let mut results = results_of(&mut replied, StoreError::OutcomeUnknown);
    results.extend(results_of(&mut unsent, StoreError::Unavailable));
    results.extend(results_of(&mut batch, without_reply));
    results.sort_by_key(|&(waiter, _)| waiter);
    results
}

/// Returns a batch of one visit to each of the counters `a` and `b`.
fn two_increments() -> Batch<usize> {
    let increment = |name| Command::Increment { key: Key::new(name).expect("a valid key"), by: 1 };
    batch(&[increment(b"a"), increment(b"b")])
}

/// Submits `commands`, receives `received`, and returns the results and how the session ended.
fn exchange(commands: &[Command], receipts: bool, received: &[u8]) -> (Results, Result<(), SessionError>) {
    let mut buffers = Buffers::default();
    let mut session = ready_session(&mut buffers, receipts);
    session.submit(&mut batch(commands), &mut |_| 0, &mut buffers);
    let sent = buffers.pending().len();
    buffers.mark_sent(sent);
    buffers.read_buf().put_slice(received);
    let end = session.process_replies(&mut buffers).map(|_| ());
    let leftover = session.into_leftover(&buffers);
    assert_ne!(leftover.recovery, Recovery::Requeue);
    (results_of_leftover(leftover), end)
}

#[test]
fn the_handshake_has_the_commands_that_the_config_needs() {
    const COMMANDS: &[u8] =
        b"*2\r\n$4\r\nINFO\r\n$6\r\nmemory\r\n*2\r\n$3\r\nGET\r\n$6\r\nvisits\r\n*1\r\n$4\r\nROLE\r\n*1\r\n$4\r\nPING\r\n";
    for (username, password, db, login) in [
        (None, None, 0, &b""[..]),
        (None, Some("p w"), 0, b"*2\r\n$4\r\nAUTH\r\n$3\r\np w\r\n"),
        (Some("u"), Some("p"), 0, b"*3\r\n$4\r\nAUTH\r\n$1\r\nu\r\n$1\r\np\r\n"),
        (None, None, 15, b"*2\r\n$6\r\nSELECT\r\n$2\r\n15\r\n"),
    ] {
        let config = RedisConfig {
            credentials: Credentials { username: username.map(str::to_owned), password: password.map(str::to_owned) },
            db,
            ..config()
        };
        let mut buffers = Buffers::default();
        let session = Session::<()>::open(&config, &visits(), PRODUCER, &mut buffers);
        let load = format!("*3\r\n$6\r\nSCRIPT\r\n$4\r\nLOAD\r\n${}\r\n", SCRIPT.len());
        assert_eq!(buffers.pending(), [login, load.as_bytes(), SCRIPT, b"\r\n", COMMANDS].concat());
        assert!(!session.is_idle());
    }
}

#[test]
fn the_handshake_succeeds_or_ends_with_its_cause() {
    let rejected = |rejection| Err(SessionError::Handshake(rejection));
    for (received, end) in [
        ("+OK\r\nDIGESTINFOTOTALROLE+PONG\r\n", Ok(true)),
        ("+OK\r\nDIGESTINFOTOTALROLE-MISCONF Redis is configured to save\r\n", Ok(true)),
        ("+OK\r\nDIGESTINFOTOTALROLE-NOPERM this user has no permissions\r\n", Ok(true)),
        ("+OK\r\n-NOPERM this user has no permissions\r\nINFOTOTALROLE+PONG\r\n", Ok(true)),
        ("+OK\r\n-ERR unknown command 'SCRIPT'\r\nINFOTOTALROLE+PONG\r\n", Ok(false)),
        ("+OK\r\n-LOADING Redis is loading the dataset in memory\r\n", rejected(Rejection::Loading)),
        ("+OK\r\nDIGEST-ERR max number of clients reached\r\n", rejected(Rejection::MaxClients)),
        ("+OK\r\nDIGEST-DENIED Redis is running in protected mode\r\n", rejected(Rejection::Protected)),
        ("+OK\r\nDIGESTINFOTOTALROLE-ERR something new\r\n", rejected(Rejection::Other)),
        ("+OK\r\n-NOAUTH Authentication required.\r\n", rejected(Rejection::Password)),
        ("-WRONGPASS invalid username-password pair or user is disabled.\r\n", rejected(Rejection::Password)),
        ("-ERR AUTH <password> called without any password configured\r\n", rejected(Rejection::Password)),
        ("-ERR DB index is out of range\r\n", rejected(Rejection::Database)),
        ("+PONG\r\n", Err(SessionError::Protocol)),
        ("+OK\r\n+OK\r\n", Err(SessionError::Protocol)),
        ("+OK\r\n$3\r\nabc\r\n", Err(SessionError::Protocol)),
        ("+OK\r\nDIGEST+OK\r\n", Err(SessionError::Protocol)),
        ("+OK\r\nDIGESTINFOTOTALROLE+PONG\r\nDIGEST", Err(SessionError::Protocol)),
    ] {
        let mut buffers = Buffers::default();
        let mut session = Session::<()>::open(&RedisConfig { db: 3, ..config() }, &visits(), PRODUCER, &mut buffers);
        buffers.read_buf().put_slice(
            received
                .replace("DIGEST", DIGEST)
                .replace("INFO", INFO)
                .replace("ROLE", ROLE)
                .replace("TOTAL", "$1\r\n7\r\n")
                .as_bytes(),
        );
        let result = session.process_replies(&mut buffers).map(|_| ());
        assert_eq!(result.map(|()| session.has_script()), end, "{received}");
    }
}

#[test]
fn receipts_are_kept_unless_redis_may_evict_them() {
    let bulk = |info: &str| format!("${}\r\n{info}\r\n", info.len());
    for (received, receipts) in [
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
        let mut session = Session::<()>::open(&config(), &visits(), PRODUCER, &mut buffers);
        buffers.receive([DIGEST, &received, READY].concat().as_bytes());
        assert!(session.process_replies(&mut buffers).is_ok());
        assert_eq!(session.receipts(), receipts, "{received}");
    }
}

#[test]
fn named_counters_are_counted_under_their_bound() {
    let named = blog();
    let commands = [Command::Increment { key: visits(), by: 1 }, Command::Increment { key: named, by: 2 }];
    let mut buffers = Buffers::default();
    let mut session = session_with_limit(DIGEST, &mut buffers);
    session.submit(&mut batch(&commands), &mut |_| 0, &mut buffers);
    let sent = String::from_utf8(buffers.pending().to_vec()).expect("text");
    let bounded = "3\r\n$11\r\nvisits:blog\r\n$24\r\n{visits:blog}:receipt:42\r\n$16\r\n{visits}:<names>\r\n\
                   $6\r\n302000\r\n$16\r\n1000000000000007\r\n$1\r\n2\r\n$1\r\n9\r\n";
    assert!(sent.starts_with("*8\r\n") && sent.ends_with(bounded), "{sent}");
    buffers.mark_sent(sent.len());
    // A name that is rejected does not change how other counters are counted.
    for error in ["-MAXNAMES\r\n", "-NOPERM No permissions to access a key\r\n"] {
        buffers.receive(format!("$1\r\n4\r\n{error}").as_bytes());
        let done = session.process_replies(&mut buffers).expect("no session error").expect("a complete batch");
        let results = results_of(done, StoreError::OutcomeUnknown);
        let rejection = if error.starts_with("-MAX") { Rejection::TooManyCounters } else { Rejection::Permission };
        assert_eq!(results, [(0, Ok(5)), (1, Err(StoreError::Rejected(rejection)))]);
        assert!(session.has_script());
        session.submit(&mut batch(&commands), &mut |_| 0, &mut buffers);
        buffers.mark_sent(buffers.pending().len());
    }
}

#[test]
fn named_counters_fall_back_to_eval() {
    let named = blog();
    let lost = Err(StoreError::OutcomeUnknown);
    let rejected = Err(StoreError::Rejected(Rejection::Permission));
    for (sent_before, replies, expected) in [
        (false, &["-NOSCRIPT No matching script.\r\n", "$1\r\n4\r\n"][..], Ok(5)),
        (true, &["-NOSCRIPT No matching script.\r\n", "$1\r\n4\r\n"], Ok(5)),
        (false, &["-NOPERM No permissions to access a key\r\n"], rejected),
        (true, &["-NOPERM No permissions to access a key\r\n"], lost),
        (true, &["-NOSCRIPT No matching script.\r\n", "-NOPERM No permissions\r\n"], lost),
    ] {
        let mut buffers = Buffers::default();
        let mut session = session_with_limit(DIGEST, &mut buffers);
        let mut batch = batch(&[Command::Increment { key: named, by: 1 }]);
        if sent_before {
            batch.mark_sent();
        }
        session.submit(&mut batch, &mut |_| 0, &mut buffers);
        let mut results = Vec::new();
        for (reply, command) in replies.iter().zip(["EVALSHA", "EVAL"]) {
            assert!(results.is_empty(), "{replies:?}");
            assert_eq!(send(&mut buffers)[0], command, "{replies:?}");
            buffers.receive(reply.as_bytes());
            if let Some(done) = session.process_replies(&mut buffers).expect("no session error") {
                results.extend(results_of(done, StoreError::OutcomeUnknown));
            }
        }
        assert_eq!(results, [(0, expected)], "{sent_before} {replies:?}");
    }
}

#[test]
fn named_counters_need_scripts() {
    let named = blog();
    let rejected = Err(StoreError::Rejected(Rejection::ScriptsRequired));
    let (main, named) = (Command::Increment { key: visits(), by: 1 }, Command::Increment { key: named, by: 2 });
    for (commands, reply, expected) in [
        (&[named][..], &b""[..], vec![(0, rejected)]),
        (&[named, main, named], b":5\r\n", vec![(0, rejected), (1, Ok(5)), (2, rejected)]),
    ] {
        let mut buffers = Buffers::default();
        let mut session = session_with_limit("-ERR unknown command\r\n", &mut buffers);
        session.submit(&mut batch(commands), &mut |_| 0, &mut buffers);
        buffers.receive(reply);
        let done = session.process_replies(&mut buffers).expect("no session error").expect("a complete batch");
        let results = results_of(done, StoreError::OutcomeUnknown);
        assert_eq!(results, expected);
        assert!(session.is_idle());
    }
}

#[test]
fn each_key_has_one_command() {
    let key = visits();
    let commands =
        [Command::Increment { key, by: 1 }, Command::Get { key }, Command::Ping, Command::Increment { key, by: 2 }];
    let reads = "*2\r\n$3\r\nGET\r\n$6\r\nvisits\r\n*1\r\n$4\r\nPING\r\n";
    let with_receipt = format!(
        "*8\r\n$7\r\nEVALSHA\r\n{DIGEST}$1\r\n2\r\n$6\r\nvisits\r\n$19\r\n{{visits}}:receipt:42\r\n\
         $6\r\n302000\r\n$16\r\n1000000000000007\r\n$1\r\n3\r\n"
    );
    for (receipts, count) in [(false, "*3\r\n$6\r\nINCRBY\r\n$6\r\nvisits\r\n$1\r\n3\r\n"), (true, &with_receipt)] {
        let mut buffers = Buffers::default();
        let mut session = ready_session(&mut buffers, receipts);
        session.submit(&mut batch(&commands), &mut |_| 0, &mut buffers);
        assert_eq!(buffers.pending(), [count, reads].concat().as_bytes());
        assert!(!session.is_idle());
    }
}

#[test]
fn a_number_is_computed_from_the_total_before() {
    let count = Command::Increment { key: visits(), by: 3 };
    let lost = (Err(StoreError::OutcomeUnknown), Err(SessionError::Protocol));
    let rejected = |rejection| (Err(StoreError::Rejected(rejection)), Ok(()));
    for (received, (results, end)) in [
        (&b"$1\r\n4\r\n"[..], (Ok(7), Ok(()))),
        (b"$2\r\n-4\r\n", (Ok(-1), Ok(()))),
        (b"$19\r\n9223372036854775804\r\n", (Ok(i64::MAX), Ok(()))),
        (b"$19\r\n9223372036854775805\r\n", rejected(Rejection::Overflow)),
        (b"$3\r\nabc\r\n", rejected(Rejection::NotANumber)),
        (b"$0\r\n\r\n", rejected(Rejection::NotANumber)),
        (b"-ERR increment or decrement would overflow\r\n", rejected(Rejection::Overflow)),
        (b"-WRONGTYPE Operation against a key holding the wrong kind of value script: 9dc3, on @user_script:4.\r\n", {
            rejected(Rejection::WrongType)
        }),
        (b":7\r\n", lost),
        (b"$-1\r\n", lost),
    ] {
        assert_eq!(exchange(&[count], true, received), (vec![(0, results)], end), "{}", received.escape_ascii());
    }
}

#[test]
fn each_reply_has_a_meaning_for_each_command() {
    let key = visits();
    let (count, total, ping) = (Command::Increment { key, by: 1 }, Command::Get { key }, Command::Ping);
    let lost = (Err(StoreError::OutcomeUnknown), Err(SessionError::Protocol));
    let rejected = |rejection| (Err(StoreError::Rejected(rejection)), Ok(()));
    for (command, received, (results, end)) in [
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
        (count, b"-NOAUTH Authentication required.\r\n", rejected(Rejection::Password)),
        (count, b"-NOPERM this user has no permissions\r\n", rejected(Rejection::Permission)),
        (count, b"-ERR The user executing the script can't run this command or subcommand script: 9dc3\r\n", {
            rejected(Rejection::Permission)
        }),
        (count, b"-ERR ACL failure in script: User u has no permissions to run the 'set' command script: 9dc3\r\n", {
            rejected(Rejection::Permission)
        }),
        (count, b"-WRONGTYPE Operation against a key\r\n", rejected(Rejection::WrongType)),
        (count, b"-LOADING Redis is loading\r\n", rejected(Rejection::Loading)),
        (count, b"-MISCONF Redis is configured to save\r\n", rejected(Rejection::CannotPersist)),
        (count, b"-OOM command not allowed\r\n", rejected(Rejection::OutOfMemory)),
        (count, b"-MASTERDOWN Link with MASTER is down\r\n", rejected(Rejection::NoPrimary)),
        (count, b"-NOREPLICAS Not enough good replicas to write.\r\n", rejected(Rejection::NoReplicas)),
        (count, b"-BUSY Redis is busy running a script.\r\n", rejected(Rejection::Busy)),
        (count, b"-CLUSTERDOWN The cluster is down\r\n", rejected(Rejection::ClusterDown)),
        (count, b"-MOVED 866 127.0.0.1:7001\r\n", rejected(Rejection::Moved)),
        (count, b"-ERR value is not an integer or out of range\r\n", rejected(Rejection::NotANumber)),
        (count, b"-ERR increment or decrement would overflow\r\n", rejected(Rejection::Overflow)),
        (count, b"-ERR something new\r\n", rejected(Rejection::Other)),
        (total, b"$2\r\n42\r\n", (Ok(42), Ok(()))),
        (total, b"$-1\r\n", (Ok(0), Ok(()))),
        (total, b"$3\r\nabc\r\n", rejected(Rejection::NotANumber)),
        (total, b":42\r\n", (Err(StoreError::Unavailable), Err(SessionError::Protocol))),
        (ping, b"+PONG\r\n", (Ok(0), Ok(()))),
        (ping, b"-MISCONF Redis is configured to save\r\n", rejected(Rejection::CannotPersist)),
        (ping, b"+OK\r\n", (Err(StoreError::Unavailable), Err(SessionError::Protocol))),
    ] {
        assert_eq!(
            exchange(&[command], false, received),
            (vec![(0, results)], end),
            "{command:?} {}",
            received.escape_ascii()
        );
    }
}

#[test]
fn a_reply_may_come_byte_by_byte() {
    let mut buffers = Buffers::default();
    let mut session = ready_session(&mut buffers, false);
    let key = visits();
    session.submit(&mut batch(&[Command::Increment { key, by: 1 }, Command::Get { key }]), &mut |_| 0, &mut buffers);
    let mut results = Vec::new();
    for byte in b":7\r\n$1\r\n7\r\n" {
        assert!(results.is_empty());
        buffers.read_buf().put_u8(*byte);
        if let Some(batch) = session.process_replies(&mut buffers).expect("no session error") {
            results.extend(results_of(batch, StoreError::OutcomeUnknown));
        }
    }
    assert_eq!(results, [(0, Ok(7)), (1, Ok(7))]);
    assert!(session.is_idle());
}

#[test]
fn a_reply_that_fills_the_buffer_ends_the_session() {
    let mut received = b"$16000\r\n".to_vec();
    received.resize(received.len() + 15_999, b'x');
    received.push(b'y');
    received.resize(crate::buffers::MAX_RECEIVED, b'z');
    let command = Command::Get { key: visits() };
    assert_eq!(
        exchange(&[command], false, &received),
        (vec![(0, Err(StoreError::Unavailable))], Err(SessionError::Protocol))
    );
}

#[test]
fn each_leftover_has_its_recovery() {
    let key = visits();
    let commands = [Command::Increment { key, by: 1 }, Command::Ping];
    for (receipts, sent, received, recovery) in [
        (false, 0, &b""[..], Recovery::Requeue),
        (true, 0, b"", Recovery::Requeue),
        (false, 1, b"", Recovery::Fail),
        (true, 1, b"", Recovery::Resend),
        // The probe is sent again with the next batch.
        (true, 1, b"$1\r\n0\r\n", Recovery::None),
        (false, 1, b":1\r\n", Recovery::Fail),
        (true, 1, b"$1\r\n0\r\n+PONG\r\n", Recovery::None),
        (true, 1, b"-READONLY replica\r\n+PONG\r\n", Recovery::None),
    ] {
        let mut buffers = Buffers::default();
        let mut session = ready_session(&mut buffers, receipts);
        session.submit(&mut batch(&commands), &mut |_| 0, &mut buffers);
        buffers.mark_sent(sent);
        buffers.read_buf().put_slice(received);
        let _ = session.process_replies(&mut buffers);
        let leftover = session.into_leftover(&buffers);
        assert_eq!(leftover.recovery, recovery, "{}", received.escape_ascii());
        assert_eq!(leftover.batch.is_empty(), recovery == Recovery::None, "{}", received.escape_ascii());
    }
}

/// Sends the pending bytes, one command for one key. Returns the command and the key.
fn send(buffers: &mut Buffers) -> [String; 2] {
    let text = String::from_utf8(buffers.pending().to_vec()).expect("text");
    buffers.mark_sent(text.len());
    let arguments: Vec<_> = text.split("\r\n").skip(2).step_by(2).collect();
    [arguments[0].to_owned(), arguments[if arguments.len() > 4 { 3 } else { 1 }].to_owned()]
}

#[test]
fn a_lost_script_is_sent_with_the_increment() {
    for sent_before in [false, true] {
        let mut buffers = Buffers::default();
        let mut session = ready_session(&mut buffers, true);
        let mut batch = batch(&[Command::Increment { key: visits(), by: 1 }]);
        if sent_before {
            batch.mark_sent();
        }
        session.submit(&mut batch, &mut |_| 0, &mut buffers);
        assert_eq!(send(&mut buffers), ["EVALSHA", "visits"]);
        buffers.receive(b"-NOSCRIPT No matching script. Please use EVAL.\r\n");
        assert!(session.process_replies(&mut buffers).is_ok_and(|batch| batch.is_none()));
        assert_eq!(send(&mut buffers), ["EVAL", "visits"]);
        buffers.receive(b"$1\r\n4\r\n");
        let done = session.process_replies(&mut buffers).expect("no session error").expect("a complete batch");
        let results = results_of(done, StoreError::OutcomeUnknown);
        assert_eq!(results, [(0, Ok(5))]);
    }
}

#[test]
fn increments_fall_back_to_incr_where_receipts_are_rejected() {
    let key = visits();
    let other = Key::new(b"visits:b").expect("a valid key");
    let mut buffers = Buffers::default();
    let mut session = ready_session(&mut buffers, true);
    let commands = [Command::Increment { key, by: 1 }, Command::Increment { key: other, by: 2 }, Command::Ping];
    session.submit(&mut batch(&commands), &mut |_| 0, &mut buffers);
    let sent = buffers.pending().len();
    buffers.mark_sent(sent);
    buffers.receive(b"-NOPERM No permissions to access a key\r\n$1\r\n4\r\n+PONG\r\n");
    assert!(session.process_replies(&mut buffers).is_ok_and(|batch| batch.is_none()));
    assert_eq!(send(&mut buffers), ["EVAL", "visits"]);
    assert!(!session.is_idle() && session.has_script());
    buffers.receive(b"-NOPERM No permissions to access a key\r\n");
    assert!(session.process_replies(&mut buffers).is_ok_and(|batch| batch.is_none()));
    assert_eq!(send(&mut buffers), ["INCR", "visits"]);
    assert!(!session.is_idle() && !session.has_script());
    buffers.receive(b":5\r\n");
    let done = session.process_replies(&mut buffers).expect("no session error").expect("a complete batch");
    let results = results_of(done, StoreError::OutcomeUnknown);
    assert_eq!(results, [(0, Ok(5)), (1, Ok(6)), (2, Ok(0))]);
}

#[test]
fn an_increment_with_a_receipt_is_not_sent_again_without() {
    let mut buffers = Buffers::default();
    let mut session = ready_session(&mut buffers, true);
    session.submit(&mut two_increments(), &mut |_| 0, &mut buffers);
    let sent = buffers.pending().len();
    buffers.mark_sent(sent);
    buffers.receive(b"$1\r\n4\r\n-NOPERM No permissions to access a key\r\n");
    assert!(session.process_replies(&mut buffers).is_ok_and(|batch| batch.is_none()));
    assert_eq!(send(&mut buffers), ["EVAL", "b"]);
    buffers.receive(b"-NOPERM No permissions to access a key\r\n");
    assert!(session.process_replies(&mut buffers).is_ok_and(|batch| batch.is_none()));
    // The connection fails before a byte of the second attempt is sent.
    let leftover = session.into_leftover(&buffers);
    assert_eq!(leftover.recovery, Recovery::Fail);
    assert_eq!(results_of_leftover(leftover), [(0, Ok(5)), (1, Err(StoreError::OutcomeUnknown))]);
}

#[test]
fn a_rejection_of_a_resent_batch_leaves_it_in_doubt() {
    for (error, recovery) in [
        ("NOPERM No permissions to access a key", Recovery::None),
        ("NOSCRIPT No matching script.", Recovery::None),
        ("ERR something new", Recovery::None),
        // The node does not execute commands now, and the receipt was not read.
        ("BUSY Redis is busy", Recovery::Resend),
        ("READONLY a replica", Recovery::Resend),
        ("MOVED 866 127.0.0.1:7001", Recovery::Resend),
        ("ASK 866 127.0.0.1:7001", Recovery::Resend),
        ("TRYAGAIN Multiple keys request during rehashing of slot", Recovery::Resend),
        ("CLUSTERDOWN The cluster is down", Recovery::Resend),
        ("LOADING Redis is loading", Recovery::Resend),
        ("MASTERDOWN Link with MASTER is down", Recovery::Resend),
        ("NOREPLICAS Not enough good replicas to write.", Recovery::Resend),
        ("OOM command not allowed", Recovery::Resend),
        ("MISCONF Redis is configured to save", Recovery::Resend),
    ] {
        let mut buffers = Buffers::default();
        let mut session = ready_session(&mut buffers, true);
        session.submit(&mut batch(&[Command::Increment { key: visits(), by: 1 }]), &mut |_| 0, &mut buffers);
        buffers.mark_sent(1);
        let mut leftover = session.into_leftover(&buffers);
        let mut buffers = Buffers::default();
        let mut session = ready_session(&mut buffers, true);
        session.submit(&mut leftover.batch, &mut |_| 0, &mut buffers);
        while !buffers.pending().is_empty() {
            send(&mut buffers);
            buffers.receive(format!("-{error}\r\n").as_bytes());
            let _ = session.process_replies(&mut buffers);
        }
        let leftover = session.into_leftover(&buffers);
        assert_eq!(leftover.recovery, recovery, "{error}");
        assert_eq!(results_of_leftover(leftover), [(0, Err(StoreError::OutcomeUnknown))], "{error}");
    }
}

/// Sends the pending commands, and returns their words.
fn send_all(buffers: &mut Buffers) -> Vec<String> {
    let mut words = Vec::new();
    let mut bytes = buffers.pending();
    while let Ok(Some((Reply::Array(items), length))) = resp::decode(bytes) {
        words.extend(items.map(|item| match item {
            Reply::Bulk(word) => String::from_utf8_lossy(word).into_owned(),
            other => panic!("not a word: {other:?}"),
        }));
        bytes = &bytes[length..];
    }
    assert_eq!(bytes, b"");
    buffers.mark_sent(buffers.pending().len());
    words
}

fn several(servers: &str) -> RedisConfig {
    let address = || vec![Address { host: "a".into(), port: 1 }];
    let servers = match servers {
        "single" => return config(),
        "sentinel" => {
            Servers::Sentinel { sentinels: address(), name: "mymaster".into(), credentials: Credentials::default() }
        }
        _ => Servers::Cluster { seeds: address() },
    };
    RedisConfig { servers, ..config() }
}

/// Returns a session that has a script, after the handshake.
fn session_with(config: &RedisConfig, buffers: &mut Buffers) -> Session<usize> {
    let mut session = Session::open(config, &visits(), PRODUCER, buffers);
    buffers.mark_sent(buffers.pending().len());
    buffers.receive([DIGEST, INFO, READY].concat().as_bytes());
    assert!(session.process_replies(buffers).is_ok_and(|batch| batch.is_none()) && session.is_idle());
    session
}

#[test]
fn a_batch_that_a_node_refuses_is_put_back_if_there_are_several_nodes() {
    let refused = |rejection| Some(SessionError::Refused(rejection));
    for (error, single, sentinel, cluster) in [
        ("MOVED 866 b:7", None, refused(Rejection::Moved), Some(SessionError::Moved)),
        ("MOVED 866 b", None, refused(Rejection::Moved), Some(SessionError::InvalidAddress)),
        ("ASK 866 b:7", None, refused(Rejection::Resharding), refused(Rejection::Resharding)),
        ("TRYAGAIN later", None, refused(Rejection::Resharding), refused(Rejection::Resharding)),
        ("CLUSTERDOWN Hash slot not served", None, refused(Rejection::ClusterDown), refused(Rejection::ClusterDown)),
        ("LOADING wait", None, refused(Rejection::Loading), refused(Rejection::Loading)),
        ("MASTERDOWN wait", None, refused(Rejection::NoPrimary), refused(Rejection::NoPrimary)),
        ("NOREPLICAS wait", None, refused(Rejection::NoReplicas), refused(Rejection::NoReplicas)),
        ("READONLY replica", Some(SessionError::Replica), Some(SessionError::Replica), Some(SessionError::Replica)),
        ("OOM full", None, None, None),
        ("ERR something new", None, None, None),
    ] {
        for (servers, expected) in [("single", single), ("sentinel", sentinel), ("cluster", cluster)] {
            let mut buffers = Buffers::default();
            let mut session = session_with(&several(servers), &mut buffers);
            session.submit(&mut two_increments(), &mut |_| 0, &mut buffers);
            buffers.mark_sent(buffers.pending().len());
            buffers.receive(format!("-{error}\r\n-{error}\r\n").as_bytes());
            let end = session.process_replies(&mut buffers).map(|batch| batch.is_some());
            assert_eq!(end, expected.map_or(Ok(true), Err), "{servers} {error}");
            if expected == Some(SessionError::Moved) {
                assert_eq!(session.redirect(), Some(&Redirect { host: "b".into(), port: 7 }));
            }
            let leftover = session.into_leftover(&buffers);
            let is_put_back = expected.is_some() && servers != "single";
            assert_eq!(leftover.recovery, Recovery::None, "{servers} {error}");
            assert_eq!(leftover.unsent.waiter_count(), if is_put_back { 2 } else { 0 }, "{servers} {error}");
            // A visit that was refused is not in doubt.
            let results = results_of_leftover(leftover);
            let is_in_doubt = |&(_, result): &(usize, _)| result == Err(StoreError::OutcomeUnknown);
            assert!(results.len() == 2 && !results.iter().any(is_in_doubt), "{servers} {error}: {results:?}");
        }
    }
}

/// What becomes of a batch that was refused in part: the waiters of its parts, and of those the results.
type Parts = (Vec<(usize, Result<i64, StoreError>)>, Vec<usize>, Vec<usize>);

#[test]
fn a_batch_that_a_node_refuses_in_part_is_divided() {
    let lost = StoreError::OutcomeUnknown;
    let waiters = |results: Results| results.into_iter().map(|(waiter, _)| waiter).collect::<Vec<_>>();
    for (acks, was_sent, replies, (replied, unsent, in_doubt)) in [
        // Counted, refused, and read.
        (0, false, "$1\r\n4\r\n-TRYAGAIN later\r\n$1\r\n5\r\n", (vec![(0, Ok(5)), (2, Ok(5))], vec![1], vec![])),
        (0, false, "-TRYAGAIN later\r\n-TRYAGAIN later\r\n$1\r\n5\r\n", (vec![(2, Ok(5))], vec![0, 1], vec![])),
        (0, false, "$1\r\n4\r\n-TRYAGAIN later\r\n-TRYAGAIN later\r\n", (vec![(0, Ok(5))], vec![1, 2], vec![])),
        // The script is lost, and the session ends before it is sent.
        (0, false, "-NOSCRIPT\r\n-TRYAGAIN later\r\n$1\r\n5\r\n", (vec![(2, Ok(5))], vec![0, 1], vec![])),
        // The connection is lost before the last reply.
        (0, false, "$1\r\n4\r\n-TRYAGAIN later\r\n", (vec![(0, Ok(5))], vec![1, 2], vec![])),
        (0, false, "-TRYAGAIN later\r\n", (vec![], vec![0, 2], vec![1])),
        // With and without acknowledgements.
        (1, false, "$1\r\n4\r\n-TRYAGAIN\r\n$1\r\n5\r\n:1\r\n", (vec![(0, Ok(5)), (2, Ok(5))], vec![1], vec![])),
        (1, false, "$1\r\n4\r\n-TRYAGAIN\r\n$1\r\n5\r\n:0\r\n", (vec![(2, Ok(5))], vec![1], vec![0])),
        (1, false, "$1\r\n4\r\n$1\r\n4\r\n$1\r\n5\r\n:0\r\n", (vec![(2, Ok(5))], vec![], vec![0, 1])),
        (1, false, "-TRYAGAIN\r\n-TRYAGAIN\r\n$1\r\n5\r\n", (vec![(2, Ok(5))], vec![0, 1], vec![])),
        // An earlier attempt may have counted it.
        (0, true, "$1\r\n4\r\n-TRYAGAIN later\r\n$1\r\n5\r\n", (vec![(0, Ok(5)), (2, Ok(5))], vec![], vec![1])),
        (0, true, "-TRYAGAIN later\r\n-TRYAGAIN later\r\n-TRYAGAIN later\r\n", (vec![], vec![2], vec![0, 1])),
    ] as [(u32, bool, &str, Parts); 12]
    {
        let mut buffers = Buffers::default();
        let mut session = session_with(&RedisConfig { acks, ..several("cluster") }, &mut buffers);
        let mut batch = two_increments();
        assert!(batch.push(&Command::Get { key: visits() }, 2));
        if was_sent {
            batch.mark_sent();
        }
        session.submit(&mut batch, &mut |_| 0, &mut buffers);
        buffers.mark_sent(buffers.pending().len());
        buffers.receive(replies.as_bytes());
        let _ = session.process_replies(&mut buffers);
        let mut leftover = session.into_leftover(&buffers);
        assert_eq!(results_of(&mut leftover.replied, lost), replied, "{replies}");
        assert_eq!(waiters(results_of(&mut leftover.unsent, lost)), unsent, "{replies}");
        let expected = if in_doubt.is_empty() { Recovery::None } else { Recovery::Resend };
        assert_eq!(leftover.recovery, expected, "{replies}");
        assert_eq!(waiters(results_of(&mut leftover.batch, lost)), in_doubt, "{replies}");
    }
}

#[test]
fn the_handshake_ends_with_a_replica_or_another_owner() {
    const SLAVE: &str = "*5\r\n$5\r\nslave\r\n$1\r\na\r\n:1\r\n$9\r\nconnected\r\n:3\r\n";
    let total = "$1\r\n7\r\n";
    for (replies, single, sentinel, cluster) in [
        (&[total, ROLE][..], Ok(()), Ok(()), Ok(())),
        (&[total, SLAVE], Err(SessionError::Replica), Err(SessionError::Replica), Ok(())),
        (&[total, "-NOPERM no permissions to run the 'role' command\r\n"], Ok(()), Ok(()), Ok(())),
        (&[total, "-ERR unknown command 'ROLE'\r\n"], Ok(()), Ok(()), Ok(())),
        (
            &[total, "*2\r\n$8\r\nsentinel\r\n*0\r\n"],
            Err(SessionError::Protocol),
            Err(SessionError::Protocol),
            Err(SessionError::Protocol),
        ),
        (&["-MOVED 866 :7\r\n"], Ok(()), Ok(()), Err(SessionError::Moved)),
        (&["-MOVED 866 ?:7\r\n"], Ok(()), Ok(()), Err(SessionError::InvalidAddress)),
        (&["-ASK 866 b:7\r\n", ROLE], Ok(()), Ok(()), Ok(())),
        (&["-NOPERM no permissions to read\r\n", ROLE], Ok(()), Ok(()), Ok(())),
    ] {
        for (servers, expected) in [("single", single), ("sentinel", sentinel), ("cluster", cluster)] {
            let mut buffers = Buffers::default();
            let mut session = Session::<usize>::open(&several(servers), &visits(), PRODUCER, &mut buffers);
            buffers.receive([DIGEST, INFO, &replies.concat()].concat().as_bytes());
            assert_eq!(session.process_replies(&mut buffers).map(|_| ()), expected, "{servers} {replies:?}");
        }
    }
}

#[test]
fn a_batch_is_in_doubt_until_enough_replicas_have_acknowledged_it() {
    let unacknowledged = Err(SessionError::Unacknowledged);
    for (acks, error) in [
        (":2\r\n", Ok(true)),
        (":3\r\n", Ok(true)),
        (":1\r\n", unacknowledged),
        (":0\r\n", unacknowledged),
        ("-UNBLOCKED force unblock from blocking operation, instance state changed\r\n", unacknowledged),
        ("-ERR WAIT cannot be used with replica instances. Please also note that\r\n", unacknowledged),
        ("-NOPERM no permissions to run the 'wait' command\r\n", Err(SessionError::WaitRejected)),
        ("-ERR unknown command 'WAIT'\r\n", Err(SessionError::WaitRejected)),
        ("+OK\r\n", Err(SessionError::Protocol)),
        ("", Ok(false)),
    ] {
        let mut buffers = Buffers::default();
        let config = RedisConfig { acks: 2, ..config() };
        let mut session = session_with(&config, &mut buffers);
        session.submit(&mut two_increments(), &mut |_| 0, &mut buffers);
        assert!(buffers.pending().ends_with(b"*3\r\n$4\r\nWAIT\r\n$1\r\n2\r\n$3\r\n250\r\n"));
        buffers.mark_sent(buffers.pending().len());
        buffers.receive(b"$1\r\n4\r\n$1\r\n8\r\n");
        assert!(session.process_replies(&mut buffers).is_ok_and(|batch| batch.is_none()));
        // A visit that expires meanwhile is in doubt.
        let mut expired = Vec::new();
        session.expire(|&waiter| waiter == 0, |waiter, result| expired.push((waiter, result)));
        assert_eq!(expired, [(0, Err(StoreError::OutcomeUnknown))]);
        buffers.receive(acks.as_bytes());
        let end = session.process_replies(&mut buffers).map(|batch| batch.is_some());
        assert_eq!(end, error, "{acks}");
        let leftover = session.into_leftover(&buffers);
        let expected = if error == Ok(true) {
            Ok(9)
        } else {
            assert_eq!(leftover.recovery, Recovery::Resend, "{acks}");
            Err(StoreError::OutcomeUnknown)
        };
        assert_eq!(results_of_leftover(leftover), [(1, expected)], "{acks}");
    }
}

#[test]
fn a_refused_batch_does_not_wait_for_acks() {
    let mut buffers = Buffers::default();
    let config = RedisConfig { acks: 1, ..several("sentinel") };
    let mut session = session_with(&config, &mut buffers);
    session.submit(&mut two_increments(), &mut |_| 0, &mut buffers);
    buffers.mark_sent(buffers.pending().len());
    buffers.receive(b"-NOREPLICAS Not enough good replicas to write.\r\n");
    assert!(session.process_replies(&mut buffers).is_ok_and(|batch| batch.is_none()));
    buffers.receive(b"-NOREPLICAS Not enough good replicas to write.\r\n");
    let end = session.process_replies(&mut buffers).map(|batch| batch.is_some());
    assert_eq!(end, Err(SessionError::Refused(Rejection::NoReplicas)));
    let leftover = session.into_leftover(&buffers);
    assert_eq!((leftover.recovery, leftover.unsent.waiter_count()), (Recovery::None, 2));
}

#[test]
fn acks_concern_batches_with_increments_alone() {
    let config = RedisConfig { acks: 1, ..config() };
    let mut buffers = Buffers::default();
    let mut session = session_with(&config, &mut buffers);
    session.submit(&mut batch(&[Command::Get { key: visits() }, Command::Ping]), &mut |_| 0, &mut buffers);
    assert_eq!(send_all(&mut buffers), ["GET", "visits", "PING"]);
    buffers.receive(b"$1\r\n7\r\n+PONG\r\n");
    let done = session.process_replies(&mut buffers).expect("no session error").expect("a complete batch");
    assert_eq!(results_of(done, StoreError::OutcomeUnknown), [(0, Ok(7)), (1, Ok(0))]);
    // A rejected increment was not written, so it needs no acknowledgement.
    session.submit(&mut batch(&[Command::Increment { key: visits(), by: 1 }]), &mut |_| 0, &mut buffers);
    buffers.mark_sent(buffers.pending().len());
    buffers.receive(b"-WRONGTYPE Operation\r\n:0\r\n");
    let done = session.process_replies(&mut buffers).expect("no session error").expect("a complete batch");
    let rejected = Err(StoreError::Rejected(Rejection::WrongType));
    assert_eq!(results_of(done, StoreError::OutcomeUnknown), [(0, rejected)]);
    // The script was lost: a new WAIT follows the second attempt.
    session.submit(&mut batch(&[Command::Increment { key: visits(), by: 1 }]), &mut |_| 0, &mut buffers);
    buffers.mark_sent(buffers.pending().len());
    buffers.receive(b"-NOSCRIPT No matching script.\r\n:0\r\n");
    assert!(session.process_replies(&mut buffers).is_ok_and(|batch| batch.is_none()));
    let sent = send_all(&mut buffers);
    assert!(sent[0] == "EVAL" && sent[sent.len() - 3] == "WAIT", "{sent:?}");
    buffers.receive(b"$1\r\n7\r\n:1\r\n");
    let done = session.process_replies(&mut buffers).expect("no session error").expect("a complete batch");
    assert_eq!(results_of(done, StoreError::OutcomeUnknown), [(0, Ok(8))]);
}

#[test]
fn the_first_increment_of_a_counter_carries_its_floor() {
    let named = blog();
    let commands = [Command::Increment { key: visits(), by: 1 }, Command::Increment { key: named, by: 2 }];
    let mut buffers = Buffers::default();
    let mut session = session_with_limit(DIGEST, &mut buffers);
    let mut floor = |key: &Key| if *key == visits() { 100 } else { 7 };
    session.submit(&mut batch(&commands), &mut floor, &mut buffers);
    let sent = send_all(&mut buffers);
    let (main, blog) = sent.split_at(10);
    assert_eq!([&main[8], &main[9]], ["0", "100"], "{sent:?}");
    assert_eq!([&blog[9], &blog[10]], ["9", "7"], "{sent:?}");
    // It is carried again where the script was lost.
    buffers.receive(b"-NOSCRIPT No matching script.\r\n-NOSCRIPT No matching script.\r\n");
    assert!(session.process_replies(&mut buffers).is_ok_and(|batch| batch.is_none()));
    let sent = send_all(&mut buffers);
    assert_eq!([&sent[9], &sent[20]], ["100", "7"], "{sent:?}");
    buffers.receive(b"$3\r\n100\r\n$1\r\n7\r\n");
    let done = session.process_replies(&mut buffers).expect("no session error").expect("a complete batch");
    assert_eq!(results_of(done, StoreError::OutcomeUnknown), [(0, Ok(101)), (1, Ok(9))]);
    session.submit(&mut batch(&commands), &mut |_| 0, &mut buffers);
    assert_eq!(send_all(&mut buffers).len(), 8 + 10);
}

#[test]
fn commands_without_a_reply_are_sent_again_under_the_same_sequence_number() {
    let mut buffers = Buffers::default();
    let mut session = ready_session(&mut buffers, true);
    session.submit(&mut two_increments(), &mut |_| 0, &mut buffers);
    let first = buffers.pending().to_vec();
    buffers.mark_sent(first.len());
    buffers.read_buf().put_slice(b"$1\r\n4\r\n");
    assert!(session.process_replies(&mut buffers).is_ok_and(|batch| batch.is_none()));
    let mut leftover = session.into_leftover(&buffers);
    assert_eq!(results_of(&mut leftover.replied, StoreError::OutcomeUnknown), [(0, Ok(5))]);
    // A connection that fails before a byte is sent does not end the doubt.
    for sent in [0, 1] {
        assert_eq!(leftover.recovery, Recovery::Resend);
        let mut buffers = Buffers::default();
        let mut session = ready_session(&mut buffers, true);
        session.submit(&mut leftover.batch, &mut |_| 0, &mut buffers);
        assert!(
            first.ends_with(buffers.pending())
                && !buffers.pending().is_empty()
                && buffers.pending().len() < first.len()
        );
        buffers.mark_sent(sent);
        leftover = session.into_leftover(&buffers);
    }
    let mut buffers = Buffers::default();
    let mut session = ready_session(&mut buffers, true);
    session.submit(&mut leftover.batch, &mut |_| 0, &mut buffers);
    buffers.read_buf().put_slice(b"$1\r\n8\r\n");
    let done = session.process_replies(&mut buffers).expect("no session error").expect("a complete batch");
    let results = results_of(done, StoreError::OutcomeUnknown);
    assert_eq!(results, [(1, Ok(9))]);
}
