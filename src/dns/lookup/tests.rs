use std::net::Ipv4Addr;

use super::super::message::HEADER;
use super::super::{AAAA, ConfParser};
use super::*;

/// How a simulated name server handles a query; times are in milliseconds.
#[derive(Clone, Copy)]
enum Behavior {
    /// It sends this content after this time.
    Reply(u64, Content),
    /// It sends no reply.
    Silence,
    /// No server listens on its address.
    Unreachable,
}
use Behavior::{Reply, Silence, Unreachable};

#[derive(Clone, Copy)]
enum Content {
    /// An address of the requested type that ends with this byte.
    Address(u8),
    NoAddress,
    NoName,
    Failed,
    Refused,
    /// Truncated, without an address; over TCP, this address.
    Truncated(Option<u8>),
}
use Content::{Address, Failed, NoAddress, NoName, Refused, Truncated};

/// Returns how a server handles a query: server, name, type, and the number of equal queries before.
type Servers = fn((usize, &str, u8, usize)) -> Behavior;

/// The result, its time, and the queries that were sent: server, name, type, time.
type Outcome = (Result<Vec<IpAddr>, Failure>, u64, Vec<(usize, String, u8, u64)>);

fn encode(query: &[u8], content: Content) -> Vec<u8> {
    let (flags, code, last) = match content {
        Address(last) => (0x81, 0x80, Some(last)),
        NoAddress => (0x81, 0x80, None),
        NoName => (0x81, 0x83, None),
        Failed => (0x81, 0x82, None),
        Refused => (0x81, 0x85, None),
        Truncated(_) => (0x83, 0x80, None),
    };
    let mut reply =
        [&query[..2], &[flags, code, 0, 1, 0, last.is_some().into(), 0, 0, 0, 0], &query[HEADER..]].concat();
    let kind = query[query.len() - 3];
    if let Some(last) = last {
        let length = if kind == A { 4 } else { 16 };
        reply.extend([0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 9, 0, length]);
        reply.extend([10, 0, 0]);
        reply.extend(vec![0; usize::from(length) - 4]);
        reply.push(last);
    }
    reply
}

fn name(query: &[u8]) -> String {
    let mut labels = &query[HEADER..query.len() - 5];
    let mut names = Vec::new();
    while let Some((&length, rest)) = labels.split_first() {
        let (label, rest) = rest.split_at(usize::from(length));
        names.push(String::from_utf8_lossy(label).into_owned());
        labels = rest;
    }
    names.join(".")
}

/// Looks `redis` up with simulated servers and a virtual clock.
fn look_up(conf: &str, deadline: u64, servers: Servers) -> Outcome {
    let mut parser = ConfParser::new(|_| None);
    parser.read(conf.as_bytes());
    let conf = parser.finish("");
    let mut lookup = Lookup::new(&conf, "redis", deadline, || 0x1234);
    let (mut now, mut sent) = (0, Vec::new());
    // Time, server and bytes of each message in flight; no bytes stand for an unreachable server.
    let mut incoming: Vec<(u64, usize, Vec<u8>)> = Vec::new();
    for _ in 0..1000 {
        match lookup.poll(now) {
            Step::Send(server, query) => {
                let (name, kind) = (name(query), query[query.len() - 3]);
                let is_same = |(one, other, kind_, _): &&(usize, String, u8, u64)| {
                    (*one, other.as_str(), *kind_) == (server, name.as_str(), kind)
                };
                let before = sent.iter().filter(is_same).count();
                match servers((server, &name, kind, before)) {
                    Reply(after, content) => {
                        incoming.push((now + after, server, encode(query, content)));
                    }
                    Silence => {}
                    Unreachable => incoming.push((now, server, Vec::new())),
                }
                sent.push((server, name, kind, now));
            }
            Step::Connect(server, query, until) => {
                assert!(until <= deadline);
                let (name, kind) = (name(query), query[query.len() - 3]);
                match servers((server, &name, kind, 0)) {
                    Reply(_, Truncated(Some(last))) => {
                        let reply = encode(query, Address(last));
                        lookup.receive(server, &reply, now);
                    }
                    _ => now = until,
                }
                incoming.sort_by_key(|&(time, ..)| time);
                while incoming.first().is_some_and(|&(time, ..)| time <= now) {
                    let (_, server, bytes) = incoming.remove(0);
                    lookup.receive(server, &bytes, now);
                }
                sent.push((server, format!("tcp:{name}"), kind, now));
            }
            Step::Wait(until) => {
                assert!(until > now, "waits for a time in the past");
                incoming.sort_by_key(|&(time, ..)| time);
                match incoming.first() {
                    Some(&(time, ..)) if time <= until => {
                        let (time, server, bytes) = incoming.remove(0);
                        now = now.max(time);
                        if bytes.is_empty() {
                            lookup.mark_unreachable(server)
                        } else {
                            lookup.receive(server, &bytes, now)
                        }
                    }
                    _ => now = until,
                }
            }
            Step::Done(result) => return (result, now, sent),
        }
    }
    panic!("the lookup does not end: {sent:?}");
}

