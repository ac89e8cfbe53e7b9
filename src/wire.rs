//! The bytes waiting on either side of one socket, bounded.
//!
//! The driver fills [`Wire::room`] from the socket and empties [`Wire::unsent`] into it; the protocols read
//! [`Wire::unread`] and write to [`Wire::output`]. A wire with nothing in it needs no memory: its buffers can be
//! lent from and returned to a stack of spare wires, which keeps ten thousand idle connections cheap and the buffers
//! of the busy ones warm in the cache.

use bytes::BufMut;

/// Most bytes that a peer may have sent ahead of what was read: the largest head of a request, and far more than any
/// reply to a counter.
pub const MAX_UNREAD: usize = 16 * 1024;

/// Both directions of one connection, seen from our side. Every idle connection has one, so that it is kept small: what
/// waits is far shorter than 4 GiB.
#[derive(Default)]
pub struct Wire {
    input: Vec<u8>,
    /// So much at the front of the input was consumed.
    consumed: u32,
    output: Vec<u8>,
    /// So much at the front of the output was sent.
    sent: u32,
}

impl Wire {
    /// What has arrived and was not consumed.
    #[must_use]
    pub fn unread(&self) -> &[u8] {
        self.input.get(self.consumed as usize..).unwrap_or_default()
    }

    /// Drops the first `length` bytes of [`Wire::unread`].
    pub fn consume(&mut self, length: usize) {
        drop_front(&mut self.input, &mut self.consumed, length);
    }

    /// Whether a peer has sent as much ahead as it may, so that no further byte will be taken.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.unread().len() >= MAX_UNREAD
    }

    /// Where the driver puts bytes from the socket. Without room (see [`Wire::is_full`]) it takes none.
    pub fn room(&mut self) -> impl BufMut + '_ {
        let room = self.make_room();
        (&mut self.input).limit(room)
    }

    /// Takes bytes that the driver has read already, as far as there is room, and hands back the rest.
    pub fn take_in<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let (taken, rest) = bytes.split_at(bytes.len().min(self.make_room()));
        self.input.extend_from_slice(taken);
        rest
    }

    /// Moves what is unread to the front, and says how many bytes more may come. Memory for them grows with those that
    /// have come, so that a peer cannot have it by few bytes.
    fn make_room(&mut self) -> usize {
        self.input.drain(..std::mem::take(&mut self.consumed) as usize);
        let room = MAX_UNREAD.saturating_sub(self.input.len());
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
    pub fn unsent(&self) -> &[u8] {
        self.output.get(self.sent as usize..).unwrap_or_default()
    }

    /// Drops the first `length` bytes of [`Wire::unsent`], because the socket took them.
    pub fn sent(&mut self, length: usize) {
        drop_front(&mut self.output, &mut self.sent, length);
    }

    /// Takes all of [`Wire::unsent`] out, to be sent elsewhere.
    #[must_use]
    pub fn take_unsent(&mut self) -> Vec<u8> {
        self.output.drain(..std::mem::take(&mut self.sent) as usize);
        std::mem::take(&mut self.output)
    }

    /// Takes over the buffers of a spare wire if this one has none.
    pub fn borrow(&mut self, spares: &mut Vec<Self>) {
        if self.input.capacity() == 0
            && self.output.is_empty()
            && let Some(spare) = spares.pop()
        {
            *self = spare;
        }
    }

    /// Gives the buffers away if nothing is in them: to the spare wires while there are few, else to the allocator.
    pub fn give_back(&mut self, spares: &mut Vec<Self>) {
        if !self.input.is_empty() || !self.output.is_empty() {
            return;
        }
        let wire = std::mem::take(self);
        let grown = wire.output.capacity() > MAX_SPARE_OUTPUT;
        if wire.input.capacity() > 0 && !grown && spares.len() < MAX_SPARES {
            spares.push(wire);
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
const MAX_SPARES: usize = 4;

/// Largest output buffer worth keeping.
const MAX_SPARE_OUTPUT: usize = 32 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_no_more_than_its_bound() {
        let mut wire = Wire::default();
        while wire.room().has_remaining_mut() {
            wire.room().put_u8(b'x');
        }
        assert!(wire.is_full());
        assert_eq!(wire.unread().len(), MAX_UNREAD);
        wire.consume(1);
        assert_eq!(wire.room().remaining_mut(), 1);
    }

    #[test]
    fn memory_grows_with_what_came_and_shrinks_to_it() {
        let mut wire = Wire::default();
        let mut grown = Vec::new();
        for length in [1, 4000, 4000, 4000, 4000] {
            wire.take_in(&vec![b'x'; length]);
            grown.push(wire.capacity());
        }
        assert!(grown[0] == FIRST && grown[2] <= 3 * FIRST, "{grown:?}");
        assert!(grown.is_sorted() && grown.iter().all(|capacity| *capacity <= 2 * MAX_UNREAD), "{grown:?}");
        wire.consume(10_000);
        wire.output().extend_from_slice(b"abc");
        wire.sent(1);
        wire.shrink();
        assert_eq!((wire.capacity(), wire.unread().len(), wire.unsent()), (6003 + SLACK + 6, 6001, &b"bc"[..]));
        wire.take_in(b"d");
        wire.shrink();
        assert_eq!(wire.capacity(), 6003 + SLACK + 6, "a byte is not copied to elsewhere");
    }

    #[test]
    fn lends_its_buffers_only_when_empty() {
        let (mut wire, mut spares) = (Wire::default(), Vec::new());
        wire.room().put_slice(b"ab");
        wire.give_back(&mut spares);
        assert_eq!((wire.unread(), spares.len()), (&b"ab"[..], 0));
        wire.consume(2);
        wire.give_back(&mut spares);
        assert_eq!((wire.input.capacity(), spares.len()), (0, 1));
        wire.borrow(&mut spares);
        assert!(wire.input.capacity() > 0 && spares.is_empty());
    }
}
