//! Facts about machine and process from `/proc`: memory, open files, processors, network interfaces. Also random bits,
//! and functions that read small files.

use std::env;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

pub(crate) mod socket_file;

/// Returns the machine's memory in bytes (proc_meminfo(5)); `None` if it cannot be read.
#[must_use]
pub(crate) fn total_memory() -> Option<usize> {
    let total = read_or_empty("/proc/meminfo");
    parse_number(find_line(&total, "MemTotal:")?.split_ascii_whitespace().next()?).map(|kilobytes| kilobytes * 1024)
}

/// Returns how many files this process may have open (`ulimit -n`); `usize::MAX` if the limit cannot be read.
#[must_use]
pub(crate) fn max_open_files() -> usize {
    let limits = read_or_empty("/proc/self/limits");
    find_line(&limits, "Max open files")
        .and_then(|line| parse_number(line.split_ascii_whitespace().next()?))
        .unwrap_or(usize::MAX)
}

/// Returns random bits of `/dev/urandom`; if that cannot be read, the nanoseconds of the clock, which do not repeat.
#[must_use]
pub(crate) fn random_bits() -> u64 {
    let mut bits = [0; 8];
    match File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut bits)) {
        Ok(()) => u64::from_ne_bytes(bits),
        Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64),
    }
}

/// Returns the content of a file; empty if it cannot be read.
#[must_use]
pub(crate) fn read_or_empty(path: &str) -> String {
    read_text(path.as_ref()).unwrap_or_default()
}

/// Returns the content of a text file.
///
/// # Errors
/// It cannot be read, is longer than [`MAX_CONTENT`], or is not UTF-8.
pub(crate) fn read_text(path: &OsStr) -> io::Result<String> {
    String::from_utf8(read_file(path)?).map_err(|_| ErrorKind::InvalidData.into())
}

/// Returns the content of a file.
///
/// # Errors
/// It cannot be read, or is longer than [`MAX_CONTENT`].
pub(crate) fn read_file(path: &OsStr) -> io::Result<Vec<u8>> {
    let content = read_bytes(path, MAX_CONTENT)?;
    if content.len() > MAX_CONTENT { Err(ErrorKind::FileTooLarge.into()) } else { Ok(content) }
}

/// Returns the content of a file. Of a file longer than `max` bytes, returns a beginning that is also longer than
/// `max`.
///
/// # Errors
/// It cannot be read.
pub(crate) fn read_bytes(path: &OsStr, max: usize) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    read_pieces(path, &mut |piece| {
        content.extend(piece);
        content.len() <= max
    })?;
    Ok(content)
}

/// Returns the absolute path of `path`, without a leading `./`.
#[must_use]
pub(crate) fn absolute_path(path: &OsStr) -> PathBuf {
    let bytes = path.as_bytes();
    let path = OsStr::from_bytes(bytes.strip_prefix(b"./").unwrap_or(bytes));
    env::current_dir().unwrap_or_default().join(path)
}