/// Returns the IPv4 and the IPv6 address that end with this byte.
fn both(last: u8) -> Result<Vec<IpAddr>, Failure> {
    Ok(vec![v4(last), IpAddr::from([10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last])])
}

fn v4(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, last).into()
}

const TWO: &str = "nameserver 1.1.1.1\nnameserver 2.2.2.2\n";
const SEARCH: &str = "nameserver 1.1.1.1\nnameserver 2.2.2.2\nsearch a b c\noptions ndots:5\n";

#[test]
fn each_case_has_its_result_and_time() {
    /// Description, `resolv.conf`, the servers, the result, and its time.
    type Case = (&'static str, &'static str, Servers, Result<Vec<IpAddr>, Failure>, u64);
    let cases: &[Case] = &[
        ("the first reply wins", TWO, |(server, ..)| Reply([9, 3][server], Address(server as u8)), both(1), 3),
        (
            "the first server is dead, and the second candidate is the name",
            SEARCH,
            |(server, name, ..)| match (server, name) {
                (0, _) => Silence,
                (_, "redis.b") => Reply(2, Address(9)),
                _ => Reply(2, NoName),
            },
            both(9),
            2 + 100,
        ),
        (
            "slow servers, and the last candidate is the name",
            SEARCH,
            |(_, name, ..)| Reply(340, if name == "redis" { Address(9) } else { NoName }),
            both(9),
            50 + 50 + 50 + 340,
        ),
        (
            "an earlier candidate is preferred although it is slower",
            SEARCH,
            |(_, name, ..)| match name {
                "redis.a" => Reply(200, Address(1)),
                _ => Reply(1, Address(2)),
            },
            both(1),
            200,
        ),
        (
            "a dead server is waited for once",
            SEARCH,
            |(server, name, ..)| match (server, name) {
                (0, _) => Silence,
                (_, "redis") => Reply(2, Address(9)),
                _ => Reply(2, NoName),
            },
            both(9),
            2 + 100 + 2,
        ),
        (
            "the faster server denies the name",
            TWO,
            |(server, ..)| Reply([50, 1][server], [Address(9), NoName][server]),
            both(9),
            50,
        ),
        (
            "the faster server has no address",
            TWO,
            |(server, ..)| Reply([50, 1][server], [Address(9), NoAddress][server]),
            both(9),
            50,
        ),
        (
            "the slower server denies the name",
            TWO,
            |(server, ..)| Reply([50, 1][server], [NoName, Address(9)][server]),
            both(9),
            1,
        ),
        (
            "only IPv6, and the first datagrams are lost",
            "nameserver 1.1.1.1\n",
            |(_, _, kind, before)| match (kind, before) {
                (A, _) => Reply(1, NoAddress),
                (_, 0) => Silence,
                _ => Reply(1, Address(9)),
            },
            both(9).map(|found| found[1..].to_vec()),
            251,
        ),
        (
            "the first server is unreachable",
            SEARCH,
            |(server, name, ..)| match (server, name) {
                (0, _) => Unreachable,
                (_, "redis") => Reply(1, Address(9)),
                _ => Reply(1, NoName),
            },
            both(9),
            4,
        ),
        ("no server is reachable", SEARCH, |_| Unreachable, Err(Failure::NoServer), 0),
        ("no server replies", SEARCH, |_| Silence, Err(Failure::NoServer), 500),
        ("there is no such name", SEARCH, |_| Reply(1, NoName), Err(Failure::NoSuchName), 4),
        ("there is no address", SEARCH, |_| Reply(1, NoAddress), Err(Failure::NoAddress), 4),
        (
            "a name without an address does not end the search",
            SEARCH,
            |(_, name, ..)| Reply(1, if name == "redis" { Address(9) } else { NoAddress }),
            both(9),
            4,
        ),
        (
            "nor does a server that fails",
            SEARCH,
            |(_, name, ..)| Reply(1, if name == "redis.c" { Address(9) } else { Failed }),
            both(9),
            5,
        ),
        (
            "a failure is reported if nothing is found",
            SEARCH,
            |(_, name, ..)| Reply(1, if name == "redis.b" { Failed } else { NoName }),
            Err(Failure::ServerFailed),
            5,
        ),
        (
            "one server fails, the other has the name",
            TWO,
            |(server, ..)| Reply(1 + 7 * server as u64, [Failed, Address(9)][server]),
            both(9),
            8,
        ),
        (
            "one server refuses, the other has the name",
            TWO,
            |(server, ..)| Reply(1 + 7 * server as u64, [Refused, Address(9)][server]),
            both(9),
            8,
        ),
        ("all refuse", TWO, |_| Reply(1, Refused), Err(Failure::ServerFailed), 1),
        (
            "a server fails once",
            "nameserver 1.1.1.1\n",
            |(_, _, _, before)| Reply(1, if before == 0 { Failed } else { Address(9) }),
            both(9),
            2,
        ),
        (
            "one is silent and the other fails: it is waited for once",
            SEARCH,
            |(server, name, ..)| match (server, name) {
                (0, _) => Silence,
                (_, "redis") => Reply(1, Address(9)),
                _ => Reply(1, Failed),
            },
            both(9),
            250,
        ),
        (
            "all are silent for one candidate",
            SEARCH,
            |(_, name, ..)| if name == "redis.a" { Silence } else { Reply(1, Address(9)) },
            both(9),
            250,
        ),
        (
            "a slow reply counts although the search went on",
            SEARCH,
            |(_, name, ..)| if name == "redis.a" { Reply(300, Address(9)) } else { Silence },
            both(9),
            300,
        ),
        (
            "the first datagrams are lost",
            TWO,
            |(_, _, _, before)| if before == 0 { Silence } else { Reply(1, Address(9)) },
            both(9),
            251,
        ),
        (
            "queries for IPv6 are dropped",
            TWO,
            |(_, _, kind, _)| if kind == AAAA { Silence } else { Reply(1, Address(9)) },
            Ok(vec![v4(9)]),
            101,
        ),
        (
            "queries for IPv6 get a wrong reply",
            TWO,
            |(_, _, kind, _)| if kind == AAAA { Reply(1, NoName) } else { Reply(5, Address(9)) },
            Ok(vec![v4(9)]),
            5,
        ),
        (
            "queries for IPv6 are refused",
            TWO,
            |(_, _, kind, _)| Reply(1, if kind == AAAA { Refused } else { Address(9) }),
            Ok(vec![v4(9)]),
            1,
        ),
        ("a reply is truncated", TWO, |_| Reply(1, Truncated(Some(9))), both(9), 1),
        ("a reply is truncated, and TCP closed", "", |_| Reply(1, Truncated(None)), Err(Failure::Truncated), 375),
        (
            "one server truncates its replies, the other does not",
            TWO,
            |(server, ..)| Reply(1 + 2 * server as u64, [Truncated(None), Address(9)][server]),
            both(9),
            250,
        ),
        (
            "a timeout ends the wait",
            "nameserver 1.1.1.1\noptions timeout:1\n",
            |_| Reply(2_000, Address(9)),
            Err(Failure::NoServer),
            500,
        ),
    ];
    for (case, conf, servers, result, time) in cases {
        let (found, took, sent) = look_up(conf, 500, *servers);
        assert_eq!((&found, took), (result, *time), "{case}: {sent:?}");
    }
}

