//! A real `redis-server` for one test, on a free port of the loopback, in its own folder.
//!
//! A [`Recipe`] starts another program than that, on another address, or through a wrapper.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use std::{env, fs, process, thread};

use super::notch::{signal, while_stopped};
use super::{Folder, TIMEOUT, tls, wait_until};

/// Message if there is no server with all commands that the tests need.
const MISSING: &str = "redis-server is missing, and these tests do not pass without it: \
    install Redis 7 or newer (Debian: apt-get install redis-server)";

/// How a server is started.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    /// The program, after the command of a wrapper.
    pub(crate) program: Vec<OsString>,
    /// The address that it listens on, and on which the test connects to it.
    pub(crate) address: String,
    /// Content of a configuration file that the server may change.
    pub(crate) file: Option<String>,
    /// Arguments after the port, the address and the folder. [`SECOND_PORT`] stands for another free port.
    pub(crate) options: Vec<String>,
    /// Whether notch is to connect without TLS, also if it is built with it.
    pub(crate) is_plain: bool,
}

impl Default for Recipe {
    /// `redis-server`, or `REDIS_SERVER`, on the loopback.
    fn default() -> Self {
        let program = env::var_os("REDIS_SERVER").unwrap_or_else(|| "redis-server".into());
        Self { program: vec![program], address: "127.0.0.1".into(), file: None, options: Vec::new(), is_plain: false }
    }
}

impl Recipe {
    pub(crate) fn with(mut self, options: &[&str]) -> Self {
        self.options.extend(options.iter().copied().map(String::from));
        self
    }
}

pub(crate) struct Redis {
    child: Option<Child>,
    folder: Folder,
    recipe: Recipe,
    /// The port for notch.
    pub(crate) port: u16,
    /// The port for the commands of the test and of other servers: the same, unless notch connects with TLS.
    pub(crate) plain_port: u16,
    second_port: u16,
    suspended: bool,
    password: Option<String>,
}

impl Redis {
    /// Starts a Redis without persistence; `options` are further arguments of its command line.
    pub(crate) fn start(options: &[&str]) -> Self {
        Self::of(Recipe::default().with(options))
    }

    /// Starts a server on a free port.
    pub(crate) fn of(recipe: Recipe) -> Self {
        let index = recipe.options.iter().position(|option| option == "--requirepass");
        let password = index.map(|index| recipe.options[index + 1].clone());
        let mut redis = Self {
            child: None,
            folder: Folder::new("redis"),
            recipe,
            port: 0,
            plain_port: 0,
            second_port: 0,
            suspended: false,
            password,
        };
        // Another process may bind the port before Redis does: then the next port is tried.
        for _ in 0..20 {
            redis.port = free_port();
            let is_plain = redis.recipe.is_plain || !tls::HAS_TWO_PORTS;
            redis.plain_port = if is_plain { redis.port } else { free_port() };
            redis.second_port = free_port();
            redis.write_file();
            if redis.launch() {
                return redis;
            }
        }
        panic!("{:?} started on none of twenty free ports; its log: {}", redis.recipe, redis.log());
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

    /// Returns whether the server was started and not killed.
    pub(crate) fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Returns the address that the server listens on.
    pub(crate) fn host(&self) -> &str {
        &self.recipe.address
    }

    /// Returns the address and port as `host:port`.
    pub(crate) fn address(&self) -> String {
        format!("{}:{}", self.recipe.address, self.port)
    }

    /// Returns what the server has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.file("redis.log")).unwrap_or_default()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.as_ref().expect("a Redis that runs").id()
    }

    /// Stops Redis with SIGSTOP until [`Self::resume`]; queries fail meanwhile.
    pub(crate) fn suspend(&mut self) {
        signal(self.id(), "STOP");
        self.suspended = true;
    }

