//! Settings, driver, exit code.

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
    // The first is the name of the program.
    args.next();
    match (args.next(), args.next(), args.next()) {
        (None, ..) => serve(),
        (Some(command), option, None) => run_command(&command, option.as_deref()),
        (_, _, Some(extra)) => refuse_argument(&extra, SEE_HELP),
    }
}

fn run_command(command: &OsStr, option: Option<&OsStr>) -> ExitCode {
    match (command.as_encoded_bytes(), option.map(OsStr::as_encoded_bytes)) {
        (b"healthcheck", None | Some(b"live")) => healthcheck(Probe::Liveness),
        (b"healthcheck", Some(b"ready")) => healthcheck(Probe::Readiness),
        (b"healthcheck", _) => refuse_argument(option.unwrap_or_default(), "expected healthcheck live or ready"),
        (b"--help" | b"-h", None) => say(&help()),
        (b"--version" | b"-V", None) => say(concat!("notch ", env!("CARGO_PKG_VERSION"), "\n")),
        (b"--help" | b"-h" | b"--version" | b"-V", Some(_)) => refuse_argument(option.unwrap_or_default(), SEE_HELP),
        _ => refuse_argument(command, SEE_HELP),
    }
}

/// One line, whatever the argument holds.
fn refuse_argument(argument: &OsStr, remedy: &str) -> ExitCode {
    let shown = printable(&argument.to_string_lossy());
    complain(&format_args!("unknown argument \"{shown}\": {remedy}"), BAD_USAGE)
}

fn serve() -> ExitCode {
    let config = match environment().config() {
        Ok(config) => config,
        Err(invalid) => return complain(&invalid, BAD_USAGE),
    };
    Log::install(config.log.level, config.log.format, unix_time);
    let signals = match signals() {
        Ok(signals) => signals,
        Err(error) => return complain(&format_args!("cannot wait for signals: {error}"), FAILED),
    };
    match driver::run(config, signals) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            error!("{failure}");
            ExitCode::from(FAILED)
        }
    }
}

/// The settings. To collect them is 400 bytes more than this.
fn environment() -> Env {
    let mut variables = Vec::new();
    for variable in env::vars_os() {
        variables.push(variable);
    }
    Env::new(variables)
}

/// SIGTERM and SIGINT, which are blocked and stay pending for the thread that waits for them. As process 1 of a container
/// we get neither otherwise.
///
/// SIGHUP, SIGUSR1 and SIGUSR2 would end the process by default: a terminal that closes or an operator who wants a reload
/// would stop the counter. They are blocked as well, and no thread waits for them.
fn signals() -> io::Result<SigSet> {
    let stop = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    let ignored = SigSet::from_iter([Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2]);
    // Threads started later inherit the mask.
    stop.thread_block()?;
    ignored.thread_block()?;
    Ok(stop)
}

fn healthcheck(probe: Probe) -> ExitCode {
    match environment().address() {
        Err(invalid) => complain(&invalid, BAD_USAGE),
        Ok(listen) => match probe.run(listen) {
            Ok(words) => say(&(words + "\n")),
            Err(words) => complain(&words, FAILED),
        },
    }
}

/// Prints to the open file itself: to write line by line, as standard output does, takes 1 kB.
fn say(text: &str) -> ExitCode {
    let out = io::stdout().as_fd().try_clone_to_owned().map(PipeWriter::from);
    match out.and_then(|mut out| out.write_all(text.as_bytes())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(FAILED),
    }
}

/// Also where the log is silent or cannot be had yet.
fn complain(words: &dyn Display, code: u8) -> ExitCode {
    let _ = writeln!(io::stderr(), "notch: {words}");
    ExitCode::from(code)
}

const SEE_HELP: &str = "see notch --help";

/// Something that may be better next time.
const FAILED: u8 = 1;

/// Something that will be wrong again until it is changed.
const BAD_USAGE: u8 = 2;
