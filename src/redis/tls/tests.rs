use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd,
};
use rustls::crypto::CipherSuiteCommon;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{
    ServerConfig, ServerConnection, SupportedCipherSuite, SupportedProtocolVersion, Tls12CipherSuite, Tls13CipherSuite,
};

use super::*;

const HOST: &str = "redis.example";

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// A certificate authority.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, key()).expect("a certificate"))
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// Issues a certificate for [`HOST`] that `change` has altered.
    fn issue(&self, change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let (mut params, key) = (params(), key());
        change(&mut params);
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        Identity { certificate, key }
    }
}

fn key() -> KeyPair {
    KeyPair::generate().expect("a key")
}

fn params() -> CertificateParams {
    CertificateParams::new([HOST.to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()]).expect("valid names")
}

/// A certificate and its key.
struct Identity {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Identity {
    fn self_signed(change: impl FnOnce(&mut CertificateParams)) -> Self {
        let (mut params, key) = (params(), key());
        change(&mut params);
        Self { certificate: params.self_signed(&key).expect("a certificate"), key }
    }

    /// Returns a server that presents it, and requires a client certificate of `clients` if there is one.
    fn server(&self, versions: &[&'static SupportedProtocolVersion], clients: Option<&Authority>) -> ServerConnection {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions);
        let builder = builder.expect("versions that the provider has");
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.0.der().clone()).expect("a certificate");
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build();
                builder.with_client_cert_verifier(verifier.expect("a verifier"))
            }
        };
        let key = PrivatePkcs8KeyDer::from(self.key.serialize_der()).into();
        let config = builder.with_single_cert(vec![self.certificate.der().clone()], key).expect("a key that fits");
        ServerConnection::new(config.into()).expect("a server")
    }
}

/// Starts a client that trusts `ca`.
fn client(ca: &str) -> Tls {
    open(ca, None, HOST).unwrap_or_else(|error| panic!("{}", error.message()))
}

/// Starts a client. The names of its files are their contents.
fn open(ca: &str, client: Option<(&str, &str)>, host: &str) -> Result<Tls, TlsError> {
    let client = client.map(|(certificate, key)| (certificate.into(), key.into()));
    TlsConfig { ca: Some(ca.into()), client }.open(host, content)
}

/// Returns the name of a file as its content; one without a name cannot be read.
fn content(path: &OsStr) -> io::Result<Vec<u8>> {
    if path.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(path.as_encoded_bytes().to_vec()) }
}

/// A client and a server, and the network between them, which delivers at most `piece` bytes at a time.
struct Pair {
    client: Tls,
    plain: Buffers,
    server: ServerConnection,
    /// What the server has received.
    at_server: Vec<u8>,
    piece: usize,
}

impl Pair {
    fn new(client: Tls, server: ServerConnection, piece: usize) -> Self {
        Self { client, plain: Buffers::default(), server, at_server: Vec::new(), piece }
    }

    /// Moves all bytes that both sides have for each other. Returns what the client has received, and how it ended.
    fn run(&mut self) -> (Vec<u8>, Result<(), TlsError>) {
        let mut received = Vec::new();
        loop {
            if let Err(error) = self.client.encrypt(&mut self.plain) {
                return (received, Err(error));
            }
            let to_server = self.client.wire().take_unsent();
            for mut piece in to_server.chunks(self.piece) {
                while !piece.is_empty() && self.server.read_tls(&mut piece).is_ok_and(|length| length > 0) {
                    // After an error there is an alert to send, and nothing to read.
                    let _ = self.server.process_new_packets();
                    let _ = io::Read::read_to_end(&mut self.server.reader(), &mut self.at_server);
                }
            }
            let mut to_client = Vec::new();
            while self.server.wants_write() {
                self.server.write_tls(&mut to_client).expect("memory");
            }
            for mut piece in to_client.chunks(self.piece) {
                while !piece.is_empty() {
                    piece = self.client.wire().receive(piece);
                    if let Err(error) = self.receive(&mut received) {
                        return (received, Err(error));
                    }
                }
            }
            if to_server.is_empty() && to_client.is_empty() {
                return (received, Ok(()));
            }
        }
    }

    fn receive(&mut self, received: &mut Vec<u8>) -> Result<(), TlsError> {
        if !self.client.process_handshake()? {
            return Ok(());
        }
        while self.client.decrypt(&mut self.plain)? {
            received.extend_from_slice(self.plain.received());
            self.plain.consume(self.plain.received().len());
        }
        assert!(self.client.wire().received().is_empty(), "all bytes were taken");
        Ok(())
    }

