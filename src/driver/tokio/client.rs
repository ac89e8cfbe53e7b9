//! One client: its task, its socket and its place among the connections of its worker.

use std::future::poll_fn;
use std::io;
use std::net::TcpStream as StdStream;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant as StdInstant;

use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::task::yield_now;
use tokio::time::Instant;

use super::super::seats::{BRIEF, Fate};
use super::super::{LINGER, has_untaken, is_given_up, log_requests, micros, reset};
use super::accept::Place;
use super::timer::Alarm;
use super::{Server, State, read, state};
use crate::counter::{Ask, Fault};
use crate::exchange::{Exchange, Now, Site, Want};
use crate::wire::Wire;

/// One connection, as its worker knows it. It gives up its seat when it is dropped.
struct Client {
    place: Place,
    seat: usize,
}

impl Client {
    fn new(place: Place) -> Self {
        Self { place, seat: state(|state| state.queue.seats.enter()) }
    }

    fn server(&self) -> &'static Server {
        self.place.worker.server
    }

    /// A turn of the exchange.
    fn turn<T>(&self, turn: impl FnOnce(&Site, &mut Now) -> T) -> T {
        state(|state| turn(self.server().site, &mut state.now))
    }

    /// Takes the time of a request or its answer, if that is recorded.
    fn stamp(&self, now: &mut Now) {
        if self.server().site.records_requests {
            now.micros = micros();
        }
    }

    /// Asks the store. Until it answers, the client's memory is lent out.
    fn ask(&self, mut ask: Ask, wire: &mut Wire) {
        // Only this depends on what is known of the store.
        if ask == Ask::Ping {
            ask = self.place.worker.readiness();
        }
        state(|state| {
            state.queue.seats.rise(self.seat);
            wire.give_back(&mut state.spares);
            state.ask(&ask, &self.server().site.counters.main, self.seat, self.server().limits.store);
        });
    }

    /// Waits for the store's answer.
    async fn answered(&self, wire: &mut Wire) -> Result<i64, Fault> {
        poll_fn(|cx| {
            self.seated(cx, |state| {
                let Some(total) = state.queue.seats.answer(self.seat) else { return Poll::Pending };
                self.stamp(&mut state.now);
                wire.borrow(&mut state.spares);
                Poll::Ready(total)
            })
        })
        .await
    }

    /// Whether a client that rests has to go.
    fn must_go(&self, cx: &Context<'_>) -> bool {
        self.seated(cx, |state| state.now.closing || state.queue.seats.yields(self.seat))
    }

    /// Leaves the buffers of a client that waits for its peer with the worker, and says whether it has to go.
    fn hold(&self, wire: &mut Wire, cx: &Context<'_>) -> bool {
        let share = self.server().share;
        self.seated(cx, |state| {
            let fate = state.queue.seats.hold(self.seat, StdInstant::now(), wire, share, Waker::wake_by_ref);
            fate == Fate::Evicted
        })
    }

    /// Takes the buffers back.
    fn resume(&self, wire: &mut Wire) -> io::Result<()> {
        match state(|state| state.queue.seats.resume(self.seat, wire)) {
            Fate::Evicted => Err(io::ErrorKind::ConnectionAborted.into()),
            _ => Ok(()),
        }
    }

    /// Notes that the client waits for its peer no longer, or for something else from now on.
    fn rise(&self) {
        state(|state| state.queue.seats.rise(self.seat));
    }

    /// Looks at the worker's state. Whoever changes it for this client wakes it.
    fn seated<T>(&self, cx: &Context<'_>, look: impl FnOnce(&mut State) -> T) -> T {
        state(|state| {
            let waker = state.queue.seats.waker(self.seat);
            if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                *waker = Some(cx.waker().clone());
            }
            look(state)
        })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        state(|state| state.queue.seats.leave(self.seat));
    }
}

/// Serves one connection until its end, which needs no reason: a client may leave at any time.
pub(super) async fn serve(place: Place, socket: StdStream) {
    let client = Client::new(place);
    let socket = socket.set_nodelay(true).map(|()| socket);
    if let Ok(socket) = socket.and_then(TcpStream::from_std) {
        let mut talk = Talk { alarm: Alarm::new(Instant::now()), client, socket, wire: Wire::default() };
        let end = talk.serve().await;
        talk.close(end).await;
    }
}

/// A client and its socket.
struct Talk {
    client: Client,
    socket: TcpStream,
    wire: Wire,
    alarm: Alarm,
}

/// Why a wait has ended.
#[derive(PartialEq)]
enum Wake {
    Ready,
    Late,
    Closing,
}

impl Talk {
    async fn serve(&mut self) -> io::Result<()> {
        let limits = &self.client.server().limits;
        let mut exchange = Exchange::default();
        state(State::tick);
        // The request that has begun, and when its last byte has to be here; for the first, it also has to begin by
        // then.
        let (mut begun, mut deadline) = (0, Instant::now() + limits.header);
        let mut idle = None;
        loop {
            match self.client.turn(|site, now| exchange.next(site, now, &mut self.wire)) {
                Want::Request => {
                    self.send().await?;
                    let now = self.rest(idle.is_some());
                    let patience = idle.map_or(deadline, |idle| now + idle);
                    if self.receive(patience, true).await? != Wake::Ready {
                        return Ok(());
                    }
                    idle = Some(limits.idle);
                }
                Want::Bytes(request) => {
                    if request != begun {
                        (begun, deadline) = (request, Instant::now() + limits.header);
                        self.client.rise();
                    }
                    self.send().await?;
                    if self.receive(deadline, false).await? != Wake::Ready {
                        state(|state| {
                            state.tick();
                            self.client.stamp(&mut state.now);
                        });
                        self.client.turn(|site, now| exchange.time_out(site, now, &mut self.wire));
                    }
                }
                Want::Room => self.send().await?,
                // It will be wanted again; kept meanwhile, it would take room in every connection.
                Want::Total if !self.wire.unsent().is_empty() => self.send().await?,
                Want::Total => {
                    self.client.ask(exchange.ask(), &mut self.wire);
                    let total = self.client.answered(&mut self.wire).await;
                    self.client.turn(|site, now| exchange.answer(total, site, now, &mut self.wire));
                }
                Want::Close => {
                    self.send().await?;
                    return self.linger().await;
                }
            }
        }
    }

