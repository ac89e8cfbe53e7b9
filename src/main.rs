//! Settings, driver, exit code.

use std::env;
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
use notch::log::Log;
use notch::probe;
use tracing::error;

fn main() -> ExitCode {
    let mut args = env::args_os();
    let _program = args.next();
    match (args.next(), args.next()) {
        (None, _) => serve(),
        (Some(arg), None) => obey(arg.as_encoded_bytes()),
        (Some(_), Some(_)) => obey(b"more than one"),
    }
}

fn obey(arg: &[u8]) -> ExitCode {
    match arg {
        b"healthcheck" => healthcheck(),
        b"--help" | b"-h" => say(&help()),
        b"--version" | b"-V" => say(concat!("notch ", env!("CARGO_PKG_VERSION"), "\n")),
        _ => complain(&"notch takes no such argument: see notch --help", BAD_USAGE),
    }
}

fn serve() -> ExitCode {
    let config = match Env::new(&|name| env::var_os(name)).config() {
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

/// SIGTERM and SIGINT, which are kept for whoever waits for them. As process 1 of a container we get neither otherwise.
fn signals() -> io::Result<SigSet> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    // Every thread to come takes over that they do not interrupt it.
    signals.thread_block()?;
    Ok(signals)
}

fn healthcheck() -> ExitCode {
    match Env::new(&|name| env::var_os(name)).address() {
        Err(invalid) => complain(&invalid, BAD_USAGE),
        Ok(listen) => match probe::ask(listen) {
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

/// Something that may be better next time.
const FAILED: u8 = 1;

/// Something that will be wrong again until it is changed.
const BAD_USAGE: u8 = 2;
