//! A server that sends any bytes instead of TLS, or alters its records.
//!
//! - A handshake of arbitrary bytes ends in the same way however they arrive, and gives no plain byte.
//! - After a handshake, the plain bytes are a prefix of those that the server has encrypted, whatever byte was altered.
//! - Neither side keeps more received bytes than its bound, and an error stays.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::sync::{Arc, OnceLock};

use notch::buffers::{Buffers, MAX_RECEIVED};
use notch::redis::{Tls, TlsConfig, TlsError};
use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, ServerConnection};

use super::arrival::{Arrival, Pieces};

const HOST: &str = "redis";

/// The certificate of the server in PEM, and its configurations for TLS 1.2 and 1.3.
fn server() -> &'static (String, [Arc<ServerConfig>; 2]) {
    static SERVER: OnceLock<(String, [Arc<ServerConfig>; 2])> = OnceLock::new();
    SERVER.get_or_init(|| {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new([HOST.to_owned()]).expect("a name");
        let certificate = params.self_signed(&key).expect("a certificate");
        let config = |version| {
            let builder = ServerConfig::builder_with_provider(ring::default_provider().into());
            let builder = builder.with_protocol_versions(&[version]).expect("a version").with_no_client_auth();
            let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
            let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
            Arc::new(builder.with_single_cert(chain, key).expect("a key that fits"))
        };
        (certificate.pem(), [config(&TLS12), config(&TLS13)])
    })
}

fn client() -> Tls {
    let read = |path: &OsStr| -> io::Result<Vec<u8>> { Ok(path.as_encoded_bytes().to_vec()) };
    // The name of the file is its content.
    let config = TlsConfig { ca: Some(server().0.clone().into()), client: None };
    config.open(HOST, read).unwrap_or_else(|error| panic!("{}", error.message()))
}

/// `data` is what the server sends from the start; and, without its first three bytes, what it encrypts after a
/// handshake. Those three choose the version, and which byte of the records is altered.
pub fn holds(data: &[u8]) {
    let outcomes = Pieces::of(data).map(|pieces| send_plain(data, pieces));
    assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0]), "{outcomes:?}");
    if let [version, high, low, content @ ..] = data {
        let at = usize::from(u16::from_be_bytes([*high, *low]));
        for pieces in Pieces::of(data) {
            send_altered(usize::from(version % 2), at, content, pieces);
        }
    }
}

/// Sends bytes instead of a handshake. Returns how it ended.
fn send_plain(data: &[u8], pieces: Pieces) -> Option<TlsError> {
    let mut client = client();
    let mut arrival = Arrival::new(data, pieces);
    while !arrival.is_over() {
        let space = MAX_RECEIVED - client.wire().received().len();
        assert!(client.wire().receive(arrival.next(space)).is_empty());
        if let Err(error) = client.process_handshake() {
            let mut plain = Buffers::default();
            assert_eq!(client.decrypt(&mut plain), Err(error), "the error stays");
            assert!(plain.received().is_empty());
            return Some(error);
        }
        assert!(client.wire().received().is_empty(), "all bytes are taken");
    }
    None
}

/// Sends `content` after a handshake, in records of which one byte is altered.
fn send_altered(version: usize, at: usize, content: &[u8], pieces: Pieces) {
    let mut client = client();
    let mut server = ServerConnection::new(server().1[version].clone()).expect("a server");
    while !client.process_handshake().expect("a valid handshake") {
        let sent = client.wire().take_unsent();
        server.read_tls(&mut &*sent).expect("memory");
        server.process_new_packets().expect("a valid client");
        while server.wants_write() {
            let mut bytes = Vec::new();
            server.write_tls(&mut bytes).expect("memory");
            assert!(client.wire().receive(&bytes).is_empty());
        }
    }
    let sent = client.wire().take_unsent();
    server.read_tls(&mut &*sent).expect("memory");
    server.process_new_packets().expect("a valid client");
    server.set_buffer_limit(None);
    for line in content.split_inclusive(|byte| *byte == b'\n') {
        server.writer().write_all(line).expect("no limit");
    }
    let mut bytes = Vec::new();
    while server.wants_write() {
        server.write_tls(&mut bytes).expect("memory");
    }
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 0x40;
    }
    let (mut arrival, mut plain, mut received) = (Arrival::new(&bytes, pieces), Buffers::default(), Vec::new());
    let mut ended = None;
    while !arrival.is_over() && ended.is_none() {
        let space = MAX_RECEIVED - client.wire().received().len();
        assert!(client.wire().receive(arrival.next(space)).is_empty());
        loop {
            match client.decrypt(&mut plain) {
                Ok(true) => {
                    received.extend_from_slice(plain.received());
                    plain.consume(plain.received().len());
                }
                Ok(false) => break,
                Err(error) => {
                    ended = Some(error);
                    break;
                }
            }
        }
    }
    assert!(content.starts_with(&received), "an altered byte was accepted");
    assert!(at < bytes.len() || (ended.is_none() && received.len() == content.len()), "{ended:?}");
}
