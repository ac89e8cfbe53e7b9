//! notch as a process: started with only the settings of a test, observed through its log, killed at the end of the
//! test.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{fs, thread};

use super::client::{Address, Client, Response};
use super::{Folder, TIMEOUT, tls, wait_until};

/// Whether notch listens on a Unix socket in this suite.
pub(crate) const OVER_UNIX: bool = matches!(env!("CARGO_CRATE_NAME").as_bytes(), b"unix");

/// Settings to start notch with. A clone has the same folder, so the same ledger.
#[derive(Clone)]
pub(crate) struct Settings {
    folder: Arc<Folder>,
    variables: BTreeMap<String, String>,
    wrapper: Vec<String>,
    is_plain: bool,
}

impl Settings {
    /// Settings that count into `./notch.ledger`, by default, in its own folder.
    pub(crate) fn ledger() -> Self {
        let folder = Folder::new("notch");
        let listen = if OVER_UNIX { format!("unix:{}", folder.file("s").display()) } else { "127.0.0.1:0".into() };
        let variables = BTreeMap::from([("LISTEN".into(), listen)]);
        Self { folder: Arc::new(folder), variables, wrapper: Vec::new(), is_plain: false }
    }

    /// Settings that count in the Redis on this port of the loopback.
    pub(crate) fn redis(port: u16) -> Self {
        Self::ledger().with("REDIS_HOST", "127.0.0.1").with("REDIS_PORT", &port.to_string())
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.variables.insert(name.into(), value.into());
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.variables.remove(name);
        self
    }

    /// Connects to Redis without TLS, also if notch is built with it.
    pub(crate) fn without_tls(mut self) -> Self {
        self.is_plain = true;
        self
    }

    /// Starts notch through another program: `command` is its path and arguments.
    pub(crate) fn with_wrapper(mut self, command: &[&str]) -> Self {
        self.wrapper = command.iter().copied().map(String::from).collect();
        self
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns the path of the ledger, unless `LEDGER` is set.
    pub(crate) fn ledger_file(&self) -> PathBuf {
        self.folder.file("notch.ledger")
    }

    pub(crate) fn write_ledger(&self, bytes: &[u8]) {
        fs::write(self.ledger_file(), bytes).expect("a ledger written for the test");
    }

    pub(crate) fn read_ledger(&self) -> Vec<u8> {
        fs::read(self.ledger_file()).expect("the ledger that notch wrote")
    }

    /// Starts notch and waits until it logs its address.
    pub(crate) fn start(&self) -> Notch {
        match self.try_start() {
            Ok(notch) => notch,
            Err(ended) => panic!("notch did not start: {ended:?}"),
        }
    }

    /// Starts notch; returns `Err` if it ends instead of listening.
    pub(crate) fn try_start(&self) -> Result<Notch, Exit> {
        let mut command = self.command(&[]);
        if !self.is_plain {
            command.env_clear().envs(tls::translate(&self.variables, self.folder()));
        }
        let mut child = command.stdout(Stdio::null()).spawn().expect("the built binary runs");
        let log = Log::of(child.stderr.take().expect("its stderr is a pipe"));
        let address = wait_until("notch logs its address", || {
            let ended = child.try_wait().expect("the child is ours to wait for").is_some() && log.ended();
            log.lines().iter().find_map(|line| Address::in_line(line)).map(Some).or(ended.then_some(None))
        });
        match address {
            Some(address) => Ok(Notch { child, log, address, settings: self.clone() }),
            None => Err(Exit {
                code: child.wait().expect("the child is ours to wait for").code(),
                stdout: String::new(),
                stderr: log.lines().join("\n"),
            }),
        }
    }

    /// Runs notch until it ends by itself; fails if it does not.
    pub(crate) fn run(&self, arguments: &[&str]) -> Exit {
        self.run_with_input(arguments, Stdio::null())
    }

    /// Does the same with an input.
    pub(crate) fn run_with_input(&self, arguments: &[&str], input: Stdio) -> Exit {
        let mut command = self.command(arguments);
        let mut child = command.stdin(input).stdout(Stdio::piped()).spawn().expect("the built binary runs");
        let out = reader(child.stdout.take().expect("its stdout is a pipe"));
        let err = reader(child.stderr.take().expect("its stderr is a pipe"));
        let Some(status) = wait_for(&mut child) else {
            let _ = child.kill();
            let _ = child.wait();
            panic!("notch {arguments:?} should have ended; its log: {:?}", err.join());
        };
        let text = |message: thread::JoinHandle<String>| message.join().expect("the reader does not panic");
        Exit { code: status.code(), stdout: text(out), stderr: text(err) }
    }

    /// Starts notch with arguments, and leaves it to the caller.
    pub(crate) fn spawn(&self, arguments: &[&str], input: Stdio) -> Child {
        self.command(arguments).stdin(input).stdout(Stdio::null()).spawn().expect("the built binary runs")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let binary = env!("CARGO_BIN_EXE_notch");
        let mut command = match self.wrapper.split_first() {
            None => Command::new(binary),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(binary);
                command
            }
        };
        command.args(arguments).current_dir(self.folder()).env_clear().envs(&self.variables);
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        command
    }
}

/// Method, path and header fields.
pub(crate) type Request<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)]);

