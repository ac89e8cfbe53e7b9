//! A `tracing` subscriber of our own size: one line for each event to standard error, as text or as JSON.
//!
//! Left out on purpose: spans, filters by module, colours, files.

use std::fmt::{self, Debug, Write as _};
use std::io::Write as _;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::date::Date;

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `2026-11-21T07:00:00Z INFO the store is back worker=0`
    Text,
    /// `{"time":"2026-11-21T07:00:00Z","level":"INFO","message":"the store is back","worker":0}`
    Json,
}

/// The subscriber.
pub struct Log {
    level: LevelFilter,
    format: Format,
    clock: fn() -> u64,
}

impl Log {
    /// Makes this the subscriber of the process. `clock` tells the seconds since 1970.
    ///
    /// A process has one subscriber; where there is one already, it stays.
    pub fn install(level: LevelFilter, format: Format, clock: fn() -> u64) {
        let _ = tracing::subscriber::set_global_default(Self { level, format, clock });
    }

    fn line(&self, event: &Event<'_>) -> String {
        let mut line = Line { format: self.format, text: String::new() };
        let (time, level) = (timestamp((self.clock)()), event.metadata().level().as_str());
        match self.format {
            Format::Text => line.extend(&[&time, " ", level]),
            Format::Json => line.extend(&["{\"time\":\"", &time, "\",\"level\":\"", level, "\""]),
        }
        // The message comes first: that is where the macros of `tracing` put it.
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
        // Nobody is left to be told that the log cannot be written.
        let _ = std::io::stderr().write_all(self.line(event).as_bytes());
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// An event on its way to a line.
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

    fn name(&mut self, field: &Field) {
        match self.format {
            Format::Text => self.extend(&[" ", field.name(), "="]),
            Format::Json => self.extend(&[",\"", field.name(), "\":"]),
        }
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.record_str(field, &Shown(value).to_string());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" && self.format == Format::Text {
            self.extend(&[" ", value]);
        } else {
            self.name(field);
            quote(&mut self.text, value);
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.name(field);
        self.extend(&[&value.to_string()]);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.name(field);
        self.extend(&[&value.to_string()]);
    }

    // No event of ours has one of these, and the defaults would bring in all that it takes to print them.

    fn record_f64(&mut self, field: &Field, _: f64) {
        self.record_str(field, UNPRINTED);
    }

    fn record_i128(&mut self, field: &Field, _: i128) {
        self.record_str(field, UNPRINTED);
    }

    fn record_u128(&mut self, field: &Field, _: u128) {
        self.record_str(field, UNPRINTED);
    }

    fn record_bool(&mut self, field: &Field, _: bool) {
        self.record_str(field, UNPRINTED);
    }

    fn record_bytes(&mut self, field: &Field, _: &[u8]) {
        self.record_str(field, UNPRINTED);
    }
}

/// A value as it shows itself. In the binary that is shipped, `{:?}` shows nothing: see `scripts/build`.
struct Shown<'a>(&'a dyn Debug);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Stands for a value of a type that no event of ours has.
const UNPRINTED: &str = "?";

/// Returns a text as part of one line, whatever it holds.
#[must_use]
pub fn printable(text: &str) -> String {
    text.replace(char::is_control, "?")
}

/// Appends a JSON string, which is as good in text for people: quotes, backslashes and control characters are escaped.
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

/// A second since 1970 as in RFC 3339.
fn timestamp(second: u64) -> String {
    let (days, rest) = (second / 86_400, second % 86_400);
    let Date { year, month, day } = Date::of(days);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
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

    #[test]
    fn strings_are_quoted() {
        let mut quoted = String::new();
        quote(&mut quoted, "a\"b\\c\n\u{7f}\u{9b}\u{e9}");
        assert_eq!(quoted, "\"a\\\"b\\\\c\\u000a\\u007f\\u009b\u{e9}\"");
    }
}
