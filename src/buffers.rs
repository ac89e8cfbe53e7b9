//! The receive and send buffers of one socket, bounded.
//!
//! The driver fills [`Buffers::read_buf`] from the socket and empties [`Buffers::pending`] into it; the protocols read
//! [`Buffers::received`] and write to [`Buffers::output`]. Empty buffers need no memory: they are acquired from and
//! released to a pool. This keeps ten thousand idle connections cheap and the buffers of busy ones in the CPU cache.
//!
//! ```text
//!   socket --- read_buf, receive ---> received --- consume ---> (protocol)
//!   socket <----- mark_sent --------- pending <---- output ---- (protocol)
//! ```
//!
//! ```
//! use notch::buffers::Buffers;
//!
//! let mut buffers = Buffers::default();
//! assert!(buffers.receive(b"PING\r\n").is_empty(), "all bytes were accepted");
//! assert_eq!(buffers.received(), b"PING\r\n");
//! buffers.consume(6);
//! buffers.output().extend_from_slice(b"+PONG\r\n");
//! buffers.mark_sent(3);
//! assert_eq!(buffers.pending(), b"NG\r\n");
//!
//! // Empty buffers lend their memory to others.
//! buffers.mark_sent(4);
//! let mut pool = Vec::new();
//! buffers.release(&mut pool);
//! assert_eq!((buffers.capacity(), pool.len()), (0, 1));
//! ```

use bytes::BufMut;

/// Most received bytes that are buffered: the largest head of a request, and far more than any reply to a counter
/// command.
pub const MAX_RECEIVED: usize = 16 * 1024;

/// The buffers of both directions of one connection. Every idle connection has one, so its offsets are 32-bit.
#[derive(Default)]
pub struct Buffers {
    input: Vec<u8>,
    /// Bytes at the front of `input` that were consumed.
    consumed: u32,
    output: Vec<u8>,
    /// Bytes at the front of `output` that were sent.
    sent: u32,
}

impl Buffers {
    /// Returns the bytes that have arrived and were not consumed.
    #[must_use]
    pub fn received(&self) -> &[u8] {
        self.input.get(self.consumed as usize..).unwrap_or_default()
    }

    /// Drops the first `length` bytes of [`Buffers::received`].
    pub fn consume(&mut self, length: usize) {
        drop_front(&mut self.input, &mut self.consumed, length);
    }

    /// Returns `true` if [`MAX_RECEIVED`] bytes are buffered, so that no further byte is accepted.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.space() == 0
    }

    /// Returns how many more bytes are accepted.
    #[must_use]
    pub fn space(&self) -> usize {
        MAX_RECEIVED.saturating_sub(self.received().len())
    }

    /// Returns the buffer for bytes from the socket. If [`Buffers::is_full`], it has no space.
    pub fn read_buf(&mut self) -> impl BufMut + '_ {
        let space = self.reserve_space();
        (&mut self.input).limit(space)
    }

    /// Appends bytes that the driver has already read, up to [`MAX_RECEIVED`], and returns the rest.
    pub fn receive<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let (accepted, rest) = bytes.split_at(bytes.len().min(self.reserve_space()));
        self.input.extend_from_slice(accepted);
        rest
    }

    /// Moves the unconsumed bytes to the front and returns how many more are accepted. Memory grows with the bytes that
    /// have arrived, so that a peer cannot allocate much memory with few bytes.
    fn reserve_space(&mut self) -> usize {
        remove_front(&mut self.input, &mut self.consumed);
        let space = MAX_RECEIVED.saturating_sub(self.input.len());
        let required = if self.input.is_empty() { READ_CHUNK } else { MIN_READ };
        if self.input.capacity() - self.input.len() < space.min(required) {
            self.input.reserve_exact(space.min(READ_CHUNK));
        }
        space
    }

    /// Returns the allocated memory in bytes.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.input.capacity() + self.output.capacity()
    }

    /// Frees the unused memory of a stalled connection. Some memory stays allocated, so that a peer that sends byte
    /// by byte does not cause a copy for each byte.
    pub fn shrink(&mut self) {
        remove_front(&mut self.input, &mut self.consumed);
        remove_front(&mut self.output, &mut self.sent);
        for bytes in [&mut self.input, &mut self.output] {
            let kept = if bytes.is_empty() { 0 } else { bytes.len() + SLACK };
            if bytes.capacity() > kept + kept / 8 {
                bytes.shrink_to(kept);
            }
        }
    }

    /// Returns the buffer to which the protocols append bytes to send.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Returns the bytes that were not sent yet.
    #[must_use]
    pub fn pending(&self) -> &[u8] {
        self.output.get(self.sent as usize..).unwrap_or_default()
    }

    /// Drops the first `length` bytes of [`Buffers::pending`] after the socket has accepted them.
    pub fn mark_sent(&mut self, length: usize) {
        drop_front(&mut self.output, &mut self.sent, length);
    }

    /// Removes and returns all of [`Buffers::pending`].
    #[must_use]
    pub fn take_unsent(&mut self) -> Vec<u8> {
        remove_front(&mut self.output, &mut self.sent);
        std::mem::take(&mut self.output)
    }

    /// Takes buffers from `pool` if these have no memory.
    pub fn acquire(&mut self, pool: &mut Vec<Self>) {
        if self.input.capacity() == 0
            && self.output.is_empty()
            && let Some(pooled) = pool.pop()
        {
            *self = pooled;
        }
    }

    /// Returns empty buffers to `pool`, or frees them if the pool is full. Does nothing if they hold bytes.
    pub fn release(&mut self, pool: &mut Vec<Self>) {
        if !self.input.is_empty() || !self.output.is_empty() {
            return;
        }
        let is_large = self.output.capacity() > MAX_POOLED_OUTPUT;
        if self.input.capacity() > 0 && !is_large && pool.len() < MAX_POOLED {
            pool.push(std::mem::take(self));
        } else {
            *self = Self::default();
        }
    }
}

