use super::replay::MAX_TAIL;
use super::tools::{Tool, ToolError};
use super::*;

/// A folder that is removed at the end of the test.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("notch-ledger-{test}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).expect("a folder");
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("ledger")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn key(name: &str) -> Key {
    Key::new(name.as_bytes()).expect("a valid key")
}

fn count(name: &str, by: i64) -> Command {
    Command::Increment { key: key(name), by }
}

fn commit(ledger: &mut Ledger, commands: &[Command]) -> Vec<Result<i64, StoreError>> {
    let mut results = Vec::new();
    ledger.commit(commands, &mut results);
    results
}

fn open(path: &Path) -> Result<(Ledger, Found), OpenError> {
    Ledger::open(path, Fsync::Never, NameLimit { main: key("visits"), most: usize::MAX })
}

fn open_valid(path: &Path) -> Ledger {
    open(path).expect("a valid ledger").0
}

/// Runs `notch ledger check` and `show`, which do not change the file. Returns the outcome, and the counters.
fn check(path: &Path) -> (Result<String, ToolError>, String) {
    let (before, mut shown) = (fs::read(path).expect("a file"), Vec::new());
    let run = |tool: Tool, output: &mut Vec<u8>| tool.run(path, key("visits"), &mut io::empty(), output);
    let checked = run(Tool::Check, &mut Vec::new());
    let is_shown = run(Tool::Show, &mut shown).is_ok();
    assert!(is_shown || checked.is_err());
    assert_eq!(fs::read(path).expect("a file"), before);
    (checked, String::from_utf8(shown).expect("text"))
}

/// Writes a ledger of three batches. Returns its length after the header and after each batch.
fn write_three_batches(path: &Path) -> Vec<u64> {
    let mut ledger = open_valid(path);
    let mut ends = vec![ledger.size];
    for commands in [&[count("a", 1)][..], &[count("a", 2), count("b", 40)], &[count("a", 10)]] {
        commit(&mut ledger, commands);
        ends.push(ledger.size);
    }
    ends
}

#[test]
fn totals_survive_reopening() {
    let folder = Folder::new("reopened");
    let total = |name| Command::Get { key: key(name) };
    let mut ledger = open_valid(&folder.file());
    let commands = [count("a", 2), total("a"), count("b", 1), count("a", 1), Command::Ping, total("c")];
    assert_eq!(commit(&mut ledger, &commands), [Ok(2), Ok(3), Ok(1), Ok(3), Ok(0), Ok(0)]);
    assert_eq!(
        commit(&mut ledger, &[count("a", i64::MAX), count("a", 1)]),
        [Err(StoreError::Rejected(Rejection::Overflow)), Ok(4)]
    );
    drop(ledger);
    assert_eq!(
        commit(&mut open_valid(&folder.file()), &[total("a"), total("b"), count("b", 1)]),
        [Ok(4), Ok(2), Ok(2)]
    );
}

#[test]
fn a_tail_torn_at_any_length_is_truncated() {
    let folder = Folder::new("torn");
    let ends = write_three_batches(&folder.file());
    let whole = fs::read(folder.file()).expect("a file");
    let totals = [(0, 0), (1, 0), (3, 40), (13, 40)];
    let shown = ["", "a 1\n", "a 3\nb 40\n", "a 13\nb 40\n"];
    for length in 0..=whole.len() {
        fs::write(folder.file(), &whole[..length]).expect("a file");
        let checked = check(&folder.file());
        let (ledger, Found { torn, .. }) = open(&folder.file()).expect("a valid ledger");
        let batches = ends.iter().rposition(|&end| end <= length as u64);
        let valid = batches.map_or(0, |batches| ends[batches]);
        let (a, b) = totals[batches.unwrap_or(0)];
        assert_eq!((ledger.total(&key("a")), ledger.total(&key("b"))), (a, b), "{length}");
        assert_eq!(torn, length as u64 - valid);
        assert_eq!(checked.1, shown[batches.unwrap_or(0)], "{length}");
        match checked.0 {
            Ok(summary) => assert_eq!((summary.contains(&format!("the {torn} bytes after it"))), torn > 0, "{summary}"),
            Err(ToolError::NoHeader) => assert!(length < HEADER.len()),
            Err(other) => panic!("{length}: {other}"),
        }
        assert_eq!(fs::metadata(folder.file()).expect("a file").len(), valid.max(ends[0]));
    }
}

