//! A scripted Redis, for replies that a real one cannot be made to send.
//!
//! A script is a text with one step per line:
//!
//! ```text
//! > INCR visits       wait for this command, on any connection
//! < :1\r\n            send these bytes on the connection of the last command
//! <1 :7\r\n           send them on the first connection, open or closed
//! close               close the connection of the last command
//! hold                wait until the test releases the script
//! total 7             from now on, the GET of a handshake returns this total
//! ```
//!
//! Commands must arrive as RESP arrays of bulk strings with exact encoding. Their arguments are compared; `INCRBY
//! key 1` is written `INCR key`. A `PING` that the script does not expect gets its reply automatically, as do the
//! commands of a handshake, and an increment by 0, which only probes the store; any other unexpected command fails the
//! test.
//!
//! Lua scripts are rejected, or accepted with [`Script::play_with_receipts`]; then a visit is received as `ONCE visits
//! 1 #1`: counter, increment, and number of the batch among those received. `ONCE visits 1 floor 7 #2` carries a floor.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use super::tls::Front;
use super::{unescape, wait_until};

pub(crate) struct Script {
    pub(crate) port: u16,
    plain_port: u16,
    front: Front,
    release: Option<Sender<()>>,
    shared: Arc<Mutex<Shared>>,
    player: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    /// Every command with the number of its connection, the first being 1.
    commands_received: Vec<(usize, String)>,
    /// Connections that have finished the handshake.
    handshake_done: HashSet<usize>,
    /// Sequence numbers of the batches with visits, in the order of their first arrival.
    batches: Vec<String>,
    steps_done: usize,
    failure: Option<String>,
    streams: HashMap<usize, TcpStream>,
    ended: bool,
}

impl Shared {
    /// Replaces the sequence number of a batch by its position among the batches with visits: increments by 0 come at
    /// any time and use sequence numbers too.
    fn count_batches(&mut self, command: String) -> String {
        let Some((once, batch)) = command.split_once(" #").filter(|(once, _)| once.starts_with("ONCE ")) else {
            return command;
        };
        if is_probe(once) {
            return once.to_owned();
        }
        let seen = self.batches.iter().position(|other| other == batch);
        let index = seen.unwrap_or_else(|| {
            self.batches.push(batch.to_owned());
            self.batches.len() - 1
        });
        format!("{once} #{}", index + 1)
    }
}

/// Returns whether a command counts 0 visits.
fn is_probe(command: &str) -> bool {
    command.starts_with("ONCE ") && command.split(' ').nth(2) == Some("0")
}

enum Step {
    Expect(String),
    Send(Option<usize>, Vec<u8>),
    Close,
    Hold,
    Total(String),
}

impl Script {
    pub(crate) fn play(text: &str) -> Self {
        Self::play_on(text, "-ERR unknown command 'SCRIPT'\r\n")
    }

    pub(crate) fn play_with_receipts(text: &str) -> Self {
        Self::play_on(text, "$40\r\n0123456789abcdef0123456789abcdef01234567\r\n")
    }

    fn play_on(text: &str, loaded: &'static str) -> Self {
        let steps: Vec<Step> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(Step::parse).collect();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port of the loopback");
        let plain_port = listener.local_addr().expect("a bound listener has an address").port();
        let front = Front::before(&listener);
        let shared = Arc::new(Mutex::new(Shared::default()));
        let (release, held) = channel();
        let (sender, commands) = channel();
        let accepting = shared.clone();
        thread::spawn(move || accept(&listener, &accepting, &sender));
        let playing = shared.clone();
        let total = "$-1\r\n".to_owned();
        let player =
            thread::spawn(move || Player { commands, held, shared: playing, last: 0, loaded, total }.play(steps));
        Self { port: front.port, plain_port, front, release: Some(release), shared, player: Some(player) }
    }

    /// Releases the current or next `hold` of the script.
    pub(crate) fn release(&self) {
        let release = self.release.as_ref().expect("not yet released");
        release.send(()).expect("the player outlives the script");
    }

    pub(crate) fn received(&self) -> Vec<(usize, String)> {
        self.with(|shared| shared.commands_received.clone())
    }

    /// Waits until this many steps are done; fails if the script has failed.
    pub(crate) fn reach(&self, steps: usize) {
        wait_until(&format!("the script is past step {steps}"), || {
            self.with(|shared| {
                assert_eq!(shared.failure, None, "after {:?}", shared.commands_received);
                (shared.steps_done >= steps).then_some(())
            })
        });
    }

