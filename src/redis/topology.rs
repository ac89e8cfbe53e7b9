//! Which server is connected to next, and when.
//!
//! A [`Topology`] takes events and returns one [`Step`] at a time: connect to this node, query this Sentinel, or wait.
//! The driver obeys it; no other code decides where to go or how long to pause. The rules:
//!
//! - **One address, or a Unix socket:** after each failure it waits, twice as long each time ([`Backoff`]), and connects again.
//! - **Sentinels:** one of them is queried for the primary before each connection. The next one is queried if it fails,
//!   if the node that it names cannot be reached, or if that node is a replica (a Sentinel may have missed a failover).
//!   The one that named the last primary stays first. When all of them have failed, it waits.
//! - **Cluster:** any node names the owner of the keys in a `MOVED` error, so no map of slots is needed. The named node
//!   is connected to at once, at most [`MAX_HOPS`] times in a row. When a connection is lost, the node may be dead, and
//!   a dead node sends no `MOVED`: then the next connection is to a seed. A node that rejects commands for the moment
//!   (`ASK`, `TRYAGAIN`, `CLUSTERDOWN`) is tried again a few times before that.
//!
//! Left out on purpose: a map of slots, messages of Sentinels (`+switch-master`), connections to several nodes at once.
//!
//! Sources: <https://redis.io/docs/latest/develop/reference/sentinel-clients/>,
//! <https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>

use super::{Address, Redirect, Servers};
use crate::backoff::Backoff;

/// Chooses the next server for one event loop. Times are in milliseconds since a start that the driver chooses.
pub struct Topology {
    servers: Servers,
    /// The Sentinel or seed that is next: an index of its list.
    current: usize,
    /// Sentinels that have failed since the last pause.
    failed: usize,
    /// The node that was named by the last `MOVED`.
    redirect: Option<Address>,
    /// `MOVED` errors since the last pause.
    hops: u32,
    /// The last node that was connected to, or tried.
    node: Option<Address>,
    backoff: Backoff,
    step: Step,
}

/// What the driver does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Connects to this node and serves until the session ends.
    Connect(Address),
    /// Connects to the Unix socket of the configuration, and does the same.
    ConnectUnix,
    /// Queries this Sentinel for the address of the primary.
    QuerySentinel(Address),
    /// Waits until this time.
    Wait(u64),
}

/// What came of a [`Step`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The node cannot be reached.
    ConnectFailed,
    /// The session ended: the connection was lost or silent, the handshake was rejected, or too few replicas
    /// acknowledged a batch.
    SessionEnded {
        /// A visit was counted in it.
        has_served: bool,
    },
    /// The session ended because the node rejects commands that it may accept soon.
    Refused {
        /// A visit was counted in it.
        has_served: bool,
    },
    /// The session ended because the node is a replica.
    IsReplica {
        /// A visit was counted in it.
        has_served: bool,
    },
    /// The session ended because another node of the cluster has the keys.
    Moved(Redirect),
    /// The Sentinel named the primary.
    SentinelReplied(Address),
    /// The Sentinel cannot be reached, does not reply, rejects the request, or has no primary of this name.
    SentinelFailed,
}

impl Topology {
    /// Creates it with the servers of the configuration. The first step is not a pause.
    #[must_use]
    pub fn new(servers: &Servers) -> Self {
        Self {
            servers: servers.clone(),
            current: 0,
            failed: 0,
            redirect: None,
            hops: 0,
            node: None,
            backoff: Backoff::default(),
            step: Step::Wait(0),
        }
    }

    /// Returns what to do at `now`. It stays the same until an event is recorded, or the pause is over.
    pub fn next(&mut self, now: u64) -> Step {
        if matches!(self.step, Step::Wait(until) if now >= until) {
            let step = self.first_step();
            self.set_step(step);
        }
        self.step.clone()
    }

    /// Records what came of the last step.
    pub fn record(&mut self, event: Event, now: u64) {
        let has_served = matches!(
            event,
            Event::SessionEnded { has_served: true }
                | Event::Refused { has_served: true }
                | Event::IsReplica { has_served: true }
        );
        if has_served {
            self.backoff = Backoff::default();
        }
        let step = match (&self.servers, event) {
            (Servers::Single(_) | Servers::Unix(_), _) => None,
            (Servers::Sentinel { .. }, Event::SentinelReplied(address)) => Some(Step::Connect(address)),
            (Servers::Sentinel { .. }, Event::SessionEnded { .. } | Event::Refused { .. }) => {
                // A node that accepts connections and counts nothing may have been replaced.
                if !has_served {
                    self.advance();
                }
                None
            }
            (Servers::Sentinel { .. }, _) if has_served => None,
            (Servers::Sentinel { sentinels, .. }, _) => {
                self.failed += 1;
                let is_any_left = self.failed < sentinels.len();
                self.advance();
                is_any_left.then(|| self.first_step())
            }
            (Servers::Cluster { .. }, Event::Moved(redirect)) => self.follow(redirect),
            (Servers::Cluster { .. }, Event::Refused { .. }) if !self.backoff.is_last() => None,
            (Servers::Cluster { .. }, _) => {
                self.leave_node();
                None
            }
        };
        let step = step.unwrap_or_else(|| self.pause(now));
        self.set_step(step);
    }

    /// Returns the first step after a pause.
    fn first_step(&self) -> Step {
        match &self.servers {
            Servers::Single(address) => Step::Connect(address.clone()),
            Servers::Unix(_) => Step::ConnectUnix,
            Servers::Sentinel { sentinels, .. } => Step::QuerySentinel(sentinels[self.current].clone()),
            Servers::Cluster { seeds } => {
                Step::Connect(self.redirect.clone().unwrap_or_else(|| seeds[self.current].clone()))
            }
        }
    }

    fn set_step(&mut self, step: Step) {
        if let Step::Connect(address) = &step {
            self.node = Some(address.clone());
        }
        self.step = step;
    }

    fn pause(&mut self, now: u64) -> Step {
        (self.failed, self.hops) = (0, 0);
        Step::Wait(now + self.backoff.pause().as_millis() as u64)
    }

    /// Returns the step that follows a redirection, or `None` after too many.
    fn follow(&mut self, redirect: Redirect) -> Option<Step> {
        self.hops += 1;
        let Some(address) = redirect.resolve(self.node.as_ref()).filter(|_| self.hops <= MAX_HOPS) else {
            self.leave_node();
            return None;
        };
        self.redirect = Some(address.clone());
        Some(Step::Connect(address))
    }

    /// Returns to the seeds: to the current one if another node was connected, otherwise to the next.
    fn leave_node(&mut self) {
        if self.redirect.take().is_none() {
            self.advance();
        }
    }

    /// Chooses the next Sentinel or seed.
    fn advance(&mut self) {
        let count = match &self.servers {
            Servers::Single(_) | Servers::Unix(_) => 1,
            Servers::Sentinel { sentinels: all, .. } | Servers::Cluster { seeds: all } => all.len(),
        };
        self.current = (self.current + 1) % count;
    }
}

/// Most `MOVED` errors that are followed without a pause. Two nodes may name each other during a failover.
const MAX_HOPS: u32 = 5;

#[cfg(test)]
mod tests;