#[test]
fn a_changed_byte_never_gives_a_wrong_total() {
    let folder = Folder::new("damaged");
    let ends = write_three_batches(&folder.file());
    let whole = fs::read(folder.file()).expect("a file");
    for at in 0..whole.len() {
        for flip in [0x01, 0x08, 0x80, whole[at]] {
            let mut damaged = whole.clone();
            damaged[at] ^= flip;
            fs::write(folder.file(), &damaged).expect("a file");
            let valid = *ends.iter().rfind(|&&end| end <= at as u64).unwrap_or(&0);
            let (checked, shown) = check(&folder.file());
            match open(&folder.file()) {
                Err(OpenError::NotALedger) => assert!(at < HEADER.len()),
                Err(OpenError::Damaged(offset)) => assert_eq!(offset, valid, "{at} {flip}"),
                Err(other) => panic!("{other}"),
                Ok((ledger, Found { torn, .. })) => {
                    // Only a zero as the last byte looks like a torn tail.
                    assert!(torn > 0 && at == whole.len() - 1 && damaged[at] == 0, "{at} {flip}");
                    assert_eq!(ledger.total(&key("a")), 3);
                    assert!(checked.is_ok() && shown == "a 3\nb 40\n");
                    continue;
                }
            }
            assert!(matches!(checked, Err(ToolError::Open(_))) && shown.is_empty(), "{at} {flip}");
            assert_eq!(fs::read(folder.file()).expect("a file"), damaged);
        }
    }
}

#[test]
fn a_tail_that_no_crash_leaves_is_damage() {
    let folder = Folder::new("tails");
    let ends = write_three_batches(&folder.file());
    let whole = fs::read(folder.file()).expect("a file");
    let (increment, digits) = (&b"*3\r\n$6\r\nINCRBY\r\n$1\r\na\r\n$1\r\n1\r\n"[..], &whole[whole.len() - 10..]);
    let long = [b"*3\r\n$6\r\nINCRBY\r\n$95\r\n", &[b'x'; Key::MAX][..], b"\r\n$1\r\n1\r\n"].concat();
    for (tail, is_torn) in [
        (increment.to_vec(), true),
        (b"*3\r\n$6\r\nINCRBY\r\n$95\r\nvisits".to_vec(), true),
        (long.repeat(MAX_TAIL / long.len()), true),
        (long.repeat(MAX_TAIL / long.len() + 1), false),
        ([increment, b"*2\r\n$4\r\nECHO\r\n$8\r\n", &digits[..5]].concat(), false),
        (b"*2\r\n$4\r\nECHO\r\n$8\r\n".to_vec(), false),
        (b"*1024\r\n$16384\r\n".to_vec(), false),
        (b"*3\r\n$6\r\nINCRBY\r\n$300\r\n".iter().chain(&[b'x'; 200]).copied().collect(), false),
        (b"*3\r\n$3\r\nSET\r\n$6\r\nvis".to_vec(), false),
        (b"*-1\r\n".to_vec(), false),
        (b"visits 7".to_vec(), false),
    ] {
        fs::write(folder.file(), [&whole, &tail[..]].concat()).expect("a file");
        let shown = String::from_utf8_lossy(&tail[..tail.len().min(60)]);
        match open(&folder.file()) {
            Ok((ledger, Found { torn, .. })) => {
                assert_eq!((is_torn, torn, ledger.total(&key("a"))), (true, tail.len() as u64, 13), "{shown}");
            }
            Err(OpenError::Damaged(offset)) => assert_eq!((is_torn, offset), (false, ends[3]), "{shown}"),
            Err(other) => panic!("{shown}: {other}"),
        }
    }
}

#[test]
fn missing_repeated_or_moved_batches_are_damage() {
    let folder = Folder::new("moved");
    let ends = write_three_batches(&folder.file());
    let whole = fs::read(folder.file()).expect("a file");
    let part = |batch: usize| &whole[ends[batch] as usize..ends[batch + 1] as usize];
    for (parts, offset) in
        [([0, 2, 2], ends[1]), ([1, 0, 2], ends[0]), ([0, 0, 1], ends[1]), ([0, 1, 1], ends[2]), ([1, 1, 1], ends[0])]
    {
        let parts: Vec<_> = parts.into_iter().flat_map(|batch| part(batch).to_vec()).collect();
        fs::write(folder.file(), [HEADER, &parts].concat()).expect("a file");
        assert!(matches!(open(&folder.file()), Err(OpenError::Damaged(at)) if at == offset));
    }
}

