//! TLS between notch and the peers of the tests, in a build with the feature `tls`.
//!
//! Every test that names a Redis, a script, a fake or a relay then runs over TLS: [`translate`] gives notch `rediss://`
//! and the certificate authority of the tests in place of a plain address, and each peer accepts TLS on its port. A
//! `redis-server` has TLS of its own; the others have a [`Front`], which accepts nothing else, so no test can fall back
//! to a plain connection.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::{fs, thread};

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, ServerConnection};

/// A certificate authority.
pub(crate) struct Authority {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new([]).expect("no name is no invalid one");
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// Issues a certificate for a server with one of `names`.
    pub(crate) fn issue(&self, names: &[&str]) -> Identity {
        self.issue_with(names, |_| {})
    }

    /// Issues a certificate for a client with this private key, in PKCS#8. Returns it in PEM.
    pub(crate) fn certify(&self, key: &str) -> String {
        let key = KeyPair::from_pem(key).expect("a key");
        leaf(&[]).signed_by(&key, &self.issuer).expect("a certificate").pem()
    }

    /// Issues a certificate that `change` has altered.
    pub(crate) fn issue_with(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let mut params = leaf(names);
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        Identity { certificate: params.signed_by(&key, &self.issuer).expect("a certificate"), key }
    }
}

fn leaf(names: &[&str]) -> CertificateParams {
    let names: Vec<_> = names.iter().copied().map(String::from).collect();
    let mut params = CertificateParams::new(names).expect("valid names");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

/// A certificate and its key.
pub(crate) struct Identity {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Identity {
    /// A certificate that no authority has issued.
    pub(crate) fn self_signed(names: &[&str]) -> Self {
        let key = KeyPair::generate().expect("a key");
        Self { certificate: leaf(names).self_signed(&key).expect("a certificate"), key }
    }

    pub(crate) fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.der().clone()
    }

    pub(crate) fn pem(&self) -> String {
        self.certificate.pem()
    }

    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der()).into()
    }

    pub(crate) fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// Writes the certificate and its key into a folder, and returns their paths.
    pub(crate) fn write(&self, folder: &Path, name: &str) -> [String; 2] {
        let (certificate, key) = (format!("{name}.crt"), format!("{name}.key"));
        [write(folder, &certificate, &self.pem()), write(folder, &key, &self.key_pem())]
    }
}

/// Writes a file for a test, and returns its path.
pub(crate) fn write(folder: &Path, name: &str, content: &str) -> String {
    let path = folder.join(name);
    fs::write(&path, content).expect("a file written for the test");
    path.display().to_string()
}

/// The authority of all peers, and their certificate.
fn own() -> &'static (Authority, Identity) {
    static OWN: OnceLock<(Authority, Identity)> = OnceLock::new();
    OWN.get_or_init(|| {
        let authority = Authority::new("notch tests");
        let identity = authority.issue(&NAMES);
        (authority, identity)
    })
}

/// Returns the authority that notch trusts in all tests.
pub(crate) fn authority() -> &'static Authority {
    &own().0
}

/// The hosts of the peers.
const NAMES: [&str; 3] = ["127.0.0.1", "::1", "localhost"];

