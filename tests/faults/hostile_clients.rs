//! Hostile clients: each opens connections, sends bytes, repeats bytes, and reads little or nothing.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, connect, setsockopt, socket, sockopt};

/// One kind of attack.
pub(crate) struct HostileClient {
    pub(crate) name: &'static str,
    pub(crate) connections: usize,
    /// Bytes sent first on each connection.
    pub(crate) first: &'static str,
    /// Bytes sent repeatedly after that.
    pub(crate) repeated: &'static str,
    /// Pause between two repetitions; zero repeats as fast as the server reads.
    pub(crate) interval: Duration,
    /// Delay before a disconnected client connects again.
    pub(crate) reconnect_delay: Duration,
    /// Whether the receive buffer in the kernel is as small as possible.
    pub(crate) has_small_buffer: bool,
    pub(crate) reading: Reading,
}

/// What a client does with a response.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// Does not read it.
    Never,
    /// Reads one byte at a time.
    ByteByByte,
    /// Does not read it and closes the connection: the kernel then resets it.
    Closes,
}

impl HostileClient {
    /// Returns a client that reads nothing, and connects again at once.
    fn new(
        name: &'static str,
        connections: usize,
        first: &'static str,
        repeated: &'static str,
        interval: Duration,
    ) -> Self {
        let (reconnect_delay, reading) = (Duration::ZERO, Reading::Never);
        Self { name, connections, first, repeated, interval, reconnect_delay, has_small_buffer: false, reading }
    }

    /// Attacks for this duration. Returns the number of visits that may have been counted.
    pub(crate) fn attack(&self, address: SocketAddr, duration: Duration) -> usize {
        let mut sent = 0;
        // Clients that pause before they connect again start one after the other, as they would connect again.
        let (start, stagger) = (Instant::now(), self.reconnect_delay / self.connections as u32);
        let mut connections: Vec<Result<Connection, Instant>> =
            (0..self.connections as u32).map(|index| Err(start + stagger * index)).collect();
        let end = Instant::now() + duration;
        while Instant::now() < end {
            for slot in connections.iter_mut().take_while(|_| Instant::now() < end) {
                if slot.as_ref().is_err_and(|reconnect| *reconnect <= Instant::now())
                    && let Some(connection) = Connection::open(address, self)
                {
                    *slot = Ok(connection);
                    sent += self.first.matches(VISIT).count();
                }
                let Ok(connection) = slot else { continue };
                let (is_open, times) = connection.proceed(self);
                sent += times * self.repeated.matches(VISIT).count();
                if !is_open {
                    *slot = Err(Instant::now() + self.reconnect_delay);
                }
            }
            thread::sleep(TICK);
        }
        sent
    }
}

/// One connection of a hostile client.
struct Connection {
    stream: TcpStream,
    /// Time of the next repetition.
    next: Instant,
    /// Bytes that are still to be sent.
    rest: &'static [u8],
}

impl Connection {
    /// Returns `None` if the server does not accept; does not wait for a full queue of connections.
    fn open(address: SocketAddr, hostile: &HostileClient) -> Option<Self> {
        let stream = if hostile.has_small_buffer {
            connect_with_small_buffer(address)?
        } else {
            TcpStream::connect_timeout(&address, Duration::from_millis(50)).ok()?
        };
        stream.set_nonblocking(true).expect("a socket that does not wait");
        stream.set_nodelay(true).expect("a socket that can send small segments");
        Some(Self { stream, next: Instant::now(), rest: hostile.first.as_bytes() })
    }

    /// Sends what is due. Returns whether the connection stays open, and how often `repeated` was started.
    fn proceed(&mut self, hostile: &HostileClient) -> (bool, usize) {
        let mut byte = [0];
        let received = match hostile.reading {
            Reading::ByteByByte => self.stream.read(&mut byte),
            Reading::Never | Reading::Closes => self.stream.peek(&mut byte),
        };
        let disconnects = match received {
            Err(error) => error.kind() != ErrorKind::WouldBlock,
            // A client with nothing more to send treats any response as the end.
            Ok(length) => length == 0 || hostile.reading == Reading::Closes || hostile.repeated.is_empty(),
        };
        if disconnects {
            return (false, 0);
        }
        let mut times = 0;
        loop {
            while !self.rest.is_empty() {
                match self.stream.write(self.rest) {
                    Ok(length) => self.rest = &self.rest[length..],
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return (true, times),
                    Err(_) => return (false, times),
                }
            }
            if hostile.repeated.is_empty() || Instant::now() < self.next || times >= MAX_REPETITIONS {
                return (true, times);
            }
            (self.rest, self.next) = (hostile.repeated.as_bytes(), Instant::now() + hostile.interval);
            times += 1;
        }
    }
}

