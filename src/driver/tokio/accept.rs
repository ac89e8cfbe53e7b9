//! Accepting connections, up to `MAX_CONNECTIONS`, and making room for one more.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::task::Poll;

use tokio::net::TcpListener;
use tokio::task::yield_now;
use tokio::time::Instant;

use super::super::slots::STALLED_GRACE;
use super::super::{Backoff, log_warning};
use super::client::serve;
use super::timer::pause;
use super::{Inbox, Server, State, Worker, lock};

/// Accepts connections and hands each to the worker that has the fewest. When there are as many as there may be, one
/// that rests has to go. Told that it is `enough`, it accepts those that have come already, and ends.
pub(super) async fn accept(
    server: &'static Server,
    workers: &'static [Worker],
    listener: TcpListener,
    enough: &'static Inbox<()>,
) {
    let mut backoff = Backoff::default();
    let mut ending = false;
    loop {
        let accepted = poll_fn(|cx| match listener.poll_accept(cx) {
            Poll::Pending if ending => Poll::Ready(None),
            Poll::Pending => pin!(enough.take()).poll(cx).map(|()| None),
            ready => ready.map(Some),
        })
        .await;
        let Some(accepted) = accepted else {
            if ending {
                return;
            }
            ending = true;
            // Has the event loop look once more.
            yield_now().await;
            continue;
        };
        // Taken out of this worker's event loop, because it may go to another's.
        match accepted.and_then(|(socket, _)| socket.into_std()) {
            Ok(socket) => {
                backoff = Backoff::default();
                if server.open().load(Ordering::SeqCst) >= server.limits.connections {
                    make_room(server, workers).await;
                }
                if let Some(worker) = workers.iter().min_by_key(|worker| worker.open.load(Ordering::Relaxed)) {
                    worker.spawn(Box::pin(serve(ConnectionPermit::take(worker), socket)));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(_) if ending => return,
            Err(error) => {
                if backoff.is_first() {
                    log_warning(
                        "cannot accept connections: raise the limit of open files, or lower MAX_CONNECTIONS",
                        Some(&error),
                    );
                }
                evict(workers, 0);
                pause(backoff.pause()).await;
            }
        }
    }
}

/// Waits for a place. One worker after the other is asked for a connection that can go.
async fn make_room(server: &Server, workers: &[Worker]) {
    let mut asked = 0;
    evict(workers, asked);
    while !server.wait_for_capacity(server.limits.connections, Instant::now() + STALLED_GRACE).await {
        asked += 1;
        evict(workers, asked);
    }
    for worker in workers {
        worker.run_on_worker(|state| state.queue.slots.clear_pressure());
    }
}

/// Has a connection go that rests, on the worker that has most of them or, if others were asked before, on the next.
fn evict(workers: &[Worker], asked: usize) {
    let crowd = |&index: &usize| workers[index].open.load(Ordering::Relaxed);
    if let Some(first) = (0..workers.len()).max_by_key(crowd) {
        workers[(first + asked) % workers.len()].run_on_worker(State::evict);
    }
}

/// One of the `MAX_CONNECTIONS` places, until it is dropped.
pub(super) struct ConnectionPermit {
    pub(super) worker: &'static Worker,
}

impl ConnectionPermit {
    fn take(worker: &'static Worker) -> Self {
        worker.open.fetch_add(1, Ordering::Relaxed);
        worker.server.open().fetch_add(1, Ordering::SeqCst);
        Self { worker }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.worker.open.fetch_sub(1, Ordering::Relaxed);
        self.worker.server.open().fetch_sub(1, Ordering::SeqCst);
        if let Some(waker) = lock(&self.worker.server.closed).take() {
            waker.wake();
        }
    }
}
