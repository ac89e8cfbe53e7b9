//! `notch healthcheck`: asks a running notch whether it is ready, for images that have no curl.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::driver::{Place, reachable};
use crate::http;

/// Asks `/readyz` of whoever listens there. `Ok` if it is ready; either way, one line that says why.
///
/// # Errors
/// Nobody answers, or not in time, or the answer is not 200.
pub fn ask(listen: SocketAddr) -> Result<String, String> {
    let address = reachable(listen);
    let mut answer = [0; MAX_ANSWER];
    let length =
        fetch(address, &mut answer).map_err(|error| format!("nobody answers on {}: {error}", Place(address)))?;
    match http::probed(&answer[..length]) {
        Some(("200", words)) => Ok(words.to_owned()),
        Some((_, words)) => Err(words.to_owned()),
        None => Err(format!("whoever answers on {} is not notch", Place(address))),
    }
}

/// Fills `answer` and returns how many bytes there are.
fn fetch(address: SocketAddr, answer: &mut [u8]) -> io::Result<usize> {
    let mut socket = TcpStream::connect_timeout(&address, PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.write_all(&http::probe("/readyz"))?;
    let mut length = 0;
    // `read_to_end` would be 1.5 kB of growing a buffer that need not grow.
    loop {
        match socket.read(&mut answer[length..])? {
            0 => return Ok(length),
            more => length += more,
        }
    }
}

/// For each step of the exchange.
const PATIENCE: Duration = Duration::from_secs(3);

/// No answer of ours is longer, in bytes.
const MAX_ANSWER: usize = 4096;