    fn send(&mut self, bytes: &[u8]) {
        self.plain.output().extend_from_slice(bytes);
    }

    /// Sends bytes of the server, each slice in records of its own.
    fn reply(&mut self, slices: &[&[u8]]) {
        self.server.set_buffer_limit(None);
        slices.iter().for_each(|slice| self.server.writer().write_all(slice).expect("no limit"));
    }

    fn received_by_server(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.at_server)
    }
}

/// Returns the outcome for a client that trusts `ca`.
fn outcome(ca: &str, server: ServerConnection) -> Result<(), TlsError> {
    let mut pair = Pair::new(client(ca), server, usize::MAX);
    pair.run().1
}

#[test]
fn bytes_pass_both_ways_however_they_are_cut() {
    let authority = Authority::new("ca");
    let identity = authority.issue(|_| {});
    let long: Vec<u8> = (0..40_000_u32).map(|number| (number % 251) as u8).collect();
    for (version, piece) in
        VERSIONS.iter().flat_map(|version| [1, 2, 3, 1000, usize::MAX].map(|piece| (version, piece)))
    {
        let mut pair = Pair::new(client(&authority.pem()), identity.server(&[version], None), piece);
        pair.send(b"before the handshake");
        assert_eq!(pair.run(), (Vec::new(), Ok(())), "{piece}");
        assert_eq!(pair.received_by_server(), b"before the handshake");
        pair.send(&long);
        pair.reply(&[b"+OK\r\n", b":1\r\n", &long]);
        assert!(pair.run() == ([b"+OK\r\n:1\r\n", &*long].concat(), Ok(())), "{piece}");
        assert!(pair.received_by_server() == long, "{piece}");
        assert!(pair.plain.pending().is_empty());
        // What arrived before the end of the session counts.
        pair.reply(&[b":2\r\n"]);
        pair.server.send_close_notify();
        assert_eq!(pair.run(), (b":2\r\n".to_vec(), Err(TlsError::Closed)), "{piece}");
    }
}

#[test]
fn a_reply_that_comes_with_the_end_of_the_handshake_is_not_lost() {
    let authority = Authority::new("ca");
    let identity = authority.issue(|_| {});
    for version in VERSIONS {
        let mut pair = Pair::new(client(&authority.pem()), identity.server(&[version], None), usize::MAX);
        pair.reply(&[b"-DENIED\r\n"]);
        assert_eq!(pair.run(), (b"-DENIED\r\n".to_vec(), Ok(())));
    }
}

#[test]
fn received_bytes_wait_until_there_is_space() {
    let authority = Authority::new("ca");
    let mut pair = Pair::new(client(&authority.pem()), authority.issue(|_| {}).server(&VERSIONS, None), usize::MAX);
    assert_eq!(pair.run(), (Vec::new(), Ok(())));
    pair.reply(&[&[b'x'; 16 * 1024], b"y"]);
    let mut bytes = Vec::new();
    pair.server.write_tls(&mut bytes).expect("memory");
    pair.plain.receive(b"0123456789");
    let (mut rest, mut total) = (&*bytes, 0);
    while !rest.is_empty() {
        rest = pair.client.wire().receive(rest);
        while pair.client.decrypt(&mut pair.plain).expect("valid records") {
            total += pair.plain.received().len();
            assert!(pair.plain.received().len() <= crate::buffers::MAX_RECEIVED);
            pair.plain.consume(pair.plain.received().len());
        }
    }
    assert_eq!(total, 10 + 16 * 1024 + 1);
}