#[test]
fn zeros_at_the_end_are_a_torn_tail() {
    let folder = Folder::new("zeros");
    let ends = write_three_batches(&folder.file());
    let whole = fs::read(folder.file()).expect("a file");
    for (end, a, valid) in [(ends[3], 13, ends[3]), (ends[3] - 3, 3, ends[2]), (ends[2] + 20, 3, ends[2])] {
        let zeros = vec![0; 5000];
        fs::write(folder.file(), [&whole[..end as usize], &zeros].concat()).expect("a file");
        let (ledger, Found { torn, .. }) = open(&folder.file()).expect("a valid ledger");
        assert_eq!((ledger.total(&key("a")), torn), (a, end + 5000 - valid));
    }
    // The file has its new length, and only the bytes before the end of a block reached the disk.
    for end in ends[2]..ends[3] {
        for length in end + 1..=ends[3] {
            let zeros = vec![0; (length - end) as usize];
            fs::write(folder.file(), [&whole[..end as usize], &zeros].concat()).expect("a file");
            let found = open(&folder.file()).map(|(ledger, found)| (ledger.total(&key("a")), found.torn));
            assert_eq!(found.expect("a valid ledger"), (3, length - ends[2]), "{end} {length}");
        }
    }
    let hole = [&whole[..ends[1] as usize], &[0; 100], &whole[ends[1] as usize..]].concat();
    fs::write(folder.file(), hole).expect("a file");
    assert!(matches!(open(&folder.file()), Err(OpenError::Damaged(offset)) if offset == ends[1]));
}

#[test]
fn other_files_are_not_changed() {
    let folder = Folder::new("foreign");
    for content in [&b"# notes\n"[..], b"*2\r\n$4\r\nECHO\r\n$14\r\nnotch ledger 2\r\n", b"\0"] {
        fs::write(folder.file(), content).expect("a file");
        assert!(matches!(open(&folder.file()), Err(OpenError::NotALedger)));
        assert_eq!(fs::read(folder.file()).expect("a file"), content);
    }
    assert!(matches!(open(&folder.0), Err(OpenError::Io("open", _))));
    assert!(matches!(open(&folder.0.join("none/ledger")), Err(OpenError::NoFolder(_))));
}

#[test]
fn the_lock_excludes_a_second_process_also_after_a_rewrite() {
    let folder = Folder::new("locked");
    let mut ledger = open_valid(&folder.file());
    assert!(matches!(open(&folder.file()), Err(OpenError::Locked)));
    ledger.rewrite().expect("a disk");
    assert!(matches!(open(&folder.file()), Err(OpenError::Locked)));
    drop(ledger);
    assert!(open(&folder.file()).is_ok());
}

#[test]
fn a_large_or_removed_file_is_rewritten() {
    let folder = Folder::new("new-file");
    let mut ledger = open_valid(&folder.file());
    let long = "x".repeat(Key::MAX);
    let mut visits = 0;
    while ledger.size < MIN_REWRITE - 200 {
        visits += 1;
        assert_eq!(commit(&mut ledger, &[count(&long, 1)]), [Ok(visits)]);
    }
    for _ in 0..2 {
        visits += 1;
        commit(&mut ledger, &[count(&long, 1)]);
    }
    assert!(ledger.size < 1000, "{}", ledger.size);

    for damage in [|path: &Path| fs::remove_file(path), |path: &Path| fs::write(path, "")] {
        damage(&folder.file()).expect("a file to damage");
        visits += 1;
        assert_eq!(commit(&mut ledger, &[count(&long, 1)]), [Ok(visits)]);
    }
    fs::rename(folder.file(), folder.0.join("moved")).expect("a file to move");
    fs::write(folder.file(), "other").expect("a file");
    assert_eq!(commit(&mut ledger, &[count(&long, 1)]), [Err(StoreError::Rejected(Rejection::Disk))]);
    assert_eq!(fs::read(folder.file()).expect("a file"), b"other");
    fs::remove_file(folder.file()).expect("a file");
    visits += 1;
    assert_eq!(commit(&mut ledger, &[Command::Ping, count(&long, 1)]), [Ok(0), Ok(visits)]);
    drop(ledger);
    assert_eq!(open_valid(&folder.file()).total(&key(&long)), visits);
}

