//! A real `redis-server` for one test, on a free port of the loopback, in its own folder.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};
use std::{process, thread};

use super::notch::while_stopped;
use super::{Folder, TIMEOUT, wait_until};

/// Message if there is no server with all commands that the tests need.
const MISSING: &str = "redis-server is missing, and these tests do not pass without it: \
    install Redis 7 or newer (Debian: apt-get install redis-server)";

pub(crate) struct Redis {
    child: Option<Child>,
    folder: Folder,
    address: &'static str,
    pub(crate) port: u16,
    options: Vec<String>,
    password: Option<String>,
}

impl Redis {
    /// Starts a Redis without persistence; `options` are further arguments of its command line.
    pub(crate) fn start(options: &[&str]) -> Self {
        let mut redis = Self {
            child: None,
            folder: Folder::new("redis"),
            address: "127.0.0.1",
            port: 0,
            options: options.iter().copied().map(String::from).collect(),
            password: None,
        };
        let place = options.iter().position(|word| *word == "--requirepass");
        redis.password = place.map(|place| options[place + 1].to_owned());
        // Another process may take the port before Redis does: then the next port is tried.
        for _ in 0..20 {
            redis.port = free_port();
            if redis.launch() {
                return redis;
            }
        }
        panic!("no redis-server would start on any of twenty free ports");
    }

    /// Starts a Redis that writes each command to disk before it replies.
    pub(crate) fn durable() -> Self {
        Self::start(&["--appendonly", "yes", "--appendfsync", "always"])
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("a Redis is killed once");
        child.kill().expect("the child is ours to kill");
        child.wait().expect("the child is ours to wait for");
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.as_ref().expect("a Redis that runs").id()
    }

    /// Stops Redis with SIGSTOP while `meanwhile` runs.
    pub(crate) fn while_stopped<T>(&self, meanwhile: impl FnOnce() -> T) -> T {
        while_stopped(self.id(), meanwhile)
    }

    /// Starts Redis again on the same port with the data of its folder.
    pub(crate) fn restart(&mut self) {
        wait_until("the port is free again for redis-server", || self.launch().then_some(()));
    }

    /// As [`Self::restart`], on another address of the loopback.
    pub(crate) fn restart_at(&mut self, address: &'static str) {
        self.address = address;
        self.restart();
    }

    /// Executes one command and returns the reply as text: an error begins with `-`, null is `(nil)`.
    pub(crate) fn query(&self, command: &str) -> String {
        self.try_query(command).unwrap_or_else(|why| panic!("{command}: {why}"))
    }

    /// Executes a command that must succeed, and ignores the reply.
    pub(crate) fn execute(&self, command: &str) {
        let reply = self.query(command);
        assert!(!reply.starts_with('-'), "{command}: {reply}");
    }

    /// As [`Self::query`], in another database.
    pub(crate) fn query_in(&self, database: u32, command: &str) -> String {
        let mut talk = self.connect().expect("Redis takes connections");
        talk.query(&format!("SELECT {database}")).expect("a database of that number");
        talk.query(command).unwrap_or_else(|why| panic!("{command}: {why}"))
    }

    /// Sends one command and does not wait for its reply.
    pub(crate) fn send_without_waiting(&self, command: &str) {
        let mut talk = self.connect().expect("Redis takes connections");
        talk.send(command).expect("Redis reads commands");
        thread::spawn(move || talk.reply());
    }

    /// Returns how often a command was called, from `INFO commandstats`.
    pub(crate) fn calls(&self, command: &str) -> u64 {
        let stats = self.query("INFO commandstats");
        let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
        line.map_or(0, |rest| rest.split(',').next().and_then(|n| n.parse().ok()).expect("calls are counted"))
    }

    pub(crate) fn info(&self, name: &str) -> String {
        let info = self.query("INFO everything");
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {name} in INFO")).trim().to_owned()
    }

    pub(crate) fn remove_folder(&self) {
        std::fs::remove_dir_all(self.folder.path()).expect("the folder is ours to remove");
    }

    /// Starts Redis again on the same port with an empty folder, as after the loss of its disk.
    pub(crate) fn restart_empty(&mut self) {
        self.folder = Folder::new("redis");
        self.restart();
    }

    fn try_query(&self, command: &str) -> Result<String, std::io::Error> {
        self.connect()?.query(command)
    }

    fn connect(&self) -> Result<Connection, std::io::Error> {
        let mut talk = Connection::open(self.address, self.port)?;
        if let Some(password) = &self.password {
            talk.query(&format!("AUTH \"{password}\""))?;
        }
        Ok(talk)
    }

    /// Starts the server; returns `false` if it ended instead of accepting commands.
    fn launch(&mut self) -> bool {
        let mut command = Command::new(std::env::var_os("REDIS_SERVER").unwrap_or_else(|| "redis-server".into()));
        command.args(["--port", &self.port.to_string(), "--bind", self.address, "--save", "", "--dir"]);
        command.arg(self.folder.path()).args(["--logfile", "redis.log"]).args(&self.options);
        let mut child = match command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn() {
            Ok(child) => child,
            Err(error) if error.kind() == ErrorKind::NotFound => panic!("{MISSING}"),
            Err(error) => panic!("redis-server does not start: {error}"),
        };
        let id = format!("process_id:{}\r\n", child.id());
        let up = wait_until("redis-server answers or ends", || match child.try_wait().expect("the child is ours") {
            Some(_) => Some(false),
            None => self.try_query("INFO server").is_ok_and(|info| info.contains(&id)).then_some(true),
        });
        self.child = up.then_some(child);
        up
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Returns a port without a listener, outside the range that the kernel uses for outgoing connections.
pub(crate) fn free_port() -> u16 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock past 1970");
    let start = u64::from(now.subsec_nanos()) ^ (u64::from(process::id()) << 7);
    let ports = (0..5_000).map(|step| 20_000 + ((start + step * 7) % 10_000) as u16);
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    ports.into_iter().find(free).expect("a free port between 20000 and 30000")
}

/// One connection to a Redis.
struct Connection(BufReader<TcpStream>);

impl Connection {
    fn open(address: &str, port: u16) -> std::io::Result<Self> {
        let stream = TcpStream::connect((address, port))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        Ok(Self(BufReader::new(stream)))
    }

    fn query(&mut self, command: &str) -> std::io::Result<String> {
        self.send(command)?;
        self.reply()
    }

    /// Sends an inline command, which Redis splits as a shell would.
    fn send(&mut self, command: &str) -> std::io::Result<()> {
        self.0.get_mut().write_all(format!("{command}\r\n").as_bytes())
    }

    fn reply(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end();
        let (kind, rest) = line.split_at_checked(1).ok_or(ErrorKind::InvalidData)?;
        match kind {
            "+" | ":" => Ok(rest.to_owned()),
            "-" => Ok(line.to_owned()),
            "$" | "*" if rest == "-1" => Ok("(nil)".to_owned()),
            "$" => {
                let mut bytes = vec![0; rest.parse::<usize>().expect("a length") + 2];
                self.0.read_exact(&mut bytes)?;
                bytes.truncate(bytes.len() - 2);
                Ok(String::from_utf8_lossy(&bytes).into_owned())
            }
            "*" => {
                let items = (0..rest.parse::<usize>().expect("a length")).map(|_| self.reply());
                Ok(items.collect::<Result<Vec<_>, _>>()?.join("\n"))
            }
            _ => Err(ErrorKind::InvalidData.into()),
        }
    }
}
