//! A relay between notch and Redis: passes bytes on in both directions, until it is told to play a trick with them.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::support::wait_until;

/// What to do once with the next bytes of either direction, as they arrive: a batch and its replies are small enough
/// to arrive whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trick {
    /// Passes so many bytes on towards Redis, and then cuts the connection. Stays armed if there are fewer.
    CutRequest(usize),
    /// The same on the way back.
    CutReply(usize),
    DelayReply(Duration),
    /// One byte after the other.
    DribbleReply,
    DoubleReply,
    /// These bytes in place of the reply.
    Instead(&'static [u8]),
    /// Bytes without end in place of the reply, for as long as anybody takes them.
    Endless(u8),
}

/// What becomes of new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Pass,
    /// They are taken, and nothing is ever read or said.
    Silent,
    /// They are taken and closed.
    Slam,
    /// The greeting is answered, and nothing after it: what notch sends is read, what Redis replies is dropped.
    Mute,
    /// The greeting is answered, and nothing that notch sends is read after it.
    Deaf,
}

pub(crate) struct Relay {
    pub(crate) port: u16,
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    redis: u16,
    mood: Mood,
    trick: Option<Trick>,
    /// Connections up to this one swallow what is sent on them, as if the way had been lost, while both ends believe it
    /// stands.
    swallowing: usize,
    /// How long each reply takes longer than it would.
    delay: Duration,
    /// How many connections were taken.
    taken: usize,
    /// Both sides of those that stand.
    standing: HashMap<usize, Vec<TcpStream>>,
    over: bool,
}

impl Relay {
    pub(crate) fn to(redis: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port of the loopback");
        let port = listener.local_addr().expect("a bound listener has an address").port();
        let (mood, standing) = (Mood::Pass, HashMap::new());
        let shared = Arc::new(Mutex::new(Shared {
            redis,
            mood,
            trick: None,
            swallowing: 0,
            delay: Duration::ZERO,
            taken: 0,
            standing,
            over: false,
        }));
        let own = shared.clone();
        thread::spawn(move || accept(&listener, &own));
        Self { port, shared }
    }

    /// Has the next bytes that it is for meet with this trick.
    pub(crate) fn arm(&self, trick: Trick) {
        lock(&self.shared).trick = Some(trick);
    }

    /// Plays no trick any more, and says whether the last one has been played.
    pub(crate) fn disarm(&self) -> bool {
        lock(&self.shared).trick.take().is_none()
    }

    /// How many connections stand.
    pub(crate) fn open_connections(&self) -> usize {
        lock(&self.shared).standing.len()
    }

    /// From now on; what stands already is cut.
    pub(crate) fn set(&self, mood: Mood) {
        lock(&self.shared).mood = mood;
        self.cut();
    }

    /// Has all connections that stand swallow what is sent on them from now on. New ones pass everything.
    pub(crate) fn swallow(&self) {
        let mut state = lock(&self.shared);
        state.swallowing = state.taken;
    }

    /// Has each reply take so long from now on.
    pub(crate) fn delay(&self, delay: Duration) {
        lock(&self.shared).delay = delay;
    }

    /// Cuts all connections that stand.
    pub(crate) fn cut(&self) {
        lock(&self.shared).standing.drain().for_each(|(_, sides)| close_all(&sides));
    }

    /// How many connections were taken so far.
    pub(crate) fn taken(&self) -> usize {
        lock(&self.shared).taken
    }

    /// Waits until notch, having seen that its connection is lost, has made another.
    pub(crate) fn until_taken_after(&self, taken: usize) {
        wait_until("notch connects anew", || (self.taken() > taken).then_some(()));
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        lock(&self.shared).over = true;
        self.cut();
        // Wakes the listener, which then sees that it is over.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Shared {
    /// The trick that is for these bytes, if one is armed.
    fn trick(&mut self, way: Way, length: usize) -> Option<Trick> {
        let own = match self.trick.as_ref()? {
            Trick::CutRequest(passed) => way == Way::Request && *passed <= length,
            Trick::CutReply(passed) => way == Way::Reply && *passed <= length,
            _ => way == Way::Reply,
        };
        if own { self.trick.take() } else { None }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Request,
    Reply,
}

fn accept(listener: &TcpListener, shared: &Arc<Mutex<Shared>>) {
    for stream in listener.incoming() {
        let Ok(notch) = stream else { return };
        let mut state = lock(shared);
        if state.over {
            return;
        }
        state.taken += 1;
        let number = state.taken;
        match state.mood {
            Mood::Slam => {}
            Mood::Silent => drop(state.standing.insert(number, vec![notch])),
            Mood::Pass | Mood::Mute | Mood::Deaf => {
                // A Redis that is away looks like one that closes at once.
                let Ok(redis) = TcpStream::connect(("127.0.0.1", state.redis)) else { continue };
                let again = |stream: &TcpStream| stream.try_clone().expect("a second handle on a socket");
                state.standing.insert(number, vec![again(&notch), again(&redis)]);
                let mood = state.mood;
                for (from, to, way) in [(again(&notch), again(&redis), Way::Request), (redis, notch, Way::Reply)] {
                    let shared = shared.clone();
                    thread::spawn(move || {
                        pass(&from, &to, Connection { way, number, mood }, &shared);
                        close_all(&[from, to]);
                        lock(&shared).standing.remove(&number);
                    });
                }
            }
        }
    }
}

/// One direction of a connection.
#[derive(Clone, Copy)]
struct Connection {
    way: Way,
    number: usize,
    /// The mood in which it was taken.
    mood: Mood,
}

/// Passes bytes on in one direction, up to the end of the connection.
fn pass(mut from: &TcpStream, mut to: &TcpStream, connection: Connection, shared: &Mutex<Shared>) {
    let Connection { way, number, mood } = connection;
    let _ = to.set_nodelay(true);
    let mut bytes = [0; 64 << 10];
    let mut is_greeted = false;
    while let Ok(length @ 1..) = from.read(&mut bytes) {
        let bytes = &bytes[..length];
        let (swallowed, delay) = {
            let state = lock(shared);
            (number <= state.swallowing, if way == Way::Reply { state.delay } else { Duration::ZERO })
        };
        if swallowed || (is_greeted && mood == Mood::Mute && way == Way::Reply) {
            continue;
        }
        thread::sleep(delay);
        is_greeted |= bytes.ends_with(b"PONG\r\n") || bytes.ends_with(b"PING\r\n");
        let trick = lock(shared).trick(way, length);
        let passed = match trick {
            None => to.write_all(bytes),
            Some(Trick::CutRequest(passed) | Trick::CutReply(passed)) => {
                let _ = to.write_all(&bytes[..passed]);
                return;
            }
            Some(Trick::DelayReply(delay)) => {
                thread::sleep(delay);
                to.write_all(bytes)
            }
            Some(Trick::DribbleReply) => bytes.iter().try_for_each(|byte| {
                thread::sleep(Duration::from_millis(1));
                to.write_all(&[*byte])
            }),
            Some(Trick::DoubleReply) => to.write_all(&[bytes, bytes].concat()),
            Some(Trick::Instead(other)) => to.write_all(other),
            Some(Trick::Endless(byte)) => {
                while to.write_all(&[byte; 4096]).is_ok() {}
                return;
            }
        };
        if passed.is_err() {
            return;
        }
        if is_greeted && mood == Mood::Deaf && way == Way::Request {
            wait_until("the connection is given up", || (!lock(shared).standing.contains_key(&number)).then_some(()));
        }
    }
}

fn close_all(sides: &[TcpStream]) {
    for side in sides {
        let _ = side.shutdown(Shutdown::Both);
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