/// Reads a file of any size and passes it to `consume` in pieces, until that returns `false`.
///
/// # Errors
/// It cannot be read to its end.
pub(crate) fn read_pieces(path: &OsStr, consume: &mut dyn FnMut(&[u8]) -> bool) -> io::Result<()> {
    let mut file = File::open(path)?;
    let mut piece = [0; PIECE];
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(length) if consume(&piece[..length]) => {}
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Returns the number of the network interface with this name, if it has an IPv6 address. `/sys/class/net` would show
/// the interfaces of the network namespace in which it was mounted, which may be another one.
#[must_use]
pub(crate) fn interface_index(name: &str) -> Option<u32> {
    find_interface(&read_or_empty("/proc/self/net/if_inet6"), name)
}

/// Finds the number in a table of six columns: it is the second, in hexadecimal; the name is the last
/// (proc_pid_net(5)).
fn find_interface(table: &str, name: &str) -> Option<u32> {
    let mut lines = table.as_bytes().split(|&byte| byte == b'\n').filter_map(|line| str::from_utf8(line).ok());
    lines.find_map(|line| {
        let mut columns = line.split_ascii_whitespace();
        let (number, last) = (columns.nth(1)?, columns.nth(3)?);
        if last == name { u32::from_str_radix(number, 16).ok() } else { None }
    })
}

/// Returns the number of a user or group: `name` itself if it is a number, else that in its line of `file` (passwd(5),
/// group(5)). Users and groups of a directory service are not in these files.
#[must_use]
pub(crate) fn find_id(file: &str, name: &str) -> Option<u32> {
    let content = read_or_empty(file);
    let number = match find_line(&content, &[name, ":"].concat()) {
        Some(line) => line.split_once(':')?.1.split_once(':')?.0,
        None => name,
    };
    // The system takes the highest number for none.
    parse_number(number).and_then(|number| u32::try_from(number).ok()).filter(|&number| number != u32::MAX)
}

/// Returns the number of processors in the mask of `/proc/self/status` (proc_pid_status(5)); 0 if there is none.
#[cfg(any(feature = "tokio", test))]
#[must_use]
pub(crate) fn count_processors(status: &str) -> usize {
    let mask = find_line(status, "Cpus_allowed:").unwrap_or_default();
    mask.chars().filter_map(|digit| digit.to_digit(16)).map(|digit| digit.count_ones() as usize).sum()
}

/// Returns the text after `start` in the first line that begins with `start`.
#[must_use]
#[inline(never)]
pub(crate) fn find_line<'a>(text: &'a str, start: &str) -> Option<&'a str> {
    let mut lines = text.as_bytes().split(|&byte| byte == b'\n');
    str::from_utf8(lines.find_map(|line| line.strip_prefix(start.as_bytes()))?).ok()
}

fn parse_number(text: &str) -> Option<usize> {
    text.parse().ok()
}

/// Longest file in bytes that is read into memory.
pub(crate) const MAX_CONTENT: usize = 1024 * 1024;

/// Bytes read at a time.
const PIECE: usize = 4 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_counted_in_the_affinity_mask() {
        for (status, processors) in [
            ("Name:\tnotch\nCpus_allowed:\t3\nCpus_allowed_list:\t0-1\n", 2),
            ("Cpus_allowed:\tff,ffffffff\n", 40),
            ("Cpus_allowed:\t8\n", 1),
            ("", 0),
        ] {
            assert_eq!(count_processors(status), processors, "{status:?}");
        }
    }

    #[test]
    fn interface_numbers_are_hexadecimal() {
        let table = "00000000000000000000000000000001 01 80 10 80       lo\n\
                     fe80000000000000a876c4fffe64f3ea 1f 40 20 80     eth0\nfe80\n";
        for (name, number) in [("lo", Some(1)), ("eth0", Some(31)), ("eth1", None), ("80", None), ("", None)] {
            assert_eq!(find_interface(table, name), number, "{name:?}");
        }
    }

    #[test]
    fn a_file_of_any_size_is_read_in_pieces() {
        let mut length = 0;
        let all = read_pieces("/dev/zero".as_ref(), &mut |piece| {
            length += piece.len();
            length <= 2 * MAX_CONTENT
        });
        assert!(all.is_ok() && length > 2 * MAX_CONTENT);
        assert!(read_pieces("/no/such/file".as_ref(), &mut |_| true).is_err());
    }

    #[test]
    fn facts_of_this_machine_are_read() {
        assert!(max_open_files() > 0);
        assert!(total_memory().is_some_and(|bytes| bytes > 0));
        assert_ne!(random_bits(), random_bits());
        assert_eq!(read_or_empty("/no/such/file"), "");
        assert!(read_text("/proc/self/exe".as_ref()).is_err(), "a program is not text");
        assert!(read_text("/dev/zero".as_ref()).is_err_and(|error| error.kind() == ErrorKind::FileTooLarge));
    }
}