/// Connects with the smallest receive buffer, which must be set before the connection opens.
fn connect_with_small_buffer(address: SocketAddr) -> Option<TcpStream> {
    let SocketAddr::V4(address) = address else { panic!("loopback is {address}") };
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).ok()?;
    setsockopt(&socket, sockopt::RcvBuf, &1).expect("a socket with its own buffer");
    connect(socket.as_raw_fd(), &SockaddrIn::from(address)).ok()?;
    Some(socket.into())
}

/// All kinds of clients that make the server keep incomplete requests or responses, on this many connections.
pub(crate) fn using_memory(connections: usize) -> Vec<HostileClient> {
    // About two thousand connect again each second, for any number of connections: more would measure the machine.
    let reconnect_delay = Duration::from_micros(500) * connections as u32;
    let slow = reconnect_delay.max(Duration::from_millis(500));
    let of = |name, first, repeated, interval| HostileClient {
        reconnect_delay,
        ..HostileClient::new(name, connections, first, repeated, interval)
    };
    let none = Duration::ZERO;
    let long = |start: &str| -> &'static str { format!("{start}{}", "x".repeat(8000)).leak() };
    let head = "GET /count/zebra HTTP/1.1\r\nHost: h\r\nX: ";
    let body = "POST /count/zebra HTTP/1.1\r\nHost: h\r\nContent-Length: 60000\r\n\r\n";
    vec![
        of("incomplete heads", long(head), "x", slow),
        HostileClient { reconnect_delay: none, ..of("incomplete heads, reconnecting", head, "", none) },
        of("incomplete bodies", long(body), "x", slow),
        HostileClient { has_small_buffer: true, ..of("unread responses", PAGE, PAGE, slow) },
        HostileClient { has_small_buffer: true, ..of("unread last responses", LAST_PAGE, "x", slow) },
        HostileClient { has_small_buffer: true, ..of("unread pipelines", PAGES, PAGES, slow) },
        HostileClient { has_small_buffer: true, ..of("unread pipelines of visits", VISITS, VISITS, slow / 50) },
        of("nothing sent", "", "", none),
    ]
}

/// All attacks on a server that allows `connections`.
pub(crate) fn all(connections: usize) -> Vec<HostileClient> {
    let slow = Duration::from_millis(100);
    let of = HostileClient::new;
    let none = Duration::ZERO;
    vec![
        of("slow heads", 24, "GET /count/zebra HTTP/1.1\r\nHost: h\r\nX: ", "x", slow),
        of("half a head, and nothing more", 24, "GET /count/zebra HTTP/1.1\r\nHo", "", none),
        of("nothing sent", 24, "", "", none),
        of("pipelines whose responses are not read", 8, "", PIPELINE, none),
        HostileClient { reading: Reading::ByteByByte, ..of("pipelines read byte by byte", 8, "", PIPELINE, none) },
        of("pipelines of visits whose responses are not read", 8, "", VISITS, none),
        of("more connections than there is room for", 3 * connections, "", "", none),
        of("headers without end", 8, "GET /count/zebra HTTP/1.1\r\nHost: h\r\n", "X-Y: zebra\r\n", none),
        of("a target without end", 8, "GET /count/zebra?", "zebra", none),
        of(
            "a body never sent",
            24,
            "POST /count/zebra HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nzebra",
            "",
            none,
        ),
        of("small chunks without end", 8, CHUNKED, "1\r\nz\r\n", none),
        of("chunk extensions without end", 8, CHUNKED, "1;zebra=zebra", none),
        HostileClient { reading: Reading::Closes, ..of("resets", 16, VISITS, "", none) },
    ]
}

const CHUNKED: &str = "POST /count/zebra HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";

const PAGE: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";

const LAST_PAGE: &str = "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";

/// A pipeline of pages whose responses are larger than the kernel's buffers.
const PAGES: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n\
    GET / HTTP/1.1\r\nHost: h\r\n\r\n\
    GET / HTTP/1.1\r\nHost: h\r\n\r\n\
    GET / HTTP/1.1\r\nHost: h\r\n\r\n\
    GET / HTTP/1.1\r\nHost: h\r\n\r\n\
    GET / HTTP/1.1\r\nHost: h\r\n\r\n";

const PIPELINE: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\nGET /livez HTTP/1.1\r\nHost: h\r\n\r\n";

const VISITS: &str = "GET /count/zebra HTTP/1.1\r\nHost: h\r\n\r\nGET /count/zebra HTTP/1.1\r\nHost: h\r\n\r\n";

/// A request that may count a visit: of another counter, so that the totals of normal clients stay exact.
const VISIT: &str = " /count/zebra";

/// The name of that counter.
pub(crate) const COUNTER: &str = "zebra";

/// Pause between two rounds through the connections.
const TICK: Duration = Duration::from_millis(2);

/// Repetitions on one connection before the next one is served.
const MAX_REPETITIONS: usize = 1000;
