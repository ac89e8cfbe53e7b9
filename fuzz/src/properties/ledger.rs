//! A file of anything at all, opened as a ledger; and a ledger that is written, damaged and opened again.
//!
//! - It opens, or is refused and left as it was.
//! - What it counts after that is still there when it is opened once more.
//! - Damage never gives another count: either the ledger is refused, or it is cut behind the last batch that is whole,
//!   and then no later batch was.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{env, fs};

use notch::counter::{Command, Key, Rejection, StoreError};
use notch::ledger::{Bound, Found, Fsync, Ledger, OpenError};
use notch::resp;

/// `data` is a file, if it begins like one, with `*`. Else it is a story, a deed a line:
///
/// | line | what is done |
/// |---|---|
/// | `a 1 b 40` | a batch is counted: keys, and by how much |
/// | `gone` | the file is removed while it is open, and a visit of `gone` is counted |
/// | `cut 57` | the file is cut to so many bytes |
/// | `flip 30 1` | the byte there is XORed |
/// | `drop 35 60` | the bytes from there to there are taken out |
/// | `copy 35 60` | the bytes from there to there are added at the end |
/// | `zeros 100` | so many zeros are added at the end |
/// | `put words` | the words are added at the end |
/// | `forge INCRBY a 5` | the words are added as a command, with the right seal |
/// | anything else | the file is opened, if it was not |
pub fn holds(data: &[u8]) {
    let folder = Folder::new();
    let mut story = Story::new(folder.0.join("ledger"));
    if data.starts_with(b"*") {
        fs::write(&story.path, data).expect("a file");
        story.forged = true;
        let counts = [b"a", b"b"].map(|name| (Key::new(name).expect("a good name"), 1));
        story.keys.extend(counts.map(|(key, _)| key));
        let _ = story.open().and_then(|()| story.count(&counts)).and_then(|()| story.close());
        return;
    }
    for line in data.split(|&byte| byte == b'\n') {
        if story.deed(line).is_none() {
            return;
        }
    }
    let _ = story.close();
}

/// A folder of this thread, gone when it is done.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let thread = format!("{:?}", std::thread::current().id());
        let digits: String = thread.chars().filter(char::is_ascii_digit).collect();
        // In memory, if nothing else was asked for: a real disk syncs a thousand times.
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

/// A file, and what should be in it.
struct Story {
    path: PathBuf,
    ledger: Option<Ledger>,
    /// The file as the ledger left it.
    written: Vec<u8>,
    /// What was counted when it was so long, from the header on.
    states: Vec<(usize, Totals)>,
    /// The keys that anything was said of.
    keys: Vec<Key>,
    /// Somebody has written to it who knows how: what it counts now is for the ledger to say.
    forged: bool,
}

impl Story {
    fn new(path: PathBuf) -> Self {
        Self { path, ledger: None, written: Vec::new(), states: Vec::new(), keys: Vec::new(), forged: false }
    }

    /// `None` if the file is refused, and the story over.
    fn deed(&mut self, line: &[u8]) -> Option<()> {
        let text = String::from_utf8_lossy(line);
        let words: Vec<&str> = text.split(' ').collect();
        let number = |at: usize| words.get(at).and_then(|word| word.parse::<usize>().ok()).unwrap_or(0).min(MAX_LENGTH);
        match words[0] {
            "gone" => {
                self.open()?;
                // It may be gone already.
                let _ = fs::remove_file(&self.path);
                // What is counted next brings all of it back.
                self.count(&[(Key::new(b"gone").expect("a good name"), 1)])
            }
            "cut" => self.spoil(|file| file.truncate(number(1))),
            "flip" => self.spoil(|file| {
                if let Some(byte) = file.get_mut(number(1)) {
                    *byte ^= number(2) as u8;
                }
            }),
            "drop" => self.spoil(|file| drop(file.drain(span(file, number(1), number(2))))),
            "copy" => self.spoil(|file| file.extend_from_within(span(file, number(1), number(2)))),
            "zeros" => self.spoil(|file| file.resize(file.len() + number(1), 0)),
            "put" => self.spoil(|file| file.extend_from_slice(&line[4.min(line.len())..])),
            "forge" => {
                self.keys.extend(words.get(2).and_then(|word| Key::new(word.as_bytes())));
                self.forged = true;
                self.spoil(|file| forge(file, &words[1..]))
            }
            _ => {
                let counts = words.chunks_exact(2).filter_map(|pair| {
                    let by = pair[1].parse().ok().filter(|&by| by > 0)?;
                    Some((Key::new(pair[0].as_bytes())?, by))
                });
                self.open()?;
                self.count(&counts.collect::<Vec<_>>())
            }
        }
    }

