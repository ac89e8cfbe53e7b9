//! The items of `tls.rs` in a build without the feature `tls`: types without a value, so that the code for them is
//! compiled to nothing.

use std::ffi::OsStr;
use std::io;

use crate::buffers::Buffers;

/// Which files have the certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsConfig {}

impl TlsConfig {
    /// Starts a session with a server that has the name `host`.
    ///
    /// # Errors
    /// A file cannot be read or used.
    pub fn open(&self, _host: &str, _read: impl Fn(&OsStr) -> io::Result<Vec<u8>>) -> Result<Tls, TlsError> {
        match *self {}
    }
}

/// One TLS session with a server.
pub enum Tls {}

impl Tls {
    /// Returns the bytes that the driver moves from and to the socket.
    pub fn wire(&mut self) -> &mut Buffers {
        match *self {}
    }

    /// Processes the received bytes of the handshake.
    ///
    /// # Errors
    /// The handshake has failed.
    pub fn process_handshake(&mut self) -> Result<bool, TlsError> {
        match *self {}
    }

    /// Ends the handshake because the socket was closed, or silent.
    ///
    /// # Errors
    /// Always.
    pub fn fail_handshake(&self, _is_silent: bool) -> Result<(), TlsError> {
        match *self {}
    }

    /// Moves received bytes to `plain`.
    ///
    /// # Errors
    /// The session has ended.
    pub fn decrypt(&mut self, _plain: &mut Buffers) -> Result<bool, TlsError> {
        match *self {}
    }

    /// Encrypts the pending bytes of `plain`.
    ///
    /// # Errors
    /// The session has ended.
    pub fn encrypt(&mut self, _plain: &mut Buffers) -> Result<(), TlsError> {
        match *self {}
    }
}

/// Why there is no TLS session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsError {}

impl TlsError {
    /// Returns whether it belongs to a restart or a failure.
    #[must_use]
    pub fn is_transient(self) -> bool {
        match self {}
    }

    /// Returns whether the server was silent.
    #[must_use]
    pub fn is_timeout(self) -> bool {
        match self {}
    }

    /// Returns what is wrong, and the remedy.
    #[must_use]
    pub fn message(self) -> &'static str {
        match self {}
    }
}
