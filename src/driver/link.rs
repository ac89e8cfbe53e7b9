//! Connections to Redis and to Sentinels before they serve: opening one, its TLS handshake, and queries that block
//! the calling thread.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::health::StoreHealth;
use super::{CLOSED, deadline_after, remaining_or_timeout};
use crate::buffers::Buffers;
use crate::redis::{Tls, TlsConfig, TlsError};
use crate::system;

/// A connected socket, and the TLS session on it if there is one.
pub(super) struct Link {
    pub(super) socket: TcpStream,
    pub(super) tls: Option<Tls>,
}

impl Link {
    /// Opens a link by `connect` to a server that has the name `host`: connecting and the handshake take `timeout`, the
    /// handshake at most `handshake` of it.
    pub(super) fn open(
        tls: Option<&TlsConfig>,
        host: &str,
        timeout: Duration,
        handshake: Duration,
        connect: impl FnOnce() -> Result<TcpStream, StoreHealth>,
    ) -> Result<Self, LinkError> {
        let deadline = deadline_after(timeout);
        // First the files: while one cannot be used, the server is left alone.
        let tls = tls.map(|tls| tls.open(host, system::read_file)).transpose()?;
        let mut link = Self { socket: connect().map_err(LinkError::Connect)?, tls };
        link.complete_handshake(deadline.min(deadline_after(handshake)))?;
        Ok(link)
    }

    /// Completes the handshake of the TLS session.
    fn complete_handshake(&mut self, deadline: Instant) -> Result<(), LinkError> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        loop {
            let is_complete = tls.process_handshake();
            // On an error, an alert is sent, which shows the server what is wrong here.
            let is_sent = write(&self.socket, tls.wire(), deadline);
            if is_complete? {
                // From here on, the driver bounds how long a read may take.
                return is_sent.and_then(|()| self.socket.set_read_timeout(None)).map_err(|_| LinkError::Closed);
            }
            let is_silent = match read(&self.socket, tls.wire(), deadline) {
                Ok(true) => continue,
                Ok(false) => false,
                Err(error) => is_timeout(&error),
            };
            tls.fail_handshake(is_silent)?;
        }
    }

    /// Sends the pending bytes of `buffers`. If the socket does not take them, [`Link::receive`] returns the error, or
    /// what the server has sent before it closed the connection.
    pub(super) fn send(&mut self, buffers: &mut Buffers, deadline: Instant) -> Result<(), LinkError> {
        let Some(tls) = &mut self.tls else {
            let _ = write(&self.socket, buffers, deadline);
            return Ok(());
        };
        tls.encrypt(buffers)?;
        let _ = write(&self.socket, tls.wire(), deadline);
        Ok(())
    }

    /// Waits for bytes and moves them to `buffers`.
    pub(super) fn receive(&mut self, buffers: &mut Buffers, deadline: Instant) -> Result<(), LinkError> {
        let Some(tls) = &mut self.tls else { return read_some(&self.socket, buffers, deadline) };
        while !tls.decrypt(buffers)? {
            read_some(&self.socket, tls.wire(), deadline)?;
        }
        Ok(())
    }
}

/// Why there is no link, or why it ended.
#[derive(Clone, Copy)]
pub(super) enum LinkError {
    /// The server cannot be connected to.
    Connect(StoreHealth),
    /// The connection was closed, or is silent.
    Closed,
    /// There is no TLS session, or it ended.
    Tls(TlsError),
}

impl LinkError {
    /// Returns whether the server was silent in the handshake.
    pub(super) fn is_timeout(self) -> bool {
        matches!(self, Self::Tls(error) if error.is_timeout())
    }
}

impl From<TlsError> for LinkError {
    fn from(error: TlsError) -> Self {
        Self::Tls(error)
    }
}

impl From<StoreHealth> for LinkError {
    fn from(status: StoreHealth) -> Self {
        Self::Connect(status)
    }
}

impl From<TlsError> for StoreHealth {
    fn from(error: TlsError) -> Self {
        Self::Tls(error)
    }
}

impl From<LinkError> for StoreHealth {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Connect(status) => status,
            LinkError::Closed => CLOSED,
            LinkError::Tls(error) => error.into(),
        }
    }
}

/// Writes the pending bytes of `buffers`.
fn write(mut socket: &TcpStream, buffers: &mut Buffers, deadline: Instant) -> io::Result<()> {
    while !buffers.pending().is_empty() {
        socket.set_write_timeout(Some(remaining_or_timeout(deadline)?))?;
        match socket.write(buffers.pending()) {
            Ok(length) => buffers.mark_sent(length),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads bytes into `buffers`. Returns whether there were any: if not, the connection was closed.
fn read(mut socket: &TcpStream, buffers: &mut Buffers, deadline: Instant) -> io::Result<bool> {
    let mut chunk = [0; CHUNK];
    loop {
        socket.set_read_timeout(Some(remaining_or_timeout(deadline)?))?;
        match socket.read(&mut chunk) {
            Ok(length) => {
                buffers.receive(&chunk[..length]);
                return Ok(length > 0);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Reads bytes into `buffers`, at least one.
fn read_some(socket: &TcpStream, buffers: &mut Buffers, deadline: Instant) -> Result<(), LinkError> {
    if matches!(read(socket, buffers, deadline), Ok(true)) { Ok(()) } else { Err(LinkError::Closed) }
}

/// Returns whether an error of a blocking socket means that its timeout has passed.
fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Bytes read at a time.
const CHUNK: usize = 4 * 1024;
