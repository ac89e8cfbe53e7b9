//! Which name server to ask for which name, and when: one lookup of a host, from the search list to its addresses.
//!
//! As in musl, all servers are asked at once and the first addresses win. A reply without any leaves the other servers
//! a moment, because one of them may have the name: glibc asks them in order, and what it finds is to be found here. As
//! in glibc, the search goes on after a candidate for which a server failed or none answered, and the failure is
//! reported only if nothing is found. What a server did for one candidate is remembered for the next: one that was
//! silent is asked, but no longer waited for where another has answered. Where servers are slow, the next candidate is
//! asked for before the one before is over, but never preferred to it.
//!
//! Times are milliseconds since the start of the lookup, so that this file needs no clock. The driver performs each
//! [`Step`] and reports what came of it, until one is the last.

use std::net::IpAddr;
use std::vec;

use super::{A, AAAA, Conf, MAX_ADDRESSES, MAX_SERVERS, ReplyKind};

/// What the driver has to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// Send a query to a server, given by its place in [`Conf::servers`], in a datagram.
    Send(usize, &'a [u8]),
    /// Send a query to a server over TCP (RFC 7766) and pass its reply to [`Lookup::receive`], if it comes before this
    /// time; then, whatever datagrams have come meanwhile.
    Connect(usize, &'a [u8], u64),
    /// Wait for datagrams until this time.
    Wait(u64),
    /// The lookup has ended.
    Done(Result<Vec<IpAddr>, Failure>),
}

/// Why nothing was found. Of several candidates, the reason that comes last here is reported, because it kept the
/// lookup from knowing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// None of the candidates exists.
    NoSuchName,
    /// One exists and has no address.
    NoAddress,
    /// No server answered in time.
    NoServer,
    /// All servers that answered failed or refused.
    ServerFailed,
    /// A reply was cut short, and could not be had over TCP either.
    Truncated,
}

/// The lookup of one host.
pub struct Lookup<'a> {
    conf: &'a Conf,
    /// Source of query numbers that nobody can guess.
    random: fn() -> u64,
    deadline: u64,
    servers: [Server; MAX_SERVERS],
    /// Names that were not asked for yet.
    names: vec::IntoIter<Vec<u8>>,
    /// Names that were asked for. A late reply counts, too.
    candidates: Vec<Candidate>,
}

/// One question to one server: the places of candidate, question and server.
type Place = (usize, usize, usize);

/// What is known of a server.
#[derive(Clone, Copy, Default, PartialEq)]
enum Server {
    #[default]
    Unknown,
    /// It has answered something.
    Alive,
    /// It has not answered while a candidate was waited for.
    Silent,
    /// Nothing can be sent to it.
    Unreachable,
}

struct Candidate {
    questions: [Question; 2],
    /// No longer waited for from then on: sooner where one kind of address is known.
    end: u64,
    /// When the next name is asked for, whether this one is over or not.
    next: u64,
    /// It is over, and it has been noted which servers were silent.
    is_noted: bool,
    /// When to ask again, and how often.
    resend: u64,
    interval: u64,
    resends: u32,
}

/// The question for one kind of address.
struct Question {
    query: Vec<u8>,
    servers: [Progress; MAX_SERVERS],
    /// Servers to which the query is to be sent.
    unsent: [bool; MAX_SERVERS],
    /// Whether the name exists, as the first server to answer has it.
    answer: Option<bool>,
    /// Other servers are no longer waited for from then on, since one has answered.
    end: u64,
    found: Vec<IpAddr>,
}

/// How far one server is with one question.
#[derive(Clone, Copy, PartialEq)]
enum Progress {
    /// Its reply is waited for; it failed as often as this.
    Asked(u32),
    /// It cannot be asked.
    Unreachable,
    /// Its reply was cut short and is to be had over TCP.
    Truncated,
    /// The same, and TCP has been tried.
    Retried,
    Failed,
    Answered,
}

