//! How bytes come in: whole, one by one, and in pieces that hang on the bytes themselves, so that a finding stays one.

/// Longest piece in bytes of those that are neither whole nor single.
const MAX_PIECE: u32 = 40;

/// Bytes on their way in.
pub struct Arrival<'a> {
    rest: &'a [u8],
    pieces: Pieces,
}

/// Into what pieces they are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pieces {
    /// All at once, as far as there is room.
    Whole,
    /// One byte at a time.
    Single,
    /// A few at a time; the number is where the next length comes from.
    Mixed(u32),
}

impl Pieces {
    /// All ways in which `bytes` are to be tried.
    #[must_use]
    pub fn of(bytes: &[u8]) -> [Self; 3] {
        // FNV-1a: any mixture would do.
        let seed =
            bytes.iter().fold(0x811c_9dc5, |hash: u32, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        [Self::Whole, Self::Single, Self::Mixed(seed)]
    }
}

impl<'a> Arrival<'a> {
    /// Nothing has come in yet.
    #[must_use]
    pub fn new(bytes: &'a [u8], pieces: Pieces) -> Self {
        Self { rest: bytes, pieces }
    }

    /// Whether everything has come in.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next piece, at most `room` bytes of it.
    pub fn next(&mut self, room: usize) -> &'a [u8] {
        let length = match &mut self.pieces {
            Pieces::Whole => self.rest.len(),
            Pieces::Single => 1,
            Pieces::Mixed(state) => {
                *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                // The upper half: the lower bits of such a generator repeat soon.
                ((*state >> 16) % MAX_PIECE + 1) as usize
            }
        };
        let (piece, rest) = self.rest.split_at(length.min(room).min(self.rest.len()));
        self.rest = rest;
        piece
    }
}
