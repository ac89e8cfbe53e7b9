//! A relay between notch and Redis: forwards bytes in both directions, until a test sets a fault.
//!
//! With TLS, its faults apply to the records, or to what they contain: see [`Relay::within_tls`].

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::tls::Front;
use super::{Redis, wait_until};

/// A fault for the next bytes of either direction, as they arrive: a batch and its replies are small enough to arrive
/// whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Forwards this many bytes to Redis, then cuts the connection. Remains set if fewer arrive.
    CutRequest(usize),
    /// The same for bytes from Redis.
    CutReply(usize),
    DelayReply(Duration),
    /// Forwards one byte at a time.
    SplitReply,
    DoubleReply,
    /// Sends these bytes instead of the reply.
    Instead(&'static [u8]),
    /// Sends bytes without end instead of the reply, as long as notch reads.
    Endless(u8),
}

/// Treatment of new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Pass,
    /// Accepted, never read from, never written to.
    Silent,
    /// Accepted and closed.
    Close,
    /// The handshake works; after it, commands are read and replies are dropped.
    DropReplies,
    /// The handshake works; after it, nothing that notch sends is read.
    StopReading,
}

pub(crate) struct Relay {
    pub(crate) port: u16,
    own_port: u16,
    reads_commands: bool,
    _front: Option<Front>,
    shared: Arc<Mutex<Shared>>,
}

struct Shared {
    redis: u16,
    mode: Mode,
    fault: Option<Fault>,
    /// Connections up to this number discard all bytes, as if the network had failed without either end noticing.
    discarding: usize,
    /// Delay of each reply.
    delay: Duration,
    /// Number of connections accepted so far.
    accepted: usize,
    /// Both sockets of each open connection.
    open: HashMap<usize, Vec<TcpStream>>,
    stopped: bool,
}

impl Relay {
    /// Relays bytes as they are on the way: with TLS, records.
    pub(crate) fn to(redis: u16) -> Self {
        Self::start(redis, |_| None)
    }

    /// Relays the commands and replies of Redis, also with TLS: notch completes a handshake of TLS with the relay.
    pub(crate) fn within_tls(redis: &Redis) -> Self {
        Self::start(redis.plain_port, |listener| Some(Front::before(listener)))
    }

    fn start(redis: u16, front: impl FnOnce(&TcpListener) -> Option<Front>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port of the loopback");
        let own_port = listener.local_addr().expect("a bound listener has an address").port();
        let front = front(&listener);
        let port = front.as_ref().map_or(own_port, |front| front.port);
        let reads_commands = front.is_some() || !cfg!(feature = "tls");
        let (mode, open) = (Mode::Pass, HashMap::new());
        let shared = Arc::new(Mutex::new(Shared {
            redis,
            mode,
            fault: None,
            discarding: 0,
            delay: Duration::ZERO,
            accepted: 0,
            open,
            stopped: false,
        }));
        let own = shared.clone();
        thread::spawn(move || accept(&listener, &own));
        Self { port, own_port, reads_commands, _front: front, shared }
    }

    /// Sets a fault for the next bytes that it applies to.
    pub(crate) fn arm(&self, fault: Fault) {
        lock(&self.shared).fault = Some(fault);
    }

    /// Removes the fault. Returns whether it has happened.
    pub(crate) fn disarm(&self) -> bool {
        lock(&self.shared).fault.take().is_none()
    }

    /// Returns the number of open connections.
    pub(crate) fn open_connections(&self) -> usize {
        lock(&self.shared).open.len()
    }

    /// Sets the treatment of new connections, and cuts the open ones.
    pub(crate) fn set(&self, mode: Mode) {
        let needs_commands = matches!(mode, Mode::DropReplies | Mode::StopReading);
        assert!(!needs_commands || self.reads_commands, "{mode:?} needs `Relay::within_tls`");
        lock(&self.shared).mode = mode;
        self.cut();
    }

    /// Makes all open connections discard what is sent on them from now on. New connections are not affected.
    pub(crate) fn discard(&self) {
        let mut state = lock(&self.shared);
        state.discarding = state.accepted;
    }

    /// Delays each reply from now on.
    pub(crate) fn delay(&self, delay: Duration) {
        lock(&self.shared).delay = delay;
    }

    /// Cuts all open connections.
    pub(crate) fn cut(&self) {
        lock(&self.shared).open.drain().for_each(|(_, sides)| close_all(&sides));
    }

