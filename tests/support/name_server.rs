//! Name servers for tests that run notch in namespaces of their own: there the servers can use port 53, and the test
//! writes the system's files.

use std::env;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{fs, thread};

use super::Folder;

/// Runs a test in new namespaces for users, mounts, network and host name: the test program starts itself again with
/// that one test, `test` being its path in the suite.
pub(crate) fn isolated(test: &str, body: impl FnOnce(&Etc)) {
    if let Some(folder) = env::var_os(INSIDE) {
        return body(&Etc(folder.into()));
    }
    let folder = Folder::new("etc");
    for name in ["hosts", "resolv.conf"] {
        fs::write(folder.file(name), "").expect("a file can be written");
    }
    // The first part of the path is the suite, which is not part of the test's name.
    let (_, name) = test.split_once("::").expect("a path");
    let enter = "cd \"$0\" && ip link set lo up && hostname notch && mount --bind hosts /etc/hosts && \
                 mount --bind resolv.conf /etc/resolv.conf && exec \"$@\"";
    let run = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "--net", "--uts", "sh", "-ec", enter])
        .arg(folder.path())
        .arg(env::current_exe().expect("this program has a path"))
        .args(["--exact", name, "--nocapture", "--include-ignored"])
        .env(INSIDE, folder.path())
        .output()
        .expect("unshare is missing (Debian: apt-get install util-linux)");
    let (out, err) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success() && out.contains("1 passed"), "in its own namespaces:\n{out}\n{err}");
    print!("{out}");
}

/// The files in `/etc` of an isolated test. They are changed in place, because the mounts refer to their inodes.
pub(crate) struct Etc(PathBuf);

impl Etc {
    pub(crate) fn hosts(&self, bytes: impl AsRef<[u8]>) {
        fs::write(self.path().join("hosts"), bytes).expect("a file can be written");
    }

    pub(crate) fn resolv_conf(&self, bytes: impl AsRef<[u8]>) {
        fs::write(self.path().join("resolv.conf"), bytes).expect("a file can be written");
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

/// A question: the name in lower case, the kind of address, and the number of the query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) name: String,
    pub(crate) kind: u8,
    pub(crate) id: u16,
    /// Time of arrival.
    pub(crate) at: Instant,
    pub(crate) is_tcp: bool,
}

/// The reply of a name server to a question.
pub(crate) enum DnsReply {
    /// Those of these addresses that have the requested type.
    Addresses(Vec<IpAddr>),
    /// Only a response code: 2 is SERVFAIL, 3 NXDOMAIN, 5 REFUSED.
    Code(u8),
    /// A truncated reply.
    Truncated,
    /// No reply.
    Nothing,
    /// These datagrams, one after the other.
    Bytes(Vec<Vec<u8>>),
    /// Another reply, after a delay.
    Late(Duration, Box<Self>),
}

impl DnsReply {
    pub(crate) fn address(address: &str) -> Self {
        Self::Addresses(vec![address.parse().expect("an address")])
    }

    pub(crate) const NO_NAME: Self = Self::Code(3);
    pub(crate) const FAILED: Self = Self::Code(2);

