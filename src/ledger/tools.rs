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
    fn unknown(argument: &OsString) -> Self {
        Self { argument: Some(argument.clone()), remedy: SEE_HELP }
    }
}

impl From<&'static str> for UsageError {
    fn from(remedy: &'static str) -> Self {
        Self { argument: None, remedy }
    }
}

/// Why a subcommand failed. The ledger is as it was.
#[derive(Debug)]
pub enum ToolError {
    /// The ledger cannot be used.
    Open(OpenError),
    /// Its new file cannot be written.
    Write(io::Error),
    /// The input cannot be read.
    Input(io::Error),
    /// An item of the input, counted from 1, is invalid: what was expected.
    Item(usize, &'static str),
    /// The output cannot be written.
    Output(io::Error),
}

impl fmt::Display for ToolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(error) => error.fmt(f),
            Self::Write(error) => write!(f, "cannot write it: {error}; nothing was changed"),
            Self::Input(error) => write!(f, "cannot read the input: {error}; nothing was changed"),
            Self::Item(number, expected) => {
                write!(f, "item {number} of the input is invalid: expected {expected}; nothing was changed")
            }
            Self::Output(error) => write!(f, "cannot write the output: {error}"),
        }
    }
}

impl From<OpenError> for ToolError {
    fn from(error: OpenError) -> Self {
        Self::Open(error)
    }
}

impl Tool {
    /// Parses the arguments after `notch ledger`. Returns the subcommand and the file, if one is named.
    ///
    /// # Errors
    /// [`UsageError`].
    pub fn parse(arguments: &[OsString]) -> Result<(Self, Option<PathBuf>), UsageError> {
        let (name, mut rest) = arguments.split_first().ok_or("no command: see notch ledger --help")?;
        let tool = match name.as_encoded_bytes() {
            b"show" => Self::Show,
            b"check" => Self::Check,
            b"compact" => Self::Compact,
            b"export" => Self::Export,
            b"import" => Self::Import,
            b"set" => {
                let [key, total, file @ ..] = rest else {
                    return Err("set needs a key and a number: see notch ledger --help".into());
                };
                rest = file;
                let pair = parse_pair(key.as_encoded_bytes(), total.as_encoded_bytes());
                let (key, total) = pair.ok_or(
                    "set expects a key and a total from 0 to 9223372036854775807, for example set visits 1000",
                )?;
                Self::Set(key, total)
            }
            _ => return Err(UsageError::unknown(name)),
        };
        match rest {
            [] => Ok((tool, None)),
            [file] if !file.as_encoded_bytes().starts_with(b"-") => Ok((tool, Some(file.into()))),
            [file] => Err(UsageError::unknown(file)),
            [_, extra, ..] => Err(UsageError::unknown(extra)),
        }
    }

    /// Runs the subcommand on the ledger at `path`, whose main counter is `main`. Returns the line to show at the end.
    ///
    /// # Errors
    /// [`ToolError`]; the ledger is as it was.
    pub fn run(
        self,
        path: &Path,
        main: Key,
        input: &mut dyn Read,
        output: &mut dyn Write,
    ) -> Result<String, ToolError> {
        match self {
            Self::Show | Self::Export => {
                let content = Content::read(path, main)?;
                content.write(self, output).map_err(ToolError::Output)?;
                Ok(content.summary())
            }
            Self::Check => Ok(Content::read(path, main)?.summary()),
            Self::Compact => {
                // Without this, a missing file would be created.
                Content::read(path, main)?;
                change(path, main, &mut |_| Ok(()))
            }
            Self::Set(key, total) => change(path, main, &mut |totals| {
                totals.set(&key, total);
                Ok(())
            }),
            Self::Import => {
                let mut bytes = Vec::new();
                input.read_to_end(&mut bytes).map_err(ToolError::Input)?;
                // Invalid input is found before the ledger is opened, and created if it is missing.
                import(&bytes, &mut Totals::new(unlimited(main)))?;
                change(path, main, &mut |totals| import(&bytes, totals))
            }
        }
    }
}

/// The content of a file that another process may be writing to.
struct Content {
    replay: Replay,
    length: u64,
}

impl Content {
    fn read(path: &Path, main: Key) -> Result<Self, OpenError> {
        let io_error = |error| OpenError::Io("open", error);
        // Opening a pipe would wait for a writer.
        if !fs::metadata(path).map_err(io_error)?.is_file() {
            return Err(OpenError::NotALedger);
        }
        let mut file = File::open(path).map_err(io_error)?;
        let replay = Replay::run(&mut file, unlimited(main))?;
        let length = file.stream_position().map_err(io_error)?;
        Ok(Self { replay, length })
    }

