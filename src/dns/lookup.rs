//! One lookup of a host: which query to send to which name server, and when.
//!
//! As in musl, all servers get the query at once and the first addresses win. After a reply without addresses, the
//! other servers have [`GRACE`] to reply, because one of them may have the name: glibc queries them in order, and a
//! name that glibc finds must be found by notch. As in glibc, the search continues after a candidate for which a server
//! failed or none replied, and the failure is reported only if nothing is found. A server that was silent for one
//! candidate gets the queries for the next ones, but is not waited for where another server has replied. If servers are
//! slow, the query for the next candidate is sent before the current one has ended, but the current one is preferred.
//!
//! Times are milliseconds since the start of the lookup, so that this file needs no clock. The driver performs each
//! [`Step`] and reports its result, until [`Step::Done`].
//!
//! ```text
//!                       +----------- receive, mark_unreachable <----------+
//!                       v                                                 |
//!   new ---> poll ---> Send, Connect, Wait ---> the driver: sockets, clock
//!              |
//!              v
//!            Done
//! ```
//!
//! ```
//! use notch::dns::{ConfParser, Failure, Lookup, Step};
//!
//! let mut parser = ConfParser::new(|_| None);
//! parser.read(b"nameserver 192.0.2.1\noptions timeout:1 attempts:1\n");
//! let conf = parser.finish("example");
//! let mut lookup = Lookup::new(&conf, "redis", 500, || 4);
//!
//! // A server that sends no reply: one query for each type of address, then time passes.
//! let (mut now, mut queries) = (0, 0);
//! let result = loop {
//!     match lookup.poll(now) {
//!         Step::Send(server, _) => queries += 1 + server,
//!         Step::Connect(_, _, until) | Step::Wait(until) => now = until,
//!         Step::Done(result) => break result,
//!     }
//! };
//! assert_eq!((result, queries, now), (Err(Failure::NoServer), 2, 500));
//! ```

use std::net::IpAddr;
use std::vec;

use super::{A, AAAA, Conf, MAX_ADDRESSES, MAX_SERVERS, ReplyKind};

/// What the driver has to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// Send a query in a datagram to a server, given by its index in [`Conf::servers`].
    Send(usize, &'a [u8]),
    /// Send a query to a server over TCP (RFC 7766) and pass its reply to [`Lookup::receive`] if it arrives before this
    /// time; then pass the datagrams that have arrived meanwhile.
    Connect(usize, &'a [u8], u64),
    /// Wait for datagrams until this time.
    Wait(u64),
    /// The lookup has ended.
    Done(Result<Vec<IpAddr>, Failure>),
}

/// Why nothing was found. Of the failures of several candidates, the last in this order is reported, because it leaves
/// open whether the name exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// None of the candidates exists.
    NoSuchName,
    /// A candidate exists and has no address.
    NoAddress,
    /// No server replied in time.
    NoServer,
    /// All servers that replied failed or refused the query.
    ServerFailed,
    /// A reply was truncated, and the query over TCP failed.
    Truncated,
}

/// The lookup of one host.
pub struct Lookup<'a> {
    conf: &'a Conf,
    /// Source of unpredictable query ids.
    random: fn() -> u64,
    deadline: u64,
    servers: [Server; MAX_SERVERS],
    /// Names for which no query was sent yet.
    names: vec::IntoIter<Vec<u8>>,
    /// Names for which queries were sent. Late replies are accepted.
    candidates: Vec<Candidate>,
}

/// One question to one server: the indices of candidate, question and server.
type QueryIndex = (usize, usize, usize);

/// The state of a server.
#[derive(Clone, Copy, Default, PartialEq)]
enum Server {
    #[default]
    Unknown,
    /// It has sent a reply.
    Alive,
    /// It sent no reply to the queries for a candidate.
    Silent,
    /// No datagram can be sent to it.
    Unreachable,
}

/// One name of the search list.
struct Candidate {
    questions: [Question; 2],
    /// When waiting for it ends: earlier once addresses of one type are found.
    end: u64,
    /// When the queries for the next name are sent, even if this one has not ended.
    next: u64,
    /// It has ended, and silent servers were marked.
    has_ended: bool,
    /// When to resend queries, and how many times.
    resend: u64,
    interval: u64,
    resends: u32,
}

/// The question for one type of address.
struct Question {
    query: Vec<u8>,
    servers: [Progress; MAX_SERVERS],
    /// Servers to which the query must be sent.
    unsent: [bool; MAX_SERVERS],
    /// Whether the name exists, according to the first reply.
    exists: Option<bool>,
    /// When waiting for other servers ends, after one has replied.
    end: u64,
    found: Vec<IpAddr>,
}

