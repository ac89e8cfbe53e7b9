//! A disk that misbehaves on the ledger's files as a test says, call by call: see `preload.c`.
//!
//! strace, which the other tests use, lets a call fail without doing it; this one can also do it and then report an
//! error, do half of it, or not come back.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::{env, fs, process};

use crate::support::{Settings, wait_until};

/// Error numbers of Linux.
pub(crate) const EINTR: i32 = 4;
pub(crate) const EIO: i32 = 5;
pub(crate) const ENOSPC: i32 = 28;
pub(crate) const EDQUOT: i32 = 122;

/// A call, what becomes of it, and the error that it reports.
pub(crate) type Fault = (&'static str, &'static str, i32);

/// A disk under the ledger of these settings.
pub(crate) struct Disk {
    faults: PathBuf,
}

impl Disk {
    /// A disk that is sound until told otherwise, and what to start notch with on it.
    pub(crate) fn under(settings: &Settings) -> (Self, Settings) {
        let faults = settings.folder().join("faults");
        let name = faults.to_str().expect("a path of the test's own");
        (Self { faults: faults.clone() }, settings.clone().with("LD_PRELOAD", library()).with("FAULTS", name))
    }

    /// Has calls fail in these ways from now on, and in no other.
    pub(crate) fn fail(&self, faults: &[Fault]) {
        let lines: Vec<_> = faults.iter().map(|(call, how, error)| format!("{call} {how} {error}\n")).collect();
        // In one step, because it is read at any time.
        let beside = self.faults.with_extension("next");
        fs::write(&beside, lines.concat()).and_then(|()| fs::rename(&beside, &self.faults)).expect("a file");
    }

    /// Waits until a call hangs.
    pub(crate) fn until_hung(&self) {
        wait_until("a call hangs", || self.faults.with_extension("hung").exists().then_some(()));
    }

    pub(crate) fn recover(&self) {
        fs::remove_file(&self.faults).expect("the file is ours to remove");
    }
}

/// The library, built once.
fn library() -> &'static str {
    static LIBRARY: OnceLock<String> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("preload-{}.so", process::id()));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/faults/preload.c");
        let compiler = env::var("CC").unwrap_or_else(|_| "cc".to_owned());
        let built = Command::new(compiler).args(["-O1", "-shared", "-fPIC", source, "-ldl", "-o"]).arg(&path).status();
        assert!(built.is_ok_and(|status| status.success()), "a C compiler is missing (Debian: apt-get install gcc)");
        path.into_os_string().into_string().expect("a path in UTF-8")
    })
}
