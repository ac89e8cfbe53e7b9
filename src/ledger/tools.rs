//! The command `notch ledger`: shows and checks a ledger, also while a server counts in it, and changes one that no
//! server uses.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use super::replay::Replay;
use super::totals::Totals;
use super::{Fsync, Ledger, OpenError};
use crate::counter::{Key, NameLimit};
use crate::decimal::Decimal;
use crate::resp::{self, Reply};

/// A subcommand of `notch ledger`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// Prints the counters, a line each: key and total.
    Show,
    /// Verifies every checksum.
    Check,
    /// Sets a counter to a total.
    Set(Key, i64),
    /// Writes the file anew, with one increment for each counter.
    Compact,
    /// Prints a `SET` in RESP for each counter.
    Export,
    /// Sets the counters that the input names.
    Import,
}

/// Arguments that are not a subcommand with its arguments.
#[derive(Debug, PartialEq, Eq)]
pub struct UsageError {
    /// The argument that is not known, if it is one.
    pub argument: Option<OsString>,
    /// The remedy in one line.
    pub remedy: &'static str,
}

impl UsageError {
    /// The text that `notch ledger --help` prints.
pub const HELP: &str = "\
notch ledger looks into the file in which notch counts, and changes it.

Usage: notch ledger show [FILE]            print each counter and its total
       notch ledger check [FILE]           verify every checksum
       notch ledger set KEY N [FILE]       set a counter to N; 0 removes it
       notch ledger compact [FILE]         write the file anew and small
       notch ledger export [FILE]          print commands for redis-cli --pipe
       notch ledger import [FILE] <INPUT   set counters to those of INPUT

FILE is the setting LEDGER by default (./notch.ledger). KEY is a key as show
prints it: visits, or visits:NAME for a named counter.

show, check and export only read, also while notch counts in the file. The
others are refused then, and are done whole or not at all, also if killed.

From Redis: import reads what redis-cli --raw prints for keys and totals, and
SET and INCRBY in RESP. To Redis: notch ledger export | redis-cli --pipe

The summary is on stderr. exit: 0 done; 1 damaged, in use or not writable, and
nothing was changed; 2 wrong usage
";

const SEE_HELP: &str = "see notch ledger --help";

/// What [`execute_one`] expects.
const COMMAND: &str =
    "SET or INCRBY with a key and a total; for another ledger, import what notch ledger export prints";

/// What [`parse_pair`] expects.
const PAIR: &str = "a key and a total from 0 to 9223372036854775807";

/// Bytes that are written at a time.
const PIECE: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<(Tool, Option<PathBuf>), String> {
        let arguments: Vec<_> = arguments.iter().map(OsString::from).collect();
        Tool::parse(&arguments).map_err(|UsageError { argument, remedy }| {
            argument.map(|argument| argument.to_string_lossy().into_owned() + ": ").unwrap_or_default() + remedy
        })
    }

    #[test]
    fn arguments_are_a_subcommand_and_a_file() {
        let key = |name: &str| Key::new(name.as_bytes()).expect("a valid key");
        for (arguments, tool, file) in [
            (&["show"][..], Tool::Show, None),
            (&["check", "a"], Tool::Check, Some("a")),
            (&["compact"], Tool::Compact, None),
            (&["export", "/data/notch.ledger"], Tool::Export, Some("/data/notch.ledger")),
            (&["import"], Tool::Import, None),
            (&["set", "visits", "0"], Tool::Set(key("visits"), 0), None),
            (&["set", "visits:a", "9223372036854775807", "f"], Tool::Set(key("visits:a"), i64::MAX), Some("f")),
        ] {
            assert_eq!(parse(arguments), Ok((tool, file.map(PathBuf::from))), "{arguments:?}");
        }
        for (arguments, part) in [
            (&[][..], "no command"),
            (&["list"], "list: see"),
            (&["show", "a", "b"], "b: see"),
            (&["check", "--deep"], "--deep: see"),
            (&["set"], "set needs a key and a number"),
            (&["set", "visits"], "set needs a key and a number"),
            (&["set", "visits", "-1"], "expects a key and a total"),
            (&["set", "visits", "1e3"], "expects a key and a total"),
            (&["set", "visits", "9223372036854775808"], "expects a key and a total"),
            (&["set", "two words", "1"], "expects a key and a total"),
            (&["set", "", "1"], "expects a key and a total"),
        ] {
            let error = parse(arguments).expect_err("wrong usage");
            assert!(error.contains(part), "{arguments:?}: {error}");
        }
    }

    #[test]
    fn input_is_words_or_commands() {
        let visits = Key::new(b"visits").expect("a valid key");
        let read = |input: &str| {
            let mut totals = Totals::new(unlimited(visits));
            totals.set(&Key::new(b"old").expect("a valid key"), 9);
            import(input.as_bytes(), &mut totals)?;
            let text = |(key, total)| format!("{}={total}", String::from_utf8_lossy(key));
            Ok::<_, ToolError>(totals.iter().map(text).collect::<Vec<_>>().join(" "))
        };
        let command = |words: &[&str]| {
            let mut out = Vec::new();
            resp::write_command(&mut out, &words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>());
            String::from_utf8(out).expect("text")
        };
        let set = |key: &str, total: &str| command(&["SET", key, total]);
        for (input, expected) in [
            (String::new(), "old=9"),
            ("\n\n".into(), "old=9"),
            ("visits\n7\nvisits:a\n8\n".into(), "old=9 visits=7 visits:a=8"),
            ("visits 7\r\nvisits:a 8\nold 0".into(), "visits=7 visits:a=8"),
            (set("b", "1") + &set("a", "2"), "a=2 b=1 old=9"),
            (set("a", "5") + &command(&["INCRBY", "a", "2"]) + &command(&["INCRBY", "old", "3"]), "a=7 old=12"),
            (command(&["INCRBY", "a", "2"]) + &set("a", "5") + &set("old", "0"), "a=5"),
        ] {
            assert_eq!(read(&input).ok().as_deref(), Some(expected), "{input}");
        }
        for (input, number) in [
            ("visits".to_owned(), 1),
            ("visits 7 visits:a".into(), 2),
            ("visits 7\nvisits:a -8".into(), 2),
            ("visits\n\nvisits:a\n8\n".into(), 1),
            ("visits 99999999999999999999".into(), 1),
            (set("a", "1") + "visits 7", 2),
            (set("a", "1") + &set("a", "1")[..9], 2),
            (set("a", "1") + &command(&["ECHO", "0123abcd"]), 2),
            (set("a", "9223372036854775807") + &command(&["INCRBY", "a", "1"]), 2),
            (command(&["SET", "a", "1", "EX", "3"]), 1),
            (command(&["DEL", "a", "1"]), 1),
            (command(&["ECHO", "notch ledger 1"]), 1),
        ] {
            match read(&input) {
                Err(ToolError::Item(at, _)) => assert_eq!(at, number, "{input}"),
                other => panic!("{input}: {other:?}"),
            }
        }
    }
}
