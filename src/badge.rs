//! The badge of a counter: an SVG in the flat style of shields.io, without an embedded font.
//!
//! The viewer draws the letters; a table of the widths of Verdana gives the lengths of the texts. An invalid label or
//! colour is replaced by the default, so that a badge is drawn in any case.
//!
//! ```
//! use notch::badge::BadgeStyle;
//!
//! let mut svg = Vec::new();
//! let style = BadgeStyle::new(b"label=readers&color=green");
//! BadgeStyle::write_svg(Some(&style), &mut svg, Some(42));
//! assert!(svg.starts_with(b"<svg ") && String::from_utf8_lossy(&svg).contains("readers: 42"));
//! ```

use crate::decimal::Decimal;
use crate::http;
use crate::render::{self, escape, write_template};

/// The label and the colour of a badge, and the form of its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadgeStyle {
    label: String,
    color: String,
    form: Form,
}

/// The form of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// `1234567`
    Digits,
    /// `1.2M`, rounded down.
    Short,
    /// `1,234,567`
    Comma,
}

impl BadgeStyle {
    /// Reads `label=TEXT&color=COLOR&style=FORM` from a query, each of them optional. A label has at most [`MAX_LABEL`]
    /// bytes; a colour is one of nine names of shields.io, or three or six hexadecimal digits; a form is `short` (1.2M)
    /// or `comma` (1,234,567).
    #[must_use]
    pub fn new(query: &[u8]) -> Self {
        let parts = || query.split(|&byte| byte == b'&');
        let label = parts().find_map(|part| parse_label(part.strip_prefix(b"label=")?));
        let color = parts().find_map(|part| parse_color(part.strip_prefix(b"color=")?));
        let form = parts().find_map(|part| match part {
            b"style=short" => Some(Form::Short),
            b"style=comma" => Some(Form::Comma),
            _ => None,
        });
        Self {
            label: label.unwrap_or_else(|| DEFAULT_LABEL.into()),
            color: color.unwrap_or_else(|| BLUE.into()),
            form: form.unwrap_or(Form::Digits),
        }
    }

    /// Appends the SVG of a number, or of [`UNAVAILABLE`] in grey if there is none. Without a style, it has the default
    /// label and colour.
    pub fn write_svg(style: Option<&Self>, out: &mut Vec<u8>, number: Option<i64>) {
        let (label, color, form) =
            style.map_or((DEFAULT_LABEL, BLUE, Form::Digits), |style| (&style.label, &style.color, style.form));
        let color = if number.is_some() { color } else { GREY };
        let message = &number.map_or_else(|| String::from(UNAVAILABLE), |number| form.write(number));
        let (label_length, message_length) = (text_length(label), text_length(message));
        // Widths in pixels, rounded up, with five pixels on either side of a text.
        let (left, right) = ((label_length + 109) / 10, (message_length + 109) / 10);
        write_template(out, TEMPLATE, &mut |out, placeholder| {
            let number = match placeholder {
                b"label" => return escape(out, label),
                b"message" => return escape(out, message),
                b"color" => return escape(out, color),
                b"left" => left,
                b"right" => right,
                b"width" => left + right,
                b"label-length" => label_length,
                b"message-length" => message_length,
                b"label-middle" => left * 5,
                _ => left * 10 + right * 5,
            };
            out.extend_from_slice(&Decimal::new(number));
        });
    }
}

impl Form {
    fn write(self, number: i64) -> String {
        let digits = String::from_utf8_lossy(&Decimal::new(number)).into_owned();
        let (sign, digits) = digits.split_at(usize::from(number < 0));
        // Digits before the first group of three, at least one.
        let head = (digits.len() + 2) % 3 + 1;
        let groups = (digits.len() - head) / 3;
        let mut text = String::from(sign);
        text += &digits[..head];
        match self {
            Self::Short if groups > 0 => {
                if head == 1 {
                    text += ".";
                    text += &digits[1..2];
                }
                text += &UNITS[groups - 1..groups];
            }
            Self::Comma => {
                for group in 0..groups {
                    text += ",";
                    text += &digits[head + group * 3..][..3];
                }
            }
            Self::Digits | Self::Short => text += &digits[head..],
        }
        text
    }
}

/// Appends the object from which shields.io draws the badge of a number, or of [`UNAVAILABLE`] in grey without one.
pub fn write_object(out: &mut Vec<u8>, number: Option<i64>) {
    match number {
        Some(number) => render::write_badge_object(out, &Decimal::new(number), "blue"),
        None => render::write_badge_object(out, UNAVAILABLE.as_bytes(), "lightgrey"),
    }
}

/// Decodes a label. `None` if it is empty, too long or invalid.
fn parse_label(value: &[u8]) -> Option<String> {
    let label = String::from_utf8(http::decode_query_value(value)?).ok()?;
    // Characters that XML forbids (XML 1.0, section 2.2) cannot be escaped.
    let is_allowed = |char: char| !char.is_control() && !matches!(char, '\u{fffe}' | '\u{ffff}');
    ((1..=MAX_LABEL).contains(&label.len()) && label.chars().all(is_allowed)).then_some(label)
}

