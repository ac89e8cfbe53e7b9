//! `notch healthcheck`: requests `/livez` or `/readyz` of a running notch, for images that have no curl.
//!
//! Use liveness to restart a container, since a restart does not repair a store, and readiness to route requests.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::config::Listen;
use crate::driver::{connect_unix, reachable};
use crate::http;

/// What to check of a running notch.
#[derive(Clone, Copy)]
pub enum Probe {
    /// Whether it responds to requests, independent of the store.
    Liveness,
    /// Whether it should receive visits: the store accepts increments, and the server is not draining.
    Readiness,
}

impl Probe {
    /// Sends the request to the server that listens on `listen`. Returns the first line of the response.
    ///
    /// # Errors
    /// Returns one line with the cause if no server responds in time, or if the status is not 200.
    pub fn run(self, listen: &Listen) -> Result<String, String> {
        let address = match listen {
            Listen::Tcp(address) => &Listen::Tcp(reachable(*address)),
            Listen::Unix(_) => listen,
        };
        let mut response = [0; MAX_RESPONSE];
        let length = fetch(address, self.path(), &mut response)
            .map_err(|error| format!("no response from {address}: {error}"))?;
        match http::parse_probe_response(&response[..length]) {
            Some(("200", line)) => Ok(line.to_owned()),
            Some((_, line)) => Err(line.to_owned()),
            None => Err(format!("the server on {address} is not notch")),
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Liveness => "/livez",
            Self::Readiness => "/readyz",
        }
    }
}

/// Reads the response into `response` and returns its length in bytes.
fn fetch(address: &Listen, path: &str, response: &mut [u8]) -> io::Result<usize> {
    let mut socket = match address {
        Listen::Tcp(address) => TcpStream::connect_timeout(address, STEP_TIMEOUT)?,
        Listen::Unix(path) => connect_unix(path, STEP_TIMEOUT)?,
    };
    socket.set_read_timeout(Some(STEP_TIMEOUT))?;
    socket.set_write_timeout(Some(STEP_TIMEOUT))?;
    socket.write_all(&http::probe_request(path))?;
    let mut length = 0;
    loop {
        match socket.read(&mut response[length..])? {
            0 => return Ok(length),
            received => length += received,
        }
    }
}

/// Timeout of the connect, of each write and of each read.
const STEP_TIMEOUT: Duration = Duration::from_secs(3);

/// Longest response in bytes.
const MAX_RESPONSE: usize = 4096;
