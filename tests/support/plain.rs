//! Stands for `tls.rs` in a build without the feature `tls`: the peers of the tests are reached as they are.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;

/// What notch connects to instead of a peer: the peer itself.
pub(crate) struct Front {
    pub(crate) port: u16,
}

impl Front {
    pub(crate) fn before(peer: &TcpListener) -> Self {
        Self { port: peer.local_addr().expect("a bound listener has an address").port() }
    }

    pub(crate) fn close(&self) {}
}

/// The settings that a test has named are those of notch.
pub(crate) fn translate(variables: &BTreeMap<String, String>, _folder: &Path) -> BTreeMap<String, String> {
    variables.clone()
}

/// No `redis-server` has a second port.
pub(crate) fn listen_on(_port: u16, _plain_port: u16, _folder: &Path) -> Vec<String> {
    Vec::new()
}

/// Whether a server needs a port for the commands of the test beside that for notch.
pub(crate) const HAS_TWO_PORTS: bool = false;
