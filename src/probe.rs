//! `notch healthcheck`: requests `/livez` or `/readyz` of a running notch, for images that have no curl.
//!
//! What restarts an unhealthy container must check liveness: a restart does not bring a missing store back. What decides
//! where requests go checks readiness.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::driver::{DisplayAddr, reachable};
use crate::http;

/// What to check of a running notch.
#[derive(Clone, Copy)]
pub enum Probe {
    /// Whether it answers requests; independent of the store.
    Liveness,
    /// Whether it should get visits: the store counts, and the server is not draining.
    Readiness,
}

impl Probe {
    /// Sends the request to the server that listens on `listen`. `Ok` if the response is 200; either way, one line that
    /// says why.
    ///
    /// # Errors
    /// No server responds, or not in time, or the response is not 200.
    pub fn run(self, listen: SocketAddr) -> Result<String, String> {
        let address = reachable(listen);
        let mut response = [0; MAX_RESPONSE];
        let length = fetch(address, self.path(), &mut response)
            .map_err(|error| format!("no response from {}: {error}", DisplayAddr(address)))?;
        match http::parse_probe_response(&response[..length]) {
            Some(("200", line)) => Ok(line.to_owned()),
            Some((_, line)) => Err(line.to_owned()),
            None => Err(format!("the server on {} is not notch", DisplayAddr(address))),
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Liveness => "/livez",
            Self::Readiness => "/readyz",
        }
    }
}

/// Fills `response` and returns how many bytes there are.
fn fetch(address: SocketAddr, path: &str, response: &mut [u8]) -> io::Result<usize> {
    let mut socket = TcpStream::connect_timeout(&address, STEP_TIMEOUT)?;
    socket.set_read_timeout(Some(STEP_TIMEOUT))?;
    socket.set_write_timeout(Some(STEP_TIMEOUT))?;
    socket.write_all(&http::probe_request(path))?;
    let mut length = 0;
    // `read_to_end` would be 1.5 kB of growing a buffer that need not grow.
    loop {
        match socket.read(&mut response[length..])? {
            0 => return Ok(length),
            more => length += more,
        }
    }
}

/// For each step of the exchange.
const STEP_TIMEOUT: Duration = Duration::from_secs(3);

/// No response of notch is longer, in bytes.
const MAX_RESPONSE: usize = 4096;