impl<'a> Lookup<'a> {
    /// Starts to look `host` up, within the time from zero to `deadline`.
    #[must_use]
    pub fn new(conf: &'a Conf, host: &str, deadline: u64, random: fn() -> u64) -> Self {
        Self {
            conf,
            random,
            deadline,
            servers: [Server::Unknown; MAX_SERVERS],
            names: conf.candidates(host).into_iter(),
            candidates: Vec::new(),
        }
    }

    /// Returns what to do at this time.
    pub fn poll(&mut self, now: u64) -> Step<'_> {
        while !self.is_waiting(now) {
            if self.has_addresses() || !self.ask_next(now) {
                return Step::Done(self.finish());
            }
        }
        // Slow servers get the next question before they have answered this one, so that the time is enough for all.
        if !self.has_addresses() && self.candidates.last().is_some_and(|candidate| now >= candidate.next) {
            self.ask_next(now);
        }
        if let Some((candidate, kind, server)) =
            self.find(|question, server| question.found.is_empty() && question.servers[server] == Progress::Truncated)
        {
            let Candidate { questions, end, .. } = &mut self.candidates[candidate];
            questions[kind].servers[server] = Progress::Retried;
            // Whatever keeps TCP from working, another server still has time to answer.
            return Step::Connect(server, &questions[kind].query, now + end.saturating_sub(now) / 2);
        }
        self.resend(now);
        if let Some((candidate, kind, server)) = self.find(|question, server| question.unsent[server]) {
            let question = &mut self.candidates[candidate].questions[kind];
            question.unsent[server] = false;
            return Step::Send(server, &question.query);
        }
        Step::Wait(self.next_event(now))
    }

    /// Takes what a server sent.
    pub fn receive(&mut self, server: usize, message: &[u8], now: u64) {
        for candidate in &mut self.candidates {
            for question in &mut candidate.questions {
                // Of several servers with addresses, the first holds.
                let mut ignored = Vec::new();
                let found = if question.found.is_empty() { &mut question.found } else { &mut ignored };
                let verdict = super::reply(message, &question.query, found);
                if verdict == ReplyKind::Foreign {
                    continue;
                }
                self.servers[server] = Server::Alive;
                question.take(server, verdict, self.conf.attempts);
                if question.answer.is_some() {
                    question.end = question.end.min(now + GRACE);
                }
                let is_found = !question.found.is_empty();
                if is_found && now >= candidate.end {
                    candidate.end = now + GRACE;
                } else if is_found || question.answer == Some(false) {
                    candidate.end = candidate.end.min(now + GRACE);
                }
                return;
            }
        }
    }

    /// Notes that nothing can be sent to a server: it, or a router on the way, has said so.
    pub fn lose(&mut self, server: usize) {
        self.servers[server] = Server::Unreachable;
        for candidate in &mut self.candidates {
            for question in &mut candidate.questions {
                question.unsent[server] = false;
                if matches!(question.servers[server], Progress::Asked(_)) {
                    question.servers[server] = Progress::Unreachable;
                }
            }
        }
    }

    /// The first question and server for which this holds.
    fn find(&self, holds: impl Fn(&Question, usize) -> bool) -> Option<Place> {
        for (place, candidate) in self.candidates.iter().enumerate() {
            for (kind, question) in candidate.questions.iter().enumerate() {
                if let Some(server) = (0..self.conf.servers.len()).find(|&server| holds(question, server)) {
                    return Some((place, kind, server));
                }
            }
        }
        None
    }

    /// When there may be something to do although nothing was received.
    fn next_event(&self, now: u64) -> u64 {
        let mut next = self.deadline;
        for candidate in &self.candidates {
            let resend = if candidate.resends > 0 { candidate.resend } else { candidate.end };
            let [one, other] = candidate.questions.each_ref().map(|question| question.end);
            for event in [resend, candidate.next, candidate.end, one, other] {
                if event > now {
                    next = next.min(event);
                }
            }
        }
        next
    }

    fn has_addresses(&self) -> bool {
        self.candidates.iter().any(Candidate::has_addresses)
    }

    /// Whether a candidate is waited for: the first that is not over. Those behind it do not count until then, as they
    /// would not have been asked for if it had been answered at once.
    fn is_waiting(&mut self, now: u64) -> bool {
        for place in 0..self.candidates.len() {
            let candidate = &self.candidates[place];
            let is_late = now >= candidate.end.min(self.deadline);
            if !is_late && candidate.questions.iter().any(|question| self.is_pending(question, now)) {
                return true;
            }
            if candidate.has_addresses() {
                return false;
            }
            self.note_silence(place);
        }
        false
    }

    /// Whether a server that is worth waiting for has not answered yet. One that is silent is worth it only as long as
    /// no other says anything.
    fn is_pending(&self, question: &Question, now: u64) -> bool {
        if !question.found.is_empty() || now >= question.end {
            return false;
        }
        let (mut is_answered, mut is_asked, mut is_worthwhile) = (false, false, false);
        for (progress, server) in question.servers.iter().zip(self.servers).take(self.conf.servers.len()) {
            match progress {
                Progress::Asked(_) | Progress::Truncated => {
                    is_asked = true;
                    is_worthwhile |= server != Server::Silent;
                }
                Progress::Failed | Progress::Retried | Progress::Answered => is_answered = true,
                Progress::Unreachable => {}
            }
        }
        is_worthwhile || (is_asked && !is_answered)
    }

    /// Goes on to the next name. `false` if there is none, or no time.
    fn ask_next(&mut self, now: u64) -> bool {
        while now < self.deadline {
            let Some(name) = self.names.next() else { return false };
            let Some(candidate) = self.candidate(&name, now) else { continue };
            self.candidates.push(candidate);
            return true;
        }
        false
    }

    fn candidate(&self, name: &[u8], now: u64) -> Option<Candidate> {
        let id = (self.random)() as u16;
        let servers = self.servers.map(|server| match server {
            Server::Unreachable => Progress::Unreachable,
            _ => Progress::Asked(0),
        });
        let unsent = servers.map(|progress| progress != Progress::Unreachable);
        let question = |id, kind| {
            let query = super::query(id, name, kind)?;
            Some(Question { query, servers, unsent, answer: None, end: u64::MAX, found: Vec::new() })
        };
        // No candidate takes the time of all that follow.
        let left = self.deadline.saturating_sub(now);
        let share = if self.names.len() == 0 { left } else { left / 2 };
        let time = self.conf.timeout.min(share);
        let interval = (time / u64::from(self.conf.attempts)).min(MAX_RESEND);
        Some(Candidate {
            questions: [question(id, A)?, question(!id, AAAA)?],
            end: now + time,
            next: now + STAGGER.min(left / 8),
            is_noted: false,
            resend: now + interval,
            interval,
            resends: self.conf.attempts - 1,
        })
    }

    /// Remembers which servers have not answered a candidate that is over.
    fn note_silence(&mut self, place: usize) {
        let candidate = &mut self.candidates[place];
        if std::mem::replace(&mut candidate.is_noted, true) {
            return;
        }
        for (place, server) in self.servers.iter_mut().enumerate() {
            let is_silent = |question: &Question| question.servers[place] == Progress::Asked(0);
            if *server != Server::Unreachable && candidate.questions.iter().all(is_silent) {
                *server = Server::Silent;
            }
        }
    }

    /// Asks again where a datagram may have been lost.
    fn resend(&mut self, now: u64) {
        for candidate in &mut self.candidates {
            if !candidate.is_noted && candidate.resends > 0 && now >= candidate.resend {
                candidate.resends -= 1;
                candidate.resend = now + candidate.interval;
                for question in &mut candidate.questions {
                    question.unsent = [0, 1, 2].map(|server| question.is_open(server));
                }
            }
        }
    }

    /// Returns the addresses of the first candidate that has any, IPv4 first, or why there are none.
    fn finish(&mut self) -> Result<Vec<IpAddr>, Failure> {
        let Some(candidate) = self.candidates.iter_mut().find(|candidate| candidate.has_addresses()) else {
            // Names that were not asked for had no time.
            let default = if self.names.len() == 0 { Failure::NoSuchName } else { Failure::NoServer };
            return Err(self.candidates.iter().map(Candidate::failure).max().unwrap_or(default));
        };
        let [mut found, others] = candidate.questions.each_mut().map(|question| std::mem::take(&mut question.found));
        for address in others {
            if found.len() < MAX_ADDRESSES && !found.contains(&address) {
                found.push(address);
            }
        }
        Ok(found)
    }
}

