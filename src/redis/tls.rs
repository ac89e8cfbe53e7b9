//! TLS between the socket and the plain bytes of a connection to Redis, over two [`Buffers`].
//!
//! ```text
//!   socket ---> wire.received ---> (rustls) --- decrypt ---> plain.received ---> Session
//!   socket <--- wire.pending <--- (rustls) <--- encrypt ---- plain.pending <---- Session
//! ```
//!
//! The driver completes the handshake before a [`super::Session`] is opened, so no visit waits in it. Then it moves
//! bytes between the socket and [`Tls::wire`]; rustls makes and opens the records.
//!
//! What is checked, without a setting that turns it off: the chain of the server's certificate up to a certificate of
//! `REDIS_CA` (or of the system), its dates, its purpose, and its names, of which one is the host that was connected
//! to. A certificate that is in `REDIS_CA` itself needs no chain.
//!
//! The end of a connection is an end, with or without `close_notify`: a reply has its length, so a truncated one is
//! not taken for a whole one, and the batch in flight stays in doubt.
//!
//! Left out on purpose: resumption (one connection stays for long), ALPN, revocation lists, early data.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, BufRead, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, ContentType, DigitallySignedStruct, Error,
    InvalidMessage, RootCertStore, SignatureScheme,
};

use crate::buffers::Buffers;

/// Which files have the certificates. They are read for each connection, so they may be replaced while notch runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// PEM file of the certificates that are trusted; the system's if absent.
    pub ca: Option<OsString>,
    /// PEM files of the certificate that notch presents, with its chain, and of its private key.
    pub client: Option<(OsString, OsString)>,
}

impl TlsConfig {
    /// Reads the files with `read`, and starts a session with a server that has the name `host`.
    ///
    /// # Errors
    /// A file cannot be read or used.
    pub fn open(&self, host: &str, read: impl Fn(&OsStr) -> io::Result<Vec<u8>>) -> Result<Tls, TlsError> {
        self.open_with(ring::default_provider(), host, read)
    }

    fn open_with(
        &self,
        provider: CryptoProvider,
        host: &str,
        read: impl Fn(&OsStr) -> io::Result<Vec<u8>>,
    ) -> Result<Tls, TlsError> {
        let provider = Arc::new(provider);
        let key = Arc::new(ClientKey { key: self.client_key(&provider, &read)?, is_requested: AtomicBool::new(false) });
        let verifier = Arc::new(Verifier {
            trusted: Mutex::new(Some(self.trusted(&read)?)),
            algorithms: provider.signature_verification_algorithms,
        });
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|_| TlsError::Protocol)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(key.clone());
        config.resumption = Resumption::disabled();
        let connection = ClientConnection::new(Arc::new(config), server_name(host)?).map_err(|_| TlsError::Protocol)?;
        let mut tls = Tls(Box::new(State { connection, key, wire: Buffers::default(), error: None }));
        tls.0.flush();
        Ok(tls)
    }

    /// Reads the certificates that are trusted.
    fn trusted(&self, read: impl Fn(&OsStr) -> io::Result<Vec<u8>>) -> Result<Trusted, TlsError> {
        let (content, file) = match &self.ca {
            Some(path) => (read(path).ok(), TlsFile::Ca),
            None => (SYSTEM_CA.iter().find_map(|path| read(path.as_ref()).ok()), TlsFile::SystemCa),
        };
        let certificates = certificates(&content.ok_or(TlsError::Unreadable(file))?, file)?;
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(certificates.iter().cloned());
        if added == 0 { Err(TlsError::Invalid(file)) } else { Ok(Trusted { roots, certificates }) }
    }

    /// Reads the certificate that notch presents, and its key.
    fn client_key(
        &self,
        provider: &CryptoProvider,
        read: impl Fn(&OsStr) -> io::Result<Vec<u8>>,
    ) -> Result<Option<Arc<CertifiedKey>>, TlsError> {
        let Some((certificate, key)) = &self.client else { return Ok(None) };
        let content = read(certificate).map_err(|_| TlsError::Unreadable(TlsFile::Certificate))?;
        let chain = certificates(&content, TlsFile::Certificate)?;
        let content = read(key).map_err(|_| TlsError::Unreadable(TlsFile::Key))?;
        let key = PrivateKeyDer::from_pem_slice(&content).map_err(|_| TlsError::Invalid(TlsFile::Key))?;
        match CertifiedKey::from_der(chain, key, provider) {
            Ok(key) => Ok(Some(Arc::new(key))),
            Err(Error::InconsistentKeys(_)) => Err(TlsError::KeyMismatch),
            Err(Error::InvalidCertificate(_)) => Err(TlsError::Invalid(TlsFile::Certificate)),
            Err(_) => Err(TlsError::Invalid(TlsFile::Key)),
        }
    }
}

