//! The checksum at the end of each batch.

/// Encodes a checksum in eight hexadecimal digits.
pub(super) fn hex(crc: u32) -> [u8; 8] {
    let mut text = [0; 8];
    for (index, digit) in text.iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(crc >> (28 - 4 * index) & 15) as usize];
    }
    text
}

/// Returns the CRC-32 of zip and PNG, continued from `seed`: `crc32(crc32(0, a), b)` is that of `a` followed by `b`.
/// Works on half bytes, because a table of 64 bytes is fast enough for replay.
pub(super) fn crc32(seed: u32, bytes: &[u8]) -> u32 {
    const TABLE: [u32; 16] = crc_table();
    !bytes.iter().fold(!seed, |crc, &byte| {
        let crc = crc ^ u32::from(byte);
        let crc = crc >> 4 ^ TABLE[(crc & 15) as usize];
        crc >> 4 ^ TABLE[(crc & 15) as usize]
    })
}

const fn crc_table() -> [u32; 16] {
    let mut table = [0; 16];
    let mut index = 0;
    while index < 16 {
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 4 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_zip() {
        assert_eq!(crc32(0, b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(crc32(0, b"1234"), b"56789"), 0xcbf4_3926);
        assert_eq!(hex(0x0bf4_3926), *b"0bf43926");
    }
}