impl Candidate {
    fn has_addresses(&self) -> bool {
        self.questions.iter().any(|question| !question.found.is_empty())
    }

    fn failure(&self) -> Failure {
        match self.questions.each_ref().map(|question| question.answer) {
            [Some(false), _] | [_, Some(false)] => Failure::NoSuchName,
            [Some(true), Some(true)] => Failure::NoAddress,
            [None, _] => self.questions[0].failure(),
            [_, None] => self.questions[1].failure(),
        }
    }
}

impl Question {
    /// Whether this server is still to be asked.
    fn is_open(&self, server: usize) -> bool {
        self.answer.is_none() && matches!(self.servers[server], Progress::Asked(_))
    }

    /// Notes the reply of one server.
    fn take(&mut self, server: usize, verdict: ReplyKind, attempts: u32) {
        let progress = &mut self.servers[server];
        match (verdict, *progress) {
            (ReplyKind::Exists | ReplyKind::NoName, _) => {
                *progress = Progress::Answered;
                // A name that has addresses exists, whichever server denied it before.
                let exists = self.answer.unwrap_or(verdict == ReplyKind::Exists);
                self.answer = Some(exists || !self.found.is_empty());
                self.unsent = [false; MAX_SERVERS];
            }
            (_, Progress::Retried) => {}
            (ReplyKind::Truncated, _) => *progress = Progress::Truncated,
            (ReplyKind::Failed, Progress::Asked(failures)) if failures + 1 < attempts => {
                *progress = Progress::Asked(failures + 1);
                self.unsent[server] = self.answer.is_none();
            }
            _ => *progress = Progress::Failed,
        }
    }