/// Parses the certificates in a PEM file, at least one.
fn certificates(content: &[u8], file: TlsFile) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(content).collect();
    found.ok().filter(|found| !found.is_empty()).ok_or(TlsError::Invalid(file))
}

/// Returns the name that the server's certificate must have. An IPv6 address may name a network interface, which no
/// certificate does.
fn server_name(host: &str) -> Result<ServerName<'static>, TlsError> {
    let address = if host.contains(':') { host.split('%').next().unwrap_or_default() } else { host };
    ServerName::try_from(address.to_owned()).map_err(|_| TlsError::Name)
}

/// One TLS session with a server, as long as its socket.
pub struct Tls(Box<State>);

struct State {
    connection: ClientConnection,
    key: Arc<ClientKey>,
    /// The bytes of the socket.
    wire: Buffers,
    /// Why the session has ended. It is returned once all that was received before is processed.
    error: Option<TlsError>,
}

impl Tls {
    /// Returns the bytes that the driver moves from and to the socket.
    pub fn wire(&mut self) -> &mut Buffers {
        &mut self.0.wire
    }

    fn is_handshaking(&self) -> bool {
        self.0.connection.is_handshaking()
    }

    /// Processes the received bytes of the handshake. Returns whether it is complete. Bytes that follow it wait for
    /// [`Tls::decrypt`].
    ///
    /// # Errors
    /// The handshake has failed. The pending bytes of [`Tls::wire`] may have an alert for the server.
    pub fn process_handshake(&mut self) -> Result<bool, TlsError> {
        while self.is_handshaking() && !self.0.wire.received().is_empty() {
            self.0.process_received();
            self.0.error.map_or(Ok(()), Err)?;
        }
        Ok(!self.is_handshaking())
    }

    /// Ends the handshake because the socket was closed, or silent.
    ///
    /// # Errors
    /// Always: it returns the cause.
    pub fn fail_handshake(&self, is_silent: bool) -> Result<(), TlsError> {
        Err(if is_silent { TlsError::HandshakeTimedOut } else { TlsError::ClosedInHandshake })
    }

    /// Moves received bytes to `plain` as far as there is space. Returns whether there were any: then it must be called
    /// again once they are processed.
    ///
    /// # Errors
    /// The session has ended, and all that was received before is in `plain`.
    pub fn decrypt(&mut self, plain: &mut Buffers) -> Result<bool, TlsError> {
        loop {
            if self.0.take_plain(plain) {
                return Ok(true);
            }
            if let Some(error) = self.0.error {
                return Err(error);
            }
            if self.0.wire.received().is_empty() {
                return Ok(false);
            }
            self.0.process_received();
        }
    }

    /// Encrypts the pending bytes of `plain`, which is empty then. During the handshake, they stay there.
    ///
    /// # Errors
    /// The session has ended. The bytes that are left in `plain` were not encrypted.
    pub fn encrypt(&mut self, plain: &mut Buffers) -> Result<(), TlsError> {
        if self.is_handshaking() {
            return Ok(());
        }
        while !plain.pending().is_empty() {
            let before = self.0.wire.pending().len();
            let length = self.0.connection.writer().write(plain.pending()).map_err(|_| TlsError::Closed)?;
            self.0.flush();
            // If these keys may encrypt no more (TLS 1.2), rustls has written an alert and dropped the bytes.
            if self.0.wire.pending().get(before).copied() != Some(ContentType::ApplicationData.into()) {
                return Err(TlsError::Closed);
            }
            plain.mark_sent(length);
        }
        Ok(())
    }
}

impl State {
    /// Moves decrypted bytes to `plain`, as far as there is space. Returns whether there were any.
    fn take_plain(&mut self, plain: &mut Buffers) -> bool {
        let mut reader = self.connection.reader();
        // An error means that there is nothing to read.
        let bytes = reader.fill_buf().unwrap_or_default();
        let length = bytes.len() - plain.receive(bytes).len();
        reader.consume(length);
        length > 0
    }

    /// Processes some of the bytes that have arrived.
    fn process_received(&mut self) {
        let Self { connection, wire, .. } = self;
        let is_handshaking = connection.is_handshaking();
        let mut bytes = wire.received();
        let length = connection.read_tls(&mut bytes).unwrap_or_default();
        wire.consume(length);
        self.error = match self.connection.process_new_packets() {
            Ok(state) if state.peer_has_closed() || length == 0 => Some(TlsError::Closed),
            Ok(_) => None,
            Err(error) => Some(match self.key.explain(&error) {
                // In the handshake, it was otherwise.
                TlsError::NotTls | TlsError::Incompatible | TlsError::WrongName if !is_handshaking => {
                    TlsError::Protocol
                }
                error => error,
            }),
        };
        self.flush();
    }

