//! 64-bit integers as decimal text, for responses, commands and metrics.

use std::ops::Deref;

/// A number in decimal digits, without a heap allocation.
pub(crate) struct Decimal {
    bytes: [u8; Self::MAX],
    start: usize,
}

impl Decimal {
    /// Longest form in bytes: `-9223372036854775808`.
    const MAX: usize = 20;

    /// Writes `number` in decimal. `std::fmt` would cost more than the rest of a response.
    #[must_use]
    pub(crate) fn new(number: i64) -> Self {
        let mut decimal = Self { bytes: [b'0'; Self::MAX], start: Self::MAX };
        let mut rest = number.unsigned_abs();
        loop {
            decimal.start -= 1;
            decimal.bytes[decimal.start] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if number < 0 {
            decimal.start -= 1;
            decimal.bytes[decimal.start] = b'-';
        }
        decimal
    }
}

impl Deref for Decimal {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

/// Overwrites all of `digits` with the last digits of `number`, and with zeros before them if it has fewer.
pub(crate) fn overwrite(digits: &mut [u8], mut number: u64) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_match_the_standard_library() {
        for number in [0, 1, 9, 10, 99, 100, -1, -10, 1_234_567_890, i64::MAX, i64::MIN] {
            assert_eq!(&*Decimal::new(number), number.to_string().as_bytes());
        }
    }

    #[test]
    fn digits_are_overwritten_from_the_last() {
        for (number, digits) in [(0, "00"), (7, "07"), (42, "42"), (123, "23"), (9_223_372_036_854_775_807, "07")] {
            let mut text = *b"xx";
            overwrite(&mut text, number);
            assert_eq!(&text, digits.as_bytes());
        }
    }
}