/// Adds `length` to the offset `done`. No byte is moved; a buffer that is used up is cleared.
fn drop_front(bytes: &mut Vec<u8>, done: &mut u32, length: usize) {
    *done += length as u32;
    if *done as usize >= bytes.len() {
        bytes.clear();
        *done = 0;
    }
}

/// Removes the bytes before the offset `done`.
fn remove_front(bytes: &mut Vec<u8>, done: &mut u32) {
    if *done > 0 {
        bytes.drain(..std::mem::take(done) as usize);
    }
}

/// Memory for the first bytes: enough for sixteen pipelined requests, and for all but the longest heads.
const READ_CHUNK: usize = 4 * 1024;

/// Least free memory for further bytes of an incomplete request.
const MIN_READ: usize = 64;

/// Free memory that a stalled connection keeps for further bytes.
const SLACK: usize = 512;

/// Most buffers in the pool of a worker. One is enough while every response is sent at once.
const MAX_POOLED: usize = 4;

/// Largest output buffer that is pooled, in bytes.
const MAX_POOLED_OUTPUT: usize = 32 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_no_more_than_its_limit() {
        let mut buffers = Buffers::default();
        while buffers.read_buf().has_remaining_mut() {
            buffers.read_buf().put_u8(b'x');
        }
        assert!(buffers.is_full());
        assert_eq!(buffers.received().len(), MAX_RECEIVED);
        buffers.consume(1);
        assert_eq!(buffers.read_buf().remaining_mut(), 1);
    }

    #[test]
    fn memory_grows_and_shrinks_with_the_received_bytes() {
        let mut buffers = Buffers::default();
        let mut capacities = Vec::new();
        for length in [1, 4000, 4000, 4000, 4000] {
            buffers.receive(&vec![b'x'; length]);
            capacities.push(buffers.capacity());
        }
        assert!(capacities[0] == READ_CHUNK && capacities[2] <= 3 * READ_CHUNK, "{capacities:?}");
        assert!(capacities.is_sorted(), "{capacities:?}");
        assert!(capacities.iter().all(|capacity| *capacity <= 2 * MAX_RECEIVED), "{capacities:?}");
        buffers.consume(10_000);
        buffers.output().extend_from_slice(b"abc");
        buffers.mark_sent(1);
        buffers.shrink();
        assert_eq!(
            (buffers.capacity(), buffers.received().len(), buffers.pending()),
            (6003 + SLACK + 6, 6001, &b"bc"[..])
        );
        buffers.receive(b"d");
        buffers.shrink();
        assert_eq!(buffers.capacity(), 6003 + SLACK + 6, "the byte fits without a reallocation");
    }

    #[test]
    fn only_empty_buffers_are_released() {
        let (mut buffers, mut pool) = (Buffers::default(), Vec::new());
        buffers.read_buf().put_slice(b"ab");
        buffers.release(&mut pool);
        assert_eq!((buffers.received(), pool.len()), (&b"ab"[..], 0));
        buffers.consume(2);
        buffers.release(&mut pool);
        assert_eq!((buffers.input.capacity(), pool.len()), (0, 1));
        buffers.acquire(&mut pool);
        assert!(buffers.input.capacity() > 0 && pool.is_empty());
    }
}