    /// Moves records to the bytes for the socket: the handshake, encrypted bytes, and alerts.
    fn flush(&mut self) {
        while self.connection.wants_write() {
            // Writing to memory does not fail.
            let _ = self.connection.write_tls(self.wire.output());
        }
    }
}

/// The certificate that notch presents, if it has one.
struct ClientKey {
    key: Option<Arc<CertifiedKey>>,
    /// The server has requested it.
    is_requested: AtomicBool,
}

impl ClientKey {
    /// Returns the meaning of an error. Servers reject a missing client certificate with the same alerts as other
    /// faults, but then they have requested one.
    fn explain(&self, error: &Error) -> TlsError {
        use AlertDescription as Alert;

        match error {
            Error::InvalidCertificate(error) => explain_certificate(error),
            Error::AlertReceived(alert) => match alert {
                Alert::ProtocolVersion | Alert::InsufficientSecurity => TlsError::Incompatible,
                Alert::UnrecognisedName => TlsError::WrongName,
                Alert::CertificateRequired => TlsError::CertificateRequired,
                Alert::HandshakeFailure
                | Alert::NoCertificate
                | Alert::BadCertificate
                | Alert::UnsupportedCertificate
                | Alert::CertificateRevoked
                | Alert::CertificateExpired
                | Alert::CertificateUnknown
                | Alert::UnknownCA
                | Alert::AccessDenied
                | Alert::DecryptError
                    if self.is_requested.load(Ordering::Relaxed) =>
                {
                    if self.key.is_none() {
                        TlsError::CertificateRequired
                    } else {
                        TlsError::CertificateRefused
                    }
                }
                Alert::HandshakeFailure => TlsError::Incompatible,
                _ => TlsError::Protocol,
            },
            Error::PeerIncompatible(_) => TlsError::Incompatible,
            Error::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion) => {
                TlsError::NotTls
            }
            _ => TlsError::Protocol,
        }
    }
}

impl fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientKey")
    }
}

impl ResolvesClientCert for ClientKey {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.is_requested.store(true, Ordering::Relaxed);
        self.key.clone()
    }

    fn has_certs(&self) -> bool {
        self.key.is_some()
    }
}

fn explain_certificate(error: &CertificateError) -> TlsError {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => TlsError::Expired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => TlsError::NotYetValid,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => TlsError::WrongName,
        // The signature does not fit if another authority has the same name, such as one that was made anew.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => TlsError::UnknownIssuer,
        _ => TlsError::InvalidCertificate,
    }
}

/// Verifies the server's certificate. What is trusted is dropped after the first one: a session verifies one, and keeps
/// its verifier.
struct Verifier {
    trusted: Mutex<Option<Trusted>>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// The certificates that are trusted.
struct Trusted {
    roots: RootCertStore,
    /// Those of `REDIS_CA`.
    certificates: Vec<CertificateDer<'static>>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier")
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let trusted = self.trusted.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Trusted { roots, certificates } = trusted.ok_or(CertificateError::UnknownIssuer)?;
        let certificate = ParsedCertificate::try_from(end_entity)?;
        match verify_server_cert_signed_by_trust_anchor(&certificate, &roots, intermediates, now, self.algorithms.all) {
            Err(error) if is_authority(&error) && certificates.contains(end_entity) => {}
            result => result?,
        }
        verify_server_name(&certificate, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Returns whether the only fault of a certificate is that it may issue others, as one that `openssl req -x509` makes.
/// Its dates are checked before that (webpki, `check_issuer_independent_properties`).
fn is_authority(error: &Error) -> bool {
    let Error::InvalidCertificate(CertificateError::Other(error)) = error else { return false };
    error.0.downcast_ref() == Some(&webpki::Error::CaUsedAsEndEntity)
}

/// Why there is no TLS session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsError {
    /// A file cannot be read.
    Unreadable(TlsFile),
    /// A file has not what it must have.
    Invalid(TlsFile),
    /// The private key belongs to another certificate.
    KeyMismatch,
    /// The host is not a name that a certificate can have.
    Name,
    /// What the server has sent is not TLS.
    NotTls,
    /// The server and notch have no TLS version, or no algorithm, in common.
    Incompatible,
    /// The server's certificate has expired.
    Expired,
    /// It is not valid yet.
    NotYetValid,
    /// It has other names.
    WrongName,
    /// No trusted authority has issued it.
    UnknownIssuer,
    /// It is not one of a server, or cannot be read.
    InvalidCertificate,
    /// The server requires a client certificate, and there is none.
    CertificateRequired,
    /// The server has rejected the client certificate.
    CertificateRefused,
    /// The handshake was not complete in time.
    HandshakeTimedOut,
    /// The connection was closed in the handshake.
    ClosedInHandshake,
    /// The server has ended the session, or it must be replaced because its keys have reached their limit.
    Closed,
    /// The server has violated the protocol, or ended the session for another reason.
    Protocol,
}

/// A file that [`TlsConfig`] names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFile {
    /// `REDIS_CA`.
    Ca,
    /// One of the usual paths.
    SystemCa,
    /// `REDIS_CLIENT_CERT`.
    Certificate,
    /// `REDIS_CLIENT_KEY`.
    Key,
}

impl TlsFile {
    /// Returns the setting that names it.
    #[must_use]
    pub fn setting(self) -> &'static str {
        match self {
            Self::Ca | Self::SystemCa => "REDIS_CA",
            Self::Certificate => "REDIS_CLIENT_CERT",
            Self::Key => "REDIS_CLIENT_KEY",
        }
    }
}