/// Exit code and output of a run of notch.
#[derive(Debug)]
pub(crate) struct Exit {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A running notch. Killed when dropped; its log is shown when the test has failed.
pub(crate) struct Notch {
    child: Child,
    log: Log,
    pub(crate) address: Address,
    settings: Settings,
}

impl Notch {
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns whether the process is running.
    pub(crate) fn is_running(&self) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap_or_default();
        status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.address)
    }

    /// Sends one request on a new connection.
    pub(crate) fn request(&self, method: &str, path: &str, fields: &[(&str, &str)]) -> Response {
        self.client().request(method, path, fields)
    }

    /// Sends all requests at the same time, each on a new connection.
    pub(crate) fn request_at_once(&self, requests: &[Request<'_>]) -> Vec<Response> {
        let send = |(method, path, fields): &Request<'_>| {
            let mut client = self.client();
            client.send_request(method, path, fields);
            client
        };
        let mut clients: Vec<_> = requests.iter().map(send).collect();
        clients.iter_mut().zip(requests).map(|(client, (method, ..))| client.response_to(method)).collect()
    }

    pub(crate) fn get(&self, path: &str) -> Response {
        self.request("GET", path, &[])
    }

    /// Sends a visit that must be counted, and returns its number.
    pub(crate) fn visit(&self) -> i64 {
        self.get("/count").number()
    }

    /// Sends visits until one is counted, and returns its number. All before must be certainly not counted: 503, never
    /// 504.
    pub(crate) fn visit_when_it_counts(&self) -> i64 {
        wait_until("a visit is counted", || {
            let response = self.get("/count");
            assert!(matches!(response.status, 200 | 503), "neither counted nor certainly not counted: {response:?}");
            (response.status == 200).then(|| response.number())
        })
    }

    pub(crate) fn total(&self) -> i64 {
        self.get("/total").number()
    }

    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lines()
    }

    /// Returns the open files of the process: paths, `socket:[1234]`, and so on.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(format!("/proc/{}/fd", self.id())).expect("/proc is mounted");
        // A file may be closed meanwhile.
        files.filter_map(|file| fs::read_link(file.ok()?.path()).ok()).collect()
    }

    pub(crate) fn resident_kilobytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).expect("/proc is mounted");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has memory");
        line.trim().trim_end_matches(" kB").parse().expect("kilobytes")
    }

    /// Sets a soft limit of the running process, by its name in `prlimit`: `fsize`, `nofile`.
    pub(crate) fn limit(&self, name: &str, value: &str) {
        let limit = format!("--{name}={value}:");
        let set = Command::new("prlimit").args(["--pid", &self.id().to_string(), &limit]).status();
        assert!(set.is_ok_and(|status| status.success()), "prlimit is missing (Debian: apt-get install util-linux)");
    }

    /// Sends a signal, by its name in `kill`: `TERM`, `INT`.
    pub(crate) fn signal(&self, name: &str) {
        signal(self.id(), name);
    }

    /// Kills notch, and returns the settings to start it again.
    pub(crate) fn kill(mut self) -> Settings {
        self.child.kill().expect("the child is ours to kill");
        self.child.wait().expect("the child is ours to wait for");
        self.settings.clone()
    }

    /// Sends SIGTERM, waits for the end, and returns the settings to start it again.
    pub(crate) fn stop(self) -> Settings {
        self.signal("TERM");
        let settings = self.settings.clone();
        let (status, log) = self.ended();
        assert_eq!(status.code(), Some(0), "exit code 0 after SIGTERM; its log: {log:#?}");
        settings
    }

    /// Waits for the end of the process; returns its status and whole log.
    pub(crate) fn ended(mut self) -> (ExitStatus, Vec<String>) {
        let status = wait_for(&mut self.child).expect("notch should have ended by now");
        wait_until("the log ends with the process", || self.log.ended().then_some(()));
        (status, self.log.lines())
    }
}

impl Drop for Notch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("log of notch:\n  {}", self.log.lines().join("\n  "));
        }
    }
}

/// Returns whether the tests run as root, whom no mode of a file stops.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").expect("/proc is mounted").uid() == 0
}

/// A wrapper that runs a program as a user without rights.
pub(crate) const NOBODY: [&str; 4] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];

/// Sends a signal with `kill`.
pub(crate) fn signal(process: u32, name: &str) {
    let sent = Command::new("sh").args(["-c", "kill -$0 $1", name, &process.to_string()]).status();
    assert!(sent.is_ok_and(|status| status.success()), "kill -{name} {process}");
}

/// Stops a process with SIGSTOP while `meanwhile` runs.
pub(crate) fn while_stopped<T>(process: u32, meanwhile: impl FnOnce() -> T) -> T {
    signal(process, "STOP");
    let result = meanwhile();
    signal(process, "CONT");
    result
}

/// The lines logged so far, and whether the log has ended.
#[derive(Clone)]
struct Log(Arc<Mutex<(Vec<String>, bool)>>);

impl Log {
    fn of(stream: impl Read + Send + 'static) -> Self {
        let log = Self(Arc::default());
        let shared = log.clone();
        thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            while stream.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
                shared.0.lock().expect("no holder panics").0.push(text);
                line.clear();
            }
            shared.0.lock().expect("no holder panics").1 = true;
        });
        log
    }

    fn lines(&self) -> Vec<String> {
        self.0.lock().expect("no holder panics").0.clone()
    }

    fn ended(&self) -> bool {
        self.0.lock().expect("no holder panics").1
    }
}

fn reader(mut stream: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn wait_for(child: &mut Child) -> Option<ExitStatus> {
    let end = Instant::now() + TIMEOUT;
    while Instant::now() < end {
        if let Some(status) = child.try_wait().expect("the child is ours to wait for") {
            return Some(status);
        }
        thread::sleep(Duration::from_millis(2));
    }
    None
}
