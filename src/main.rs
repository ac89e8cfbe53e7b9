//! The program: parses arguments and settings, runs the driver and returns the exit code.

use std::env;
use std::ffi::OsStr;
use std::fmt::Display;
use std::io::{self, PipeWriter, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;

use nix::sys::signal::{SigSet, Signal};
use notch::config::{Env, help};
#[cfg(not(feature = "tokio"))]
use notch::driver::threads as driver;
#[cfg(feature = "tokio")]
use notch::driver::tokio as driver;
use notch::driver::unix_time;
use notch::log::{Log, printable};
use notch::probe::Probe;
use tracing::error;

fn main() -> ExitCode {
    let mut args = env::args_os();
    // Skips the name of the program.
    args.next();
    match (args.next(), args.next(), args.next()) {
        (None, ..) => run_server(),
        (Some(command), option, None) => run_command(&command, option.as_deref()),
        (_, _, Some(extra)) => reject_argument(&extra, SEE_HELP),
    }
}

fn run_command(command: &OsStr, option: Option<&OsStr>) -> ExitCode {
    match (command.as_encoded_bytes(), option.map(OsStr::as_encoded_bytes)) {
        (b"healthcheck", None | Some(b"live")) => run_healthcheck(Probe::Liveness),
        (b"healthcheck", Some(b"ready")) => run_healthcheck(Probe::Readiness),
        (b"healthcheck", _) => reject_argument(option.unwrap_or_default(), "expected healthcheck live or ready"),
        (b"--help" | b"-h", None) => print(&help()),
        (b"--version" | b"-V", None) => print(concat!("notch ", env!("CARGO_PKG_VERSION"), "\n")),
        (b"--help" | b"-h" | b"--version" | b"-V", Some(_)) => reject_argument(option.unwrap_or_default(), SEE_HELP),
        _ => reject_argument(command, SEE_HELP),
    }
}

/// Prints the argument and the remedy in one line.
fn reject_argument(argument: &OsStr, remedy: &str) -> ExitCode {
    let argument = printable(&argument.to_string_lossy());
    print_error(&format_args!("unknown argument \"{argument}\": {remedy}"), EXIT_USAGE)
}

fn run_server() -> ExitCode {
    let config = match environment().config() {
        Ok(config) => config,
        Err(invalid) => return print_error(&invalid, EXIT_USAGE),
    };
    Log::install(config.log.level, config.log.format, unix_time);
    let signals = match block_signals() {
        Ok(signals) => signals,
        Err(error) => return print_error(&format_args!("cannot wait for signals: {error}"), EXIT_FAILURE),
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
        Err(invalid) => print_error(&invalid, EXIT_USAGE),
        Ok(listen) => match probe.run(listen) {
            Ok(message) => print(&(message + "\n")),
            Err(message) => print_error(&message, EXIT_FAILURE),
        },
    }
}

/// Writes `text` to the standard output, without its line buffer.
fn print(text: &str) -> ExitCode {
    let out = io::stdout().as_fd().try_clone_to_owned().map(PipeWriter::from);
    match out.and_then(|mut out| out.write_all(text.as_bytes())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(EXIT_FAILURE),
    }
}

/// Writes `message` to the standard error, because the log is not installed or its level may hide it.
fn print_error(message: &dyn Display, code: u8) -> ExitCode {
    let _ = writeln!(io::stderr(), "notch: {message}");
    ExitCode::from(code)
}

const SEE_HELP: &str = "see notch --help";

/// Exit code of failures that a restart may resolve.
const EXIT_FAILURE: u8 = 1;

/// Exit code of invalid arguments and settings, which a restart does not resolve.
const EXIT_USAGE: u8 = 2;