/// Returns the colour as CSS writes it.
fn parse_color(text: &[u8]) -> Option<String> {
    let named = COLORS.iter().find(|(name, _)| name.as_bytes() == text).map(|(_, color)| (*color).to_owned());
    let is_hex = matches!(text.len(), 3 | 6) && text.iter().all(u8::is_ascii_hexdigit);
    named.or_else(|| is_hex.then(|| ["#", &String::from_utf8_lossy(text)].concat()))
}

/// Returns the length of a text in tenths of a pixel.
fn text_length(text: &str) -> i64 {
    let width = |char| WIDTHS.get((char as usize).wrapping_sub(' ' as usize)).copied().unwrap_or(WIDE);
    text.chars().map(|char| i64::from(width(char))).sum()
}

/// Thousands, millions and so on, as shields.io writes them.
const UNITS: &str = "kMGTPE";

/// Longest label in bytes.
pub const MAX_LABEL: usize = 64;

/// The label of a badge whose query has none.
const DEFAULT_LABEL: &str = "visits";

/// The message of a badge without a number.
pub const UNAVAILABLE: &str = "unavailable";

/// The SVG, with placeholders between tildes. Positions and lengths of texts are in tenths of a pixel.
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

/// Widths in Verdana at 11 pixels, in tenths of a pixel, from the space to the tilde.
const WIDTHS: [u8; 95] = [
    39, 43, 50, 90, 70, 118, 80, 30, 50, 50, 70, 90, 40, 50, 40, 50, 70, 70, 70, 70, 70, 70, 70, 70, 70, 70, 50, 50,
    90, 90, 90, 60, 110, 75, 75, 77, 85, 70, 63, 85, 83, 46, 50, 76, 61, 93, 82, 87, 66, 87, 76, 75, 68, 81, 75, 109,
    75, 68, 75, 50, 50, 50, 90, 70, 70, 66, 69, 57, 69, 66, 39, 69, 70, 30, 38, 65, 30, 107, 70, 67, 69, 69, 47, 57,
    43, 70, 65, 90, 65, 65, 58, 70, 50, 70, 90,
];

/// The width of any other character: the largest, so that nothing overlaps.
const WIDE: u8 = 118;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn style_is_parsed_or_the_default() {
        for (query, label, color, form) in [
            ("", "visits", BLUE, Form::Digits),
            ("label=people&color=red", "people", "#e05d44", Form::Digits),
            ("color=0aF&label=a%20b+c%26&style=short", "a b c&", "#0aF", Form::Short),
            ("style=comma&color=123456", "visits", "#123456", Form::Comma),
            ("label=%E2%98%83&x=y", "\u{2603}", BLUE, Form::Digits),
            ("label=&color=&style=", "visits", BLUE, Form::Digits),
            ("label=%zz&color=12345&style=flat", "visits", BLUE, Form::Digits),
            ("label=%ff&color=%23fff&style=flat&style=short", "visits", BLUE, Form::Short),
            ("label=a%00b&color=url(x)&style=Short", "visits", BLUE, Form::Digits),
            ("label=%EF%BF%BF&color=Red", "visits", BLUE, Form::Digits),
            (&["label=", &"x".repeat(MAX_LABEL + 1)].concat(), "visits", BLUE, Form::Digits),
        ] {
            assert_eq!(
                BadgeStyle::new(query.as_bytes()),
                BadgeStyle { label: label.into(), color: color.into(), form },
                "{query}"
            );
        }
    }

    #[test]
    fn numbers_are_short_or_grouped() {
        for (number, short, comma) in [
            (0, "0", "0"),
            (7, "7", "7"),
            (999, "999", "999"),
            (1000, "1.0k", "1,000"),
            (1299, "1.2k", "1,299"),
            (9999, "9.9k", "9,999"),
            (10_000, "10k", "10,000"),
            (999_999, "999k", "999,999"),
            (3_400_000, "3.4M", "3,400,000"),
            (-1234, "-1.2k", "-1,234"),
            (-12, "-12", "-12"),
            (i64::MAX, "9.2E", "9,223,372,036,854,775,807"),
            (i64::MIN, "-9.2E", "-9,223,372,036,854,775,808"),
        ] {
            assert_eq!(Form::Short.write(number), short);
            assert_eq!(Form::Comma.write(number), comma);
            assert_eq!(Form::Digits.write(number), number.to_string());
        }
    }

    #[test]
    fn text_length_follows_verdana() {
        for (text, tenths) in [("", 0), ("visits", 282), ("1", 70), ("9223372036854775807", 1330), ("\u{2603}", 118)] {
            assert_eq!(text_length(text), tenths, "{text}");
        }
    }

    #[test]
    fn badge_shows_its_number_or_unavailable() {
        let draw = |query: &[u8], number| {
            let mut svg = Vec::new();
            BadgeStyle::write_svg(Some(&BadgeStyle::new(query)), &mut svg, number);
            String::from_utf8(svg).expect("UTF-8")
        };
        let badge = draw(b"label=<%22%26", Some(42));
        assert!(badge.contains("<title>&lt;&quot;&amp;: 42</title>") && badge.contains(BLUE), "{badge}");
        let badge = draw(b"color=red", None);
        assert!(badge.contains("<title>visits: unavailable</title>") && badge.contains(GREY), "{badge}");
        assert!(!badge.contains('~'), "a placeholder is left: {badge}");
    }
}