    /// Asserts that the conversation followed the script to its end, and did not continue.
    pub(crate) fn done(mut self) {
        self.release = None;
        self.close_all();
        self.player.take().expect("joined once").join().expect("the player does not panic");
        self.with(|shared| {
            assert_eq!(shared.failure, None, "after {:?}", shared.commands_received);
        });
    }

    fn with<T>(&self, action: impl FnOnce(&mut Shared) -> T) -> T {
        action(&mut self.shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    fn close_all(&self) {
        self.with(|shared| {
            shared.ended = true;
            shared.streams.values().for_each(|stream| {
                let _ = stream.shutdown(Shutdown::Both);
            });
        });
        self.front.close();
        // Wakes the listener, which then ends.
        let _ = TcpStream::connect(("127.0.0.1", self.plain_port));
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.close_all();
        if thread::panicking() {
            self.with(|shared| {
                eprintln!("the script received {:?}; failure: {:?}", shared.commands_received, shared.failure)
            });
        }
    }
}

impl Step {
    fn parse(line: &str) -> Self {
        match line.split_once(' ') {
            None if line == "close" => Self::Close,
            None if line == "hold" => Self::Hold,
            None if line == "<" => Self::Send(None, Vec::new()),
            Some((">", command)) => Self::Expect(command.trim().to_owned()),
            Some(("total", number)) => Self::Total(format!("${}\r\n{number}\r\n", number.len())),
            Some(("<", bytes)) => Self::Send(None, unescape(bytes)),
            Some((connection, bytes)) if connection.starts_with('<') => {
                Self::Send(Some(connection[1..].parse().expect("the number of a connection")), unescape(bytes))
            }
            _ => panic!("not a step of a script: {line:?}"),
        }
    }
}

struct Player {
    commands: Receiver<(usize, Option<String>)>,
    held: Receiver<()>,
    shared: Arc<Mutex<Shared>>,
    last: usize,
    /// Reply to `SCRIPT LOAD`.
    loaded: &'static str,
    /// Reply to the `GET` of a handshake.
    total: String,
}

impl Player {
    fn play(mut self, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Expect(command) => {
                    if let Err(error) = self.expect_command(&command) {
                        return self.fail(error);
                    }
                }
                Step::Send(connection, bytes) => self.send(connection.unwrap_or(self.last), &bytes),
                Step::Close => self.close(),
                Step::Total(total) => self.total = total,
                Step::Hold => {
                    if self.held.recv().is_err() {
                        return self.fail("not released before the end".to_owned());
                    }
                }
            }
            self.shared().steps_done += 1;
        }
        while let Ok((connection, command)) = self.commands.recv() {
            let Some(command) = command else { continue };
            if !self.reply_automatically(connection, &command) {
                return self.fail(format!("after the end of the script, received {command:?}"));
            }
        }
    }

    fn expect_command(&mut self, expected: &str) -> Result<(), String> {
        loop {
            let Ok((connection, command)) = self.commands.recv() else {
                return Err(format!("{expected:?} was not received"));
            };
            match command {
                None => return Err(format!("connection {connection} sent bytes that are not a command")),
                Some(command) if command == expected && !self.is_handshake(connection, &command) => {
                    self.last = connection;
                    self.note_handshake(connection, &command);
                    return Ok(());
                }
                Some(command) if self.reply_automatically(connection, &command) => {}
                Some(command) => return Err(format!("expected {expected:?}, received {command:?}")),
            }
        }
    }

    /// Returns whether a `GET` belongs to the handshake, which ends with a `PING`.
    fn is_handshake(&self, connection: usize, command: &str) -> bool {
        command.starts_with("GET ") && !self.shared().handshake_done.contains(&connection)
    }

    fn note_handshake(&self, connection: usize, command: &str) {
        if command == "PING" {
            self.shared().handshake_done.insert(connection);
        }
    }

