//! A fake server of Redis or a Sentinel: it counts as the script of notch does, unless a test replies instead.
//!
//! Several fakes can share their [`Data`], as a primary and a replica that is never behind, or as nodes of a cluster.

use std::collections::HashMap;
use std::io::{BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::script::read_command;
use super::tls::Front;

/// What is done with a command.
pub(crate) enum Action {
    /// The fake executes it.
    Execute,
    /// It replies with this, which ends without CR LF, and does not execute the command.
    Reply(String),
    /// It executes the command, and closes the connection without a reply.
    Lose,
    /// It does not reply.
    Ignore,
}

/// Returns an error reply.
pub(crate) fn error(line: &str) -> Action {
    Action::Reply(format!("-{line}"))
}

/// The counter of fakes, and its receipts by sequence number.
#[derive(Default)]
pub(crate) struct Data {
    pub(crate) total: i64,
    receipts: HashMap<String, i64>,
}

impl Data {
    /// Executes `ONCE visits 1 [floor 7] #2`. Returns the total before.
    fn count(&mut self, command: &str) -> i64 {
        let words: Vec<_> = command.split(' ').collect();
        let sequence = words[words.len() - 1];
        if let Some(&before) = self.receipts.get(sequence) {
            return before;
        }
        if let ["floor", floor] = words[3..words.len() - 1] {
            self.total = self.total.max(floor.parse().expect("a floor"));
        }
        let before = self.total;
        self.total += words[2].parse::<i64>().expect("a number of visits");
        self.receipts.insert(sequence.to_owned(), before);
        before
    }
}

pub(crate) struct Fake {
    pub(crate) port: u16,
    _front: Front,
    /// Every command with the number of its connection, the first being 1.
    commands: Arc<Mutex<Vec<(usize, String)>>>,
}

impl Fake {
    /// Starts a fake on the IPv4 loopback.
    pub(crate) fn start(data: &Arc<Mutex<Data>>, act: impl Fn(&str) -> Action + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0", data, act)
    }

    pub(crate) fn start_at(
        address: &str,
        data: &Arc<Mutex<Data>>,
        act: impl Fn(&str) -> Action + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).expect("a port of the loopback");
        let front = Front::before(&listener);
        let (data, act, commands) = (data.clone(), Arc::new(act), Arc::new(Mutex::new(Vec::new())));
        let received = commands.clone();
        thread::spawn(move || {
            for (number, stream) in (1..).zip(listener.incoming()) {
                let Ok(stream) = stream else { return };
                let (data, act, received) = (data.clone(), act.clone(), received.clone());
                thread::spawn(move || serve(number, stream, &data, &*act, &received));
            }
        });
        Self { port: front.port, _front: front, commands }
    }

    /// Starts a Sentinel that names this port of the loopback.
    pub(crate) fn sentinel(primary: u16) -> Self {
        Self::start(&Arc::default(), move |command| match command {
            "SENTINEL get-master-addr-by-name mymaster" => {
                let port = primary.to_string();
                Action::Reply(format!("*2\r\n$9\r\n127.0.0.1\r\n${}\r\n{port}", port.len()))
            }
            _ => Action::Execute,
        })
    }

    pub(crate) fn commands(&self) -> Vec<String> {
        lock(&self.commands).iter().map(|(_, command)| command.clone()).collect()
    }

    /// Returns how many connections have sent a command.
    pub(crate) fn connections(&self) -> usize {
        lock(&self.commands).iter().map(|(number, _)| *number).max().unwrap_or(0)
    }

    /// Returns how many commands begin with these words.
    pub(crate) fn count(&self, words: &str) -> usize {
        self.commands().iter().filter(|command| command.starts_with(words)).count()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(
    number: usize,
    mut stream: TcpStream,
    data: &Mutex<Data>,
    act: &(dyn Fn(&str) -> Action + Send + Sync),
    received: &Mutex<Vec<(usize, String)>>,
) {
    let _ = stream.set_nodelay(true);
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle on a socket"));
    while let Some(Some(command)) = read_command(&mut reader) {
        lock(received).push((number, command.clone()));
        let reply = match act(&command) {
            Action::Execute => execute(&command, data),
            Action::Reply(reply) => reply,
            Action::Lose => {
                execute(&command, data);
                let _ = stream.shutdown(std::net::Shutdown::Both);
                return;
            }
            Action::Ignore => continue,
        };
        if stream.write_all(format!("{reply}\r\n").as_bytes()).is_err() {
            return;
        }
    }
}

/// Executes a command, and returns the reply without its CR LF.
pub(crate) fn execute(command: &str, data: &Mutex<Data>) -> String {
    let bulk = |number: i64| {
        let digits = number.to_string();
        format!("${}\r\n{digits}", digits.len())
    };
    match command.split(' ').next().unwrap_or_default() {
        "SCRIPT" => "$40\r\n0123456789abcdef0123456789abcdef01234567".to_owned(),
        "INFO" => "$11\r\nmaxmemory:0".to_owned(),
        "GET" => bulk(lock(data).total),
        "ROLE" => "*3\r\n$6\r\nmaster\r\n:0\r\n*0".to_owned(),
        "PING" => "+PONG".to_owned(),
        "AUTH" | "SELECT" => "+OK".to_owned(),
        "ONCE" => bulk(lock(data).count(command)),
        "WAIT" => ":1".to_owned(),
        _ => "-ERR unknown command".to_owned(),
    }
}