    pub(crate) fn resume(&mut self) {
        signal(self.id(), "CONT");
        self.suspended = false;
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
    pub(crate) fn restart_at(&mut self, address: &str) {
        self.recipe.address = address.to_owned();
        self.restart();
    }

    /// Executes one command and returns the reply as text: an error begins with `-`, null is `(nil)`.
    pub(crate) fn query(&self, command: &str) -> String {
        self.try_query(command).unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// Executes a command that must succeed, and ignores the reply.
    pub(crate) fn execute(&self, command: &str) {
        let reply = self.query(command);
        assert!(!reply.starts_with('-'), "{command}: {reply}");
    }

    /// As [`Self::query`], in another database.
    pub(crate) fn query_in(&self, database: u32, command: &str) -> String {
        let mut connection = self.connect().expect("Redis accepts connections");
        connection.query(&format!("SELECT {database}")).expect("a database of that number");
        connection.query(command).unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// Sends one command and does not wait for its reply.
    pub(crate) fn send_without_waiting(&self, command: &str) {
        let mut connection = self.connect().expect("Redis accepts connections");
        connection.send(command).expect("Redis reads commands");
        thread::spawn(move || connection.reply());
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
        fs::remove_dir_all(self.folder.path()).expect("the folder is ours to remove");
    }

    /// Starts Redis again on the same port with an empty folder, as after the loss of its disk.
    pub(crate) fn restart_empty(&mut self) {
        self.folder = Folder::new("redis");
        self.restart();
    }

    /// As [`Self::query`], for a server that may be gone.
    pub(crate) fn try_query(&self, command: &str) -> Result<String, std::io::Error> {
        self.connect()?.query(command)
    }

    fn connect(&self) -> Result<Connection, std::io::Error> {
        // The kernel would accept the connection.
        if self.suspended {
            return Err(ErrorKind::ConnectionRefused.into());
        }
        let mut connection = Connection::open(&self.recipe.address, self.plain_port)?;
        if let Some(password) = &self.password {
            connection.query(&format!("AUTH \"{password}\""))?;
        }
        Ok(connection)
    }

    fn write_file(&self) {
        if let Some(content) = &self.recipe.file {
            fs::write(self.folder.file(FILE), content).expect("a file can be written");
        }
    }

    /// Starts the server; returns `false` if it ended instead of accepting commands.
    fn launch(&mut self) -> bool {
        let Recipe { program, address, file, options, .. } = &self.recipe;
        let mut command = Command::new(&program[0]);
        command.args(&program[1..]).args(file.iter().map(|_| self.folder.file(FILE)));
        if self.port == self.plain_port {
            command.args(["--port", &self.port.to_string()]);
        } else {
            command.args(tls::listen_on(self.port, self.plain_port, self.folder.path()));
        }
        command.args(["--bind", address, "--dir"]).arg(self.folder.path());
        command.args(["--logfile", "redis.log"]);
        if file.is_none() {
            command.args(["--save", ""]);
        }
        command.args(options.iter().map(|option| option.replace(SECOND_PORT, &self.second_port.to_string())));
        let mut child = match command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn() {
            Ok(child) => child,
            Err(error) if error.kind() == ErrorKind::NotFound => panic!("{MISSING}"),
            Err(error) => panic!("{program:?} does not start: {error}"),
        };
        let id = format!("process_id:{}\r\n", child.id());
        let up = wait_until("redis-server replies or ends", || match child.try_wait().expect("the child is ours") {
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
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().rev().take(LAST_LINES).collect();
            let lines: Vec<_> = lines.into_iter().rev().collect();
            eprintln!("end of the log of {}:\n  {}", self.address(), lines.join("\n  "));
        }
    }
}

/// Ports that [`free_port`] has returned.
static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// Returns a port without a listener, outside the range that the kernel uses for outgoing connections.
pub(crate) fn free_port() -> u16 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock past 1970");
    let start = u64::from(now.subsec_nanos()) ^ (u64::from(process::id()) << 7);
    let ports = (0..5_000).map(|step| 20_000 + ((start + step * 7) % 10_000) as u16);
    // Tests run side by side: the port of a server that was killed and will be started again is not free.
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let free = |port: &u16| !given.contains(port) && TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let port = ports.into_iter().find(free).expect("a free port between 20000 and 30000");
    given.insert(port);
    port
}

/// How much of the log of a server is shown after a failure.
const LAST_LINES: usize = 40;

/// Stands for the number of a second port in the options of a [`Recipe`].
pub(crate) const SECOND_PORT: &str = "{second port}";

/// Name of the configuration file in the folder of the server.
const FILE: &str = "server.conf";

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