impl TlsError {
    /// Returns whether it belongs to a restart or a failure. The others last until a certificate or setting is changed.
    #[must_use]
    pub fn is_transient(self) -> bool {
        matches!(self, Self::HandshakeTimedOut | Self::ClosedInHandshake | Self::Closed | Self::Protocol)
    }

    /// Returns whether the server was silent.
    #[must_use]
    pub fn is_timeout(self) -> bool {
        self == Self::HandshakeTimedOut
    }

    /// Returns what is wrong, and the remedy.
    #[must_use]
    pub fn message(self) -> &'static str {
        match self {
            Self::Unreadable(TlsFile::Ca) => "REDIS_CA cannot be read: check the path and its permissions",
            Self::Unreadable(TlsFile::SystemCa) => {
                "no certificates of the system: set REDIS_CA, or mount /etc/ssl/certs/ca-certificates.crt"
            }
            Self::Unreadable(TlsFile::Certificate) => {
                "REDIS_CLIENT_CERT cannot be read: check the path and its permissions"
            }
            Self::Unreadable(TlsFile::Key) => "REDIS_CLIENT_KEY cannot be read: check the path and its permissions",
            Self::Invalid(TlsFile::Ca) => "REDIS_CA has no certificate in PEM",
            Self::Invalid(TlsFile::SystemCa) => "the system's file has no certificate in PEM: set REDIS_CA",
            Self::Invalid(TlsFile::Certificate) => "REDIS_CLIENT_CERT has no valid certificate in PEM",
            Self::Invalid(TlsFile::Key) => {
                "REDIS_CLIENT_KEY has no usable key in PEM: one without a passphrase, RSA of 2048 to 8192 bits, P-256, \
                 P-384 or Ed25519"
            }
            Self::KeyMismatch => "REDIS_CLIENT_KEY is not the key of REDIS_CLIENT_CERT",
            Self::Name => "TLS: the host of Redis is neither a DNS name nor an IP address: check REDIS_URL",
            Self::NotTls => "this port of the server is not for TLS: use redis://, or its port for TLS",
            Self::Incompatible => "the server accepts no common TLS version or algorithm: allow TLS 1.2 or 1.3 there",
            Self::Expired => "the certificate of the server has expired: renew it",
            Self::NotYetValid => "the certificate of the server is not valid yet: check the clocks",
            Self::WrongName => {
                "the certificate of the server has another name (subjectAltName): use one of its names in REDIS_URL"
            }
            Self::UnknownIssuer => "the certificate of the server is from an unknown issuer: set REDIS_CA to its CA",
            Self::InvalidCertificate => {
                "the certificate of the server cannot be used: it needs version 3, the purpose of a server, and a \
                 known algorithm"
            }
            Self::CertificateRequired => {
                "the server requires a client certificate: set REDIS_CLIENT_CERT and REDIS_CLIENT_KEY"
            }
            Self::CertificateRefused => "the server refused the client certificate: check REDIS_CLIENT_CERT",
            Self::HandshakeTimedOut => "no TLS handshake in time: if this port is not for TLS, use redis://",
            Self::ClosedInHandshake => {
                "the server closed the connection in the TLS handshake: is this its port for TLS, and is maxclients \
                 high enough?"
            }
            Self::Closed => "the server ended the TLS session",
            Self::Protocol => "the TLS session failed: the server, or a device before it, violates the protocol",
        }
    }
}

/// Where systems have the certificates that they trust: Debian and Alpine, Fedora, openSUSE, FreeBSD.
const SYSTEM_CA: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

#[cfg(test)]
mod tests;