/// Returns the configuration of a server that offers one version.
pub(crate) fn server(identity: &Identity, version: Version) -> Arc<ServerConfig> {
    let versions: &[_] = match version {
        Version::Tls12 => &[&TLS12],
        Version::Tls13 => &[&TLS13],
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(versions);
    let builder = builder.expect("a version that the provider has").with_no_client_auth();
    let config = builder.with_single_cert(vec![identity.certificate()], identity.key());
    let mut config = config.expect("a certificate with its key");
    // For tests that make records themselves.
    config.enable_secret_extraction = true;
    Arc::new(config)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    Tls12,
    Tls13,
}

pub(crate) const VERSIONS: [Version; 2] = [Version::Tls12, Version::Tls13];

/// Accepts TLS on a port of its own, and connects each connection to a plain peer after its handshake.
///
/// Every second connection has TLS 1.2, the others TLS 1.3; of each two with the same version, one ends without
/// `close_notify`.
pub(crate) struct Front {
    pub(crate) port: u16,
    address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    is_closed: bool,
    /// Errors of TLS: notch has rejected the front, or has sent invalid bytes.
    errors: Vec<String>,
}

impl Front {
    pub(crate) fn before(peer: &TcpListener) -> Self {
        let configs = VERSIONS.map(|version| server(&own().1, version));
        let plain = peer.local_addr().expect("a bound listener has an address");
        let listener = TcpListener::bind((plain.ip(), 0)).expect("a port of the loopback");
        let address = listener.local_addr().expect("a bound listener has an address");
        let shared = Arc::<Mutex<Shared>>::default();
        let own = shared.clone();
        thread::spawn(move || {
            for (number, stream) in (1_usize..).zip(listener.incoming()) {
                let Ok(stream) = stream else { return };
                if lock(&own).is_closed {
                    return;
                }
                let (config, has_close_notify) = (configs[number % 2].clone(), number / 2 % 2 == 1);
                let own = own.clone();
                thread::spawn(move || {
                    if let Err(error) = serve(stream, config, plain, has_close_notify)
                        && matches!(error.get_ref(), Some(inner) if inner.is::<rustls::Error>())
                    {
                        lock(&own).errors.push(error.to_string());
                    }
                });
            }
        });
        Self { address, port: address.port(), shared }
    }

    /// Returns the errors of TLS so far, which the test has expected.
    pub(crate) fn take_errors(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.shared).errors)
    }

    /// Closes the port.
    pub(crate) fn close(&self) {
        if !std::mem::replace(&mut lock(&self.shared).is_closed, true) {
            // Wakes the listener, which then ends.
            let _ = TcpStream::connect(self.address);
        }
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.close();
        let errors = self.take_errors();
        assert!(
            errors.is_empty() || thread::panicking(),
            "TLS between notch and a peer of the test failed: {errors:?}"
        );
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Completes the handshake of one connection, and relays between it and the plain peer.
fn serve(
    mut socket: TcpStream,
    config: Arc<ServerConfig>,
    plain: SocketAddr,
    has_close_notify: bool,
) -> io::Result<()> {
    let _ = socket.set_nodelay(true);
    let mut tls = ServerConnection::new(config).map_err(io::Error::other)?;
    while tls.is_handshaking() {
        tls.complete_io(&mut socket)?;
    }
    let mut peer = TcpStream::connect(plain)?;
    let _ = peer.set_nodelay(true);
    let tls = Arc::new(Mutex::new(tls));
    let (sending, to_peer, from_notch) = (tls.clone(), peer.try_clone()?, socket.try_clone()?);
    let back = thread::spawn(move || {
        let mut bytes = [0; 16 << 10];
        loop {
            let sent = match peer.read(&mut bytes) {
                Ok(0) if has_close_notify => send(&sending, &mut socket, |tls| {
                    tls.send_close_notify();
                    Err(io::ErrorKind::UnexpectedEof.into())
                }),
                Ok(length @ 1..) => send(&sending, &mut socket, |tls| tls.writer().write_all(&bytes[..length])),
                ended => ended.and(Err(io::ErrorKind::UnexpectedEof.into())),
            };
            if sent.is_err() {
                break;
            }
        }
        let _ = socket.shutdown(Shutdown::Both);
        let _ = peer.shutdown(Shutdown::Both);
    });
    let result = forward(&tls, from_notch, &to_peer);
    let _ = to_peer.shutdown(Shutdown::Write);
    let _ = back.join();
    result
}

/// Relays what notch sends, up to the end of the connection.
fn forward(tls: &Mutex<ServerConnection>, mut socket: TcpStream, mut peer: &TcpStream) -> io::Result<()> {
    let (mut bytes, mut length) = ([0; 16 << 10], 0);
    loop {
        // The first time, there is only what came with the end of the handshake.
        let (mut received, mut plain, mut is_closed) = (&bytes[..length], Vec::new(), false);
        loop {
            send(tls, &mut socket, |tls| {
                if !received.is_empty() {
                    tls.read_tls(&mut received)?;
                }
                let state = tls.process_new_packets().map_err(io::Error::other)?;
                is_closed |= state.peer_has_closed();
                plain.resize(state.plaintext_bytes_to_read(), 0);
                tls.reader().read_exact(&mut plain)
            })?;
            // A peer that does not read holds up notch, as it would without the front.
            peer.write_all(&plain)?;
            if received.is_empty() {
                break;
            }
        }
        // Outside the lock, because the other direction must not wait for notch.
        length = if is_closed { 0 } else { socket.read(&mut bytes)? };
        if length == 0 {
            return Ok(());
        }
    }
}

/// Changes the connection, and writes the records that result, in this order.
fn send(
    tls: &Mutex<ServerConnection>,
    socket: &mut TcpStream,
    change: impl FnOnce(&mut ServerConnection) -> io::Result<()>,
) -> io::Result<()> {
    let mut tls = lock(tls);
    let changed = change(&mut tls);
    // Also after an error, which has an alert.
    while tls.wants_write() {
        tls.write_tls(socket)?;
    }
    changed
}

/// Returns the settings of notch with TLS for those that a test has named: the parts `REDIS_*` become a URL, because
/// only a URL selects TLS.
pub(crate) fn translate(variables: &BTreeMap<String, String>, folder: &Path) -> BTreeMap<String, String> {
    let mut variables = variables.clone();
    let mut take = |name: &str| variables.remove(name).filter(|value| !value.is_empty());
    let url = match take("REDIS_URL") {
        Some(url) if url.starts_with("unix:") => {
            variables.insert("REDIS_URL".into(), url);
            return variables;
        }
        Some(url) => url.replacen("redis", "rediss", 1),
        None => {
            let Some(host) = take("REDIS_HOST") else { return variables };
            let (user, port, db) = (take("REDIS_USERNAME"), take("REDIS_PORT"), take("REDIS_DB"));
            let encode = |user: String| user.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
            let user = user.map_or(String::new(), |user| format!("{}:@", encode(user)));
            format!("rediss://{user}{host}:{}/{}", port.unwrap_or("6379".into()), db.unwrap_or_default())
        }
    };
    variables.insert("REDIS_URL".into(), url);
    variables.entry("REDIS_CA".into()).or_insert_with(|| write(folder, "test-ca.pem", &authority().pem));
    variables
}

/// Returns the arguments with which a `redis-server` accepts TLS on `port`, and plain connections of the test.
pub(crate) fn listen_on(port: u16, plain_port: u16, folder: &Path) -> Vec<String> {
    let [certificate, key] = own().1.write(folder, "redis");
    let ca = write(folder, "ca.crt", &authority().pem);
    let options = [
        ("--port", plain_port.to_string()),
        ("--tls-port", port.to_string()),
        ("--tls-cert-file", certificate),
        ("--tls-key-file", key),
        ("--tls-ca-cert-file", ca),
        ("--tls-auth-clients", "no".to_owned()),
    ];
    options.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect()
}

/// Whether a server needs a port for the commands of the test beside that for notch.
pub(crate) const HAS_TWO_PORTS: bool = true;
