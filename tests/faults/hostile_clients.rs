//! Hostile clients: each opens connections, sends bytes, repeats bytes, and hardly reads.

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
    pub(crate) then: &'static str,
    /// Pause between two repetitions; zero repeats as fast as the server reads.
    pub(crate) pace: Duration,
    /// Pause of a client that was disconnected before it connects again.
    pub(crate) away: Duration,
    /// Whether the receive buffer in the kernel is as small as possible.
    pub(crate) connect_with_small_buffer: bool,
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
    fn new(name: &'static str, connections: usize, first: &'static str, then: &'static str, pace: Duration) -> Self {
        let (away, reading) = (Duration::ZERO, Reading::Never);
        Self { name, connections, first, then, pace, away, connect_with_small_buffer: false, reading }
    }

    /// Attacks for this long. Returns how many visits may have been counted.
    pub(crate) fn attack(&self, address: SocketAddr, long: Duration) -> usize {
        let mut sent = 0;
        // Clients that pause before they connect again start one after the other, as they would connect again.
        let (start, apart) = (Instant::now(), self.away / self.connections as u32);
        let mut connections: Vec<Result<Connection, Instant>> =
            (0..self.connections as u32).map(|place| Err(start + apart * place)).collect();
        let end = Instant::now() + long;
        while Instant::now() < end {
            for place in connections.iter_mut().take_while(|_| Instant::now() < end) {
                if place.as_ref().is_err_and(|away| *away <= Instant::now())
                    && let Some(connection) = Connection::open(address, self)
                {
                    *place = Ok(connection);
                    sent += self.first.matches(VISIT).count();
                }
                let Ok(connection) = place else { continue };
                let (stays, times) = connection.proceed(self);
                sent += times * self.then.matches(VISIT).count();
                if !stays {
                    *place = Err(Instant::now() + self.away);
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
        let stream = if hostile.connect_with_small_buffer {
            connect_with_small_buffer(address)?
        } else {
            TcpStream::connect_timeout(&address, Duration::from_millis(50)).ok()?
        };
        stream.set_nonblocking(true).expect("a socket that does not wait");
        stream.set_nodelay(true).expect("a socket that can send small segments");
        Some(Self { stream, next: Instant::now(), rest: hostile.first.as_bytes() })
    }

    /// Sends what is due. Returns whether the connection stays open, and how often `then` was started.
    fn proceed(&mut self, hostile: &HostileClient) -> (bool, usize) {
        let mut byte = [0];
        let received = match hostile.reading {
            Reading::ByteByByte => self.stream.read(&mut byte),
            Reading::Never | Reading::Closes => self.stream.peek(&mut byte),
        };
        let leaves = match received {
            Err(error) => error.kind() != ErrorKind::WouldBlock,
            // A client with nothing more to send treats any response as the end.
            Ok(length) => length == 0 || hostile.reading == Reading::Closes || hostile.then.is_empty(),
        };
        if leaves {
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
            if hostile.then.is_empty() || Instant::now() < self.next || times >= MOST {
                return (true, times);
            }
            (self.rest, self.next) = (hostile.then.as_bytes(), Instant::now() + hostile.pace);
            times += 1;
        }
    }
}

/// Connects with the smallest receive buffer, which must be set before the connection opens.
fn connect_with_small_buffer(address: SocketAddr) -> Option<TcpStream> {
    let SocketAddr::V4(address) = address else { panic!("loopback is {address}") };
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).ok()?;
    setsockopt(&socket, sockopt::RcvBuf, &1).expect("a socket with a buffer of its own");
    connect(socket.as_raw_fd(), &SockaddrIn::from(address)).ok()?;
    Some(socket.into())
}

/// All kinds of clients that make the server keep something incomplete, on this many connections.
pub(crate) fn of_memory(connections: usize) -> Vec<HostileClient> {
    // About two thousand connect again each second, for any number of connections: more would measure the machine.
    let away = Duration::from_micros(500) * connections as u32;
    let seldom = away.max(Duration::from_millis(500));
    let of =
        |name, first, then, pace| HostileClient { away, ..HostileClient::new(name, connections, first, then, pace) };
    let never = Duration::ZERO;
    let long = |start: &str| -> &'static str { format!("{start}{}", "x".repeat(8000)).leak() };
    let head = "GET /count/zebra HTTP/1.1\r\nHost: h\r\nX: ";
    let body = "POST /count/zebra HTTP/1.1\r\nHost: h\r\nContent-Length: 60000\r\n\r\n";
    vec![
        of("unfinished heads", long(head), "x", seldom),
        HostileClient { away: never, ..of("unfinished heads, renewed", head, "", never) },
        of("unfinished bodies", long(body), "x", seldom),
        HostileClient { connect_with_small_buffer: true, ..of("unread answers", PAGE, PAGE, seldom) },
        HostileClient { connect_with_small_buffer: true, ..of("unread last answers", LAST_PAGE, "x", seldom) },
        HostileClient { connect_with_small_buffer: true, ..of("unread pipelines", PAGES, PAGES, seldom) },
        HostileClient {
            connect_with_small_buffer: true,
            ..of("unread pipelines of visits", VISITS, VISITS, seldom / 50)
        },
        of("not a word", "", "", never),
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
        of("not a word", 24, "", "", none),
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
const MOST: usize = 1000;