#[test]
fn a_rewrite_keeps_a_symbolic_link() {
    let folder = Folder::new("link");
    fs::create_dir(folder.0.join("volume")).expect("a folder");
    std::os::unix::fs::symlink("volume/real", folder.file()).expect("a link");
    let mut ledger = open_valid(&folder.file());
    assert_eq!(commit(&mut ledger, &[count("a", 1)]), [Ok(1)]);
    ledger.rewrite().expect("a disk");
    drop(ledger);
    assert!(fs::symlink_metadata(folder.file()).expect("a link").is_symlink());
    assert_eq!(open_valid(&folder.0.join("volume/real")).total(&key("a")), 1);
}

#[test]
fn open_reports_the_state_of_the_file() {
    let folder = Folder::new("found");
    let found = |path: &Path| {
        let (_, Found { origin, torn, total, counters, foreign_key, .. }) = open(path).expect("a valid ledger");
        (origin, torn, total, counters, foreign_key)
    };
    assert_eq!(found(&folder.file()), (Origin::Created, 0, 0, 0, None));
    assert_eq!(found(&folder.file()), (Origin::Opened, 0, 0, 0, None));
    commit(&mut open_valid(&folder.file()), &[count("other", 4)]);
    assert_eq!(found(&folder.file()), (Origin::Opened, 0, 0, 1, Some("other".to_owned())));
    commit(&mut open_valid(&folder.file()), &[count("visits", 3), count("visits:a", 1)]);
    assert_eq!(found(&folder.file()), (Origin::Opened, 0, 3, 3, None));
    fs::write(folder.file(), &HEADER[..7]).expect("a file");
    assert_eq!(found(&folder.file()), (Origin::Empty, 7, 0, 0, None));
    fs::write(folder.file(), "").expect("a file");
    assert_eq!(found(&folder.file()), (Origin::Empty, 0, 0, 0, None));
    let (ledger, Found { path, .. }) = open(&folder.file()).expect("a valid ledger");
    assert_eq!(path, folder.file());
    drop(ledger);
}

#[test]
fn an_increment_by_zero_probes_the_disk_and_changes_nothing() {
    let folder = Folder::new("probe");
    let mut ledger = open_valid(&folder.file());
    assert_eq!(commit(&mut ledger, &[count("a", 0)]), [Ok(0)]);
    commit(&mut ledger, &[count("a", 2)]);
    let before = fs::read(folder.file()).expect("a file");
    assert_eq!(
        commit(&mut ledger, &[count("a", 0), count("b", 0), Command::Get { key: key("a") }]),
        [Ok(2), Ok(0), Ok(2)]
    );
    assert!(fs::read(folder.file()).expect("a file") == before);
    assert_eq!(commit(&mut ledger, &[count("a", 0), count("a", 1)]), [Ok(2), Ok(3)]);
    let other = folder.0.join("other");
    fs::write(&other, "other").and_then(|()| fs::rename(&other, folder.file())).expect("a file");
    assert_eq!(commit(&mut ledger, &[count("a", 0)]), [Err(StoreError::Rejected(Rejection::Disk))]);
    fs::remove_file(folder.file()).expect("a file");
    assert_eq!(commit(&mut ledger, &[count("a", 0)]), [Ok(3)]);
    drop(ledger);
    assert_eq!(open_valid(&folder.file()).total(&key("a")), 3);
}

#[test]
fn a_file_with_many_counters_is_rewritten_in_batches() {
    let folder = Folder::new("many");
    let mut ledger = open_valid(&folder.file());
    let commands: Vec<_> = (0..10_000).map(|name| count(&format!("visits:{name}"), name + 1)).collect();
    assert!(commit(&mut ledger, &commands).iter().all(Result::is_ok));
    ledger.rewrite().expect("a disk");
    let rewritten = fs::read(folder.file()).expect("a file");
    assert_eq!(ledger.size, rewritten.len() as u64);
    let batches = rewritten.windows(4).filter(|word| word == b"ECHO").count() - 1;
    assert!((2..100).contains(&batches), "{batches} batches");
    assert_eq!(commit(&mut ledger, &[count("visits:7", 1)]), [Ok(9)]);
    drop(ledger);
    let ledger = open_valid(&folder.file());
    assert_eq!((ledger.total(&key("visits:7")), ledger.total(&key("visits:9999"))), (9, 10_000));
}
