//! Injects faults into calls on the ledger's files, call by call: see `preload.c`.
//!
//! strace, which the other tests use, makes a call fail without executing it. This library can also execute a call and
//! then report an error, execute half of it, or never return.

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

/// A call, its fault, and the error that it reports.
pub(crate) type Fault = (&'static str, &'static str, i32);

/// The disk under the ledger of these settings.
pub(crate) struct Disk {
    faults: PathBuf,
}

impl Disk {
    /// Returns a disk without faults, and the settings to start notch with it.
    pub(crate) fn under(settings: &Settings) -> (Self, Settings) {
        let faults = settings.folder().join("faults");
        let name = faults.to_str().expect("a path in UTF-8");
        (Self { faults: faults.clone() }, settings.clone().with("LD_PRELOAD", library()).with("FAULTS", name))
    }

    /// Sets the faults from now on; there are no others.
    pub(crate) fn fail(&self, faults: &[Fault]) {
        let lines: Vec<_> = faults.iter().map(|(call, how, error)| format!("{call} {how} {error}\n")).collect();
        // In one step, because notch may read it at any time.
        let next = self.faults.with_extension("next");
        fs::write(&next, lines.concat()).and_then(|()| fs::rename(&next, &self.faults)).expect("a file");
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
