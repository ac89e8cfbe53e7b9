//! `notch-redis` as a process, started with the data folder, the port and the variables of a test.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::net::TcpStream;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::{env, thread};

use crate::support::{Folder, Settings, free_port, signal, wait_until, while_stopped};

/// A data folder, and the server that may run on it. The server is killed when this is dropped.
pub(crate) struct Store {
    /// Programs under their names in the image, the configuration, secrets and the log.
    tools: Folder,
    data: Folder,
    pub(crate) port: u16,
    variables: BTreeMap<String, OsString>,
    child: Option<Child>,
}

/// How one run of `notch-redis` ended.
#[derive(Debug)]
pub(crate) struct Exit {
    pub(crate) success: bool,
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Store {
    /// Returns a store with an empty data folder, not started. Its file is rewritten as often as Redis can, slowed down
    /// so that a rewrite is in progress during most visits.
    pub(crate) fn new() -> Self {
        let tools = Folder::new("image");
        let server = server();
        for name in ["redis-server", "redis-check-aof", "redis-check-rdb"] {
            symlink(&server, tools.file(name)).expect("a link to the server under test");
        }
        let store =
            Self { tools, data: Folder::new("data"), port: free_port(), variables: BTreeMap::new(), child: None };
        store.configure("auto-aof-rewrite-min-size 2kb\nrdb-key-save-delay 30000\n");
        store
    }

    pub(crate) fn with(self, name: &str, value: &str) -> Self {
        self.with_bytes(name, value)
    }

    /// As [`Self::with`], for a value that need not be UTF-8.
    pub(crate) fn with_bytes(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.set(name, OsStr::from_bytes(value.as_ref()));
        self
    }

    /// Sets a variable to the name of a file with this content.
    pub(crate) fn with_file(mut self, name: &str, content: impl AsRef<[u8]>) -> Self {
        let file = self.write_file(name, content.as_ref());
        self.set(name, file.as_os_str());
        self
    }

    /// Sets a variable for all later runs.
    pub(crate) fn set(&mut self, name: &str, value: &OsStr) {
        self.variables.insert(name.into(), value.into());
    }

    pub(crate) fn unset(&mut self, name: &str) {
        self.variables.remove(name);
    }

    /// Writes a file next to the data folder, removed with this store.
    pub(crate) fn write_file(&self, name: &str, content: &[u8]) -> PathBuf {
        let file = self.tools.file(name);
        fs::write(&file, content).expect("a file written for the test");
        file
    }

    /// Returns a store with the same settings and an empty data folder: a new machine.
    pub(crate) fn on_new_machine(&self) -> Self {
        let mut store = Self::new();
        store.variables = self.variables.clone();
        store
    }

    /// Writes the configuration: that of the image, with a folder and a port of this test, and further lines.
    pub(crate) fn configure(&self, more: &str) {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("redis/redis.conf");
        let shipped = fs::read_to_string(shipped).expect("the image's configuration");
        let own = shipped.replace("\ndir /data\n", &format!("\ndir {}\n", self.data.path().display()));
        assert_ne!(own, shipped, "the folder of the image");
        let more = format!("port {}\nbind 127.0.0.1\n{more}", self.port);
        fs::write(self.conf(), own + &more).expect("a configuration written for the test");
    }

    fn conf(&self) -> PathBuf {
        self.tools.file("redis.conf")
    }

    fn log_file(&self) -> PathBuf {
        self.tools.file("log")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.data.file(name)
    }

    /// `notch-redis` with these arguments, not started.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("redis/notch-redis"));
        let path = env::var("PATH").expect("a search path");
        command.env_clear().env("PATH", format!("{}:{path}", self.tools.path().display()));
        command.env("NOTCH_REDIS_CONF", self.conf()).envs(&self.variables).args(arguments).stdin(Stdio::null());
        command
    }

    /// Starts the server; fails with its log when it ends instead of becoming healthy.
    pub(crate) fn try_start(&mut self) -> Result<String, String> {
        let log = OpenOptions::new().create(true).write(true).truncate(true).open(self.log_file()).expect("a log");
        let also = log.try_clone().expect("another handle of the log");
        let mut child = self.command(&[]).stdout(log).stderr(also).spawn().expect("a shell");
        let healthy = wait_until("notch-redis is healthy or ends", || {
            let ended = child.try_wait().expect("our own child").is_some();
            // A health check starts several processes, so it waits until the port is open.
            let healthy = !ended && TcpStream::connect(("127.0.0.1", self.port)).is_ok() && self.is_healthy();
            healthy.then_some(true).or(ended.then_some(false))
        });
        if healthy {
            self.child = Some(child);
            Ok(self.log())
        } else {
            assert!(!child.wait().expect("our own child").success(), "an end without a start is a failure");
            Err(self.log())
        }
    }

    pub(crate) fn start(&mut self) -> String {
        self.try_start().unwrap_or_else(|log| panic!("notch-redis did not start: {log}"))
    }

    /// Starts the server, which must be rejected, and returns the log.
    pub(crate) fn start_and_fail(&mut self) -> String {
        let log = self.try_start().err();
        log.unwrap_or_else(|| panic!("notch-redis started: {}", self.log()))
    }

    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    pub(crate) fn is_healthy(&self) -> bool {
        self.run(&["healthcheck"]).success
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("a server that runs");
        child.kill().expect("our own child");
        child.wait().expect("our own child");
    }