#[test]
fn options_set_the_times_of_queries() {
    for (options, times) in [
        ("", &[0, 1_000][..]),
        ("options attempts:1", &[0]),
        ("options attempts:5", &[0, 1_000, 2_000, 3_000, 4_000]),
        ("options timeout:1", &[0, 500]),
        ("options timeout:1 attempts:4", &[0, 250, 500, 750]),
    ] {
        let conf = format!("nameserver 1.1.1.1\nsearch .\n{options}\n");
        let (found, took, sent) = look_up(&conf, 20_000, |_| Silence);
        let timeout = if options.contains("timeout") { 1_000 } else { 5_000 };
        assert_eq!((found, took), (Err(Failure::NoServer), timeout), "{options}");
        let times_sent: Vec<_> = sent.iter().filter(|(_, _, kind, _)| *kind == A).map(|&(.., time)| time).collect();
        assert_eq!(times_sent, times, "{options}");
    }
}

#[test]
fn invalid_names_are_skipped() {
    let mut parser = ConfParser::new(|_| None);
    parser.read(["search ", &"a".repeat(64), " ", &"b.".repeat(125), " c"].concat().as_bytes());
    let conf = parser.finish("");
    let mut lookup = Lookup::new(&conf, "redis", 1_000, || 0);
    let Step::Send(0, query) = lookup.poll(0) else { panic!("nothing to send") };
    assert_eq!(name(query), "redis.c");
    let mut lookup = Lookup::new(&conf, "redis..test", 1_000, || 0);
    assert_eq!(lookup.poll(0), Step::Done(Err(Failure::NoSuchName)));
    let mut lookup = Lookup::new(&conf, "redis", 0, || 0);
    assert_eq!(lookup.poll(0), Step::Done(Err(Failure::NoServer)), "without any time");
}
