//! Arbitrary messages of a name server, and arbitrary files.
//!
//! - Addresses are contained in a message that belongs to the query.
//! - A truncated message gives the first of the addresses that the whole message gives.
//! - Candidates begin with the name that is looked up, and there is always a server.
//! - The result of parsing a file does not depend on the pieces in which it is read.
//! - A lookup ends by its deadline, independent of the messages.

use std::net::{IpAddr, SocketAddr};

use notch::dns::{
    self, A, AAAA, Conf, ConfParser, Hosts, Lookup, MAX_ADDRESSES, MAX_SEARCH, MAX_SERVERS, ReplyKind, Step,
};

/// The host that is looked up.
const HOST: &str = "redis.example";

/// `data` is used in three ways: as a message from its flags on, after whose header the question is inserted; as the
/// text of a file; and as the events of a lookup.
pub fn holds(data: &[u8]) {
    for kind in [A, AAAA] {
        let query = dns::encode_query(ID, HOST.as_bytes(), kind).expect("a valid name");
        let message = reply(data, &query);
        for (is_reply, message) in [(true, &message[..]), (false, data)] {
            check_message(message, &query, is_reply);
        }
    }
    check_files(data);
    check_lookup(data);
}

/// Returns a message with the id and the question of the query, and the flags and records in `data`.
fn reply(data: &[u8], query: &[u8]) -> Vec<u8> {
    let (flags, records) = data.split_at(data.len().min(HEADER - 2));
    [&query[..2], flags, &query[HEADER..], records].concat()
}

fn check_message(message: &[u8], query: &[u8], is_reply: bool) {
    let decode = |message: &[u8]| {
        let mut found = Vec::new();
        let kind = dns::decode_reply(message, query, &mut found);
        assert!(kind == ReplyKind::Exists || found.is_empty(), "addresses in a reply without records");
        assert!(found.len() <= MAX_ADDRESSES);
        (kind, found)
    };
    let (kind, whole) = decode(message);
    assert!(is_reply || message.starts_with(&query[..2]) || kind == ReplyKind::Foreign, "a reply to another query");
    for address in &whole {
        let bytes = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        assert!(message.windows(bytes.len()).any(|window| window == bytes), "an address that is not in the message");
    }
    for end in (0..message.len()).step_by(message.len() / 100 + 1) {
        let (_, found) = decode(&message[..end]);
        assert!(whole.starts_with(&found), "a truncated message has other addresses");
    }
}

fn parse_conf(text: &[u8], length: usize) -> Conf {
    let mut parser = ConfParser::new(interfaces);
    text.chunks(length).for_each(|piece| parser.read(piece));
    parser.finish("machine.example.org")
}

fn interfaces(name: &str) -> Option<u32> {
    (name == "eth0").then_some(7)
}

fn parse_hosts(text: &[u8], length: usize) -> Vec<SocketAddr> {
    let mut hosts = Hosts::new(HOST, 6379, interfaces);
    text.chunks(length).for_each(|piece| hosts.read(piece));
    hosts.finish()
}

fn check_files(text: &[u8]) {
    let whole = parse_conf(text, text.len().max(1));
    assert!((1..=MAX_SERVERS).contains(&whole.servers.len()) && whole.search.len() <= MAX_SEARCH);
    assert!((1..=5).contains(&whole.attempts) && (1000..=30_000).contains(&whole.timeout) && whole.ndots <= 15);
    let names = whole.candidates(HOST);
    assert!(names.iter().all(|name| name.starts_with(HOST.as_bytes())));
    assert!(names.iter().any(|name| name == HOST.as_bytes()));
    let lower = text.to_ascii_lowercase();
    let hosts = parse_hosts(text, text.len().max(1));
    assert!(hosts.len() <= MAX_ADDRESSES);
    assert!(hosts.is_empty() || lower.windows(HOST.len()).any(|at| at == HOST.as_bytes()), "listed under another name");
    for length in 1..text.len().min(9) {
        assert!(parse_conf(text, length) == whole && parse_hosts(text, length) == hosts, "pieces of {length} bytes");
    }
    for word in text.split(u8::is_ascii_whitespace) {
        let address = dns::parse_address(word, 6379, interfaces);
        assert!(address.is_none_or(|address| address.is_ipv6() || !word.contains(&b'%') || word.ends_with(b"%")));
        if let Some(query) = dns::encode_query(ID, word, A) {
            assert!(word.len() <= 253 && query.len() == HEADER + word.len() + 6);
        }
    }
}

/// Runs a lookup whose events are the bytes of `data`; each byte also advances the clock.
fn check_lookup(data: &[u8]) {
    let conf = parse_conf(b"nameserver 1.1.1.1\nnameserver ::1\nnameserver 2.2.2.2\nsearch a b\n", 1);
    let deadline = 500;
    let mut lookup = Lookup::new(&conf, HOST, deadline, || ID.into());
    let (mut now, mut queries, mut events) = (0, Vec::new(), data.iter());
    // Each of three names has at most two queries for two types to three servers, and more after failures.
    for _ in 0..200 + data.len() {
        match lookup.poll(now) {
            Step::Send(server, query) | Step::Connect(server, query, _) => {
                assert!(server < conf.servers.len() && now <= deadline);
                queries.push(query.to_vec());
            }
            Step::Wait(until) => {
                assert!(now < until && until <= deadline, "waits for {until} at {now}");
                let Some(&byte) = events.next() else {
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
                        let query = &queries[usize::from(byte) % queries.len()];
                        lookup.receive(server, &reply(events.as_slice(), query), now);
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
    panic!("the lookup does not end");
}

/// The query id.
const ID: u16 = 0x1234;

/// Length of the header, before the question, in bytes.
const HEADER: usize = 12;
