//! The command `notch ledger`: shows and checks a ledger, also while a server counts in it, and changes one that no
//! server uses.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};

use super::replay::{Replay, read_chunk};
use super::totals::Totals;
use super::{Fsync, Ledger, OpenError, Origin};
use crate::counter::{Key, NameLimit};
use crate::decimal::Decimal;
use crate::resp::{self, Malformed, Reply};

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

/// Arguments that are not a subcommand with its arguments, and the remedy in one line.
#[derive(Debug, PartialEq, Eq)]
pub enum UsageError {
    /// An argument is missing.
    Missing(&'static str),
    /// No command has such an argument.
    Unknown(OsString, &'static str),
    /// The value of an argument is not allowed.
    Invalid(OsString, &'static str),
}

/// Why a subcommand failed. Except after [`ToolError::Sync`], the ledger is as it was.
#[derive(Debug)]
pub enum ToolError {
    /// The ledger cannot be used.
    Open(OpenError),
    /// It ends before the end of its header.
    NoHeader,
    /// Its new file cannot be written.
    Write(io::Error),
    /// Its new file has replaced it, and a power cut may undo that.
    Sync(io::Error),
    /// The input cannot be read.
    Input(io::Error),
    /// An item of the input is invalid.
    Item {
        /// Its number, counted from 1.
        number: usize,
        /// Its first bytes.
        start: String,
        /// What is valid.
        expected: &'static str,
    },
    /// The input has no item.
    NoItem,
    /// The output cannot be written.
    Output(io::Error),
}

impl fmt::Display for ToolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(OpenError::Io(operation, error) | OpenError::Denied(operation, _, error))
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied) =>
            {
                // The remedy for a server, to own the file, would lock out the server.
                let remedy = match error.kind() {
                    ErrorKind::NotFound => "name the file, or set LEDGER",
                    _ => "run this as the user of notch, who needs rights to the file and its folder",
                };
                write!(f, "cannot {operation} it: {error}; {remedy}")
            }
            Self::Open(error) => error.fmt(f),
            Self::NoHeader => f.write_str("it ends before the end of its header and holds no visits: restore a copy"),
            Self::Write(error) => write!(f, "cannot write it: {error}; nothing was changed"),
            Self::Sync(error) => {
                write!(f, "cannot sync it: {error}; a power cut may undo the change: compact it again")
            }
            Self::Input(error) => write!(f, "cannot read the input: {error}; nothing was changed"),
            Self::Item { number, start, expected } => write!(
                f,
                "item {number} of the input is invalid, \"{start}\": expected {expected}; nothing was changed",
            ),
            Self::NoItem => f.write_str("the input is empty: expected keys and totals; nothing was changed"),
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
        let (name, mut rest) =
            arguments.split_first().ok_or(UsageError::Missing("no command: see notch ledger --help"))?;
        let tool = match name.as_encoded_bytes() {
            b"show" => Self::Show,
            b"check" => Self::Check,
            b"compact" => Self::Compact,
            b"export" => Self::Export,
            b"import" => Self::Import,
            b"set" => {
                let [key, total, file @ ..] = rest else {
                    return Err(UsageError::Missing("set needs a key and a total: see notch ledger --help"));
                };
                rest = file;
                let invalid = |value: &OsString, expected| UsageError::Invalid(value.clone(), expected);
                Self::Set(
                    Key::new(key.as_encoded_bytes()).ok_or_else(|| invalid(key, KEY))?,
                    parse_total(total.as_encoded_bytes()).ok_or_else(|| invalid(total, TOTAL))?,
                )
            }
            _ => return Err(UsageError::Unknown(name.clone(), SEE_HELP)),
        };
        match rest {
            [] => Ok((tool, None)),
            [file] if !matches!(file.as_encoded_bytes(), [] | [b'-', ..]) => Ok((tool, Some(file.into()))),
            [extra] | [_, extra, ..] => Err(UsageError::Unknown(extra.clone(), SEE_HELP)),
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
        input: &mut impl Read,
        output: &mut dyn Write,
    ) -> Result<String, ToolError> {
        match self {
            Self::Show | Self::Export => {
                let content = Content::read(path, main)?;
                content.write(self, output).map_err(ToolError::Output)?;
                Ok(content.summary())
            }
            Self::Check => {
                let content = Content::read(path, main)?;
                if content.replay.valid_length == 0 { Err(ToolError::NoHeader) } else { Ok(content.summary()) }
            }
            Self::Compact => {
                // Without this, a missing file would be created.
                Content::read(path, main)?;
                change(path, main, &mut |_| Ok(()))
            }
            Self::Set(key, total) => change(path, main, &mut |totals| {
                totals.set(&key, total);
                Ok(())
            }),
            Self::Import => change(path, main, &mut |totals| import(input, totals)),
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
    if let Err(error) = change(&mut ledger.totals) {
        if found.origin == Origin::Created && found.counters == 0 {
            let _ = fs::remove_file(&found.path);
        }
        return Err(error);
    }
    if let Err(error) = ledger.rewrite() {
        return Err(if ledger.is_sound() { ToolError::Write(error) } else { ToolError::Sync(error) });
    }
    // Reading the file takes the same memory again.
    drop(ledger);
    let mut summary = Content::read(path, main)?.summary();
    if found.torn > 0 {
        summary += &format!("; a torn tail of {} bytes was removed", found.torn);
    }
    Ok(summary)
}

/// Changes counters by the input: commands if it begins with one, otherwise pairs of words.
fn import(input: &mut impl Read, totals: &mut Totals) -> Result<(), ToolError> {
    let (mut bytes, mut number, mut has_commands) = (Vec::new(), 0, None);
    loop {
        let has_more = read_chunk(input, &mut bytes).map_err(ToolError::Input)?;
        let mut rest = bytes.trim_ascii_start();
        while let Some(&first) = rest.first() {
            let has_commands = *has_commands.get_or_insert(first == b'*');
            let parsed = if has_commands { parse_command(rest) } else { parse_words(rest, !has_more) };
            let length = match parsed {
                Ok(None) if has_more && rest.len() < MAX_ITEM => break,
                Ok(Some((change, length))) if change.apply(totals).is_some() => length,
                _ => {
                    let start = String::from_utf8_lossy(&rest[..rest.len().min(MAX_SHOWN)]).into_owned();
                    let expected = if has_commands { COMMAND } else { PAIR };
                    return Err(ToolError::Item { number: number + 1, start, expected });
                }
            };
            number += 1;
            rest = rest[length..].trim_ascii_start();
        }
        let used = bytes.len() - rest.len();
        bytes.drain(..used);
        if !has_more {
            return if number == 0 { Err(ToolError::NoItem) } else { Ok(()) };
        }
    }
}

/// An item of the input: a counter and its total, or the number to add to it.
#[derive(Clone, Copy)]
enum Change {
    Set(Key, i64),
    Add(Key, i64),
}

impl Change {
    /// Returns `None` if the total overflows.
    fn apply(self, totals: &mut Totals) -> Option<()> {
        match self {
            Self::Set(key, total) => totals.set(&key, total),
            Self::Add(key, by) => totals.set(&key, totals.get(&key).checked_add(by)?),
        }
        Some(())
    }
}

/// Parses `SET key total` or `INCRBY key by`. Returns it with its length in bytes, or `None` if it is incomplete.
fn parse_command(bytes: &[u8]) -> Result<Option<(Change, usize)>, Malformed> {
    let Some((reply, length)) = resp::decode_within(bytes, 1)? else { return Ok(None) };
    let Reply::Array(mut items) = reply else { return Err(Malformed) };
    let items = (items.next(), items.next(), items.next(), items.next());
    let (Some(Reply::Bulk(name)), Some(Reply::Bulk(key)), Some(Reply::Bulk(number)), None) = items else {
        return Err(Malformed);
    };
    let (key, number) = (Key::new(key).ok_or(Malformed)?, parse_total(number).ok_or(Malformed)?);
    match name {
        b"SET" => Ok(Some((Change::Set(key, number), length))),
        b"INCRBY" => Ok(Some((Change::Add(key, number), length))),
        _ => Err(Malformed),
    }
}

/// Parses two words between white space, a key and its total, as `redis-cli --raw` and [`Tool::Show`] print them.
/// Returns them with their length in bytes, or `None` if they are incomplete. With `is_end`, no bytes follow.
fn parse_words(bytes: &[u8], is_end: bool) -> Result<Option<(Change, usize)>, Malformed> {
    let end = |word: &[u8]| word.iter().position(u8::is_ascii_whitespace).or(is_end.then_some(word.len()));
    let Some((key, rest)) = end(bytes).map(|end| bytes.split_at(end)) else { return Ok(None) };
    let word = rest.trim_ascii_start();
    let Some((total, rest)) = end(word).map(|end| word.split_at(end)) else { return Ok(None) };
    let (key, total) = (Key::new(key).ok_or(Malformed)?, parse_total(total).ok_or(Malformed)?);
    Ok(Some((Change::Set(key, total), bytes.len() - rest.len())))
}

/// Returns no limit of counters: those of the file are accepted.
fn unlimited(main: Key) -> NameLimit {
    NameLimit { main, most: usize::MAX }
}

fn parse_total(digits: &[u8]) -> Option<i64> {
    resp::parse_integer(digits).filter(|&total| total >= 0)
}

/// The text that `notch ledger --help` prints.
pub const HELP: &str = "\
notch ledger reads and changes the file in which notch counts.

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

/// What [`parse_command`] expects.
const COMMAND: &str =
    "SET or INCRBY with a key and a total; for another ledger, import what notch ledger export prints";

/// What [`parse_words`] expects.
const PAIR: &str = "a key and a total from 0 to 9223372036854775807, as redis-cli --raw prints them";

/// What [`Tool::Set`] expects.
const KEY: &str = "expected 1 to 95 printable ASCII characters, none of \"'\\<>&";
const TOTAL: &str = "expected a total from 0 to 9223372036854775807";

/// Length in bytes from which an item is too long to be valid, and most bytes of an invalid one that are shown.
const MAX_ITEM: usize = 1024;
const MAX_SHOWN: usize = 32;

/// Bytes that are written at a time.
const PIECE: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<(Tool, Option<PathBuf>), String> {
        let arguments: Vec<_> = arguments.iter().map(OsString::from).collect();
        Tool::parse(&arguments).map_err(|error| match error {
            UsageError::Missing(remedy) => remedy.to_owned(),
            UsageError::Unknown(argument, remedy) => format!("unknown {argument:?}: {remedy}"),
            UsageError::Invalid(argument, remedy) => format!("invalid {argument:?}: {remedy}"),
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
            (&["list"], "unknown \"list\": see"),
            (&["show", "a", "b"], "unknown \"b\": see"),
            (&["show", ""], "unknown \"\": see"),
            (&["check", "--deep"], "unknown \"--deep\": see"),
            (&["set"], "set needs a key and a total"),
            (&["set", "visits"], "set needs a key and a total"),
            (&["set", "visits", "-1"], "invalid \"-1\": expected a total"),
            (&["set", "visits", "1e3"], "invalid \"1e3\": expected a total"),
            (&["set", "visits", "9223372036854775808"], "invalid \"9223372036854775808\": expected a total"),
            (&["set", "two words", "1"], "invalid \"two words\": expected 1 to 95 printable"),
            (&["set", "", "1"], "invalid \"\": expected 1 to 95"),
        ] {
            let error = parse(arguments).expect_err("wrong usage");
            assert!(error.contains(part), "{arguments:?}: {error}");
        }
    }

    #[test]
    fn input_is_words_or_commands() {
        let visits = Key::new(b"visits").expect("a valid key");
        // The input arrives in parts of `size` bytes.
        let read = |input: &str, size: usize| {
            let mut totals = Totals::new(unlimited(visits));
            totals.set(&Key::new(b"old").expect("a valid key"), 9);
            import(&mut Parts(input.as_bytes(), size), &mut totals)?;
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
            ("visits\n7\nvisits:a\n8\n".into(), "old=9 visits=7 visits:a=8"),
            ("visits 7\r\nvisits:a 8\nold 0".into(), "visits=7 visits:a=8"),
            (set("b", "1") + &set("a", "2"), "a=2 b=1 old=9"),
            (set("a", "5") + &command(&["INCRBY", "a", "2"]) + &command(&["INCRBY", "old", "3"]), "a=7 old=12"),
            (command(&["INCRBY", "a", "2"]) + &set("a", "5") + &set("old", "0"), "a=5"),
            ("\r\n".to_owned() + &set("a", "1") + "\n" + &set("b", "2") + "\n", "a=1 b=2 old=9"),
            (" ".repeat(2000) + "a 1" + &"\n".repeat(2000) + "b 2" + &" ".repeat(2000), "a=1 b=2 old=9"),
            (format!("{} {}", "k".repeat(Key::MAX), i64::MAX), &format!("{}={} old=9", "k".repeat(Key::MAX), i64::MAX)),
        ] {
            for size in [1, 7, usize::MAX] {
                assert_eq!(read(&input, size).ok().as_deref(), Some(expected), "{input}");
            }
        }
        for input in ["", "\n\n", " \r\n"] {
            assert!(matches!(read(input, 1), Err(ToolError::NoItem)), "{input:?}");
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
            (set("a", "-1"), 1),
            (set("a", "1")[..9].to_owned(), 1),
            (set("a", "1") + "*1024\r\n$16384\r\n" + &"x".repeat(3000), 2),
            (set("a", "1").replace("\r\n", "\n"), 1),
            ("visits 7 ".to_owned() + &"x".repeat(3000), 2),
            ("visits 7 x".to_owned() + &" ".repeat(3000) + "7", 2),
            ("a 1 \0\0 2".into(), 2),
            ("(nil)\n".into(), 1),
            ("1) \"visits\"\n2) \"7\"\n".into(), 1),
            ("\u{feff}visits 7".into(), 1),
            ("-ERR unknown command\r\n".into(), 1),
            ("SET visits 7".into(), 1),
            ("visits=7".into(), 1),
            ("visits 7.0".into(), 1),
            ("visits +7".into(), 1),
            ("visits 07".into(), 1),
        ] {
            for size in [1, 7, usize::MAX] {
                match read(&input, size) {
                    Err(ToolError::Item { number: at, start, .. }) => {
                        assert!(at == number && !start.is_empty(), "{at} {input}");
                    }
                    other => panic!("{input}: {other:?}"),
                }
            }
        }
    }

    /// Bytes that are read in parts of limited size.
    struct Parts<'a>(&'a [u8], usize);

    impl Read for Parts<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let size = self.1.min(into.len());
            self.0.read(&mut into[..size])
        }
    }
}
