//! The program: parses arguments and settings, runs the driver and returns the exit code.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::io::{self, PipeReader, PipeWriter, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;

use nix::sys::signal::{SigSet, Signal};
use notch::config::{Env, help};
use notch::counter::Key;
#[cfg(not(feature = "tokio"))]
use notch::driver::threads as driver;
#[cfg(feature = "tokio")]
use notch::driver::tokio as driver;
use notch::driver::unix_time;
use notch::ledger::tools::{self, Tool, ToolError, UsageError};
use notch::log::{Log, printable};
use notch::probe::Probe;
use tracing::error;

fn main() -> ExitCode {
    // With this signal blocked, a file that reaches the limit of `ulimit -f` is an error like that of a full disk. It
    // would end the process.
    let _ = SigSet::from_iter([Signal::SIGXFSZ]).thread_block();
    // Skips the name of the program.
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    let words: Vec<_> = arguments.iter().map(|argument| argument.as_encoded_bytes()).collect();
    match &words[..] {
        [] => run_server(),
        [b"healthcheck"] | [b"healthcheck", b"live"] => run_healthcheck(Probe::Liveness),
        [b"healthcheck", b"ready"] => run_healthcheck(Probe::Readiness),
        [b"healthcheck", _] => reject_argument(&arguments[1], "expected healthcheck live or ready"),
        [b"ledger", b"--help" | b"-h"] => print(tools::HELP),
        [b"ledger", ..] => run_ledger_tool(&arguments[1..]),
        [b"--help" | b"-h"] => print(&help()),
        [b"--version" | b"-V"] => print(concat!("notch ", env!("CARGO_PKG_VERSION"), "\n")),
        [b"healthcheck", _, ..] => reject_argument(&arguments[2], SEE_HELP),
        [b"--help" | b"-h" | b"--version" | b"-V", ..] => reject_argument(&arguments[1], SEE_HELP),
        [..] => reject_argument(&arguments[0], SEE_HELP),
    }
}

/// Prints the argument and the remedy in one line.
fn reject_argument(argument: &OsStr, remedy: &str) -> ExitCode {
    let argument = printable(&argument.to_string_lossy());
    print_message(&format_args!("unknown argument \"{argument}\": {remedy}"), EXIT_USAGE)
}

fn run_server() -> ExitCode {
    let config = match environment().config() {
        Ok(config) => config,
        Err(invalid) => return print_message(&invalid, EXIT_USAGE),
    };
    Log::install(config.log.level, config.log.format, unix_time);
    let signals = match block_signals() {
        Ok(signals) => signals,
        Err(error) => return print_message(&format_args!("cannot wait for signals: {error}"), EXIT_FAILURE),
    };
    match driver::run(config, signals) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            error!("{failure}");
            ExitCode::from(EXIT_FAILURE)
        }
    }
}

/// Returns the environment variables, from which the settings are parsed.
fn environment() -> Env {
    Env::new(env::vars_os().collect())
}

/// Blocks SIGTERM and SIGINT and returns them for the thread that waits for them. Process 1 of a container would ignore
/// them otherwise.
///
/// SIGHUP, SIGUSR1 and SIGUSR2 end a process by default, so closing a terminal or requesting a reload would stop the
/// counter. They are blocked as well, and no thread waits for them.
fn block_signals() -> io::Result<SigSet> {
    let stop = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    let ignored = SigSet::from_iter([Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2]);
    // Threads started later inherit the mask.
    stop.thread_block()?;
    ignored.thread_block()?;
    Ok(stop)
}

fn run_healthcheck(probe: Probe) -> ExitCode {
    match environment().address() {
        Err(invalid) => print_message(&invalid, EXIT_USAGE),
        Ok(listen) => match probe.run(&listen) {
            Ok(message) => print(&(message + "\n")),
            Err(message) => print_message(&message, EXIT_FAILURE),
        },
    }
}

fn run_ledger_tool(arguments: &[OsString]) -> ExitCode {
    let (tool, file) = match Tool::parse(arguments) {
        Ok(parsed) => parsed,
        Err(UsageError::Missing(remedy)) => return print_message(&remedy, EXIT_USAGE),
        Err(UsageError::Unknown(argument, remedy)) => return reject_argument(&argument, remedy),
        Err(UsageError::Invalid(value, remedy)) => {
            let value = printable(&value.to_string_lossy());
            return print_message(&format_args!("invalid value \"{value}\": {remedy}"), EXIT_USAGE);
        }
    };
    let (path, main) = match environment().ledger() {
        Ok((path, main)) => (file.unwrap_or(path), main),
        Err(invalid) => return print_message(&invalid, EXIT_USAGE),
    };
    let (text, code) = match run_tool(tool, &path, main) {
        Ok(summary) => (summary, EXIT_SUCCESS),
        Err(error) => (error.to_string(), EXIT_FAILURE),
    };
    print_message(&printable(&format!("{}: {text}", path.to_string_lossy())), code)
}

fn run_tool(tool: Tool, path: &Path, main: Key) -> Result<String, ToolError> {
    let mut input = io::stdin().as_fd().try_clone_to_owned().map(PipeReader::from).map_err(ToolError::Input)?;
    let mut output = output().map_err(ToolError::Output)?;
    tool.run(path, main, &mut input, &mut output)
}

/// Writes `text` to the standard output.
fn print(text: &str) -> ExitCode {
    match output().and_then(|mut out| out.write_all(text.as_bytes())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(EXIT_FAILURE),
    }
}

/// Returns the standard output, without its line buffer.
fn output() -> io::Result<PipeWriter> {
    io::stdout().as_fd().try_clone_to_owned().map(PipeWriter::from)
}

/// Writes `message` to the standard error, because the log is not installed or its level may hide it. Returns `code`.
fn print_message(message: &dyn Display, code: u8) -> ExitCode {
    let _ = writeln!(io::stderr(), "notch: {message}");
    ExitCode::from(code)
}

const SEE_HELP: &str = "see notch --help";

/// Exit code of a subcommand that has succeeded.
const EXIT_SUCCESS: u8 = 0;

/// Exit code of failures that a restart may resolve.
const EXIT_FAILURE: u8 = 1;

/// Exit code of invalid arguments and settings, which a restart does not resolve.
const EXIT_USAGE: u8 = 2;
