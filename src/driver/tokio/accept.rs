//! Accepting connections, up to `MAX_CONNECTIONS`, and making room for new ones.

use std::future::{Future, poll_fn};
use std::io;
use std::net::TcpStream as StdStream;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::task::yield_now;

use super::super::deadline::Timer;
use super::super::{Backoff, Listener, log_system_error};
use super::client::serve;
use super::timer::pause;
use super::{Inbox, Server, State, Worker, lock, register};

/// Accepts connections and passes each to the worker that has the fewest. At the bound, an idle or stalled one is
/// evicted. After `stop_accepting`, it accepts the connections that have already arrived, and ends.
pub(super) async fn accept(
    server: &'static Server,
    workers: &'static [Worker],
    listener: Acceptor,
    stop_accepting: &'static Inbox<()>,
) {
    let mut backoff = Backoff::default();
    let mut is_stopping = false;
    loop {
        let accepted = poll_fn(|cx| match listener.poll_accept(cx) {
            Poll::Pending if is_stopping => Poll::Ready(None),
            Poll::Pending => pin!(stop_accepting.take()).poll(cx).map(|()| None),
            ready => ready.map(Some),
        })
        .await;
        let Some(accepted) = accepted else {
            if is_stopping {
                return;
            }
            is_stopping = true;
            // Lets the event loop poll the listener once more.
            yield_now().await;
            continue;
        };
        match accepted {
            Ok(socket) => {
                backoff = Backoff::default();
                if server.open_connections().load(Ordering::SeqCst) >= server.limits.connections {
                    make_room(server, workers).await;
                }
                if let Some(worker) =
                    workers.iter().min_by_key(|worker| worker.open_connections.load(Ordering::Relaxed))
                {
                    worker.spawn(Box::pin(serve(ConnectionPermit::take(worker), socket)));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(_) if is_stopping => return,
            Err(error) => {
                if backoff.is_first() {
                    log_system_error(
                        "cannot accept connections: raise the limit of open files, or lower MAX_CONNECTIONS",
                        &error,
                    );
                }
                evict(workers, 0);
                pause(backoff.pause()).await;
            }
        }
    }
}

/// A [`Listener`] in the event loop of the first worker.
pub(super) struct Acceptor {
    listener: Listener,
    /// The same socket: tokio reports when it is ready. Its type for any socket, `AsyncFd`, needs unsafe code.
    events: TcpStream,
}

impl Acceptor {
    pub(super) fn new(listener: Listener) -> io::Result<Self> {
        let events = register(listener.try_clone()?)?;
        Ok(Self { listener, events })
    }

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<StdStream>> {
        loop {
            ready!(self.events.poll_read_ready(cx))?;
            match self.events.try_io(Interest::READABLE, || self.listener.accept()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                accepted => return Poll::Ready(accepted),
            }
        }
    }
}

/// Waits until there is room for a connection. Evicts one on each worker in turn until there is.
async fn make_room(server: &Server, workers: &[Worker]) {
    let mut attempt = 0;
    evict(workers, attempt);
    while !server.wait_for_capacity(server.limits.connections, Timer::Eviction.start(server.limits).at).await {
        attempt += 1;
        evict(workers, attempt);
    }
    for worker in workers {
        worker.run_on_worker(|state| state.queue.slots.clear_pressure());
    }
}

/// Evicts an idle or stalled connection of the worker that has the most connections, or of the `attempt`-th after it.
fn evict(workers: &[Worker], attempt: usize) {
    let open = |&index: &usize| workers[index].open_connections.load(Ordering::Relaxed);
    if let Some(first) = (0..workers.len()).max_by_key(open) {
        workers[(first + attempt) % workers.len()].run_on_worker(State::evict);
    }
}

/// The permit for one of `MAX_CONNECTIONS` connections, until it is dropped.
pub(super) struct ConnectionPermit {
    pub(super) worker: &'static Worker,
}

impl ConnectionPermit {
    fn take(worker: &'static Worker) -> Self {
        worker.open_connections.fetch_add(1, Ordering::Relaxed);
        worker.server.open_connections().fetch_add(1, Ordering::SeqCst);
        Self { worker }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.worker.open_connections.fetch_sub(1, Ordering::Relaxed);
        self.worker.server.open_connections().fetch_sub(1, Ordering::SeqCst);
        if let Some(waker) = lock(&self.worker.server.closed).take() {
            waker.wake();
        }
    }
}
