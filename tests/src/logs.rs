//! What servers and workers of a test have said on stderr: a panic in there fails the test, whatever else it looked at.

use std::path::{Path, PathBuf};

/// Where our own sources lie, as the place of a panic names them. Those of guests, whose panics are their own matter, lie elsewhere.
const CRATES: [&str; 12] = [
    "types/",
    "pki/",
    "git/",
    "builder/",
    "compose/",
    "kubernetes/",
    "platform-api/",
    "docker/",
    "runtime/",
    "ingress/",
    "cli/",
    // Of what we depend on, the sources are named by their whole path.
    "/",
];

/// A folder with logs, `*.log`, which are looked at when this is dropped.
#[derive(Debug)]
pub(crate) struct Logs(PathBuf);

impl Logs {
    pub(crate) fn of(folder: &Path) -> Self {
        Self(folder.to_owned())
    }

    /// Looks at them now, because a process that starts again writes over one.
    ///
    /// # Panics
    ///
    /// When somebody has panicked.
    pub(crate) fn check(&self) {
        let entries = std::fs::read_dir(&self.0).into_iter().flatten().flatten();
        let logs =
            entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|it| it == "log"));
        for log in logs {
            let text = std::fs::read(&log).unwrap_or_default();
            if let Some(panic) = panic_in(&String::from_utf8_lossy(&text)) {
                panic!("{} has a panic: {panic}", log.display());
            }
        }
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        // A test that fails for another reason says that one.
        if !std::thread::panicking() {
            self.check();
        }
    }
}

/// The first panic of the process whose log it is: where, and what it said.
fn panic_in(log: &str) -> Option<String> {
    let mut lines = log.lines();
    let place = lines.by_ref().find_map(|line| {
        let (_, place) = line.strip_prefix("thread '")?.split_once(" panicked at ")?;
        CRATES.iter().any(|folder| place.starts_with(folder)).then_some(place)
    })?;
    Some(format!("{place} {}", lines.next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_ours_is_found_and_one_of_a_guest_is_not() {
        let ours = "INFO it runs\n\nthread 'tokio-runtime-worker' (7) panicked at platform-api/src/api/upgrade.rs:76:19:\n\
                    `async fn` resumed after completion\nnote: run with\n";
        let found = panic_in(ours).unwrap();
        assert_eq!(found, "platform-api/src/api/upgrade.rs:76:19: `async fn` resumed after completion");
        assert!(panic_in("thread 'main' panicked at /srv/x/src/lib.rs:1:1:\nno\n").is_some());
        for fine in [
            "",
            "thread '<unnamed>' (1) panicked at src/lib.rs:5:9:\nasked to panic\n",
            "WARN an instance ended: thread 'main' panicked at cli/src/x.rs:1:1:\n",
            "INFO the task panicked at once\n",
        ] {
            assert_eq!(panic_in(fine), None, "{fine}");
        }
    }

    #[test]
    #[should_panic(expected = "server0.log has a panic: cli/src/x.rs:1:1: no")]
    fn a_test_whose_server_has_panicked_fails() {
        let folder = tempfile::tempdir().unwrap();
        let _logs = Logs::of(folder.path());
        std::fs::write(folder.path().join("server0.log"), "thread 'a' panicked at cli/src/x.rs:1:1:\nno\n")
            .unwrap();
    }
}