#[test]
fn each_fault_of_a_certificate_has_its_error() {
    type Change = fn(&mut CertificateParams);
    let (authority, other) = (Authority::new("ca"), Authority::new("other"));
    let namesake = Authority::new("ca");
    let expired: Change = |params| params.not_after = date_time_ymd(2020, 1, 1);
    let future: Change = |params| params.not_before = date_time_ymd(3000, 1, 1);
    let renamed: Change = |params| *params = CertificateParams::new(["a.example".to_owned()]).expect("a name");
    let nameless: Change = |params| params.subject_alt_names.clear();
    let for_clients: Change = |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let is_authority: Change = |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let cases = [
        (&authority, Change::from(|_| {}), Ok(())),
        (&other, |_| {}, Err(TlsError::UnknownIssuer)),
        (&namesake, |_| {}, Err(TlsError::UnknownIssuer)),
        (&authority, expired, Err(TlsError::Expired)),
        (&other, expired, Err(TlsError::Expired)),
        (&authority, future, Err(TlsError::NotYetValid)),
        (&authority, renamed, Err(TlsError::WrongName)),
        (&authority, nameless, Err(TlsError::WrongName)),
        (&authority, for_clients, Err(TlsError::InvalidCertificate)),
        (&authority, is_authority, Err(TlsError::InvalidCertificate)),
    ];
    for (at, (issuer, change, expected)) in cases.into_iter().enumerate() {
        let identity = issuer.issue(change);
        for version in VERSIONS {
            assert_eq!(outcome(&authority.pem(), identity.server(&[version], None)), expected, "case {at}");
        }
    }
    // One that is trusted itself, whether or not it may issue others.
    for (change, expected) in [
        (Change::from(|_| {}), Ok(())),
        (is_authority, Ok(())),
        (expired, Err(TlsError::Expired)),
        (
            |params| {
                (params.is_ca, params.not_after) =
                    (IsCa::Ca(BasicConstraints::Unconstrained), date_time_ymd(2020, 1, 1))
            },
            Err(TlsError::Expired),
        ),
        (
            |params| {
                (params.is_ca, params.not_before) =
                    (IsCa::Ca(BasicConstraints::Unconstrained), date_time_ymd(3000, 1, 1))
            },
            Err(TlsError::NotYetValid),
        ),
        (
            |params| {
                params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
                params.subject_alt_names.clear();
            },
            Err(TlsError::WrongName),
        ),
    ] {
        let identity = Identity::self_signed(change);
        for version in VERSIONS {
            assert_eq!(outcome(&identity.certificate.pem(), identity.server(&[version], None)), expected);
            assert!(outcome(&authority.pem(), identity.server(&[version], None)).is_err(), "not trusted");
        }
    }
}

#[test]
fn the_name_is_the_host_that_was_connected_to() {
    let authority = Authority::new("ca");
    let identity = authority.issue(|_| {});
    for (host, expected) in [
        (HOST, Ok(())),
        ("REDIS.example", Ok(())),
        ("redis.example.", Ok(())),
        ("127.0.0.1", Ok(())),
        ("::1", Ok(())),
        ("::1%lo", Ok(())),
        ("127.0.0.2", Err(TlsError::WrongName)),
        ("::2", Err(TlsError::WrongName)),
        ("example", Err(TlsError::WrongName)),
        ("a.redis.example", Err(TlsError::WrongName)),
        ("a b", Err(TlsError::Name)),
        ("", Err(TlsError::Name)),
        (":::", Err(TlsError::Name)),
    ] {
        let result = open(&authority.pem(), None, host)
            .and_then(|client| Pair::new(client, identity.server(&VERSIONS, None), usize::MAX).run().1);
        assert_eq!(result, expected, "{host}");
    }
}

#[test]
fn a_client_certificate_is_presented_if_it_is_required() {
    let (servers, clients, other) = (Authority::new("servers"), Authority::new("clients"), Authority::new("other"));
    let identity = servers.issue(|_| {});
    let [right, wrong] = [&clients, &other].map(|authority| {
        let identity = authority.issue(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]);
        (identity.certificate.pem(), identity.key.serialize_pem())
    });
    for version in VERSIONS {
        for (required, presented, expected) in [
            (None, None, Ok(())),
            (None, Some(&right), Ok(())),
            (Some(&clients), Some(&right), Ok(())),
            (Some(&clients), Some(&wrong), Err(TlsError::CertificateRefused)),
            (Some(&clients), None, Err(TlsError::CertificateRequired)),
        ] {
            let presented = presented.map(|(certificate, key)| (&**certificate, &**key));
            let client = open(&servers.pem(), presented, HOST).expect("valid files");
            let mut pair = Pair::new(client, identity.server(&[version], required), usize::MAX);
            assert_eq!(pair.run().1, expected);
        }
    }
}