    fn spoil(&mut self, how: impl FnOnce(&mut Vec<u8>)) -> Option<()> {
        self.close()?;
        let mut file = read(&self.path);
        how(&mut file);
        file.truncate(MAX_LENGTH);
        fs::write(&self.path, file).expect("a file");
        Some(())
    }

    /// Has the ledger opened and compares what it counts with what it should.
    fn open(&mut self) -> Option<()> {
        if self.ledger.is_some() {
            return Some(());
        }
        let before = read(&self.path);
        let intact = before.iter().zip(&self.written).take_while(|(one, other)| one == other).count();
        let sound = self.states.iter().rposition(|(end, _)| *end <= intact);
        let bound = Bound { main: Key::new(b"visits").expect("a good name"), named: usize::MAX };
        let (mut ledger, Found { torn: cut, .. }) = match Ledger::open(&self.path, Fsync::Always, bound) {
            Ok(opened) => opened,
            Err(OpenError::Damaged(_) | OpenError::NotALedger) => {
                assert_eq!(read(&self.path), before, "refused, and changed");
                assert_ne!(before, self.written, "refused what it has written");
                return None;
            }
            Err(other) => panic!("{other}"),
        };
        let after = read(&self.path);
        let totals = totals(&mut ledger, &self.keys);
        if self.forged && before != self.written {
            self.states = vec![(after.len(), totals)];
        } else {
            let (end, expected) = sound.map_or((0, Totals::new()), |sound| self.states[sound].clone());
            assert_eq!(totals, expected, "another count");
            assert_eq!(cut as usize, before.len() - end);
            assert!(!self.seals().any(|seal| contains(&before[end..], seal)), "a batch that was sealed is gone");
            self.states.truncate(sound.map_or(0, |sound| sound + 1));
            if sound.is_none() {
                self.states.push((HEADER, Totals::new()));
            }
        }
        assert!(after.starts_with(&before[..before.len() - cut as usize]), "what was sound is gone");
        self.written = after;
        self.ledger = Some(ledger);
        Some(())
    }

    /// The ends of all batches that were written; no two are alike.
    fn seals(&self) -> impl Iterator<Item = &[u8]> {
        self.states.iter().filter(|(end, _)| *end > HEADER).map(|(end, _)| &self.written[end - SEAL..*end])
    }

    /// Counts a batch, and compares what is answered with the sums.
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
            // Written anew, by itself: all that was counted first, and then this. Where a cut may end is for it to say.
            self.forged = true;
            self.states = vec![(HEADER, Totals::new())];
        }
        if self.states.last().is_none_or(|(end, _)| *end < now.len()) {
            self.states.push((now.len(), totals));
        }
        self.written = now;
        Some(())
    }

    /// Opens it, if it was not, closes it, opens it once more and finds all as it was.
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
    let told = keys.iter().zip(results).map(|(key, total)| (key.as_bytes().to_vec(), total.expect("a total")));
    told.filter(|(_, total)| *total != 0).collect()
}

fn forge(file: &mut Vec<u8>, words: &[&str]) {
    // The seal before is the last line but its end; the header has none.
    let digits = file.len().checked_sub(10).and_then(|start| std::str::from_utf8(&file[start..start + 8]).ok());
    let seed = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()).unwrap_or(0);
    let mut out = Vec::new();
    resp::command(&mut out, &words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>());
    let seal = format!("{:08x}", crc32(seed, &out));
    resp::command(&mut out, &[b"ECHO", seal.as_bytes()]);
    file.extend_from_slice(&out);
}

/// CRC-32 by the letter, bit by bit.
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

/// Length of a seal in bytes.
const SEAL: usize = 28;

/// Length of the header in bytes.
const HEADER: usize = 35;

/// Longest file in bytes.
const MAX_LENGTH: usize = 32 * 1024;