    /// SIGTERM, as `docker stop` sends it.
    pub(crate) fn stop(&mut self) {
        let mut child = self.child.take().expect("a server that runs");
        signal(child.id(), "TERM");
        let status = wait_until("the server ends", || child.try_wait().expect("our own child"));
        assert!(status.success(), "{status}: {}", self.log());
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.as_ref().expect("a server that runs").id()
    }

    pub(crate) fn while_stopped<T>(&self, meanwhile: impl FnOnce() -> T) -> T {
        while_stopped(self.id(), meanwhile)
    }

    /// Runs `notch-redis` with these arguments to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Exit {
        Exit::of(self.command(arguments).output().expect("a shell"))
    }

    /// Runs it with `input` as its standard input.
    pub(crate) fn run_with(&self, arguments: &[&str], input: &[u8]) -> Exit {
        let file = self.tools.file("input");
        fs::write(&file, input).expect("an input written for the test");
        let input = File::open(&file).expect("the input just written");
        Exit::of(self.command(arguments).stdin(input).output().expect("a shell"))
    }

    /// As [`Self::run`], with `output` as its standard output.
    pub(crate) fn run_into(&self, arguments: &[&str], output: &str) -> Exit {
        let output = OpenOptions::new().write(true).open(output).expect("a device");
        Exit::of(self.command(arguments).stdout(output).stderr(Stdio::piped()).output().expect("a shell"))
    }

    /// Returns the output of `notch-redis cli`.
    pub(crate) fn cli(&self, arguments: &[&str]) -> String {
        let ended = self.run(&[&["cli"], arguments].concat());
        assert!(ended.success, "{arguments:?}: {ended:?}");
        ended.text()
    }

    /// Returns the output of redis-cli with these arguments, without notch-redis.
    pub(crate) fn other_client(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("redis-cli");
        command.args(["-p", &self.port.to_string(), "--no-auth-warning"]).args(arguments).stdin(Stdio::null());
        let output = command.output().expect("redis-cli is installed");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim_end().to_owned()
    }

    /// Returns a backup of the current data.
    pub(crate) fn backup(&self) -> Vec<u8> {
        let ended = self.run(&["backup"]);
        assert!(ended.success, "{ended:?}");
        ended.stdout
    }

    pub(crate) fn restore(&self, backup: &[u8]) {
        let ended = self.run_with(&["restore"], backup);
        assert!(ended.success, "{ended:?}");
    }

    /// Returns settings of a notch that counts in this store and waits for it for any time.
    pub(crate) fn notch(&self) -> Settings {
        let mut settings = Settings::redis(self.port).without_tls().with("STORE_TIMEOUT", "1m");
        let shared = ["REDIS_USERNAME", "REDIS_PASSWORD", "REDIS_PASSWORD_FILE", "REDIS_DB", "COUNTER_KEY", "COUNTERS"];
        for name in shared {
            if let Some(value) = self.variables.get(name) {
                settings = settings.with(name, value.to_str().expect("a setting in UTF-8"));
            }
        }
        settings
    }

    pub(crate) fn total(&self) -> i64 {
        self.notch().start().total()
    }

    /// Returns whether a rewrite of the file is in progress.
    pub(crate) fn is_rewriting(&self) -> bool {
        self.cli(&["info", "persistence"]).contains("aof_rewrite_in_progress:1")
    }

    /// Returns the name of the rewritten file, which changes with each rewrite.
    pub(crate) fn generation(&self) -> String {
        if is_before_7() {
            let inode = fs::metadata(self.path("appendonly.aof")).expect("the append-only file").ino();
            return inode.to_string();
        }
        let manifest = fs::read_to_string(self.path("appendonlydir/appendonly.aof.manifest")).expect("a manifest");
        manifest.lines().next().expect("a base").to_owned()
    }

    /// Returns the append-only file, or all its parts, with their names.
    pub(crate) fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        for folder in [self.path(""), self.path("appendonlydir")] {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                if entry.path().is_file() && !entry.file_name().to_string_lossy().starts_with('.') {
                    let name = entry.file_name().to_string_lossy().into_owned();
                    files.insert(name, fs::read(entry.path()).expect("a file of the store"));
                }
            }
        }
        files
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if thread::panicking() {
            eprintln!("notch-redis printed:\n{}", self.log());
        }
    }
}

impl Exit {
    fn of(output: Output) -> Self {
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        Self { success: output.status.success(), code: output.status.code(), stdout: output.stdout, stderr }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }
}

/// Returns the absolute path of the server under test.
fn server() -> PathBuf {
    let name = env::var_os("REDIS_SERVER").unwrap_or_else(|| "redis-server".into());
    let path = env::var_os("PATH").expect("a search path");
    let candidates = env::split_paths(&path).map(|folder| folder.join(&name));
    let found = candidates.into_iter().find(|file| file.is_file());
    let found = found.unwrap_or_else(|| panic!("{} is missing (Debian: apt-get install redis-server)", name.display()));
    fs::canonicalize(found).expect("the path of a file")
}

/// Returns whether the server has a single file and no selectors, as Redis before 7.0.
pub(crate) fn is_before_7() -> bool {
    let output = Command::new(server()).arg("--version").output().expect("the server under test");
    String::from_utf8_lossy(&output.stdout).starts_with("Redis server v=6.")
}
