//! The badge of a counter: the flat form known from shields.io, drawn without a font.
//!
//! Whoever shows it draws the letters; where they begin and end is told by a table of the widths that they have in
//! Verdana. A look that cannot be drawn is the usual one: a badge with the wrong colour is still a badge.

use crate::decimal::Decimal;
use crate::render::{escape, template};

/// How a badge looks, whatever it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadgeStyle {
    label: String,
    color: String,
}

impl BadgeStyle {
    /// Reads `label=WORDS&color=COLOR` from a query, each of them optional. A label has [`MAX_LABEL`] bytes at most; a
    /// colour is a name known from shields.io, or three or six hexadecimal digits.
    #[must_use]
    pub fn new(query: &[u8]) -> Self {
        let parts = || query.split(|&byte| byte == b'&');
        let label = parts().find_map(|part| label(part.strip_prefix(b"label=")?));
        let color = parts().find_map(|part| color(part.strip_prefix(b"color=")?));
        Self { label: label.unwrap_or_else(|| LABEL.into()), color: color.unwrap_or_else(|| BLUE.into()) }
    }

    /// Draws a number, or says that there is none.
    #[must_use]
    pub fn svg(&self, number: Option<&[u8]>) -> Vec<u8> {
        let message = number.and_then(|number| str::from_utf8(number).ok()).unwrap_or(UNAVAILABLE);
        let color = if number.is_some() { &self.color } else { GREY };
        let (first, second) = (length(&self.label), length(message));
        // In pixels, with five of them on either side of a text; lengths are in tenths.
        let (left, right) = ((first + 109) / 10, (second + 109) / 10);
        template(TEMPLATE, &mut |out, mark| {
            let pixels = match mark {
                b"label" => return escape(out, &self.label),
                b"message" => return escape(out, message),
                b"color" => return escape(out, color),
                b"left" => left,
                b"right" => right,
                b"width" => left + right,
                b"label-length" => first,
                b"message-length" => second,
                b"label-middle" => left * 5,
                _ => left * 10 + right * 5,
            };
            out.extend_from_slice(&Decimal::new(pixels));
        })
    }
}

/// A label as it was meant: `%20` and `+` are spaces (URL Standard, section 5.1).
fn label(mut rest: &[u8]) -> Option<String> {
    let mut bytes = Vec::new();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        bytes.push(match (byte, tail) {
            (b'%', [high, low, tail @ ..]) => {
                rest = tail;
                let digit = |byte: u8| char::from(byte).to_digit(16);
                (digit(*high)? * 16 + digit(*low)?) as u8
            }
            (b'+', _) => b' ',
            _ => *byte,
        });
    }
    let label = String::from_utf8(bytes).ok()?;
    // What XML may not hold at all (XML 1.0, section 2.2) cannot be escaped.
    let holds = |char: char| !char.is_control() && !matches!(char, '\u{fffe}' | '\u{ffff}');
    ((1..=MAX_LABEL).contains(&label.len()) && label.chars().all(holds)).then_some(label)
}

fn color(word: &[u8]) -> Option<String> {
    let named = COLORS.iter().find(|(name, _)| name.as_bytes() == word).map(|(_, color)| (*color).to_owned());
    let hex = matches!(word.len(), 3 | 6) && word.iter().all(u8::is_ascii_hexdigit);
    named.or_else(|| hex.then(|| ["#", &String::from_utf8_lossy(word)].concat()))
}

/// The length of a text in tenths of a pixel.
fn length(text: &str) -> i64 {
    let width = |char| WIDTHS.get((char as usize).wrapping_sub(' ' as usize)).copied().unwrap_or(WIDE);
    text.chars().map(|char| i64::from(width(char))).sum()
}

/// Longest label in bytes.
pub const MAX_LABEL: usize = 64;

/// What a badge counts, unless told otherwise.
pub const LABEL: &str = "visits";

/// What a badge says without a number.
pub const UNAVAILABLE: &str = "unavailable";

/// The badge, with the names of what varies between tildes. Lengths of and in texts are in tenths of a pixel.
const TEMPLATE: &[u8] = include_bytes!("badge.svg");

const BLUE: &str = "#007ec6";
const GREY: &str = "#9f9f9f";

const COLORS: [(&str, &str); 9] = [
    ("blue", BLUE),
    ("brightgreen", "#4c1"),
    ("green", "#97ca00"),
    ("grey", "#555"),
    ("lightgrey", GREY),
    ("orange", "#fe7d37"),
    ("red", "#e05d44"),
    ("yellow", "#dfb317"),
    ("yellowgreen", "#a4a61d"),
];

/// Widths in Verdana at 11 pixels, in tenths of a pixel, from the space on.
const WIDTHS: [u8; 95] = [
    39, 43, 50, 90, 70, 118, 80, 30, 50, 50, 70, 90, 40, 50, 40, 50, 70, 70, 70, 70, 70, 70, 70, 70, 70, 70, 50, 50,
    90, 90, 90, 60, 110, 75, 75, 77, 85, 70, 63, 85, 83, 46, 50, 76, 61, 93, 82, 87, 66, 87, 76, 75, 68, 81, 75, 109,
    75, 68, 75, 50, 50, 50, 90, 70, 70, 66, 69, 57, 69, 66, 39, 69, 70, 30, 38, 65, 30, 107, 70, 67, 69, 69, 47, 57,
    43, 70, 65, 90, 65, 65, 58, 70, 50, 70, 90,
];

/// The width of any other character: a wide one, so that nothing overlaps.
const WIDE: u8 = 118;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_is_read_or_the_usual_one() {
        for (query, label, color) in [
            ("", "visits", BLUE),
            ("label=people&color=red", "people", "#e05d44"),
            ("color=0aF&label=a%20b+c%26", "a b c&", "#0aF"),
            ("color=123456", "visits", "#123456"),
            ("label=%E2%98%83&x=y", "\u{2603}", BLUE),
            ("label=&color=", "visits", BLUE),
            ("label=%zz&color=12345", "visits", BLUE),
            ("label=%ff&color=%23fff", "visits", BLUE),
            ("label=a%00b&color=url(x)", "visits", BLUE),
            ("label=%EF%BF%BF&color=Red", "visits", BLUE),
            (&["label=", &"x".repeat(MAX_LABEL + 1)].concat(), "visits", BLUE),
        ] {
            assert_eq!(
                BadgeStyle::new(query.as_bytes()),
                BadgeStyle { label: label.into(), color: color.into() },
                "{query}"
            );
        }
    }

    #[test]
    fn texts_are_as_long_as_in_verdana() {
        for (text, tenths) in [("", 0), ("visits", 282), ("1", 70), ("9223372036854775807", 1330), ("\u{2603}", 118)] {
            assert_eq!(length(text), tenths, "{text}");
        }
    }

    #[test]
    fn a_badge_says_its_number_or_that_there_is_none() {
        let draw = |query: &[u8], number| String::from_utf8(BadgeStyle::new(query).svg(number)).expect("UTF-8");
        let badge = draw(b"label=<%22%26", Some(b"42"));
        assert!(badge.contains("<title>&lt;&quot;&amp;: 42</title>") && badge.contains(BLUE), "{badge}");
        let badge = draw(b"color=red", None);
        assert!(badge.contains("<title>visits: unavailable</title>") && badge.contains(GREY), "{badge}");
        assert!(!badge.contains('~'), "no mark is left: {badge}");
    }
}