    /// Why there is no answer.
    fn failure(&self) -> Failure {
        let mut failure = Failure::NoServer;
        for progress in &self.servers {
            failure = failure.max(match progress {
                Progress::Retried | Progress::Truncated => Failure::Truncated,
                Progress::Failed | Progress::Asked(1..) => Failure::ServerFailed,
                Progress::Unreachable | Progress::Asked(_) | Progress::Answered => Failure::NoServer,
            });
        }
        failure
    }
}

/// How long other replies are waited for after one that would do: addresses of the other kind after those of one, or
/// another server after one without addresses. Enough for whoever answers at all, and little for a server that drops
/// questions for IPv6, as some do.
const GRACE: u64 = 100;

/// How long a name is waited for until the next is asked for, too: longer than a server nearby takes.
const STAGGER: u64 = 50;

/// Longest time until a query is sent again.
const MAX_RESEND: u64 = 1000;

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::{AAAA, ConfParser, HEAD};
    use super::*;

    /// What a name server that is played does with a query for a name; times are in milliseconds.
    #[derive(Clone, Copy)]
    enum Play {
        /// It sends this after a while.
        Reply(u64, Content),
        /// Nothing comes.
        Silence,
        /// Nobody listens there.
        Unreachable,
    }
    use Play::{Reply, Silence, Unreachable};

    #[derive(Clone, Copy)]
    enum Content {
        /// An address of the kind that was asked for, which ends with this byte.
        Here(u8),
        NoAddress,
        NoName,
        Failed,
        Refused,
        /// Cut short, with no address; over TCP, what follows.
        Cut(Option<u8>),
    }
    use Content::{Cut, Failed, Here, NoAddress, NoName, Refused};

    /// What each server does: server, name, kind, and how often it was asked that before.
    type World = fn((usize, &str, u8, usize)) -> Play;

    /// The result, when it came, and the queries that were sent: server, name, kind, time.
    type Outcome = (Result<Vec<IpAddr>, Failure>, u64, Vec<(usize, String, u8, u64)>);

    fn encode(query: &[u8], content: Content) -> Vec<u8> {
        let (flags, code, last) = match content {
            Here(last) => (0x81, 0x80, Some(last)),
            NoAddress => (0x81, 0x80, None),
            NoName => (0x81, 0x83, None),
            Failed => (0x81, 0x82, None),
            Refused => (0x81, 0x85, None),
            Cut(_) => (0x83, 0x80, None),
        };
        let mut reply =
            [&query[..2], &[flags, code, 0, 1, 0, last.is_some().into(), 0, 0, 0, 0], &query[HEAD..]].concat();
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
        let mut labels = &query[HEAD..query.len() - 5];
        let mut names = Vec::new();
        while let Some((&length, rest)) = labels.split_first() {
            let (label, rest) = rest.split_at(usize::from(length));
            names.push(String::from_utf8_lossy(label).into_owned());
            labels = rest;
        }
        names.join(".")
    }

    /// Looks `redis` up in a world whose clock goes as it is told.
    fn look_up(conf: &str, deadline: u64, world: World) -> Outcome {
        let mut parser = ConfParser::new(|_| None);
        parser.read(conf.as_bytes());
        let conf = parser.finish("");
        let mut lookup = Lookup::new(&conf, "redis", deadline, || 0x1234);
        let (mut now, mut sent) = (0, Vec::new());
        // Time, server and bytes of what is on its way; no bytes say that nobody listens.
        let mut coming: Vec<(u64, usize, Vec<u8>)> = Vec::new();
        for _ in 0..1000 {
            match lookup.poll(now) {
                Step::Send(server, query) => {
                    let (name, kind) = (name(query), query[query.len() - 3]);
                    let is_same = |(one, other, kind_, _): &&(usize, String, u8, u64)| {
                        (*one, other.as_str(), *kind_) == (server, name.as_str(), kind)
                    };
                    let before = sent.iter().filter(is_same).count();
                    match world((server, &name, kind, before)) {
                        Reply(after, content) => {
                            coming.push((now + after, server, encode(query, content)));
                        }
                        Silence => {}
                        Unreachable => coming.push((now, server, Vec::new())),
                    }
                    sent.push((server, name, kind, now));
                }
                Step::Connect(server, query, until) => {
                    assert!(until <= deadline);
                    let (name, kind) = (name(query), query[query.len() - 3]);
                    match world((server, &name, kind, 0)) {
                        Reply(_, Cut(Some(last))) => {
                            let reply = encode(query, Here(last));
                            lookup.receive(server, &reply, now);
                        }
                        _ => now = until,
                    }
                    coming.sort_by_key(|&(time, ..)| time);
                    while coming.first().is_some_and(|&(time, ..)| time <= now) {
                        let (_, server, bytes) = coming.remove(0);
                        lookup.receive(server, &bytes, now);
                    }
                    sent.push((server, format!("tcp:{name}"), kind, now));
                }
                Step::Wait(until) => {
                    assert!(until > now, "waits for what is past");
                    coming.sort_by_key(|&(time, ..)| time);
                    match coming.first() {
                        Some(&(time, ..)) if time <= until => {
                            let (time, server, bytes) = coming.remove(0);
                            now = now.max(time);
                            if bytes.is_empty() { lookup.lose(server) } else { lookup.receive(server, &bytes, now) }
                        }
                        _ => now = until,
                    }
                }
                Step::Done(result) => return (result, now, sent),
            }
        }
        panic!("no end: {sent:?}");
    }

    /// The IPv4 address that ends with this byte, and the IPv6 one.
    fn both(last: u8) -> Result<Vec<IpAddr>, Failure> {
        Ok(vec![v4(last), IpAddr::from([10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last])])
    }

    fn v4(last: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, last).into()
    }

    const TWO: &str = "nameserver 1.1.1.1\nnameserver 2.2.2.2\n";
    const SEARCH: &str = "nameserver 1.1.1.1\nnameserver 2.2.2.2\nsearch a b c\noptions ndots:5\n";

    #[test]
    fn what_is_found_and_when() {
        /// What it shows, `resolv.conf`, what the servers do, the result, and when it comes.
        type Case = (&'static str, &'static str, World, Result<Vec<IpAddr>, Failure>, u64);
        let cases: &[Case] = &[
            ("the first reply wins", TWO, |(server, ..)| Reply([9, 3][server], Here(server as u8)), both(1), 3),
            (
                "the first server is dead, and the second candidate is the name",
                SEARCH,
                |(server, name, ..)| match (server, name) {
                    (0, _) => Silence,
                    (_, "redis.b") => Reply(2, Here(9)),
                    _ => Reply(2, NoName),
                },
                both(9),
                2 + 100,
            ),
            (
                "slow servers, and the last candidate is the name",
                SEARCH,
                |(_, name, ..)| Reply(340, if name == "redis" { Here(9) } else { NoName }),
                both(9),
                50 + 50 + 50 + 340,
            ),
            (
                "an earlier candidate is preferred although it is slower",
                SEARCH,
                |(_, name, ..)| match name {
                    "redis.a" => Reply(200, Here(1)),
                    _ => Reply(1, Here(2)),
                },
                both(1),
                200,
            ),
            (
                "a dead server is waited for once",
                SEARCH,
                |(server, name, ..)| match (server, name) {
                    (0, _) => Silence,
                    (_, "redis") => Reply(2, Here(9)),
                    _ => Reply(2, NoName),
                },
                both(9),
                2 + 100 + 2,
            ),
            (
                "the faster server does not know the name",
                TWO,
                |(server, ..)| Reply([50, 1][server], [Here(9), NoName][server]),
                both(9),
                50,
            ),
            (
                "the faster server knows no address",
                TWO,
                |(server, ..)| Reply([50, 1][server], [Here(9), NoAddress][server]),
                both(9),
                50,
            ),
            (
                "the slower server denies the name",
                TWO,
                |(server, ..)| Reply([50, 1][server], [NoName, Here(9)][server]),
                both(9),
                1,
            ),
            (
                "only IPv6, and the first datagrams are lost",
                "nameserver 1.1.1.1\n",
                |(_, _, kind, before)| match (kind, before) {
                    (A, _) => Reply(1, NoAddress),
                    (_, 0) => Silence,
                    _ => Reply(1, Here(9)),
                },
                both(9).map(|found| found[1..].to_vec()),
                251,
            ),
            (
                "the first server is not there",
                SEARCH,
                |(server, name, ..)| match (server, name) {
                    (0, _) => Unreachable,
                    (_, "redis") => Reply(1, Here(9)),
                    _ => Reply(1, NoName),
                },
                both(9),
                4,
            ),
            ("no server is there", SEARCH, |_| Unreachable, Err(Failure::NoServer), 0),
            ("no server answers", SEARCH, |_| Silence, Err(Failure::NoServer), 500),
            ("there is no such name", SEARCH, |_| Reply(1, NoName), Err(Failure::NoSuchName), 4),
            ("there is no address", SEARCH, |_| Reply(1, NoAddress), Err(Failure::NoAddress), 4),
            (
                "a name without an address does not end the search",
                SEARCH,
                |(_, name, ..)| Reply(1, if name == "redis" { Here(9) } else { NoAddress }),
                both(9),
                4,
            ),
            (
                "nor does a server that fails",
                SEARCH,
                |(_, name, ..)| Reply(1, if name == "redis.c" { Here(9) } else { Failed }),
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
                |(server, ..)| Reply(1 + 7 * server as u64, [Failed, Here(9)][server]),
                both(9),
                8,
            ),
            (
                "one server refuses, the other has the name",
                TWO,
                |(server, ..)| Reply(1 + 7 * server as u64, [Refused, Here(9)][server]),
                both(9),
                8,
            ),
            ("all refuse", TWO, |_| Reply(1, Refused), Err(Failure::ServerFailed), 1),
            (
                "a server fails once",
                "nameserver 1.1.1.1\n",
                |(_, _, _, before)| Reply(1, if before == 0 { Failed } else { Here(9) }),
                both(9),
                2,
            ),
            (
                "one is silent and the other fails: it is waited for once",
                SEARCH,
                |(server, name, ..)| match (server, name) {
                    (0, _) => Silence,
                    (_, "redis") => Reply(1, Here(9)),
                    _ => Reply(1, Failed),
                },
                both(9),
                250,
            ),
            (
                "all are silent for one candidate",
                SEARCH,
                |(_, name, ..)| if name == "redis.a" { Silence } else { Reply(1, Here(9)) },
                both(9),
                250,
            ),
            (
                "a slow reply counts although the search went on",
                SEARCH,
                |(_, name, ..)| if name == "redis.a" { Reply(300, Here(9)) } else { Silence },
                both(9),
                300,
            ),
            (
                "the first datagrams are lost",
                TWO,
                |(_, _, _, before)| if before == 0 { Silence } else { Reply(1, Here(9)) },
                both(9),
                251,
            ),
            (
                "questions for IPv6 are dropped",
                TWO,
                |(_, _, kind, _)| if kind == AAAA { Silence } else { Reply(1, Here(9)) },
                Ok(vec![v4(9)]),
                101,
            ),
            (
                "questions for IPv6 are answered wrongly",
                TWO,
                |(_, _, kind, _)| if kind == AAAA { Reply(1, NoName) } else { Reply(5, Here(9)) },
                Ok(vec![v4(9)]),
                5,
            ),
            (
                "questions for IPv6 are refused",
                TWO,
                |(_, _, kind, _)| Reply(1, if kind == AAAA { Refused } else { Here(9) }),
                Ok(vec![v4(9)]),
                1,
            ),
            ("a reply is cut short", TWO, |_| Reply(1, Cut(Some(9))), both(9), 1),
            ("a reply is cut short, and TCP closed", "", |_| Reply(1, Cut(None)), Err(Failure::Truncated), 375),
            (
                "one server cuts its replies, the other does not",
                TWO,
                |(server, ..)| Reply(1 + 2 * server as u64, [Cut(None), Here(9)][server]),
                both(9),
                250,
            ),
            (
                "a timeout ends the wait",
                "nameserver 1.1.1.1\noptions timeout:1\n",
                |_| Reply(2_000, Here(9)),
                Err(Failure::NoServer),
                500,
            ),
        ];
        for (case, conf, world, result, time) in cases {
            let (found, took, sent) = look_up(conf, 500, *world);
            assert_eq!((&found, took), (result, *time), "{case}: {sent:?}");
        }
    }

    #[test]
    fn options_set_the_pace() {
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
            let asked: Vec<_> = sent.iter().filter(|(_, _, kind, _)| *kind == A).map(|&(.., time)| time).collect();
            assert_eq!(asked, times, "{options}");
        }
    }

    #[test]
    fn what_can_be_no_name_is_not_asked_for() {
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
}
