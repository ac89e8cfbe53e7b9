//! Accepting connections, up to `MAX_CONNECTIONS` and `MAX_THREADS`, each with a thread of its own.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use super::super::deadline::Timer;
use super::super::{Backoff, Listener, log_system_error};
use super::client::{Client, serve};
use super::{Server, detach, wait_timeout};

impl Server {
    /// Accepts connections. At the bound, an idle or stalled one is evicted. After `stop_accepting`, it accepts the
    /// connections that have already arrived, and ends.
    pub(super) fn accept(&'static self, listener: Arc<Listener>) {
        self.accept_all(&listener);
        drop(listener);
        self.state().accepting = false;
        self.changed.notify_all();
    }

    fn accept_all(&'static self, listener: &Listener) {
        let mut backoff = Backoff::default();
        loop {
            let accepted = listener.accept();
            let is_stopping = self.stop_accepting.load(Ordering::Relaxed);
            if is_stopping
                && (accepted.is_err() || listener.try_clone().and_then(|socket| socket.set_nonblocking(true)).is_err())
            {
                return;
            }
            match accepted {
                Ok(socket) => {
                    backoff = Backoff::default();
                    self.start_client(&Arc::new(socket));
                }
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    if backoff.is_first() {
                        log_system_error(
                            "cannot accept connections: raise the limit of open files, or lower MAX_CONNECTIONS",
                            &error,
                        );
                    }
                    self.state().evict();
                    thread::sleep(backoff.pause());
                }
            }
        }
    }

    /// Waits until there is room for a connection, and starts its thread.
    fn start_client(&'static self, socket: &Arc<TcpStream>) {
        let mut state = self.state();
        while state.open_connections() >= self.limits.connections {
            state.evict();
            state = wait_timeout(&self.changed, state, Timer::Eviction.duration(&self.limits));
        }
        state.queue.slots.clear_pressure();
        state.metrics.open_connections.fetch_add(1, Ordering::Relaxed);
        drop(state);
        let mut is_logged = false;
        loop {
            let socket = socket.clone();
            let Err(error) = detach("client", Box::new(move || serve(Client::new(self), socket))) else { return };
            if !std::mem::replace(&mut is_logged, true) {
                log_system_error(
                    "cannot serve more connections: raise the limit of threads, or lower MAX_CONNECTIONS",
                    &error,
                );
            }
            // A connection that closes frees a thread for this one.
            let mut state = self.state();
            state.evict();
            drop(wait_timeout(&self.changed, state, Backoff::LAST));
        }
    }
}
