//! The network: connections between machines, each with two pipes of pieces in flight.
//!
//! Pieces arrive in order, after random delays; bytes are split at random places. While a direction is cut, or the
//! receiver is paused, its pieces are held and arrive later, however late, as TCP retransmits them. A connection that
//! breaks loses a random part of what is in flight, so that messages end half-written. A silent one swallows all bytes.

use std::collections::VecDeque;

use super::{Event, Seen, Server, Time, World};

/// A bit for each machine.
pub(super) type Machines = u32;

/// One side of a connection, and the index of the pipe towards it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    Server,
    Client,
}

pub(super) enum Piece {
    Connect,
    Accepted,
    Bytes(Vec<u8>),
    /// The other end has closed the connection, or refused it.
    Closed,
}

#[derive(Default)]
struct Pipe {
    pieces: VecDeque<Piece>,
    /// Arrivals that were held.
    held: usize,
    /// The arrival of the last piece.
    last: Time,
}

pub(super) struct Connection {
    pub(super) worker: usize,
    pub(super) server: Server,
    /// The machines of the server and of the client.
    machines: [usize; 2],
    pipes: [Pipe; 2],
    pub(super) is_open: [bool; 2],
    is_silent: bool,
    /// Received by the server and not executed yet.
    pub(super) input: Vec<u8>,
    /// The replication offset of the last write of this connection, for `WAIT`.
    pub(super) write_offset: usize,
    /// A command that blocks: replicas, offset, and when it ends.
    pub(super) waiting: Option<(usize, usize, Time)>,
    pub(super) is_asking: bool,
}

impl World {
    pub(super) fn connect(&mut self, worker: usize, server: Server) -> usize {
        self.connections.push(Connection {
            worker,
            server,
            machines: [server.machine(), self.workers[worker].machine],
            pipes: Default::default(),
            is_open: [true; 2],
            is_silent: false,
            input: Vec::new(),
            write_offset: 0,
            waiting: None,
            is_asking: false,
        });
        let connection = self.connections.len() - 1;
        self.post(connection, End::Server, Piece::Connect);
        connection
    }

    /// Sends bytes, sometimes in two pieces.
    pub(super) fn send(&mut self, connection: usize, to: End, mut bytes: Vec<u8>) {
        if bytes.len() > 1 && self.rng.chance(20) {
            let rest = bytes.split_off(1 + self.rng.below(bytes.len() as u64 - 1) as usize);
            self.post(connection, to, Piece::Bytes(bytes));
            bytes = rest;
        }
        self.post(connection, to, Piece::Bytes(bytes));
    }

    pub(super) fn post(&mut self, connection: usize, to: End, piece: Piece) {
        if self.connections[connection].is_silent {
            self.seen(Seen::SwallowedBytes);
            return;
        }
        let arrival = self.now + self.delay();
        let pipe = &mut self.connections[connection].pipes[to as usize];
        pipe.last = pipe.last.max(arrival);
        pipe.pieces.push_back(piece);
        let arrival = pipe.last;
        self.schedule(arrival, Event::Arrive(connection, to));
    }

    /// The delay of one piece: usually below a millisecond, sometimes a retransmission.
    pub(super) fn delay(&mut self) -> Time {
        match self.rng.below(64) {
            0 => self.rng.between(1_000, 200_000),
            _ => self.rng.between(50, self.slowness),
        }
    }

    pub(super) fn arrive(&mut self, connection: usize, to: End) {
        let [server, client] = self.connections[connection].machines;
        let (from, at) = if to == End::Server { (client, server) } else { (server, client) };
        let is_held = self.is_cut(from, at) || self.is_paused(at);
        let Connection { pipes, is_open, .. } = &mut self.connections[connection];
        if is_held {
            pipes[to as usize].held += 1;
            return;
        }
        let Some(piece) = pipes[to as usize].pieces.pop_front() else { return };
        if let Piece::Bytes(bytes) = &piece {
            self.trace.bytes(bytes);
        }
        if to == End::Server {
            self.serve(connection, piece);
        } else if is_open[to as usize] {
            self.receive(connection, piece);
        }
    }

    /// Closes one end. What it sent before may still arrive.
    pub(super) fn close(&mut self, connection: usize, end: End) {
        if std::mem::replace(&mut self.connections[connection].is_open[end as usize], false) {
            let other = if end == End::Server { End::Client } else { End::Server };
            self.post(connection, other, Piece::Closed);
        }
    }

    /// Breaks a connection: both ends find it closed, after a random part of the bytes in flight.
    pub(super) fn reset(&mut self, connection: usize) {
        for end in [End::Server, End::Client] {
            let pieces = &mut self.connections[connection].pipes[end as usize].pieces;
            let kept = self.rng.below(pieces.len() as u64 + 1) as usize;
            let is_lossy = kept < pieces.len();
            pieces.truncate(kept);
            if let Some(Piece::Bytes(bytes)) = pieces.back_mut() {
                let cut = self.rng.below(bytes.len() as u64) as usize;
                bytes.truncate(cut);
                self.seen(Seen::HalfWritten);
            } else if is_lossy {
                self.seen(Seen::LostBytes);
            }
            self.post(connection, end, Piece::Closed);
        }
        self.seen(Seen::Reset);
    }

    /// From now on the connection swallows all bytes, and no end is notified.
    pub(super) fn silence(&mut self, connection: usize) {
        let connection = &mut self.connections[connection];
        connection.is_silent = true;
        connection.pipes.iter_mut().for_each(|pipe| pipe.pieces.clear());
        self.seen(Seen::Silent);
    }

    /// Returns a random connection whose ends are both open.
    pub(super) fn random_connection(&mut self) -> Option<usize> {
        let open: Vec<_> =
            (0..self.connections.len()).filter(|&at| self.connections[at].is_open == [true; 2]).collect();
        (!open.is_empty()).then(|| open[self.rng.below(open.len() as u64) as usize])
    }

    /// Stops all bytes from one set of machines to another, between which links stay open.
    pub(super) fn cut(&mut self, from: Machines, to: Machines) {
        for (machine, cut) in self.cuts.iter_mut().enumerate() {
            *cut |= if from >> machine & 1 == 1 { to } else { 0 };
        }
    }

    pub(super) fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cuts[from] >> to & 1 == 1
    }

    /// Returns whether bytes pass in both directions.
    pub(super) fn is_reachable(&self, from: usize, to: usize) -> bool {
        !self.is_cut(from, to) && !self.is_cut(to, from)
    }

    /// Delivers what was held and can pass now, after a heal or a pause.
    pub(super) fn release_held(&mut self) {
        for connection in 0..self.connections.len() {
            for end in [End::Server, End::Client] {
                let held = std::mem::take(&mut self.connections[connection].pipes[end as usize].held);
                for _ in 0..held {
                    let arrival = self.now + self.delay();
                    let pipe = &mut self.connections[connection].pipes[end as usize];
                    pipe.last = pipe.last.max(arrival);
                    let arrival = pipe.last;
                    self.schedule(arrival, Event::Arrive(connection, end));
                }
            }
        }
        self.release_replication();
    }
}
