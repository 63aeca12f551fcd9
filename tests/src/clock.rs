//! Another time of day for processes under test, by libfaketime. They measure spans as all others do.

use std::path::{Path, PathBuf};

use crate::workspace;

/// What time it is for a process.
#[derive(Clone, Debug)]
pub enum Clock {
    /// Off by so much, such as `-10m`.
    OffBy(&'static str),
    /// Off by what stands in this file at each moment: it is set while the process runs.
    AsIn(PathBuf),
}

impl Clock {
    /// Sets the clocks that go by a file.
    ///
    /// # Panics
    ///
    /// When the file cannot be written.
    pub fn set(file: &Path, off_by: &str) {
        // Whoever looks sees the one or the other.
        let draft = file.with_extension("new");
        std::fs::write(&draft, format!("{off_by}\n")).unwrap();
        std::fs::rename(&draft, file).unwrap();
    }

    /// The environment of a process whose clock it is.
    pub(crate) fn environment(&self) -> [(&'static str, String); 4] {
        forget_killed_clocks();
        let (key, value) = match self {
            Self::OffBy(off_by) => ("FAKETIME", (*off_by).to_owned()),
            Self::AsIn(file) => ("FAKETIME_TIMESTAMP_FILE", file.to_str().unwrap().to_owned()),
        };
        [
            ("LD_PRELOAD", workspace::faketime().to_str().unwrap().to_owned()),
            (key, value),
            // All clocks that go by one file are set at once.
            ("FAKETIME_NO_CACHE", u8::from(matches!(self, Self::AsIn(_))).to_string()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }
}

/// What libfaketime keeps of a process stays when that is killed, and would keep the next one with its number from starting.
fn forget_killed_clocks() {
    for entry in std::fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let process =
            ["faketime_shm_", "sem.faketime_sem_"].iter().find_map(|begin| name.strip_prefix(*begin));
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            // Another test may have done it.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
