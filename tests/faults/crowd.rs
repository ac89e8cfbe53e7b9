//! Normal clients: a crowd that visits as fast as it is answered, and one who notes how long each visit takes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::audit::Tally;
use crate::support::{Client, Notch, wait_until};

/// Says to threads that it is time to end, at the latest when it is dropped.
#[derive(Default)]
pub(crate) struct Over(Arc<AtomicBool>);

impl Over {
    pub(crate) fn flag(&self) -> Arc<AtomicBool> {
        self.0.clone()
    }
}

impl Drop for Over {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Keep-alive clients under way.
pub(crate) struct Crowd {
    over: Over,
    told: Arc<Told>,
    visitors: Vec<JoinHandle<Tally>>,
}

/// What a crowd was told so far.
#[derive(Default)]
struct Told {
    answered: AtomicUsize,
    refused: AtomicUsize,
}

impl Crowd {
    pub(crate) fn at(notch: &Notch, size: usize) -> Self {
        let (over, told) = (Over::default(), Arc::<Told>::default());
        let visitor = |place| {
            let (over, told, mut visitor) = (over.flag(), told.clone(), Visitor::of(notch));
            thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let (answered, refused) = (visitor.tally.answered(), visitor.tally.refused);
                    // Some ask for several at once, which go to the store as one.
                    visitor.visit(1 + place % 3);
                    told.answered.fetch_add(visitor.tally.answered() - answered, Ordering::Relaxed);
                    told.refused.fetch_add(visitor.tally.refused - refused, Ordering::Relaxed);
                }
                visitor.tally
            })
        };
        let visitors = (0..size).map(visitor).collect();
        Self { over, told, visitors }
    }

    /// Waits until so many visits more are answered.
    pub(crate) fn until_answered(&self, more: usize) {
        wait_for_growth("visits are answered", &self.told.answered, more);
    }

    /// Waits until so many visits more are surely not counted.
    pub(crate) fn until_refused(&self, more: usize) {
        wait_for_growth("visits are refused", &self.told.refused, more);
    }

    /// Lets all finish the visit they are at.
    pub(crate) fn leave(self) -> Tally {
        drop(self.over);
        let mut tally = Tally::default();
        self.visitors.into_iter().for_each(|visitor| tally.merge(visitor.join().expect("visitors do not panic")));
        tally
    }
}

fn wait_for_growth(what: &str, counter: &AtomicUsize, by: usize) {
    let end = counter.load(Ordering::Relaxed) + by;
    wait_until(what, || (counter.load(Ordering::Relaxed) >= end).then_some(()));
}

/// A client who visits now and then while others behave badly.
pub(crate) struct Neighbour {
    over: Over,
    visitor: JoinHandle<(Tally, Vec<Duration>)>,
}

impl Neighbour {
    pub(crate) fn of(notch: &Notch) -> Self {
        let (over, mut visitor, mut waits) = (Over::default(), Visitor::of(notch), Vec::new());
        let own = over.flag();
        let visits = move || {
            while !own.load(Ordering::Relaxed) {
                let (start, before) = (Instant::now(), visitor.tally.answered());
                // Sent away for want of room, one comes again, and that is part of the wait.
                while visitor.tally.answered() == before && !own.load(Ordering::Relaxed) {
                    visitor.visit(1);
                }
                waits.push(start.elapsed());
                thread::sleep(PAUSE);
            }
            (visitor.tally, waits)
        };
        Self { over, visitor: thread::spawn(visits) }
    }

    /// What became of the visits, and how long they took, the shortest first.
    pub(crate) fn leave(self) -> (Tally, Vec<Duration>) {
        drop(self.over);
        let (tally, mut waits) = self.visitor.join().expect("the neighbour does not panic");
        waits.sort_unstable();
        (tally, waits)
    }
}

/// A client who makes a connection for each visit.
pub(crate) struct Newcomer {
    over: Over,
    visitor: JoinHandle<Vec<Duration>>,
}

impl Newcomer {
    pub(crate) fn of(notch: &Notch) -> Self {
        let (over, address, mut waits) = (Over::default(), notch.address, Vec::new());
        let own = over.flag();
        let visits = move || {
            while !own.load(Ordering::Relaxed) {
                let start = Instant::now();
                while !own.load(Ordering::Relaxed) {
                    let mut client = Client::try_connect(address).expect("notch takes connections");
                    let _ = client.try_send(VISIT);
                    // Sent away for want of room, one comes again, and that is part of the wait.
                    if client.next_response("GET").is_some_and(|answer| answer.status == 200) {
                        break;
                    }
                }
                waits.push(start.elapsed());
                thread::sleep(PAUSE);
            }
            waits
        };
        Self { over, visitor: thread::spawn(visits) }
    }

    /// How long the visits took, the shortest first.
    pub(crate) fn leave(self) -> Vec<Duration> {
        drop(self.over);
        let mut waits = self.visitor.join().expect("the newcomer does not panic");
        waits.sort_unstable();
        waits
    }
}

/// A client who keeps the connection as long as it holds, and then makes another.
pub(crate) struct Visitor {
    address: SocketAddr,
    client: Option<Client>,
    pub(crate) tally: Tally,
}

impl Visitor {
    pub(crate) fn of(notch: &Notch) -> Self {
        Self { address: notch.address, client: None, tally: Tally::default() }
    }

    /// Visits so many times in one breath, and notes what becomes of it.
    pub(crate) fn visit(&mut self, times: usize) {
        let client = self.client.take().map_or_else(|| Client::try_connect(self.address), Ok);
        let Ok(mut client) = client else { return thread::sleep(PAUSE) };
        if client.try_send(VISIT.repeat(times)).is_err() {
            self.tally.cut += times;
            return;
        }
        for left in (1..=times).rev() {
            let Some(answer) = client.next_response("GET") else {
                self.tally.cut += left;
                return;
            };
            self.tally.note(&answer);
            if answer.closes() {
                self.tally.cut += left - 1;
                return;
            }
        }
        self.client = Some(client);
    }

    /// Closes the connection, and tells what became of all visits.
    pub(crate) fn leave(self) -> Tally {
        self.tally
    }
}

/// Long enough for others to be served, short enough to see how they are.
const PAUSE: Duration = Duration::from_millis(5);

/// Within this, a connection that a client has closed is gone on the other side as well. If it is not, whoever counts
/// files before a fault finds one too many, and the bound is wider by it.
pub(crate) const SETTLED: Duration = Duration::from_millis(50);

const VISIT: &str = "GET /count HTTP/1.1\r\nHost: h\r\n\r\n";
