//! The bytes waiting on either side of one socket, bounded.
//!
//! The driver fills [`Buffers::read_buf`] from the socket and empties [`Buffers::pending`] into it; the protocols read
//! [`Buffers::received`] and write to [`Buffers::output`]. A wire with nothing in it needs no memory: its buffers can be
//! lent from and returned to a stack of spare wires, which keeps ten thousand idle connections cheap and the buffers
//! of the busy ones warm in the cache.

use bytes::BufMut;

/// Most bytes that a peer may have sent ahead of what was read: the largest head of a request, and far more than any
/// reply to a counter.
pub const MAX_RECEIVED: usize = 16 * 1024;

/// Both directions of one connection, seen from our side. Every idle connection has one, so that it is kept small: what
/// waits is far shorter than 4 GiB.
#[derive(Default)]
pub struct Buffers {
    input: Vec<u8>,
    /// So much at the front of the input was consumed.
    consumed: u32,
    output: Vec<u8>,
    /// So much at the front of the output was sent.
    sent: u32,
}

impl Buffers {
    /// What has arrived and was not consumed.
    #[must_use]
    pub fn received(&self) -> &[u8] {
        self.input.get(self.consumed as usize..).unwrap_or_default()
    }

    /// Drops the first `length` bytes of [`Buffers::received`].
    pub fn consume(&mut self, length: usize) {
        drop_front(&mut self.input, &mut self.consumed, length);
    }

    /// Whether a peer has sent as much ahead as it may, so that no further byte will be taken.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.received().len() >= MAX_RECEIVED
    }

    /// Where the driver puts bytes from the socket. Without room (see [`Buffers::is_full`]) it takes none.
    pub fn read_buf(&mut self) -> impl BufMut + '_ {
        let room = self.make_room();
        (&mut self.input).limit(room)
    }

    /// Takes bytes that the driver has read already, as far as there is room, and hands back the rest.
    pub fn receive<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let (taken, rest) = bytes.split_at(bytes.len().min(self.make_room()));
        self.input.extend_from_slice(taken);
        rest
    }

    /// Moves what is unread to the front, and says how many bytes more may come. Memory for them grows with those that
    /// have come, so that a peer cannot have it by few bytes.
    fn make_room(&mut self) -> usize {
        self.input.drain(..std::mem::take(&mut self.consumed) as usize);
        let room = MAX_RECEIVED.saturating_sub(self.input.len());
        let enough = if self.input.is_empty() { FIRST } else { LEAST };
        if self.input.capacity() - self.input.len() < room.min(enough) {
            self.input.reserve_exact(room.min(FIRST));
        }
        room
    }

    /// Bytes of memory that the buffers take.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.input.capacity() + self.output.capacity()
    }

    /// Gives up the memory that nothing is in, for a connection that has stalled. Some of it stays, so that a peer that
    /// sends byte by byte does not have the rest copied each time.
    pub fn shrink(&mut self) {
        self.input.drain(..std::mem::take(&mut self.consumed) as usize);
        self.output.drain(..std::mem::take(&mut self.sent) as usize);
        for bytes in [&mut self.input, &mut self.output] {
            let kept = if bytes.is_empty() { 0 } else { bytes.len() + SLACK };
            if bytes.capacity() > kept + kept / 8 {
                bytes.shrink_to(kept);
            }
        }
    }

    /// Where the protocols append what is to be sent.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// What has not been sent yet.
    #[must_use]
    pub fn pending(&self) -> &[u8] {
        self.output.get(self.sent as usize..).unwrap_or_default()
    }

    /// Drops the first `length` bytes of [`Buffers::pending`], because the socket took them.
    pub fn mark_sent(&mut self, length: usize) {
        drop_front(&mut self.output, &mut self.sent, length);
    }

    /// Takes all of [`Buffers::pending`] out, to be sent elsewhere.
    #[must_use]
    pub fn take_unsent(&mut self) -> Vec<u8> {
        self.output.drain(..std::mem::take(&mut self.sent) as usize);
        std::mem::take(&mut self.output)
    }

    /// Takes over the buffers of a spare wire if this one has none.
    pub fn acquire(&mut self, pool: &mut Vec<Self>) {
        if self.input.capacity() == 0
            && self.output.is_empty()
            && let Some(spare) = pool.pop()
        {
            *self = spare;
        }
    }

    /// Gives the buffers away if nothing is in them: to the spare wires while there are few, else to the allocator.
    pub fn release(&mut self, pool: &mut Vec<Self>) {
        if !self.input.is_empty() || !self.output.is_empty() {
            return;
        }
        let buffers = std::mem::take(self);
        let grown = buffers.output.capacity() > MAX_SPARE_OUTPUT;
        if buffers.input.capacity() > 0 && !grown && pool.len() < MAX_POOLED {
            pool.push(buffers);
        }
    }
}

/// Notes that the first `length` bytes of what is left are done with. Nothing is moved, but what is empty begins anew.
fn drop_front(bytes: &mut Vec<u8>, done: &mut u32, length: usize) {
    *done += length as u32;
    if *done as usize >= bytes.len() {
        bytes.clear();
        *done = 0;
    }
}

/// Memory for the first bytes that come: enough for sixteen requests at once, and for all but the longest heads.
const FIRST: usize = 4 * 1024;

/// Memory for further bytes of a request that has begun, as long as there is so much of it.
const LEAST: usize = 64;

/// Memory for further bytes that a connection keeps when it has stalled.
const SLACK: usize = 512;

/// Spare wires that a worker keeps. One is enough as long as every answer is sent at once.
const MAX_POOLED: usize = 4;

/// Largest output buffer worth keeping.
const MAX_SPARE_OUTPUT: usize = 32 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_no_more_than_its_bound() {
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
    fn memory_grows_with_what_came_and_shrinks_to_it() {
        let mut buffers = Buffers::default();
        let mut grown = Vec::new();
        for length in [1, 4000, 4000, 4000, 4000] {
            buffers.receive(&vec![b'x'; length]);
            grown.push(buffers.capacity());
        }
        assert!(grown[0] == FIRST && grown[2] <= 3 * FIRST, "{grown:?}");
        assert!(grown.is_sorted() && grown.iter().all(|capacity| *capacity <= 2 * MAX_RECEIVED), "{grown:?}");
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
        assert_eq!(buffers.capacity(), 6003 + SLACK + 6, "a byte is not copied to elsewhere");
    }

    #[test]
    fn lends_its_buffers_only_when_empty() {
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