    /// Returns the number of connections accepted so far.
    pub(crate) fn accepted(&self) -> usize {
        lock(&self.shared).accepted
    }

    /// Waits until notch has replaced the connection that was cut.
    pub(crate) fn wait_for_connection_after(&self, accepted: usize) {
        wait_until("notch connects again", || (self.accepted() > accepted).then_some(()));
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        lock(&self.shared).stopped = true;
        self.cut();
        // Wakes the listener, which then ends.
        let _ = TcpStream::connect(("127.0.0.1", self.own_port));
    }
}

impl Shared {
    /// Takes the fault that applies to these bytes, if one is set.
    fn take_fault(&mut self, direction: Direction, length: usize) -> Option<Fault> {
        let applies = match self.fault.as_ref()? {
            Fault::CutRequest(passed) => direction == Direction::Request && *passed <= length,
            Fault::CutReply(passed) => direction == Direction::Reply && *passed <= length,
            _ => direction == Direction::Reply,
        };
        if applies { self.fault.take() } else { None }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Request,
    Reply,
}

fn accept(listener: &TcpListener, shared: &Arc<Mutex<Shared>>) {
    for stream in listener.incoming() {
        let Ok(notch) = stream else { return };
        let mut state = lock(shared);
        if state.stopped {
            return;
        }
        state.accepted += 1;
        let number = state.accepted;
        match state.mode {
            Mode::Close => {}
            Mode::Silent => drop(state.open.insert(number, vec![notch])),
            Mode::Pass | Mode::DropReplies | Mode::StopReading => {
                // If Redis is down, the connection is closed at once.
                let Ok(redis) = TcpStream::connect(("127.0.0.1", state.redis)) else { continue };
                let clone = |stream: &TcpStream| stream.try_clone().expect("a second handle on a socket");
                state.open.insert(number, vec![clone(&notch), clone(&redis)]);
                let mode = state.mode;
                for (from, to, direction) in
                    [(clone(&notch), clone(&redis), Direction::Request), (redis, notch, Direction::Reply)]
                {
                    let shared = shared.clone();
                    thread::spawn(move || {
                        pass(&from, &to, Connection { direction, number, mode }, &shared);
                        close_all(&[from, to]);
                        lock(&shared).open.remove(&number);
                    });
                }
            }
        }
    }
}

/// One direction of a connection.
#[derive(Clone, Copy)]
struct Connection {
    direction: Direction,
    number: usize,
    /// The treatment that applied when it was accepted.
    mode: Mode,
}

/// Passes bytes on in one direction, up to the end of the connection.
fn pass(mut from: &TcpStream, mut to: &TcpStream, connection: Connection, shared: &Mutex<Shared>) {
    let Connection { direction, number, mode } = connection;
    let _ = to.set_nodelay(true);
    let mut bytes = [0; 64 << 10];
    let mut handshake_done = false;
    while let Ok(length @ 1..) = from.read(&mut bytes) {
        let bytes = &bytes[..length];
        let (discarded, delay) = {
            let state = lock(shared);
            (number <= state.discarding, if direction == Direction::Reply { state.delay } else { Duration::ZERO })
        };
        if discarded || (handshake_done && mode == Mode::DropReplies && direction == Direction::Reply) {
            continue;
        }
        thread::sleep(delay);
        handshake_done |= bytes.ends_with(b"PONG\r\n") || bytes.ends_with(b"PING\r\n");
        let fault = lock(shared).take_fault(direction, length);
        let passed = match fault {
            None => to.write_all(bytes),
            Some(Fault::CutRequest(passed) | Fault::CutReply(passed)) => {
                let _ = to.write_all(&bytes[..passed]);
                return;
            }
            Some(Fault::DelayReply(delay)) => {
                thread::sleep(delay);
                to.write_all(bytes)
            }
            Some(Fault::SplitReply) => bytes.iter().try_for_each(|byte| {
                thread::sleep(Duration::from_millis(1));
                to.write_all(&[*byte])
            }),
            Some(Fault::DoubleReply) => to.write_all(&[bytes, bytes].concat()),
            Some(Fault::Instead(other)) => to.write_all(other),
            Some(Fault::Endless(byte)) => {
                while to.write_all(&[byte; 4096]).is_ok() {}
                return;
            }
        };
        if passed.is_err() {
            return;
        }
        if handshake_done && mode == Mode::StopReading && direction == Direction::Request {
            wait_until("notch has closed the connection", || (!lock(shared).open.contains_key(&number)).then_some(()));
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