#[test]
fn each_fault_of_a_file_has_its_error() {
    let authority = Authority::new("ca");
    let (one, other) = (authority.issue(|_| {}), authority.issue(|_| {}));
    let (ca, certificate, key) = (&*authority.pem(), &*one.certificate.pem(), &*one.key.serialize_pem());
    let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let not_der = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let not_base64 = "-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n";
    let not_a_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    for (ca, client, expected) in [
        (ca, None, Ok(())),
        (&*[ca, certificate].concat(), Some((certificate, key)), Ok(())),
        (&*["# a comment\n", ca, "text\n", not_der].concat(), Some((&*[certificate, ca].concat(), key)), Ok(())),
        ("", None, Err(TlsError::Unreadable(TlsFile::Ca))),
        ("text", None, Err(TlsError::Invalid(TlsFile::Ca))),
        (key, None, Err(TlsError::Invalid(TlsFile::Ca))),
        (not_der, None, Err(TlsError::Invalid(TlsFile::Ca))),
        (not_base64, None, Err(TlsError::Invalid(TlsFile::Ca))),
        (ca, Some(("", key)), Err(TlsError::Unreadable(TlsFile::Certificate))),
        (ca, Some((certificate, "")), Err(TlsError::Unreadable(TlsFile::Key))),
        (ca, Some((key, key)), Err(TlsError::Invalid(TlsFile::Certificate))),
        (ca, Some((not_der, key)), Err(TlsError::Invalid(TlsFile::Certificate))),
        (ca, Some((certificate, certificate)), Err(TlsError::Invalid(TlsFile::Key))),
        (ca, Some((certificate, not_a_key)), Err(TlsError::Invalid(TlsFile::Key))),
        (ca, Some((certificate, &encrypted)), Err(TlsError::Invalid(TlsFile::Key))),
        (ca, Some((certificate, &other.key.serialize_pem())), Err(TlsError::KeyMismatch)),
    ] {
        assert_eq!(open(ca, client, HOST).map(|_| ()), expected, "{ca}{client:?}");
    }
}

#[test]
fn the_certificates_of_the_system_are_in_the_first_file_that_is_there() {
    let authority = Authority::new("ca");
    let system = TlsConfig::default();
    for path in SYSTEM_CA {
        let read = |name: &OsStr| if name == path { content(authority.pem().as_ref()) } else { content("".as_ref()) };
        let client = system.open(HOST, read).unwrap_or_else(|error| panic!("{}", error.message()));
        let mut pair = Pair::new(client, authority.issue(|_| {}).server(&VERSIONS, None), usize::MAX);
        assert_eq!(pair.run().1, Ok(()), "{path}");
    }
    let none = |_: &OsStr| Err(io::ErrorKind::NotFound.into());
    assert_eq!(system.open(HOST, none).map(|_| ()).err(), Some(TlsError::Unreadable(TlsFile::SystemCa)));
}

#[test]
fn what_is_not_tls_has_its_error_at_any_cut() {
    let authority = Authority::new("ca");
    for (received, expected) in [
        (&b"-ERR unknown command\r\n"[..], TlsError::NotTls),
        (b"+PONG\r\n", TlsError::NotTls),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", TlsError::NotTls),
        (b"\x15\x03\x03\0\x02\x02\x46", TlsError::Incompatible),
        (b"\x15\x03\x03\0\x02\x02\x28", TlsError::Incompatible),
        (b"\x15\x03\x03\0\x02\x02\x70", TlsError::WrongName),
        (b"\x15\x03\x03\0\x02\x02\x74", TlsError::CertificateRequired),
        (b"\x15\x03\x03\0\x02\x02\x50", TlsError::Protocol),
        (b"\x16\x03\x03\0\x04\x02\0\0\0", TlsError::Protocol),
    ] {
        for piece in [1, usize::MAX] {
            let mut client = client(&authority.pem());
            let ended = received.chunks(piece.min(received.len())).find_map(|bytes| {
                client.wire().receive(bytes);
                client.process_handshake().err()
            });
            assert_eq!(ended, Some(expected), "{received:?}");
            assert_eq!(client.decrypt(&mut Buffers::default()), Err(expected), "it stays");
        }
    }
}

#[test]
fn altered_records_end_the_session_and_are_not_read() {
    let authority = Authority::new("ca");
    let identity = authority.issue(|_| {});
    for version in VERSIONS {
        for flipped in [3, 5, 10, 20] {
            let mut pair = Pair::new(client(&authority.pem()), identity.server(&[version], None), usize::MAX);
            assert_eq!(pair.run(), (Vec::new(), Ok(())));
            pair.reply(&[b":1\r\n"]);
            let mut bytes = Vec::new();
            pair.server.write_tls(&mut bytes).expect("memory");
            bytes[flipped] ^= 1;
            pair.client.wire().receive(&bytes);
            // A record that claims to be longer is waited for, until the socket ends.
            let result = pair.client.decrypt(&mut pair.plain);
            assert!(result.is_err() || (flipped == 3 && result == Ok(false)), "{flipped}: {result:?}");
            assert!(pair.plain.received().is_empty());
        }
    }
}

