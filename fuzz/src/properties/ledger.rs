//! An arbitrary file, opened as a ledger; and a ledger that is written, damaged and opened again.
//!
//! - The file opens, or is rejected and stays unchanged.
//! - Visits counted afterwards are still present when it is opened again.
//! - Damage never changes a total: the ledger is rejected, or it is truncated after the last complete batch, and then
//!   no later batch was complete.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs};

use notch::counter::{Command, Key, NameLimit, Rejection, StoreError};
use notch::ledger::{Found, Fsync, Ledger, OpenError};
use notch::resp;

/// `data` is a file if it begins with `*`. Otherwise it is a scenario with one step in a line:
///
/// | line | step |
/// |---|---|
/// | `a 1 b 40` | commits a batch: keys and visits |
/// | `remove` | removes the file while it is open, and counts a visit of `removed` |
/// | `cut 57` | truncates the file to this length |
/// | `flip 30 1` | XORs the byte at this offset |
/// | `drop 35 60` | removes the bytes between these offsets |
/// | `copy 35 60` | appends a copy of the bytes between these offsets |
/// | `zeros 100` | appends this many zeros |
/// | `put text` | appends the text |
/// | `forge INCRBY a 5` | appends the arguments as a command with a valid checksum |
/// | other | opens the file, if it is closed |
pub fn holds(data: &[u8]) {
    let folder = Folder::new();
    let mut scenario = Scenario::new(folder.0.join("ledger"));
    if data.starts_with(b"*") {
        fs::write(&scenario.path, data).expect("a file");
        scenario.is_forged = true;
        let counts = [b"a", b"b"].map(|name| (Key::new(name).expect("a valid key"), 1));
        scenario.keys.extend(counts.map(|(key, _)| key));
        let _ = scenario.open().and_then(|()| scenario.count(&counts)).and_then(|()| scenario.close());
        return;
    }
    for line in data.split(|&byte| byte == b'\n') {
        if scenario.step(line).is_none() {
            return;
        }
    }
    let _ = scenario.close();
}

