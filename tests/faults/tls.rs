//! Faults of TLS itself, below the commands and replies: in the handshake, in the records, and of certificates.
//!
//! The peer is a fake Redis that makes its records itself, from the keys of a handshake that rustls has completed. So
//! it can send records that no implementation sends, at the moment when a batch has been counted and its reply is due.
//! The other suites inject their faults over TLS as well: see `tests/support/tls.rs`.

use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustls::crypto::cipher::{
    InboundOpaqueMessage, MessageDecrypter, MessageEncrypter, OutboundChunks, OutboundPlainMessage,
};
use rustls::{
    ConnectionTrafficSecrets, ContentType, ProtocolVersion, ServerConfig, ServerConnection, SupportedCipherSuite,
};

use crate::support::fake::{Data, execute};
use crate::support::tls::{Authority, Front, Identity, VERSIONS, Version, authority, server, write};
use crate::support::{NEVER, Notch, Redis, Settings, read_command, wait_until};

const NAMES: [&str; 1] = ["127.0.0.1"];

/// A fake Redis with TLS. The behaviour is that of each connection, by its number, the first being 1.
struct Peer {
    port: u16,
    data: Arc<Mutex<Data>>,
    accepted: Arc<AtomicUsize>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl Peer {
    fn start(behave: impl Fn(usize, TcpStream, &Mutex<Data>) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port of the loopback");
        let port = listener.local_addr().expect("a bound listener has an address").port();
        let (data, accepted, behave) = (Arc::<Mutex<Data>>::default(), Arc::new(AtomicUsize::new(0)), Arc::new(behave));
        let streams = Arc::<Mutex<Vec<TcpStream>>>::default();
        let (own_data, counter, own_streams) = (data.clone(), accepted.clone(), streams.clone());
        thread::spawn(move || {
            for (number, stream) in (1..).zip(listener.incoming()) {
                let Ok(stream) = stream else { return };
                counter.store(number, Ordering::SeqCst);
                let _ = stream.set_nodelay(true);
                let clone = stream.try_clone().expect("a second handle on a socket");
                own_streams.lock().expect("no panic").push(clone);
                let (data, behave) = (own_data.clone(), behave.clone());
                thread::spawn(move || behave(number, stream, &data));
            }
        });
        Self { port, data, accepted, streams }
    }

    /// A peer whose first connection serves up to the first visit, counts it, and then has a fault instead of the
    /// reply. The others serve.
    fn with_fault(version: Version, fault: impl Fn(&mut Records, &[u8]) + Send + Sync + 'static) -> Self {
        let config = own_server(version);
        Self::start(move |number, stream, data| {
            let Some(mut session) = Session::open(stream, &config) else { return };
            if number == 1 {
                let Some(reply) = session.serve(data, |command| command.starts_with("ONCE visits 1")) else { return };
                fault(session.records(), &reply);
            }
            session.serve(data, |_| false);
        })
    }

    fn settings(&self) -> Settings {
        Settings::redis(self.port).with("WORKERS", "1").with("STORE_TIMEOUT", NEVER)
    }

    /// Closes all connections.
    fn cut(&self) {
        self.streams.lock().expect("no panic").drain(..).for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
    }

    fn total(&self) -> i64 {
        self.data.lock().expect("no panic").total
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

fn own_server(version: Version) -> Arc<ServerConfig> {
    server(&authority().issue(&NAMES), version)
}

/// A session after its handshake.
struct Session(BufReader<Records>);

impl Session {
    /// Completes the handshake; `None` if notch does not.
    fn open(mut stream: TcpStream, config: &Arc<ServerConfig>) -> Option<Self> {
        let mut tls = ServerConnection::new(config.clone()).expect("a valid configuration");
        while tls.is_handshaking() {
            let record = read_record(&mut stream)?;
            tls.read_tls(&mut &record[..]).ok()?;
            let processed = tls.process_new_packets();
            while tls.wants_write() {
                tls.write_tls(&mut stream).ok()?;
            }
            processed.ok()?;
        }
        Some(Self(BufReader::new(Records::new(stream, tls))))
    }

    fn records(&mut self) -> &mut Records {
        self.0.get_mut()
    }

    /// Serves up to a command for which `until` is true, and returns its reply; `None` at the end of the connection.
    fn serve(&mut self, data: &Mutex<Data>, until: impl Fn(&str) -> bool) -> Option<Vec<u8>> {
        while let Some(Some(command)) = read_command(&mut self.0) {
            let reply = format!("{}\r\n", execute(&command, data)).into_bytes();
            if until(&command) {
                return Some(reply);
            }
            if self.records().send(ContentType::ApplicationData, &reply).is_err() {
                break;
            }
        }
        None
    }
}

/// Reads one record with its header.
fn read_record(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut record = vec![0; HEADER];
    stream.read_exact(&mut record).ok()?;
    record.resize(HEADER + usize::from(u16::from_be_bytes([record[3], record[4]])), 0);
    stream.read_exact(&mut record[HEADER..]).ok()?;
    Some(record)
}

const HEADER: usize = 5;

/// The records of a session, of any type and content.
struct Records {
    stream: TcpStream,
    version: ProtocolVersion,
    encrypter: Box<dyn MessageEncrypter>,
    decrypter: Box<dyn MessageDecrypter>,
    sent: u64,
    received: u64,
}

impl Records {
    fn new(stream: TcpStream, tls: ServerConnection) -> Self {
        use ConnectionTrafficSecrets::{Aes128Gcm, Aes256Gcm, Chacha20Poly1305};

        let suite = tls.negotiated_cipher_suite().expect("the handshake is complete");
        let secrets = tls.dangerous_extract_secrets().expect("the configuration allows it");
        let ((sent, tx), (received, rx)) = (secrets.tx, secrets.rx);
        let parts = |secrets| match secrets {
            Aes128Gcm { key, iv } | Aes256Gcm { key, iv } | Chacha20Poly1305 { key, iv } => (key, iv),
            _ => panic!("another cipher"),
        };
        let ((key, iv), (peer_key, peer_iv)) = (parts(tx), parts(rx));
        let (encrypter, decrypter) = match suite {
            SupportedCipherSuite::Tls13(suite) => {
                (suite.aead_alg.encrypter(key, iv), suite.aead_alg.decrypter(peer_key, peer_iv))
            }
            SupportedCipherSuite::Tls12(suite) => {
                let fixed = suite.aead_alg.key_block_shape().fixed_iv_len;
                let (iv, peer_iv) = (iv.as_ref(), peer_iv.as_ref());
                let encrypter = suite.aead_alg.encrypter(key, &iv[..fixed], &iv[fixed..]);
                (encrypter, suite.aead_alg.decrypter(peer_key, &peer_iv[..fixed]))
            }
        };
        let version = match suite {
            SupportedCipherSuite::Tls13(_) => ProtocolVersion::TLSv1_3,
            SupportedCipherSuite::Tls12(_) => ProtocolVersion::TLSv1_2,
        };
        Self { stream, version, encrypter, decrypter, sent, received }
    }

    fn is_tls13(&self) -> bool {
        self.version == ProtocolVersion::TLSv1_3
    }

    /// Encrypts a record with this content.
    fn seal(&mut self, kind: ContentType, content: &[u8]) -> Vec<u8> {
        let message =
            OutboundPlainMessage { typ: kind, version: self.version, payload: OutboundChunks::Single(content) };
        let record = self.encrypter.encrypt(message, self.sent).expect("a record");
        self.sent += 1;
        record.encode()
    }

    /// Sends a record with this content.
    fn send(&mut self, kind: ContentType, content: &[u8]) -> io::Result<()> {
        let record = self.seal(kind, content);
        self.stream.write_all(&record)
    }

    fn data(&mut self, content: &[u8]) {
        let _ = self.send(ContentType::ApplicationData, content);
    }

    fn alert(&mut self, level: u8, description: u8) {
        let _ = self.send(ContentType::Alert, &[level, description]);
    }

    /// Sends bytes as they are.
    fn raw(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    fn close(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Reads and discards until notch closes the connection.
    fn stay_silent(&mut self) {
        while read_record(&mut self.stream).is_some() {}
    }

    /// Sends records without end, until notch closes the connection.
    fn flood(&mut self, kind: ContentType, content: &[u8]) {
        let reading = self.stream.try_clone().expect("a second handle on a socket");
        thread::spawn(move || read_record_until_end(reading));
        while self.send(kind, content).is_ok() {}
    }
}

/// Reads what notch sends meanwhile, so that it never waits for its own writes.
fn read_record_until_end(mut stream: TcpStream) {
    while read_record(&mut stream).is_some() {}
}

impl Read for Records {
    /// Reads the content of the next record with data; the end for any other.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(mut record) = read_record(&mut self.stream) else { return Ok(0) };
        let (kind, version) = (ContentType::from(record[0]), ProtocolVersion::TLSv1_2);
        let message = InboundOpaqueMessage::new(kind, version, &mut record[HEADER..]);
        let message = self.decrypter.decrypt(message, self.received).map_err(io::Error::other)?;
        self.received += 1;
        match message.typ {
            ContentType::ApplicationData => {
                // A command is shorter than the buffer of a `BufReader`.
                buffer[..message.payload.len()].copy_from_slice(message.payload);
                Ok(message.payload.len())
            }
            // A warning, as the refusal of a renegotiation.
            ContentType::Alert if message.payload[0] == WARNING && message.payload[1] != CLOSE_NOTIFY => {
                self.read(buffer)
            }
            _ => Ok(0),
        }
    }
}

const WARNING: u8 = 1;
const FATAL: u8 = 2;

const CLOSE_NOTIFY: u8 = 0;
const UNEXPECTED_MESSAGE: u8 = 10;
const BAD_RECORD_MAC: u8 = 20;
const HANDSHAKE_FAILURE: u8 = 40;
const INTERNAL_ERROR: u8 = 80;
const USER_CANCELED: u8 = 90;
const NO_RENEGOTIATION: u8 = 100;
const UNRECOGNIZED_NAME: u8 = 112;

/// Messages of the handshake, each without content.
const HELLO_REQUEST: [u8; 4] = [0, 0, 0, 0];
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 1];

/// A session ticket of TLS 1.3: its lifetime, a number, no nonce, four bytes of ticket, no extension.
const TICKET: [u8; 21] = [4, 0, 0, 17, 0, 0, 1, 0, 1, 2, 3, 4, 0, 0, 4, b't', b'i', b'c', b'k', 0, 0];

/// A fault of a connection with a batch in flight, whose reply it gets too.
type Fault = fn(&mut Records, &[u8]);

/// Faults that end the connection.
const ENDS: [(&str, Fault); 26] = [
    ("closed without close_notify", |records, _| records.close()),
    ("close_notify, then closed", |records, _| {
        records.alert(WARNING, CLOSE_NOTIFY);
        records.close();
    }),
    ("close_notify, and the socket stays open", |records, _| {
        records.alert(WARNING, CLOSE_NOTIFY);
        records.stay_silent();
    }),
    ("close_notify before the reply", |records, reply| {
        records.alert(WARNING, CLOSE_NOTIFY);
        records.data(reply);
        records.stay_silent();
    }),
    ("half of the reply, then close_notify", |records, reply| {
        records.data(&reply[..reply.len() / 2]);
        records.alert(WARNING, CLOSE_NOTIFY);
        records.close();
    }),
    ("a half record, then closed", |records, reply| {
        let record = records.seal(ContentType::ApplicationData, reply);
        records.raw(&record[..record.len() / 2]);
        records.close();
    }),
    ("a half record, then silence", |records, reply| {
        let record = records.seal(ContentType::ApplicationData, reply);
        records.raw(&record[..record.len() / 2]);
        records.stay_silent();
    }),
    ("a record without its last byte, then silence", |records, reply| {
        let record = records.seal(ContentType::ApplicationData, reply);
        records.raw(&record[..record.len() - 1]);
        records.stay_silent();
    }),
    ("a header of a record, then silence", |records, _| {
        records.raw(&[23, 3, 3, 0, 40]);
        records.stay_silent();
    }),
    ("a record that was changed on the way", |records, reply| {
        let mut record = records.seal(ContentType::ApplicationData, reply);
        let last = record.len() - 1;
        record[last] ^= 1;
        records.raw(&record);
        records.stay_silent();
    }),
    ("a record that is missing", |records, reply| {
        records.seal(ContentType::ApplicationData, b":7\r\n");
        records.data(reply);
        records.stay_silent();
    }),
    ("a record that comes twice", |records, reply| {
        // Only its first half is in the first one, so that a reply of both would be one.
        let record = records.seal(ContentType::ApplicationData, &reply[..1]);
        records.raw(&record);
        records.raw(&record);
        records.stay_silent();
    }),
    ("a record that is too long", |records, _| {
        records.raw(&[23, 3, 3, 0xff, 0xff]);
        records.raw(&[0; 0xffff]);
        records.stay_silent();
    }),
    ("a record of an unknown type", |records, _| {
        records.raw(&[99, 3, 3, 0, 1, 0]);
        records.stay_silent();
    }),
    ("a reply without encryption", |records, reply| {
        records.raw(reply);
        records.stay_silent();
    }),
    ("a reply without encryption in a record", |records, reply| {
        records.raw(&[&[23, 3, 3, 0, reply.len() as u8], reply].concat());
        records.stay_silent();
    }),
    ("text of another protocol", |records, _| {
        records.raw(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        records.stay_silent();
    }),
    ("a fatal alert", |records, _| {
        records.alert(FATAL, INTERNAL_ERROR);
        records.stay_silent();
    }),
    ("a fatal alert about the handshake", |records, _| {
        records.alert(FATAL, HANDSHAKE_FAILURE);
        records.stay_silent();
    }),
    ("a fatal alert about the name", |records, _| {
        records.alert(FATAL, UNRECOGNIZED_NAME);
        records.stay_silent();
    }),
    ("a fatal alert without encryption", |records, _| {
        records.raw(&[21, 3, 3, 0, 2, FATAL, BAD_RECORD_MAC]);
        records.stay_silent();
    }),
    ("a fatal alert in pieces", |records, _| {
        let record = records.seal(ContentType::Alert, &[FATAL, UNEXPECTED_MESSAGE]);
        records.raw(&record[..7]);
        records.raw(&record[7..]);
        records.close();
    }),
    ("an alert that is too long", |records, _| {
        let _ = records.send(ContentType::Alert, &[FATAL, INTERNAL_ERROR, 0, 0]);
        records.stay_silent();
    }),
    ("more warnings than are allowed", |records, _| {
        (0..100).for_each(|_| records.alert(WARNING, NO_RENEGOTIATION));
        records.stay_silent();
    }),
    ("more requests for a renegotiation than are allowed", |records, _| {
        (0..100).for_each(|_| drop(records.send(ContentType::Handshake, &HELLO_REQUEST)));
        records.stay_silent();
    }),
    ("a message of the handshake that is out of place", |records, _| {
        let _ = records.send(ContentType::Handshake, &[20, 0, 0, 12, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        records.stay_silent();
    }),
];

#[test]
fn a_visit_in_flight_when_its_connection_ends_is_counted_once() {
    thread::scope(|scope| {
        for version in VERSIONS {
            scope.spawn(move || ENDS.iter().for_each(|(name, fault)| assert_resent(version, name, *fault)));
        }
    });
}

/// Asserts that the batch in flight was sent again on another connection, and counted once.
fn assert_resent(version: Version, name: &str, fault: Fault) {
    let peer = Peer::with_fault(version, fault);
    let notch = peer.settings().start();
    assert_eq!(notch.visit(), 1, "{name}, {version:?}");
    assert_eq!((peer.total(), peer.accepted()), (1, 2), "{name}, {version:?}: {:#?}", notch.log());
    assert_eq!(notch.visit(), 2, "{name}, {version:?}");
    assert_eq!((peer.total(), peer.accepted()), (2, 2), "{name}, {version:?}: {:#?}", notch.log());
    let lines = notch.log().iter().filter(|line| line.contains("WARN") || line.contains("ERROR")).count();
    assert!(lines <= 1, "{name}, {version:?}: {:#?}", notch.log());
    // Nothing is wrong with the settings.
    let advises = |line: &String| ["redis://", "TLS 1.2", "subjectAltName"].iter().any(|advice| line.contains(advice));
    assert!(!notch.log().iter().any(advises), "{name}, {version:?}: {:#?}", notch.log());
}

/// What a server may send before a reply.
const HARMLESS: [(&str, Fault); 7] = [
    ("a record for each byte", |records, reply| {
        reply.iter().for_each(|byte| records.data(&[*byte]));
    }),
    ("a record that arrives byte by byte", |records, reply| {
        for byte in records.seal(ContentType::ApplicationData, reply) {
            records.raw(&[byte]);
            thread::sleep(Duration::from_millis(1));
        }
    }),
    ("records without content", |records, reply| {
        (0..20).for_each(|_| records.data(&[]));
        records.data(reply);
    }),
    ("session tickets", |records, reply| {
        if records.is_tls13() {
            (0..500).for_each(|_| drop(records.send(ContentType::Handshake, &TICKET)));
            // Many of them in one record, and one of them in several.
            let _ = records.send(ContentType::Handshake, &TICKET.repeat(500));
            TICKET.chunks(4).for_each(|piece| drop(records.send(ContentType::Handshake, piece)));
        }
        records.data(reply);
    }),
    ("a request for a renegotiation", |records, reply| {
        if !records.is_tls13() {
            let _ = records.send(ContentType::Handshake, &HELLO_REQUEST);
        }
        records.data(reply);
    }),
    ("a warning", |records, reply| {
        if !records.is_tls13() {
            records.alert(WARNING, NO_RENEGOTIATION);
        }
        records.alert(WARNING, USER_CANCELED);
        records.data(reply);
    }),
    ("a late reply", |records, reply| {
        thread::sleep(Duration::from_millis(400));
        records.data(reply);
    }),
];

#[test]
fn what_a_server_may_send_besides_replies_keeps_the_connection() {
    for version in VERSIONS {
        for (name, fault) in HARMLESS {
            let peer = Peer::with_fault(version, fault);
            let notch = peer.settings().start();
            assert_eq!((notch.visit(), notch.visit()), (1, 2), "{name}, {version:?}");
            assert_eq!((peer.total(), peer.accepted()), (2, 1), "{name}, {version:?}: {:#?}", notch.log());
        }
    }
}

/// Records without end; what they contain is not valid in each version.
const FLOODS: [(&str, Fault); 8] = [
    ("records without content", |records, _| records.flood(ContentType::ApplicationData, &[])),
    ("records of the maximal size", |records, _| records.flood(ContentType::ApplicationData, &[b'x'; 1 << 14])),
    ("replies", |records, _| records.flood(ContentType::ApplicationData, b"+OK\r\n")),
    ("half a reply", |records, _| records.flood(ContentType::ApplicationData, b"$")),
    ("session tickets", |records, _| records.flood(ContentType::Handshake, &TICKET)),
    ("a message of the handshake without end", |records, _| {
        let _ = records.send(ContentType::Handshake, &[4, 0xff, 0xff, 0xff]);
        records.flood(ContentType::Handshake, &[0; 1 << 14]);
    }),
    ("warnings", |records, _| records.flood(ContentType::Alert, &[WARNING, USER_CANCELED])),
    ("bytes", |records, _| while records.stream.write_all(&[0; 1 << 14]).is_ok() {}),
];

#[test]
fn a_flood_of_records_takes_no_memory_and_no_visit() {
    thread::scope(|scope| {
        for version in VERSIONS {
            scope.spawn(move || FLOODS.iter().for_each(|(name, fault)| assert_bounded(version, name, *fault)));
        }
    });
}

/// Asserts that a flood ends with the time of the reply, and that notch keeps its memory.
fn assert_bounded(version: Version, name: &str, fault: Fault) {
    let peer = Peer::with_fault(version, fault);
    let notch = peer.settings().start();
    assert_eq!(notch.total(), 0, "it is connected");
    let before = notch.resident_kilobytes();
    let mut client = notch.client();
    client.send_request("GET", "/count", &[]);
    let mut most = before;
    wait_until(&format!("the connection with {name}, {version:?}, is replaced"), || {
        most = most.max(notch.resident_kilobytes());
        (peer.accepted() > 1).then_some(())
    });
    assert_eq!(client.response().number(), 1, "{name}, {version:?}");
    assert_eq!(peer.total(), 1, "{name}, {version:?}");
    assert!(most < before + 1500, "{name}, {version:?}: {before} kB, then {most} kB");
}

#[test]
fn key_updates_are_followed_and_limited() {
    let config = own_server(Version::Tls13);
    // rustls derives the new keys, so it keeps the session.
    let serve = move |stream: TcpStream, data: &Mutex<Data>, updates: usize| -> io::Result<()> {
        let mut tls = ServerConnection::new(config.clone()).map_err(io::Error::other)?;
        let mut stream = stream;
        let mut reader = BufReader::new(KeyUpdates { tls: &mut tls, stream: &mut stream });
        while let Some(Some(command)) = read_command(&mut reader) {
            let reply = format!("{}\r\n", execute(&command, data));
            let KeyUpdates { tls, stream } = reader.get_mut();
            for _ in 0..if command.starts_with("ONCE visits 1") { updates } else { 0 } {
                tls.refresh_traffic_keys().map_err(io::Error::other)?;
                tls.write_tls(stream)?;
            }
            tls.writer().write_all(reply.as_bytes())?;
            while tls.wants_write() {
                tls.write_tls(stream)?;
            }
        }
        Ok(())
    };
    for (updates, connections) in [(1, 1), (20, 1), (1000, 2)] {
        let serve = serve.clone();
        let peer = Peer::start(move |number, stream, data| {
            let _ = serve(stream, data, if number == 1 { updates } else { 0 });
        });
        let notch = peer.settings().start();
        assert_eq!((1..=5).map(|_| notch.visit()).collect::<Vec<_>>(), [1, 2, 3, 4, 5], "{updates} key updates");
        assert_eq!((peer.total(), peer.accepted()), (5, connections), "{updates}: {:#?}", notch.log());
    }
}

/// A session whose keys rustls changes.
struct KeyUpdates<'a> {
    tls: &'a mut ServerConnection,
    stream: &'a mut TcpStream,
}

impl Read for KeyUpdates<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        rustls::Stream::new(self.tls, self.stream).read(buffer)
    }
}

#[test]
fn a_key_update_that_cannot_be_followed_ends_the_connection() {
    // The keys stay the old ones.
    assert_resent(Version::Tls13, "a key update without new keys", |records, reply| {
        let _ = records.send(ContentType::Handshake, &KEY_UPDATE);
        records.data(reply);
        records.stay_silent();
    });
}

#[test]
fn a_reply_in_a_record_of_the_maximal_size_is_read() {
    for version in VERSIONS {
        let config = own_server(version);
        let peer = Peer::start(move |_, stream, data| {
            let Some(mut session) = Session::open(stream, &config) else { return };
            while let Some(Some(command)) = read_command(&mut session.0) {
                let mut reply = format!("{}\r\n", execute(&command, data));
                if command.starts_with("INFO") {
                    // The longest bulk string for which notch has space.
                    let content = "maxmemory:0\r\n";
                    reply = format!("$16000\r\n{content}{}\r\n", "x".repeat(16_000 - content.len()));
                }
                session.records().data(reply.as_bytes());
            }
        });
        let notch = peer.settings().start();
        assert_eq!((notch.visit(), notch.visit()), (1, 2), "{version:?}");
        assert_eq!(peer.accepted(), 1, "{version:?}: {:#?}", notch.log());
    }
}

/// A fault of the handshake; it gets the first flight of the server.
type HandshakeFault = fn(&mut TcpStream, &[u8]);

const HANDSHAKE_FAULTS: [(&str, HandshakeFault); 14] = [
    ("closed at once", |stream, _| drop(stream.shutdown(Shutdown::Both))),
    ("a half record, then closed", |stream, flight| {
        let _ = stream.write_all(&flight[..flight.len() / 2]);
        let _ = stream.shutdown(Shutdown::Both);
    }),
    ("the whole flight, then closed", |stream, flight| {
        let _ = stream.write_all(flight);
        let _ = stream.shutdown(Shutdown::Both);
    }),
    ("the flight twice", |stream, flight| {
        let _ = stream.write_all(&[flight, flight].concat());
        read_record_until_end(stream.try_clone().expect("a second handle on a socket"));
    }),
    ("a changed flight", |stream, flight| {
        let mut flight = flight.to_vec();
        let last = flight.len() - 20;
        flight[last] ^= 1;
        let _ = stream.write_all(&flight);
        read_record_until_end(stream.try_clone().expect("a second handle on a socket"));
    }),
    ("text of another protocol", |stream, _| {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        read_record_until_end(stream.try_clone().expect("a second handle on a socket"));
    }),
    ("a reply of Redis", |stream, _| {
        let _ = stream.write_all(b"-ERR Protocol error: unbalanced quotes in request\r\n");
        let _ = stream.shutdown(Shutdown::Both);
    }),
    ("a fatal alert", |stream, _| {
        let _ = stream.write_all(&[21, 3, 3, 0, 2, FATAL, HANDSHAKE_FAILURE]);
        let _ = stream.shutdown(Shutdown::Both);
    }),
    ("a fatal alert about the name", |stream, _| {
        let _ = stream.write_all(&[21, 3, 3, 0, 2, FATAL, UNRECOGNIZED_NAME]);
        let _ = stream.shutdown(Shutdown::Both);
    }),
    ("close_notify", |stream, _| {
        let _ = stream.write_all(&[21, 3, 3, 0, 2, WARNING, CLOSE_NOTIFY]);
        read_record_until_end(stream.try_clone().expect("a second handle on a socket"));
    }),
    ("warnings without end", |stream, _| while stream.write_all(&[21, 3, 3, 0, 2, WARNING, USER_CANCELED]).is_ok() {}),
    ("a record that is too long", |stream, _| {
        let _ = stream.write_all(&[22, 3, 3, 0xff, 0xff]);
        while stream.write_all(&[0; 1 << 14]).is_ok() {}
    }),
    ("a message without end", |stream, _| {
        let _ = stream.write_all(&[22, 3, 3, 0, 4, 2, 0xff, 0xff, 0xff]);
        let record = [&[22, 3, 3, 0x40, 0][..], &[0; 1 << 14]].concat();
        while stream.write_all(&record).is_ok() {}
    }),
    ("records without content", |stream, _| while stream.write_all(&[22, 3, 3, 0, 0]).is_ok() {}),
];

/// Returns the first flight of a server; `None` if notch sends no hello.
fn first_flight(stream: &mut TcpStream, config: &Arc<ServerConfig>) -> Option<Vec<u8>> {
    let mut tls = ServerConnection::new(config.clone()).expect("a valid configuration");
    let hello = read_record(stream)?;
    tls.read_tls(&mut &hello[..]).ok()?;
    tls.process_new_packets().ok()?;
    let mut flight = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut flight).ok()?;
    }
    Some(flight)
}

#[test]
fn a_failed_handshake_is_tried_again_and_costs_no_visit() {
    for version in VERSIONS {
        for (name, fault) in HANDSHAKE_FAULTS {
            let config = own_server(version);
            let peer = Peer::start(move |number, mut stream, data| {
                if number == 1 {
                    if let Some(flight) = first_flight(&mut stream, &config) {
                        fault(&mut stream, &flight);
                    }
                } else if let Some(mut session) = Session::open(stream, &config) {
                    session.serve(data, |_| false);
                }
            });
            let notch = peer.settings().start();
            assert_eq!((notch.visit(), notch.visit()), (1, 2), "{name}, {version:?}");
            assert_eq!((peer.total(), peer.accepted()), (2, 2), "{name}, {version:?}: {:#?}", notch.log());
            assert!(notch.resident_kilobytes() < MOST_KILOBYTES, "{name}: {} kB", notch.resident_kilobytes());
        }
    }
}

/// Most memory of a process after any fault; the binary of the tests is not the small one.
const MOST_KILOBYTES: u64 = 20_000;

#[test]
fn a_handshake_that_fails_each_time_is_tried_with_pauses_and_logged_once() {
    thread::scope(|scope| {
        for (name, fault) in HANDSHAKE_FAULTS {
            scope.spawn(move || {
                let config = own_server(Version::Tls13);
                let peer = Peer::start(move |_, mut stream, _| {
                    if let Some(flight) = first_flight(&mut stream, &config) {
                        fault(&mut stream, &flight);
                    }
                });
                let notch = peer.settings().with("STORE_TIMEOUT", "2s").start();
                let start = Instant::now();
                notch.get("/count").assert_not_counted();
                assert!(start.elapsed() < Duration::from_secs(4), "{name}: {:?}", start.elapsed());
                notch.get("/count").assert_not_counted();
                assert!((2..=60).contains(&peer.accepted()), "{name}: {} connections in 4 s", peer.accepted());
                let lines = reasons(&notch);
                assert_eq!(lines.len(), 1, "{name}: {:#?}", notch.log());
            });
        }
    });
}

/// Returns the lines of the log about a store that does not count.
fn reasons(notch: &Notch) -> Vec<String> {
    notch.log().into_iter().filter(|line| line.contains("the store does not count")).collect()
}

#[test]
fn a_handshake_without_an_answer_ends_in_time() {
    // Nothing at all, a part of the first flight, and the first flight without an end.
    for (version, part) in [(Version::Tls13, 0), (Version::Tls13, 40), (Version::Tls12, 100), (Version::Tls12, 10_000)]
    {
        let config = own_server(version);
        let is_silent = Arc::new(std::sync::atomic::AtomicBool::new(true));
        let silent = is_silent.clone();
        let peer = Peer::start(move |_, mut stream, data| {
            if !silent.load(Ordering::SeqCst) {
                if let Some(mut session) = Session::open(stream, &config) {
                    session.serve(data, |_| false);
                }
                return;
            }
            if let Some(flight) = first_flight(&mut stream, &config) {
                let _ = stream.write_all(&flight[..part.min(flight.len())]);
                read_record_until_end(stream);
            }
        });
        let notch = peer.settings().with("STORE_TIMEOUT", "2s").start();
        for _ in 0..2 {
            let start = Instant::now();
            notch.get("/count").assert_not_counted();
            assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
        }
        assert!((2..=8).contains(&peer.accepted()), "{} connections in 4 s", peer.accepted());
        assert_eq!(reasons(&notch).len(), 1, "{:#?}", notch.log());
        is_silent.store(false, Ordering::SeqCst);
        assert_eq!(notch.visit_when_it_counts(), 1);
    }
}

/// A peer whose certificate can be changed.
fn peer_with(identity: Identity) -> (Peer, Arc<Mutex<Identity>>) {
    let identity = Arc::new(Mutex::new(identity));
    let own = identity.clone();
    let peer = Peer::start(move |number, stream, data| {
        let config = server(&own.lock().expect("no panic"), VERSIONS[number % 2]);
        if let Some(mut session) = Session::open(stream, &config) {
            session.serve(data, |_| false);
        }
    });
    (peer, identity)
}

#[test]
fn each_wrong_certificate_has_its_line_and_notch_recovers_by_itself() {
    let dated = |first: i32, last: i32| {
        authority().issue_with(&NAMES, |params| {
            params.not_before = rcgen::date_time_ymd(first, 1, 1);
            params.not_after = rcgen::date_time_ymd(last, 1, 1);
        })
    };
    let cases = [
        (dated(2001, 2002), "the certificate of the server has expired"),
        (dated(2090, 2091), "the certificate of the server is not valid yet"),
        (authority().issue(&["redis.example", "127.0.0.2"]), "the certificate of the server has another name"),
        (Authority::new("another").issue(&NAMES), "the certificate of the server is from an unknown issuer"),
        // An authority with the name of the right one.
        (Authority::new("notch tests").issue(&NAMES), "the certificate of the server is from an unknown issuer"),
        (Identity::self_signed(&NAMES), "the certificate of the server is from an unknown issuer"),
        (
            authority().issue_with(&NAMES, |params| {
                params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
            }),
            "the certificate of the server cannot be used",
        ),
    ];
    thread::scope(|scope| {
        for (wrong, reason) in cases {
            scope.spawn(move || {
                let (peer, identity) = peer_with(wrong);
                let notch = peer.settings().with("STORE_TIMEOUT", "1s").start();
                (0..3).for_each(|_| notch.get("/count").assert_not_counted());
                assert_eq!(notch.get("/readyz").status, 503);
                let lines = reasons(&notch);
                assert_eq!(lines.len(), 1, "{reason}: {:#?}", notch.log());
                assert!(lines[0].contains(reason), "{reason}: {lines:?}");
                assert!(peer.accepted() > 3, "it is tried again");
                assert_eq!(peer.total(), 0, "nothing was sent");
                *identity.lock().expect("no panic") = authority().issue(&NAMES);
                assert_eq!(notch.visit_when_it_counts(), 1);
                wait_until("it is logged", || {
                    notch.log().iter().any(|line| line.contains("the store counts again")).then_some(())
                });
            });
        }
    });
}

#[test]
fn a_self_signed_certificate_is_trusted_if_it_is_the_authority() {
    let identity = Identity::self_signed(&NAMES);
    let pem = identity.pem();
    let (peer, _) = peer_with(identity);
    let settings = peer.settings();
    let path = write(settings.folder(), "self-signed.pem", &pem);
    let notch = settings.with("REDIS_CA", &path).start();
    assert_eq!(notch.visit(), 1);
}

#[test]
fn an_authority_that_is_replaced_is_read_at_the_next_connect() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let (peer, identity) = peer_with(old.issue(&NAMES));
    let settings = peer.settings();
    let path = write(settings.folder(), "authority.pem", &old.pem);
    let notch = settings.clone().with("REDIS_CA", &path).with("STORE_TIMEOUT", "1s").start();
    assert_eq!(notch.visit(), 1);
    *identity.lock().expect("no panic") = new.issue(&NAMES);
    // The connection stays, whatever the certificate of the next one is.
    assert_eq!((notch.visit(), peer.accepted()), (2, 1));
    peer.cut();
    notch.get("/count").assert_not_counted();
    assert!(peer.accepted() > 2, "{:#?}", notch.log());
    write(settings.folder(), "authority.pem", &new.pem);
    assert_eq!(notch.visit_when_it_counts(), 3);
}

#[test]
fn a_plain_connection_to_a_port_for_tls_counts_nothing_and_is_explained() {
    // One after the other: rustls, and the OpenSSL of Redis.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port of the loopback");
    let front = Front::before(&listener);
    let redis = Redis::start(&[]);
    for port in [front.port, redis.port] {
        let notch = Settings::redis(port).without_tls().with("STORE_TIMEOUT", "1s").start();
        notch.get("/count").assert_not_counted();
        let lines = reasons(&notch);
        assert!(lines.len() == 1 && lines[0].contains("rediss://"), "{:#?}", notch.log());
    }
    assert!(!front.take_errors().is_empty(), "the front has rejected what is not TLS");
}
