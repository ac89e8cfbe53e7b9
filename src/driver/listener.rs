//! The listening socket, of TCP or a Unix socket, and connections to Unix sockets.
//!
//! The drivers hold every connection as a [`TcpStream`], also one of a Unix socket: the standard library and tokio call
//! only what every stream socket has on it: `recv`, `send`, `shutdown`, `poll`, timeouts. Options of TCP are set here
//! and nowhere else, on the listener, from which the system copies them to each connection. The listener itself has two
//! types, because the standard library checks the family of the address that accepting returns.

use std::ffi::CString;
use std::io::{self, ErrorKind};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::thread;
use std::time::Duration;

use nix::sys::socket::sockopt::{RcvBuf, ReuseAddr, SndBuf, TcpNoDelay, TcpUserTimeout};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, UnixAddr, bind, connect, listen, setsockopt, socket,
};

use super::{Capacity, reachable};
use crate::config::Listen;
use crate::system::socket_file::{self, DirectoryLock, FileKind, Rights, SocketFile};

/// A socket that accepts connections.
pub(super) enum Listener {
    Tcp(TcpListener),
    /// With the size of the kernel's buffer for each connection, which such a socket does not inherit.
    Unix(UnixListener, usize),
}

impl Listener {
    /// Listens on `address`. Returns the listener, and the file of a Unix socket, which exists until it is dropped.
    pub(super) fn open(
        address: &Listen,
        rights: Rights,
        capacity: &Capacity,
    ) -> io::Result<(Self, Option<SocketFile>)> {
        match address {
            Listen::Tcp(address) => Ok((Self::open_tcp(*address, capacity)?, None)),
            Listen::Unix(path) => {
                let (listener, file) = open_unix(path, rights)?;
                Ok((Self::Unix(listener, capacity.socket), Some(file)))
            }
        }
    }

    fn open_tcp(address: SocketAddr, capacity: &Capacity) -> io::Result<Self> {
        let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let socket = stream_socket(family)?;
        setsockopt(&socket, ReuseAddr, &true)?;
        // The connections inherit these. The kernel drops a peer that does not acknowledge within the user timeout.
        setsockopt(&socket, SndBuf, &capacity.socket)?;
        setsockopt(&socket, RcvBuf, &capacity.socket)?;
        let timeout = capacity.limits.write.as_millis().clamp(1, u32::MAX.into()) as u32;
        setsockopt(&socket, TcpUserTimeout, &timeout)?;
        setsockopt(&socket, TcpNoDelay, &true)?;
        bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
        start_listening(&socket)?;
        Ok(Self::Tcp(socket.into()))
    }

    /// Returns the address that it listens on: `address`, with the port that the system chose.
    pub(super) fn address(&self, address: &Listen) -> Listen {
        match self {
            Self::Tcp(listener) => listener.local_addr().map_or_else(|_| address.clone(), Listen::Tcp),
            Self::Unix(..) => address.clone(),
        }
    }

    pub(super) fn accept(&self) -> io::Result<TcpStream> {
        match self {
            Self::Tcp(listener) => listener.accept().map(|(socket, _)| socket),
            Self::Unix(listener, size) => {
                let (socket, _) = listener.accept()?;
                // What is received is in the buffer of the peer.
                setsockopt(&socket, SndBuf, size)?;
                Ok(OwnedFd::from(socket).into())
            }
        }
    }

    /// Returns the same socket, as a type that can do what the two of listeners cannot.
    pub(super) fn try_clone(&self) -> io::Result<TcpStream> {
        let socket = match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener, _) => listener.as_fd(),
        };
        socket.try_clone_to_owned().map(TcpStream::from)
    }

    /// Wakes the thread that accepts, if no connection arrives: TCP has no other means than one more connection, which
    /// `timeout` limits.
    pub(super) fn wake(&self, timeout: Duration) {
        match self {
            Self::Tcp(listener) => {
                let address = listener.local_addr();
                let _ = address.and_then(|address| TcpStream::connect_timeout(&reachable(address), timeout));
            }
            // The connections that have arrived are still accepted, and there will be no others.
            Self::Unix(..) => {
                let _ = self.try_clone().and_then(|socket| socket.shutdown(Shutdown::Read));
            }
        }
    }
}

/// Listens on a Unix socket. Replaces the file of a socket on which no process listens.
fn open_unix(path: &str, rights: Rights) -> io::Result<(UnixListener, SocketFile)> {
    let _lock = lock_directory(path);
    match FileKind::at(path)? {
        FileKind::Missing => {}
        FileKind::Other => return Err(ErrorKind::AlreadyExists.into()),
        FileKind::Socket => match connect_unix(path, CHECK_TIMEOUT) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => socket_file::remove(path)?,
            Err(error) if error.kind() != ErrorKind::TimedOut => return Err(error),
            Ok(_) | Err(_) => return Err(ErrorKind::AddrInUse.into()),
        },
    }
    let socket = socket_file::make_private(stream_socket(AddressFamily::Unix)?, rights)?;
    bind(socket.as_raw_fd(), &unix_address(path)?)?;
    let file = SocketFile::new(path)?;
    file.set_rights(rights)?;
    start_listening(&socket)?;
    Ok((socket.into(), file))
}

/// Waits for other processes of notch that start on the same path. A lock that lasts is that of another program, and
/// has no meaning here; neither has a directory that cannot be read.
fn lock_directory(path: &str) -> Option<DirectoryLock> {
    for _ in 0..LOCK_ATTEMPTS {
        match socket_file::lock_directory(path) {
            Ok(None) => thread::sleep(LOCK_PAUSE),
            lock => return lock.ok().flatten(),
        }
    }
    None
}

/// Connects to a Unix socket. A process that does not accept connections delays it by `timeout` at most.
pub(crate) fn connect_unix(path: &str, timeout: Duration) -> io::Result<TcpStream> {
    let socket = TcpStream::from(stream_socket(AddressFamily::Unix)?);
    // The system applies the time limit of writes to connecting, too (unix(7)).
    socket.set_write_timeout(Some(timeout))?;
    match connect(socket.as_raw_fd(), &unix_address(path)?).map_err(io::Error::from) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err(ErrorKind::TimedOut.into()),
        connected => connected.map(|()| socket),
    }
}

fn stream_socket(family: AddressFamily) -> io::Result<OwnedFd> {
    Ok(socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?)
}

/// Returns the address of the socket at `path`, which has no zero byte.
fn unix_address(path: &str) -> io::Result<UnixAddr> {
    Ok(UnixAddr::new(&*CString::new(path)?)?)
}

fn start_listening(socket: &OwnedFd) -> io::Result<()> {
    // The system limits the number of connections that wait to be accepted (`net.core.somaxconn`). A client of TCP that
    // finds the backlog full retries after a second; that of a Unix socket waits, or gets an error.
    Ok(listen(socket, Backlog::MAXALLOWABLE)?)
}

/// How long to wait for a process that may listen on a path. One that does accepts at once, unless its backlog is full.
const CHECK_TIMEOUT: Duration = Duration::from_millis(100);

/// How often a directory that is locked is tried again, and the pause before that: together a second.
const LOCK_ATTEMPTS: usize = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(10);