#[test]
fn keys_are_renewed_or_the_session_ends_before_they_are_used_up() {
    const RECORDS: u64 = 8;
    let authority = Authority::new("ca");
    let identity = authority.issue(|_| {});
    for version in VERSIONS {
        let mut provider = ring::default_provider();
        provider.cipher_suites = provider.cipher_suites.iter().map(with_limit).collect();
        let config = TlsConfig { ca: Some(authority.pem().into()), client: None };
        let client = config.open_with(provider, HOST, content).unwrap_or_else(|error| panic!("{}", error.message()));
        let mut pair = Pair::new(client, identity.server(&[version], None), usize::MAX);
        assert_eq!(pair.run(), (Vec::new(), Ok(())));
        let mut sent = 0;
        let ended = (0..100).find_map(|_| {
            pair.send(b"PING\r\n");
            sent += 1;
            pair.run().1.err()
        });
        if version.version == rustls::ProtocolVersion::TLSv1_3 {
            assert_eq!((ended, sent), (None, 100));
            assert_eq!(pair.received_by_server(), b"PING\r\n".repeat(100));
        } else {
            assert_eq!(ended, Some(TlsError::Closed));
            assert!(sent <= RECORDS + 1, "{sent}");
            assert_eq!(pair.plain.pending(), b"PING\r\n", "it was not sent");
            assert_eq!(pair.received_by_server(), b"PING\r\n".repeat(sent as usize - 1));
        }
    }

    /// Returns a suite whose keys may encrypt [`RECORDS`] records.
    fn with_limit(suite: &SupportedCipherSuite) -> SupportedCipherSuite {
        let limited = |common: &CipherSuiteCommon| CipherSuiteCommon {
            suite: common.suite,
            hash_provider: common.hash_provider,
            confidentiality_limit: RECORDS,
        };
        match suite {
            SupportedCipherSuite::Tls12(suite) => SupportedCipherSuite::Tls12(Box::leak(Box::new(Tls12CipherSuite {
                common: limited(&suite.common),
                kx: suite.kx,
                sign: suite.sign,
                prf_provider: suite.prf_provider,
                aead_alg: suite.aead_alg,
            }))),
            SupportedCipherSuite::Tls13(suite) => SupportedCipherSuite::Tls13(Box::leak(Box::new(Tls13CipherSuite {
                common: limited(&suite.common),
                hkdf_provider: suite.hkdf_provider,
                aead_alg: suite.aead_alg,
                quic: suite.quic,
            }))),
        }
    }
}

#[test]
fn the_server_may_renew_its_keys() {
    let authority = Authority::new("ca");
    let mut pair = Pair::new(client(&authority.pem()), authority.issue(|_| {}).server(&[&TLS13], None), 1);
    assert_eq!(pair.run(), (Vec::new(), Ok(())));
    for _ in 0..3 {
        pair.server.refresh_traffic_keys().expect("TLS 1.3");
        pair.reply(&[b":1\r\n"]);
        pair.send(b"PING\r\n");
        assert_eq!(pair.run(), (b":1\r\n".to_vec(), Ok(())));
        assert_eq!(pair.received_by_server(), b"PING\r\n");
    }
}

#[test]
fn memory_is_bounded_by_what_is_pending() {
    let authority = Authority::new("ca");
    let mut pair = Pair::new(client(&authority.pem()), authority.issue(|_| {}).server(&VERSIONS, None), usize::MAX);
    assert_eq!(pair.run(), (Vec::new(), Ok(())));
    let batch = vec![b'x'; 1 << 20];
    pair.send(&batch);
    pair.client.encrypt(&mut pair.plain).expect("a session");
    let pending = pair.client.wire().pending().len();
    assert!(pending > batch.len() && pending < batch.len() + batch.len() / 100, "{pending}");
    assert_eq!(pair.run(), (Vec::new(), Ok(())));
    assert!(pair.received_by_server() == batch);
}

#[test]
fn every_error_has_one_line_that_names_the_remedy() {
    let files = [TlsFile::Ca, TlsFile::SystemCa, TlsFile::Certificate, TlsFile::Key];
    let errors = files.iter().flat_map(|file| [TlsError::Unreadable(*file), TlsError::Invalid(*file)]);
    let errors = errors.chain([
        TlsError::KeyMismatch,
        TlsError::Name,
        TlsError::NotTls,
        TlsError::Incompatible,
        TlsError::Expired,
        TlsError::NotYetValid,
        TlsError::WrongName,
        TlsError::UnknownIssuer,
        TlsError::InvalidCertificate,
        TlsError::CertificateRequired,
        TlsError::CertificateRefused,
        TlsError::HandshakeTimedOut,
        TlsError::ClosedInHandshake,
        TlsError::Closed,
        TlsError::Protocol,
    ]);
    let messages: Vec<_> = errors.map(TlsError::message).collect();
    for (at, message) in messages.iter().enumerate() {
        assert!(!message.is_empty() && !message.contains('\n') && !messages[..at].contains(message), "{message}");
    }
}