    pub(crate) fn late(self, milliseconds: u64) -> Self {
        Self::Late(Duration::from_millis(milliseconds), Box::new(self))
    }
}

type Response = dyn Fn(&Question, &[u8]) -> DnsReply + Send + Sync;

/// A name server on port 53 of an address. It runs as long as the test.
pub(crate) struct NameServer {
    questions: Arc<Mutex<Vec<Question>>>,
    response: Arc<Response>,
    address: SocketAddr,
}

impl NameServer {
    /// Starts a server for datagrams; it accepts no connections. The address may have a zone, as in `fe80::1%2`.
    pub(crate) fn start(
        address: &str,
        response: impl Fn(&Question, &[u8]) -> DnsReply + Send + Sync + 'static,
    ) -> Self {
        let address = if address.contains(':') { format!("[{address}]:53") } else { format!("{address}:53") };
        let server = Self {
            questions: Arc::default(),
            response: Arc::new(response),
            address: address.parse().expect("an address"),
        };
        let socket = UdpSocket::bind(server.address).expect("port 53 of this namespace");
        let (questions, response) = (server.questions.clone(), server.response.clone());
        thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((length, client)) = socket.recv_from(&mut query) {
                let query = query[..length].to_vec();
                let (socket, response) = (socket.try_clone().expect("a second handle on a socket"), response.clone());
                let question = note(&questions, &query, false);
                thread::spawn(move || {
                    for reply in replies(response(&question, &query), &query, question.kind) {
                        let _ = socket.send_to(&reply, client);
                    }
                });
            }
        });
        server
    }

    /// Starts a server that has one name with these addresses, and replies to any other name that it does not exist.
    pub(crate) fn of(address: &str, name: &'static str, addresses: &[&str]) -> Self {
        let addresses: Vec<IpAddr> = addresses.iter().map(|one| one.parse().expect("an address")).collect();
        Self::start(address, move |question, _| match question.name == name {
            true => DnsReply::Addresses(addresses.clone()),
            false => DnsReply::NO_NAME,
        })
    }

    /// Starts a server that never replies.
    pub(crate) fn silent(address: &str) -> Self {
        Self::start(address, |_, _| DnsReply::Nothing)
    }

    /// Starts to reply over TCP too.
    pub(crate) fn with_tcp(self) -> Self {
        let listener = TcpListener::bind(self.address).expect("port 53 of this namespace");
        let (questions, response) = (self.questions.clone(), self.response.clone());
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let (questions, response) = (questions.clone(), response.clone());
                thread::spawn(move || {
                    let mut length = [0; 2];
                    stream.read_exact(&mut length).ok()?;
                    let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
                    stream.read_exact(&mut query).ok()?;
                    let question = note(&questions, &query, true);
                    let replies = replies(response(&question, &query), &query, question.kind);
                    for reply in &replies {
                        let length = (reply.len() as u16).to_be_bytes();
                        // In two parts, as TCP may deliver them.
                        stream.write_all(&length[..1]).ok()?;
                        thread::sleep(Duration::from_millis(5));
                        stream.write_all(&[&length[1..], reply].concat()).ok()?;
                    }
                    // Without a reply, the connection stays open until the client closes it.
                    stream.read_exact(&mut [0]).ok()
                });
            }
        });
        self
    }

    /// Returns the questions received so far.
    pub(crate) fn received(&self) -> Vec<Question> {
        self.questions.lock().expect("no holder panics").clone()
    }
}

fn note(questions: &Mutex<Vec<Question>>, query: &[u8], is_tcp: bool) -> Question {
    let (id, kind) = (u16::from_be_bytes([query[0], query[1]]), query[query.len() - 3]);
    let mut labels = &query[HEAD..query.len() - 5];
    let mut names = Vec::new();
    while let Some((&length, rest)) = labels.split_first() {
        let (label, rest) = rest.split_at(usize::from(length));
        names.push(String::from_utf8_lossy(label).to_lowercase());
        labels = rest;
    }
    let question = Question { name: names.join("."), kind, id, at: Instant::now(), is_tcp };
    questions.lock().expect("no holder panics").push(question.clone());
    question
}

fn replies(reply_kind: DnsReply, query: &[u8], kind: u8) -> Vec<Vec<u8>> {
    match reply_kind {
        DnsReply::Addresses(addresses) => vec![reply(query, kind, &addresses)],
        DnsReply::Code(code) => {
            vec![[&query[..2], &[0x81, 0x80 | code, 0, 1, 0, 0, 0, 0, 0, 0], &query[HEAD..]].concat()]
        }
        DnsReply::Truncated => vec![[&query[..2], &[0x83, 0x80, 0, 1, 0, 0, 0, 0, 0, 0], &query[HEAD..]].concat()],
        DnsReply::Nothing => Vec::new(),
        DnsReply::Bytes(replies) => replies,
        DnsReply::Late(delay, reply_kind) => {
            thread::sleep(delay);
            replies(*reply_kind, query, kind)
        }
    }
}

/// Encodes a reply with those of the addresses that have the requested type.
pub(crate) fn reply(query: &[u8], kind: u8, addresses: &[IpAddr]) -> Vec<u8> {
    let mut records = Vec::new();
    for address in addresses.iter().filter(|address| address.is_ipv4() == (kind == 1)) {
        let bytes = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        records.push([&[0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 9, 0, bytes.len() as u8][..], &bytes].concat());
    }
    let count = (records.len() as u16).to_be_bytes();
    [&query[..2], &[0x81, 0x80, 0, 1], &count, &[0; 4], &query[HEAD..], &records.concat()].concat()
}

/// Length in bytes of the header before the question.
const HEAD: usize = 12;

/// Environment variable of the program inside the namespaces: the path of its files.
const INSIDE: &str = "NOTCH_TEST_ETC";