    /// Replies to commands that scripts do not list. Returns whether the command is one of them.
    fn reply_automatically(&self, connection: usize, command: &str) -> bool {
        let reply = match command.split(' ').next() {
            _ if command == "INCRBY visits 0" => ":0\r\n",
            _ if is_probe(command) => "$1\r\n0\r\n",
            Some("PING") => "+PONG\r\n",
            Some("GET") if self.is_handshake(connection, command) => &self.total,
            Some("ROLE") => "*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n",
            Some("INFO") => "$11\r\nmaxmemory:0\r\n",
            Some("CLIENT" | "SELECT" | "AUTH") => "+OK\r\n",
            Some("SCRIPT") => self.loaded,
            _ => return false,
        };
        self.note_handshake(connection, command);
        self.send(connection, reply.as_bytes());
        true
    }

    /// Sends bytes, also if the peer has closed the connection.
    fn send(&self, connection: usize, bytes: &[u8]) {
        let stream = self.shared().streams.get(&connection).and_then(|stream| stream.try_clone().ok());
        if let Some(mut stream) = stream {
            let _ = stream.write_all(bytes);
        }
    }

    fn close(&self) {
        if let Some(stream) = self.shared().streams.remove(&self.last) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn fail(&self, reason: String) {
        let mut shared = self.shared();
        shared.failure = Some(reason);
        shared.streams.drain().for_each(|(_, stream)| {
            let _ = stream.shutdown(Shutdown::Both);
        });
    }

    fn shared(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Mutex<Shared>>, sender: &Sender<(usize, Option<String>)>) {
    for (number, stream) in (1..).zip(listener.incoming()) {
        let Ok(stream) = stream else { return };
        let reading = stream.try_clone().expect("a second handle on a socket");
        let mut state = shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if state.ended || state.failure.is_some() {
            return;
        }
        let _ = stream.set_nodelay(true);
        state.streams.insert(number, stream);
        let (shared, sender) = (shared.clone(), sender.clone());
        thread::spawn(move || read_commands(number, reading, &shared, &sender));
    }
}

fn read_commands(number: usize, stream: TcpStream, shared: &Mutex<Shared>, sender: &Sender<(usize, Option<String>)>) {
    let mut stream = BufReader::new(stream);
    while let Some(command) = read_command(&mut stream) {
        let command = command.map(|command| {
            let mut state = shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let command = state.count_batches(command);
            state.commands_received.push((number, command.clone()));
            command
        });
        if sender.send((number, command)).is_err() {
            return;
        }
    }
}

/// Reads one command; `Some(None)` if the bytes are not a command, `None` at the end of the connection.
#[expect(clippy::option_option, reason = "the end of the connection and an invalid command are different outcomes")]
pub(crate) fn read_command(stream: &mut impl BufRead) -> Option<Option<String>> {
    let count = match read_header(stream, b'*') {
        Some(count) => count,
        None if stream.fill_buf().is_ok_and(<[u8]>::is_empty) => return None,
        None => return Some(None),
    };
    let arguments: Option<Vec<String>> = (0..count).map(|_| read_argument(stream)).collect();
    Some(arguments.map(|arguments| canonical(&arguments)))
}

fn read_argument(stream: &mut impl BufRead) -> Option<String> {
    let length = read_header(stream, b'$')?;
    let mut bytes = vec![0; length + 2];
    stream.read_exact(&mut bytes).ok()?;
    let text = bytes.strip_suffix(b"\r\n")?;
    String::from_utf8(text.to_vec()).ok()
}

fn read_header(stream: &mut impl BufRead, mark: u8) -> Option<usize> {
    let mut line = Vec::new();
    stream.read_until(b'\n', &mut line).ok()?;
    let digits = line.strip_prefix(&[mark])?.strip_suffix(b"\r\n")?;
    let number: usize = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == digits).then_some(number)
}

/// Returns the form of a command that scripts use, for all encodings of an increment and of its receipt.
fn canonical(arguments: &[String]) -> String {
    match arguments {
        [name, _, two, key, _, _, number, by, floor @ ..] if name == "EVALSHA" && two == "2" => {
            // The sequence number has sixteen digits, so that numbers compare as text.
            let number = number.strip_prefix('1').filter(|rest| rest.len() == 15).expect("a number of a batch");
            let floor = match floor {
                [] => String::new(),
                [zero, floor] if zero == "0" => format!(" floor {floor}"),
                _ => panic!("not the arguments of a counter without a limit: {arguments:?}"),
            };
            format!("ONCE {key} {by}{floor} #{}", number.trim_start_matches('0'))
        }
        [name, key, one] if name == "INCRBY" && one == "1" => format!("INCR {key}"),
        _ => arguments.join(" "),
    }
}