    /// Writes all counters: as commands for [`Tool::Export`], else as lines.
    fn write(&self, tool: Tool, output: &mut dyn Write) -> io::Result<()> {
        let mut out = Vec::new();
        for (key, total) in self.replay.totals.iter() {
            let total = Decimal::new(total);
            if tool == Tool::Export {
                resp::write_command(&mut out, &[b"SET", key, &total]);
            } else {
                [key, b" ", &total, b"\n"].iter().for_each(|part| out.extend_from_slice(part));
            }
            if out.len() >= PIECE {
                output.write_all(&out)?;
                out.clear();
            }
        }
        output.write_all(&out)
    }

    fn summary(&self) -> String {
        let Self { replay: Replay { totals, batches, valid_length, .. }, length } = self;
        let (counters, torn) = (totals.len(), length - valid_length);
        let mut summary = format!(
            "counters: {counters}, bytes: {length}, batches: {batches}, all checksums are right; the last batch ends \
             at byte {valid_length}"
        );
        if torn > 0 {
            summary += &format!(", the {torn} bytes after it are torn by a crash, or are being written");
        }
        summary
    }
}

/// Changes totals of the ledger at `path`, all or none, by a new file.
fn change(
    path: &Path,
    main: Key,
    change: &mut dyn FnMut(&mut Totals) -> Result<(), ToolError>,
) -> Result<String, ToolError> {
    let (mut ledger, found) = Ledger::open(path, Fsync::Always, unlimited(main))?;
    change(&mut ledger.totals)?;
    ledger.rewrite().map_err(ToolError::Write)?;
    let mut summary = Content::read(path, main)?.summary();
    if found.torn > 0 {
        summary += &format!("; a torn tail of {} bytes was removed", found.torn);
    }
    Ok(summary)
}

/// Executes the commands of the input if it begins with one, otherwise sets counters to the totals in it.
fn import(bytes: &[u8], totals: &mut Totals) -> Result<(), ToolError> {
    match resp::decode_within(bytes, 1) {
        Ok(Some((Reply::Array(_), _))) => execute(bytes, totals),
        _ => import_words(bytes, totals),
    }
}

/// Executes `SET key total` and `INCRBY key by`.
fn execute(mut bytes: &[u8], totals: &mut Totals) -> Result<(), ToolError> {
    let mut number = 0;
    while !bytes.is_empty() {
        number += 1;
        let length = execute_one(bytes, totals).ok_or(ToolError::Item(number, COMMAND))?;
        bytes = &bytes[length..];
    }
    Ok(())
}

/// Executes the first command of `bytes`. Returns its length, or `None` if it is invalid or overflows.
fn execute_one(bytes: &[u8], totals: &mut Totals) -> Option<usize> {
    let (Reply::Array(mut items), length) = resp::decode_within(bytes, 1).ok()?? else { return None };
    let [name, key, number] = [items.next()?, items.next()?, items.next()?];
    let (Reply::Bulk(name), Reply::Bulk(key), Reply::Bulk(number), None) = (name, key, number, items.next()) else {
        return None;
    };
    let (key, number) = parse_pair(key, number)?;
    match name {
        b"SET" => totals.set(&key, number),
        b"INCRBY" => totals.set(&key, totals.get(&key).checked_add(number)?),
        _ => return None,
    }
    Some(length)
}

/// Reads words between white space, each key followed by its total, as `redis-cli --raw` and [`Tool::Show`] print them.
fn import_words(bytes: &[u8], totals: &mut Totals) -> Result<(), ToolError> {
    let mut words = bytes.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    let mut number = 0;
    while let Some(key) = words.next() {
        number += 1;
        let pair = words.next().and_then(|total| parse_pair(key, total));
        let (key, total) = pair.ok_or(ToolError::Item(number, PAIR))?;
        totals.set(&key, total);
    }
    Ok(())
}

/// Returns no limit of counters: those of the file are accepted.
fn unlimited(main: Key) -> NameLimit {
    NameLimit { main, most: usize::MAX }
}

/// Parses a key and its total.
fn parse_pair(key: &[u8], total: &[u8]) -> Option<(Key, i64)> {
    Some((Key::new(key)?, resp::parse_integer(total).filter(|&total| total >= 0)?))
}

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