/// A temporary folder for this thread.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let thread = format!("{:?}", std::thread::current().id());
        let digits: String = thread.chars().filter(char::is_ascii_digit).collect();
        // In memory unless `TMPDIR` is set, because the ledger syncs thousands of times.
        let memory = Some(PathBuf::from("/dev/shm")).filter(|path| env::var_os("TMPDIR").is_none() && path.is_dir());
        let folder = memory.unwrap_or_else(env::temp_dir);
        let path = folder.join(format!("notch-fuzz-{}-{digits}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).expect("a folder");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

type Totals = BTreeMap<Vec<u8>, i64>;

/// A file and its expected content.
struct Scenario {
    path: PathBuf,
    ledger: Option<Ledger>,
    /// The file as written by the ledger.
    written: Vec<u8>,
    /// The totals at each length of the file after a batch, from the header on.
    states: Vec<(usize, Totals)>,
    /// All keys of the scenario.
    keys: Vec<Key>,
    /// The file was changed with valid checksums, so its totals are those that the ledger returns.
    is_forged: bool,
}

impl Scenario {
    fn new(path: PathBuf) -> Self {
        Self { path, ledger: None, written: Vec::new(), states: Vec::new(), keys: Vec::new(), is_forged: false }
    }

    /// Performs one step. Returns `None` if the file is rejected, which ends the scenario.
    fn step(&mut self, line: &[u8]) -> Option<()> {
        let text = String::from_utf8_lossy(line);
        let arguments: Vec<&str> = text.split(' ').collect();
        let number = |at: usize| {
            arguments.get(at).and_then(|argument| argument.parse::<usize>().ok()).unwrap_or(0).min(MAX_LENGTH)
        };
        match arguments[0] {
            "remove" => {
                self.open()?;
                // It may have been removed before.
                let _ = fs::remove_file(&self.path);
                // The next commit writes the whole file again.
                self.count(&[(Key::new(b"removed").expect("a valid key"), 1)])
            }
            "cut" => self.damage(|file| file.truncate(number(1))),
            "flip" => self.damage(|file| {
                if let Some(byte) = file.get_mut(number(1)) {
                    *byte ^= number(2) as u8;
                }
            }),
            "drop" => self.damage(|file| drop(file.drain(span(file, number(1), number(2))))),
            "copy" => self.damage(|file| file.extend_from_within(span(file, number(1), number(2)))),
            "zeros" => self.damage(|file| file.resize(file.len() + number(1), 0)),
            "put" => self.damage(|file| file.extend_from_slice(&line[4.min(line.len())..])),
            "forge" => {
                self.keys.extend(arguments.get(2).and_then(|argument| Key::new(argument.as_bytes())));
                self.is_forged = true;
                self.damage(|file| forge(file, &arguments[1..]))
            }
            _ => {
                let counts = arguments.chunks_exact(2).filter_map(|pair| {
                    let by = pair[1].parse().ok().filter(|&by| by > 0)?;
                    Some((Key::new(pair[0].as_bytes())?, by))
                });
                self.open()?;
                self.count(&counts.collect::<Vec<_>>())
            }
        }
    }

    fn damage(&mut self, change: impl FnOnce(&mut Vec<u8>)) -> Option<()> {
        self.close()?;
        let mut file = read(&self.path);
        change(&mut file);
        file.truncate(MAX_LENGTH);
        fs::write(&self.path, file).expect("a file");
        Some(())
    }

    /// Opens the ledger, if it is closed, and compares its totals with the expected ones.
    fn open(&mut self) -> Option<()> {
        if self.ledger.is_some() {
            return Some(());
        }
        let before = read(&self.path);
        let intact = before.iter().zip(&self.written).take_while(|(one, other)| one == other).count();
        let intact_state = self.states.iter().rposition(|(end, _)| *end <= intact);
        let limit = NameLimit { main: Key::new(b"visits").expect("a valid key"), most: usize::MAX };
        let (mut ledger, Found { torn: cut, .. }) = match Ledger::open(&self.path, Fsync::Always, limit) {
            Ok(opened) => opened,
            Err(OpenError::Damaged(_) | OpenError::NotALedger) => {
                assert_eq!(read(&self.path), before, "rejected and changed");
                assert_ne!(before, self.written, "rejected a file that the ledger has written");
                return None;
            }
            Err(other) => panic!("{other}"),
        };
        let after = read(&self.path);
        let totals = totals(&mut ledger, &self.keys);
        if self.is_forged && before != self.written {
            self.states = vec![(after.len(), totals)];
        } else {
            let (end, expected) = intact_state.map_or((0, Totals::new()), |state| self.states[state].clone());
            assert_eq!(totals, expected, "other totals");
            assert_eq!(cut as usize, before.len() - end);
            let is_lost = self.checksums().any(|checksum| contains(&before[end..], checksum));
            assert!(!is_lost, "a batch with a valid checksum was removed");
            self.states.truncate(intact_state.map_or(0, |state| state + 1));
            if intact_state.is_none() {
                self.states.push((HEADER, Totals::new()));
            }
        }
        assert!(after.starts_with(&before[..before.len() - cut as usize]), "intact bytes were changed");
        self.written = after;
        self.ledger = Some(ledger);
        Some(())
    }

    /// Returns the checksum commands of all batches that were written; they are all different.
    fn checksums(&self) -> impl Iterator<Item = &[u8]> {
        self.states.iter().filter(|(end, _)| *end > HEADER).map(|(end, _)| &self.written[end - CHECKSUM..*end])
    }

    /// Commits a batch and compares the results with the expected totals.
    fn count(&mut self, counts: &[(Key, i64)]) -> Option<()> {
        let mut totals = self.states.last().map(|(_, totals)| totals.clone()).unwrap_or_default();
        let mut expected = Vec::new();
        for (key, by) in counts {
            let total = totals.get(key.as_bytes()).unwrap_or(&0).checked_add(*by);
            expected.push(total.ok_or(StoreError::Rejected(Rejection::Overflow)));
            if let Some(total) = total {
                totals.insert(key.as_bytes().to_vec(), total);
            }
            self.keys.push(*key);
        }
        let commands: Vec<_> = counts.iter().map(|&(key, by)| Command::Increment { key, by }).collect();
        let mut results = Vec::new();
        self.ledger.as_mut()?.commit(&commands, &mut results);
        assert_eq!(results, expected);
        let now = read(&self.path);
        if !now.starts_with(&self.written) {
            // The ledger has rewritten the file: all earlier totals first, then this batch.
            self.is_forged = true;
            self.states = vec![(HEADER, Totals::new())];
        }
        if self.states.last().is_none_or(|(end, _)| *end < now.len()) {
            self.states.push((now.len(), totals));
        }
        self.written = now;
        Some(())
    }

    /// Closes the ledger, opens it again, which compares the totals, and closes it.
    fn close(&mut self) -> Option<()> {
        self.open()?;
        self.ledger = None;
        self.open()?;
        self.ledger = None;
        Some(())
    }
}

fn totals(ledger: &mut Ledger, keys: &[Key]) -> Totals {
    let commands: Vec<_> = keys.iter().map(|&key| Command::Get { key }).collect();
    let mut results = Vec::new();
    ledger.commit(&commands, &mut results);
    let totals = keys.iter().zip(results).map(|(key, total)| (key.as_bytes().to_vec(), total.expect("a total")));
    totals.filter(|(_, total)| *total != 0).collect()
}

fn forge(file: &mut Vec<u8>, arguments: &[&str]) {
    // The previous checksum is the last line without its end; the header has none.
    let digits = file.len().checked_sub(10).and_then(|start| std::str::from_utf8(&file[start..start + 8]).ok());
    let seed = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()).unwrap_or(0);
    let mut out = Vec::new();
    resp::write_command(&mut out, &arguments.iter().map(|argument| argument.as_bytes()).collect::<Vec<_>>());
    let checksum = format!("{:08x}", crc32(seed, &out));
    resp::write_command(&mut out, &[b"ECHO", checksum.as_bytes()]);
    file.extend_from_slice(&out);
}

/// Returns the CRC-32, computed bit by bit as in its definition.
fn crc32(seed: u32, bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!seed, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| crc >> 1 ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 })
    })
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_default()
}

fn span(file: &[u8], from: usize, to: usize) -> std::ops::Range<usize> {
    let from = from.min(file.len());
    from..to.clamp(from, file.len())
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Length of a checksum command in bytes.
const CHECKSUM: usize = 28;

/// Length of the header in bytes.
const HEADER: usize = 35;

/// Longest file in bytes.
const MAX_LENGTH: usize = 32 * 1024;
