//! How bytes arrive: whole, one by one, and in pieces whose lengths are derived from the bytes, so that a failure is
//! reproducible.

/// Longest piece of [`Pieces::Mixed`] in bytes.
const MAX_PIECE: u32 = 40;

/// Bytes that arrive in pieces.
pub struct Arrival<'a> {
    rest: &'a [u8],
    pieces: Pieces,
}

/// How bytes are split into pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pieces {
    /// All at once, as far as the buffer has space.
    Whole,
    /// One byte at a time.
    Single,
    /// A few at a time; the number is the state of the generator of lengths.
    Mixed(u32),
}

impl Pieces {
    /// Returns all ways in which `bytes` are tried.
    #[must_use]
    pub fn of(bytes: &[u8]) -> [Self; 3] {
        // FNV-1a; any hash would do.
        let seed =
            bytes.iter().fold(0x811c_9dc5, |hash: u32, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        [Self::Whole, Self::Single, Self::Mixed(seed)]
    }
}

impl<'a> Arrival<'a> {
    /// Returns an arrival of which no byte has arrived.
    #[must_use]
    pub fn new(bytes: &'a [u8], pieces: Pieces) -> Self {
        Self { rest: bytes, pieces }
    }

    /// Returns `true` if all bytes have arrived.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.rest.is_empty()
    }

    /// Returns the next piece, at most `space` bytes of it.
    pub fn next(&mut self, space: usize) -> &'a [u8] {
        let length = match &mut self.pieces {
            Pieces::Whole => self.rest.len(),
            Pieces::Single => 1,
            Pieces::Mixed(state) => {
                *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                // The upper half, because the lower bits of a linear congruential generator have a short period.
                ((*state >> 16) % MAX_PIECE + 1) as usize
            }
        };
        let (piece, rest) = self.rest.split_at(length.min(space).min(self.rest.len()));
        self.rest = rest;
        piece
    }
}
