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
    const ASKS: &[u8] = b"*2\r\n$4\r\nINFO\r\n$6\r\nmemory\r\n*2\r\n$3\r\nGET\r\n$6\r\nvisits\r\n*1\r\n$4\r\nPING\r\n";
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
        (count, b"-ERR ACL failure in script: User u has no permissions to run the 'set' command script: 9dc3\r\n", {
            refused(Rejection::Permission)
        }),
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
        assert_eq!(converse(&[command], false, says), (vec![(0, told)], end), "{command:?} {}", says.escape_ascii());
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
