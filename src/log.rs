//! A small `tracing` subscriber: writes one line for each event to standard error, as text or as JSON.
//!
//! Left out on purpose: spans, filters by module, colours, files.

use std::fmt::{self, Debug, Write as _};
use std::io::Write as _;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::date::Date;

/// Format of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `2026-11-21T07:00:00Z INFO visits are counted again worker=0`
    Text,
    /// `{"time":"2026-11-21T07:00:00Z","level":"INFO","message":"visits are counted again","worker":0}`
    Json,
}

/// The subscriber.
pub struct Log {
    level: LevelFilter,
    format: Format,
    clock: fn() -> u64,
    /// Receives each event that is enabled.
    sink: fn(&Self, &Event<'_>),
}

impl Log {
    /// Sets this as the subscriber of the process, unless it has one already. `clock` returns the seconds since 1970.
    pub fn install(level: LevelFilter, format: Format, clock: fn() -> u64) {
        let _ = tracing::subscriber::set_global_default(Self { level, format, clock, sink: Self::write });
    }

    fn write(&self, event: &Event<'_>) {
        // An error cannot be reported anywhere else.
        let _ = std::io::stderr().write_all(self.line(event).as_bytes());
    }

    fn line(&self, event: &Event<'_>) -> String {
        let mut line = Line { format: self.format, text: String::new() };
        let (time, level) = (timestamp((self.clock)()), event.metadata().level().as_str());
        match self.format {
            Format::Text => line.extend(&[&time, " ", level]),
            Format::Json => line.extend(&["{\"time\":\"", &time, "\",\"level\":\"", level, "\""]),
        }
        // The message is first, because the macros of `tracing` put it first.
        event.record(&mut line);
        match self.format {
            Format::Text => line.extend(&["\n"]),
            Format::Json => line.extend(&["}\n"]),
        }
        line.text
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn event(&self, event: &Event<'_>) {
        (self.sink)(self, event);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// A line that is being written, and its format.
struct Line {
    format: Format,
    text: String,
}

impl Line {
    fn extend(&mut self, parts: &[&str]) {
        for part in parts {
            self.text.push_str(part);
        }
    }

    /// Appends the name of a field.
    fn append_name(&mut self, field: &Field) {
        match self.format {
            Format::Text => self.extend(&[" ", field.name(), "="]),
            Format::Json => self.extend(&[",\"", field.name(), "\":"]),
        }
    }

    /// Appends a value that needs no quotes in either format.
    fn append_unquoted(&mut self, field: &Field, value: &dyn fmt::Display) {
        self.append_name(field);
        // Writing to a string does not fail.
        let _ = write!(self.text, "{value}");
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.record_str(field, &DebugDisplay(value).to_string());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" && self.format == Format::Text {
            self.extend(&[" ", value]);
        } else {
            self.append_name(field);
            quote(&mut self.text, value);
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.append_unquoted(field, &value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.append_unquoted(field, &value);
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.append_unquoted(field, &value);
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.append_unquoted(field, &value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.append_unquoted(field, &value);
    }

    /// Writes infinities and NaN as strings, because JSON has no numbers for them (RFC 8259 section 6).
    fn record_f64(&mut self, field: &Field, value: f64) {
        match value {
            value if value.is_finite() => self.append_unquoted(field, &Decimal(value)),
            value if value.is_nan() => self.record_str(field, "NaN"),
            value if value > 0.0 => self.record_str(field, "inf"),
            _ => self.record_str(field, "-inf"),
        }
    }
}

/// Formats a finite number, rounded to six decimal places; very large and very small ones have an exponent.
///
/// `Display` of `f64` would add 14 kB, 5 % of the image.
struct Decimal(f64);

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut size, mut power) = (self.0.abs(), 0);
        if size != 0.0 && !(1e-3..1e12).contains(&size) {
            while size >= 10.0 {
                (size, power) = (size / 10.0, power + 1);
            }
            while size < 1.0 {
                (size, power) = (size * 10.0, power - 1);
            }
        }
        let millionths = (size * 1e6 + 0.5) as u64;
        let (whole, mut rest, mut digits) = (millionths / 1_000_000, millionths % 1_000_000, 6);
        write!(f, "{}{whole}", if self.0 < 0.0 { "-" } else { "" })?;
        if rest != 0 {
            while rest % 10 == 0 {
                (rest, digits) = (rest / 10, digits - 1);
            }
            write!(f, ".{rest:0digits$}")?;
        }
        if power == 0 { Ok(()) } else { write!(f, "e{power}") }
    }
}

/// Formats a value with its `Debug`. In the shipped binary, `{:?}` prints nothing: see `scripts/build`.
struct DebugDisplay<'a>(&'a dyn Debug);

impl fmt::Display for DebugDisplay<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Returns a text with control characters replaced by `?`, so that it fits in one line.
#[must_use]
pub fn printable(text: &str) -> String {
    text.replace(char::is_control, "?")
}

/// Appends a text as a JSON string, also used in text lines: quotes, backslashes and control characters are escaped.
pub fn quote(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        if matches!(character, '"' | '\\') {
            out.push('\\');
        }
        if character.is_control() {
            // Writing to a string does not fail.
            let _ = write!(out, "\\u{:04x}", u32::from(character));
        } else {
            out.push(character);
        }
    }
    out.push('"');
}

/// Formats seconds since 1970 as in RFC 3339.
fn timestamp(second: u64) -> String {
    let (days, rest) = (second / 86_400, second % 86_400);
    let Date { year, month, day } = Date::of(days);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use serde_json::json;

    use super::*;

    #[test]
    fn timestamps_follow_the_calendar() {
        for (second, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_735_689_600, "2025-01-01T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(timestamp(second), text);
        }
    }

    /// The lines of the events of the test below, in both formats.
    static LINES: Mutex<Vec<[String; 2]>> = Mutex::new(Vec::new());

    fn keep_lines(log: &Log, event: &Event<'_>) {
        if event.metadata().target() == "fields" {
            let lines = [Format::Text, Format::Json].map(|format| Log { format, ..*log }.line(event));
            LINES.lock().expect("no test panics with it").push(lines);
        }
    }

    #[test]
    fn values_of_every_type_are_written() {
        let log = Log { level: LevelFilter::TRACE, format: Format::Text, clock: || 0, sink: keep_lines };
        tracing::subscriber::set_global_default(log).expect("the only subscriber");
        let error = "x".parse::<u8>().expect_err("not a number");
        macro_rules! logged {
            ($($value:tt)+) => {{
                tracing::info!(target: "fields", value = $($value)+);
                let [text, json] = LINES.lock().expect("a list").pop().expect("a line");
                let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
                (text.trim_start_matches("1970-01-01T00:00:00Z INFO ").trim_end().to_owned(), json["value"].clone())
            }};
        }
        for ((text, json), expected_text, expected_json) in [
            (logged!(-3_i64), "value=-3", json!(-3)),
            (logged!(i64::MIN), "value=-9223372036854775808", json!(i64::MIN)),
            (logged!(7_u8), "value=7", json!(7)),
            (logged!(u64::MAX), "value=18446744073709551615", json!(u64::MAX)),
            (logged!(12_i128), "value=12", json!(12)),
            (logged!(12_u128), "value=12", json!(12)),
            (logged!(true), "value=true", json!(true)),
            (logged!(false), "value=false", json!(false)),
            (logged!(0.0_f64), "value=0", json!(0)),
            (logged!(0.5_f32), "value=0.5", json!(0.5)),
            (logged!(-0.05_f64), "value=-0.05", json!(-0.05)),
            (logged!(-1e6_f64), "value=-1000000", json!(-1_000_000)),
            (logged!(1_234.567_891_9_f64), "value=1234.567892", json!(1_234.567_892)),
            (logged!(0.999_999_96_f64), "value=1", json!(1)),
            (logged!(1.5e21_f64), "value=1.5e21", json!(1.5e21)),
            (logged!(-1.25e-9_f64), "value=-1.25e-9", json!(-1.25e-9)),
            (logged!(f64::MAX), "value=1.797693e308", json!(1.797_693e308)),
            (logged!(5e-324_f64), "value=4.940656e-324", json!(5e-324)),
            (logged!(f64::NAN), "value=\"NaN\"", json!("NaN")),
            (logged!(f64::INFINITY), "value=\"inf\"", json!("inf")),
            (logged!(-f64::INFINITY), "value=\"-inf\"", json!("-inf")),
            (logged!("a \"b\"\n"), "value=\"a \\\"b\\\"\\u000a\"", json!("a \"b\"\n")),
            (logged!(%error), "value=\"invalid digit found in string\"", json!("invalid digit found in string")),
            (logged!(?Some(-1)), "value=\"Some(-1)\"", json!("Some(-1)")),
            (logged!(Some(4)), "value=4", json!(4)),
            (logged!(b"\x00\xff".as_slice()), "value=\"[00 ff]\"", json!("[00 ff]")),
        ] {
            assert_eq!((text.as_str(), json), (expected_text, expected_json));
        }
    }

    #[test]
    fn strings_are_quoted() {
        let mut quoted = String::new();
        quote(&mut quoted, "a\"b\\c\n\u{7f}\u{9b}\u{e9}");
        assert_eq!(quoted, "\"a\\\"b\\\\c\\u000a\\u007f\\u009b\u{e9}\"");
    }
}
