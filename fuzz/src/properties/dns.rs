//! A name server that answers anything at all, and files that say anything at all.
//!
//! - Addresses come from a message that answers our question, and from no other; none is made up.
//! - A message that was cut short gives the first of those that the whole one gives.
//! - Names to be tried begin with the one that was asked for, and there is always a server to ask.
//! - A file means the same in whatever pieces it is read.
//! - A lookup ends, by its deadline, whatever comes and whenever.

use std::net::{IpAddr, SocketAddr};

use notch::dns::{
    self, A, AAAA, Conf, ConfParser, Hosts, Lookup, MAX_ADDRESSES, MAX_SEARCH, MAX_SERVERS, ReplyKind, Step,
};

/// Who is looked for.
const HOST: &str = "redis.example";

/// `data` is what follows the number and the question in a message, from its flags on; it is the text of a file; and it
/// is what happens during a lookup.
pub fn holds(data: &[u8]) {
    for kind in [A, AAAA] {
        let query = dns::query(ID, HOST.as_bytes(), kind).expect("a good name");
        let message = answer(data, &query);
        for (ours, message) in [(true, &message[..]), (false, data)] {
            reads(message, &query, ours);
        }
    }
    files(data);
    ends(data);
}

/// The message that repeats number and question of the query, and goes on with these flags and records.
fn answer(data: &[u8], query: &[u8]) -> Vec<u8> {
    let (flags, records) = data.split_at(data.len().min(HEAD - 2));
    [&query[..2], flags, &query[HEAD..], records].concat()
}

fn reads(message: &[u8], query: &[u8], ours: bool) {
    let read = |message: &[u8]| {
        let mut found = Vec::new();
        let verdict = dns::reply(message, query, &mut found);
        assert!(verdict == ReplyKind::Exists || found.is_empty(), "addresses of nobody");
        assert!(found.len() <= MAX_ADDRESSES);
        (verdict, found)
    };
    let (verdict, whole) = read(message);
    assert!(ours || message.starts_with(&query[..2]) || verdict == ReplyKind::Foreign, "somebody else's answer");
    for address in &whole {
        let bytes = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        assert!(message.windows(bytes.len()).any(|window| window == bytes), "an address that nobody named");
    }
    for end in (0..message.len()).step_by(message.len() / 100 + 1) {
        let (_, found) = read(&message[..end]);
        assert!(whole.starts_with(&found), "half a message says something else");
    }
}

fn conf(text: &[u8], length: usize) -> Conf {
    let mut parser = ConfParser::new(interfaces);
    text.chunks(length).for_each(|piece| parser.read(piece));
    parser.finish("machine.example.org")
}

fn interfaces(name: &str) -> Option<u32> {
    (name == "eth0").then_some(7)
}

fn listed(text: &[u8], length: usize) -> Vec<SocketAddr> {
    let mut hosts = Hosts::new(HOST, 6379, interfaces);
    text.chunks(length).for_each(|piece| hosts.read(piece));
    hosts.finish()
}

fn files(text: &[u8]) {
    let whole = conf(text, text.len().max(1));
    assert!((1..=MAX_SERVERS).contains(&whole.servers.len()) && whole.search.len() <= MAX_SEARCH);
    assert!((1..=5).contains(&whole.attempts) && (1000..=30_000).contains(&whole.timeout) && whole.ndots <= 15);
    let names = whole.candidates(HOST);
    assert!(names.iter().all(|name| name.starts_with(HOST.as_bytes())));
    assert!(names.iter().any(|name| name == HOST.as_bytes()));
    let lower = text.to_ascii_lowercase();
    let hosts = listed(text, text.len().max(1));
    assert!(hosts.len() <= MAX_ADDRESSES);
    assert!(hosts.is_empty() || lower.windows(HOST.len()).any(|at| at == HOST.as_bytes()), "listed by another name");
    for length in 1..text.len().min(9) {
        assert!(conf(text, length) == whole && listed(text, length) == hosts, "pieces of {length} bytes");
    }
    for word in text.split(u8::is_ascii_whitespace) {
        let address = dns::address(word, 6379, interfaces);
        assert!(address.is_none_or(|address| address.is_ipv6() || !word.contains(&b'%') || word.ends_with(b"%")));
        if let Some(query) = dns::query(ID, word, A) {
            assert!(word.len() <= 253 && query.len() == HEAD + word.len() + 6);
        }
    }
}

/// Plays a lookup whose servers do as the bytes say, each of which moves the clock, too.
fn ends(data: &[u8]) {
    let conf = conf(b"nameserver 1.1.1.1\nnameserver ::1\nnameserver 2.2.2.2\nsearch a b\n", 1);
    let deadline = 500;
    let mut lookup = Lookup::new(&conf, HOST, deadline, || ID.into());
    let (mut now, mut asked, mut happens) = (0, Vec::new(), data.iter());
    // Each of three names is asked for at most twice, by two questions to three servers, and again after failures.
    for _ in 0..200 + data.len() {
        match lookup.poll(now) {
            Step::Send(server, query) | Step::Connect(server, query, _) => {
                assert!(server < conf.servers.len() && now <= deadline);
                asked.push(query.to_vec());
            }
            Step::Wait(until) => {
                assert!(now < until && until <= deadline, "waits for {until} at {now}");
                let Some(&byte) = happens.next() else {
                    now = until;
                    continue;
                };
                now = until.min(now + u64::from(byte / 32));
                let server = usize::from(byte) % conf.servers.len();
                match byte % 32 {
                    0 => now = until,
                    1 => lookup.mark_unreachable(server),
                    2 => lookup.receive(server, data, now),
                    _ => {
                        let query = &asked[usize::from(byte) % asked.len()];
                        lookup.receive(server, &answer(happens.as_slice(), query), now);
                    }
                }
            }
            Step::Done(result) => {
                assert!(now <= deadline);
                assert!(result.is_err() || result.is_ok_and(|found| (1..=MAX_ADDRESSES).contains(&found.len())));
                return;
            }
        }
    }
    panic!("no end");
}

/// The number of the question.
const ID: u16 = 0x1234;

/// Bytes in front of the question.
const HEAD: usize = 12;
