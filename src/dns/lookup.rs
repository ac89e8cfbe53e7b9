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
mod tests;