    /// Sends all that is unsent. The answers among it may be recorded.
    async fn send(&mut self) -> io::Result<()> {
        if self.client.server().site.records_requests {
            state(|state| log_requests(&mut state.now.records));
        }
        let mut deadline = None;
        while !self.wire.unsent().is_empty() {
            match self.socket.try_write(self.wire.unsent()) {
                Ok(length) => self.wire.sent(length),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let limit = self.client.server().limits.send;
                    let deadline = *deadline.get_or_insert_with(|| {
                        self.client.rise();
                        Instant::now() + limit
                    });
                    let ready = poll_fn(|cx| match self.socket.poll_write_ready(cx) {
                        Poll::Pending if self.client.hold(&mut self.wire, cx) => {
                            Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()))
                        }
                        Poll::Pending => self.alarm.poll(deadline, cx).map(|()| Err(io::ErrorKind::TimedOut.into())),
                        ready => ready,
                    })
                    .await;
                    self.client.resume(&mut self.wire)?;
                    ready?;
                }
                Err(error) => return Err(error),
            }
        }
        if deadline.is_some() {
            state(State::tick);
            self.client.rise();
        }
        Ok(())
    }

    /// Waits for bytes and takes them. The memory of a connection that waits is lent out, or left with the worker if
    /// something is in it.
    async fn receive(&mut self, deadline: Instant, resting: bool) -> io::Result<Wake> {
        loop {
            state(|state| self.wire.give_back(&mut state.spares));
            let wake = poll_fn(|cx| match self.socket.poll_read_ready(cx) {
                Poll::Ready(ready) => Poll::Ready(ready.map(|()| Wake::Ready)),
                Poll::Pending if resting && self.client.must_go(cx) => Poll::Ready(Ok(Wake::Closing)),
                Poll::Pending if !resting && self.client.hold(&mut self.wire, cx) => Poll::Ready(Ok(Wake::Closing)),
                Poll::Pending => self.alarm.poll(deadline, cx).map(|()| Ok(Wake::Late)),
            })
            .await?;
            if !resting {
                self.client.resume(&mut self.wire)?;
            }
            if wake != Wake::Ready && !(resting && self.has_bytes().await) {
                return Ok(wake);
            }
            self.rise();
            match poll_fn(|cx| Poll::Ready(read(&mut self.socket, &mut self.wire, cx))).await {
                Poll::Pending => {}
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Poll::Ready(read) => return read.map(|_| Wake::Ready),
            }
        }
    }

    /// Whether a request has come that the event loop has not told of yet.
    async fn has_bytes(&self) -> bool {
        yield_now().await;
        poll_fn(|cx| Poll::Ready(self.socket.poll_read_ready(cx).is_ready())).await
    }

    /// Nothing is under way, since the time that it returns.
    fn rest(&self, served: bool) -> Instant {
        state(|state| {
            let now = state.now();
            state.queue.seats.rest(self.client.seat, now, served);
            now.into()
        })
    }

    /// Bytes have come: takes memory for them. The client waits where it did until they are a request, or part of one.
    fn rise(&mut self) {
        state(|state| {
            state.tick();
            self.client.stamp(&mut state.now);
            self.wire.borrow(&mut state.spares);
        });
    }

    /// Closes the connection when the peer has taken what it was sent. If that takes too long, or the seat is needed, it is
    /// reset: what the kernel keeps for connections that are closed has no other bound.
    async fn close(&mut self, end: io::Result<()>) {
        let given_up = end.is_err_and(|error| is_given_up(&error));
        if given_up || self.drain().await.is_err() {
            reset(&self.socket);
        }
    }

    /// Waits until the peer has taken what it was sent.
    async fn drain(&mut self) -> io::Result<()> {
        self.wire = Wire::default();
        let deadline = Instant::now() + LINGER;
        while has_untaken(&self.socket) {
            let next = Instant::now() + BRIEF;
            if next > deadline || state(|state| state.queue.seats.yields(self.client.seat)) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            poll_fn(|cx| match self.client.hold(&mut self.wire, cx) {
                true => Poll::Ready(()),
                false => self.alarm.poll(next, cx),
            })
            .await;
        }
        Ok(())
    }

    /// Ends the exchange so that the last answer arrives: says that nothing more will come, and reads away what is still coming.
    async fn linger(&mut self) -> io::Result<()> {
        poll_fn(|cx| Pin::new(&mut self.socket).poll_shutdown(cx)).await?;
        let deadline = Instant::now() + LINGER;
        loop {
            let unread = self.wire.unread().len();
            self.wire.consume(unread);
            if self.receive(deadline, false).await? != Wake::Ready {
                return Ok(());
            }
        }
    }
}