/// The state of one question to one server.
#[derive(Clone, Copy, PartialEq)]
enum Progress {
    /// The reply is outstanding; the server has failed this many times.
    Queried(u32),
    /// No datagram can be sent to the server.
    Unreachable,
    /// The reply was truncated; the query must be sent over TCP.
    Truncated,
    /// The reply was truncated, and the query was sent over TCP.
    Retried,
    Failed,
    Replied,
}

impl<'a> Lookup<'a> {
    /// Starts a lookup of `host` at time 0 that ends by `deadline`.
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

    /// Returns the next step at time `now`.
    pub fn poll(&mut self, now: u64) -> Step<'_> {
        while !self.is_waiting(now) {
            if self.has_addresses() || !self.start_next(now) {
                return Step::Done(self.finish());
            }
        }
        // Slow servers get the next queries before they have replied to these, so that the time suffices for all names.
        if !self.has_addresses() && self.candidates.last().is_some_and(|candidate| now >= candidate.next) {
            self.start_next(now);
        }
        if let Some((candidate, kind, server)) =
            self.find(|question, server| question.found.is_empty() && question.servers[server] == Progress::Truncated)
        {
            let Candidate { questions, end, .. } = &mut self.candidates[candidate];
            questions[kind].servers[server] = Progress::Retried;
            // If TCP fails, another server still has time to reply.
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

    /// Handles a message from a server.
    pub fn receive(&mut self, server: usize, message: &[u8], now: u64) {
        for candidate in &mut self.candidates {
            for question in &mut candidate.questions {
                // The addresses of the first server that has any are used.
                let mut ignored = Vec::new();
                let found = if question.found.is_empty() { &mut question.found } else { &mut ignored };
                let kind = super::decode_reply(message, &question.query, found);
                if kind == ReplyKind::Foreign {
                    continue;
                }
                self.servers[server] = Server::Alive;
                question.record_reply(server, kind, self.conf.attempts);
                if question.exists.is_some() {
                    question.end = question.end.min(now + GRACE);
                }
                let is_found = !question.found.is_empty();
                if is_found && now >= candidate.end {
                    candidate.end = now + GRACE;
                } else if is_found || question.exists == Some(false) {
                    candidate.end = candidate.end.min(now + GRACE);
                }
                return;
            }
        }
    }

    /// Marks a server as unreachable, after an ICMP error from it or from a router.
    pub fn mark_unreachable(&mut self, server: usize) {
        self.servers[server] = Server::Unreachable;
        for candidate in &mut self.candidates {
            for question in &mut candidate.questions {
                question.unsent[server] = false;
                if matches!(question.servers[server], Progress::Queried(_)) {
                    question.servers[server] = Progress::Unreachable;
                }
            }
        }
    }

    /// Returns the first question and server for which `matches` returns `true`.
    fn find(&self, matches: impl Fn(&Question, usize) -> bool) -> Option<QueryIndex> {
        for (index, candidate) in self.candidates.iter().enumerate() {
            for (kind, question) in candidate.questions.iter().enumerate() {
                if let Some(server) = (0..self.conf.servers.len()).find(|&server| matches(question, server)) {
                    return Some((index, kind, server));
                }
            }
        }
        None
    }

    /// Returns when the next step is due if no message is received.
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

    /// Returns `true` if a candidate must be waited for: the first that has not ended. The later ones do not matter
    /// until then, because no query for them would have been sent if its reply had arrived at once.
    fn is_waiting(&mut self, now: u64) -> bool {
        for index in 0..self.candidates.len() {
            let candidate = &self.candidates[index];
            let has_expired = now >= candidate.end.min(self.deadline);
            if !has_expired && candidate.questions.iter().any(|question| self.is_pending(question, now)) {
                return true;
            }
            if candidate.has_addresses() {
                return false;
            }
            self.mark_silent(index);
        }
        false
    }

    /// Returns `true` if the reply of a server must be waited for. A silent server is waited for only while no other
    /// server has replied.
    fn is_pending(&self, question: &Question, now: u64) -> bool {
        if !question.found.is_empty() || now >= question.end {
            return false;
        }
        let (mut has_reply, mut is_outstanding, mut is_expected) = (false, false, false);
        for (progress, server) in question.servers.iter().zip(self.servers).take(self.conf.servers.len()) {
            match progress {
                Progress::Queried(_) | Progress::Truncated => {
                    is_outstanding = true;
                    is_expected |= server != Server::Silent;
                }
                Progress::Failed | Progress::Retried | Progress::Replied => has_reply = true,
                Progress::Unreachable => {}
            }
        }
        is_expected || (is_outstanding && !has_reply)
    }

    /// Starts the next candidate. Returns `false` if there is none, or no time.
    fn start_next(&mut self, now: u64) -> bool {
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
            _ => Progress::Queried(0),
        });
        let unsent = servers.map(|progress| progress != Progress::Unreachable);
        let question = |id, kind| {
            let query = super::encode_query(id, name, kind)?;
            Some(Question { query, servers, unsent, exists: None, end: u64::MAX, found: Vec::new() })
        };
        // The last candidate may use all of the time, the others half of it.
        let remaining = self.deadline.saturating_sub(now);
        let share = if self.names.len() == 0 { remaining } else { remaining / 2 };
        let time = self.conf.timeout.min(share);
        let interval = (time / u64::from(self.conf.attempts)).min(MAX_RESEND);
        Some(Candidate {
            questions: [question(id, A)?, question(!id, AAAA)?],
            end: now + time,
            next: now + STAGGER.min(remaining / 8),
            has_ended: false,
            resend: now + interval,
            interval,
            resends: self.conf.attempts - 1,
        })
    }

    /// Marks the servers that sent no reply for a candidate that has ended.
    fn mark_silent(&mut self, index: usize) {
        let candidate = &mut self.candidates[index];
        if std::mem::replace(&mut candidate.has_ended, true) {
            return;
        }
        for (index, server) in self.servers.iter_mut().enumerate() {
            let is_silent = |question: &Question| question.servers[index] == Progress::Queried(0);
            if *server != Server::Unreachable && candidate.questions.iter().all(is_silent) {
                *server = Server::Silent;
            }
        }
    }

    /// Schedules the queries without a reply again, because a datagram may have been lost.
    fn resend(&mut self, now: u64) {
        for candidate in &mut self.candidates {
            if !candidate.has_ended && candidate.resends > 0 && now >= candidate.resend {
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
            // If names are left, the deadline has passed.
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
        match self.questions.each_ref().map(|question| question.exists) {
            [Some(false), _] | [_, Some(false)] => Failure::NoSuchName,
            [Some(true), Some(true)] => Failure::NoAddress,
            [None, _] => self.questions[0].failure(),
            [_, None] => self.questions[1].failure(),
        }
    }
}

impl Question {
    /// Returns `true` if the reply of this server is outstanding and needed.
    fn is_open(&self, server: usize) -> bool {
        self.exists.is_none() && matches!(self.servers[server], Progress::Queried(_))
    }

    /// Records the reply of one server.
    fn record_reply(&mut self, server: usize, kind: ReplyKind, attempts: u32) {
        let progress = &mut self.servers[server];
        match (kind, *progress) {
            (ReplyKind::Exists | ReplyKind::NoName, _) => {
                *progress = Progress::Replied;
                // A name that has addresses exists, even if another server has denied it.
                let exists = self.exists.unwrap_or(kind == ReplyKind::Exists);
                self.exists = Some(exists || !self.found.is_empty());
                self.unsent = [false; MAX_SERVERS];
            }
            (_, Progress::Retried) => {}
            (ReplyKind::Truncated, _) => *progress = Progress::Truncated,
            (ReplyKind::Failed, Progress::Queried(failures)) if failures + 1 < attempts => {
                *progress = Progress::Queried(failures + 1);
                self.unsent[server] = self.exists.is_none();
            }
            _ => *progress = Progress::Failed,
        }
    }

    /// Returns why there is no usable reply.
    fn failure(&self) -> Failure {
        let mut failure = Failure::NoServer;
        for progress in &self.servers {
            failure = failure.max(match progress {
                Progress::Retried | Progress::Truncated => Failure::Truncated,
                Progress::Failed | Progress::Queried(1..) => Failure::ServerFailed,
                Progress::Unreachable | Progress::Queried(_) | Progress::Replied => Failure::NoServer,
            });
        }
        failure
    }
}

/// How long to wait for other replies after a usable one: for addresses of the other type, or for another server after
/// a reply without addresses. Long enough for any server that replies, and short for those that drop queries for IPv6.
/// In milliseconds.
const GRACE: u64 = 100;

/// Time from the queries for one name to those for the next, in milliseconds: longer than a nearby server takes.
const STAGGER: u64 = 50;

/// Longest time until a query is sent again, in milliseconds.
const MAX_RESEND: u64 = 1000;

#[cfg(test)]
mod tests;
