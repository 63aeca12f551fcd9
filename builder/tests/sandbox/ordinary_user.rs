//! The same tests, run by somebody who is not root.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::Command;

/// Nobody here is called that.
const UID: &str = "61234";

#[test]
fn all_of_this_holds_for_an_ordinary_user_too() {
    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    if !is_root || std::env::var("WHARF_TEST_BWRAP").is_ok_and(|value| value == "off") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    // The folder of this program may be closed to others. Copied by another process: a file that this one has written to could be open in a
    // child that another test is just starting, and would then be too busy to be run.
    let program = folder.path().join("tests");
    let copied = Command::new("cp").arg(std::env::current_exe().unwrap()).arg(&program).status().unwrap();
    assert!(copied.success());
    let output = Command::new("setpriv")
        .args(["--reuid", UID, "--regid", UID, "--clear-groups"])
        .arg(&program)
        // Root's Rust and this repository are usually out of reach.
        .args(["--skip", "ordinary_user", "--skip", "cargo", "--skip", "languages", "--test-threads", "4"])
        .env("TMPDIR", folder.path())
        .current_dir(folder.path())
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(printed.contains("a_fork_bomb_stays_within_its_processes_and_ends ... ok"), "{printed}");
}
