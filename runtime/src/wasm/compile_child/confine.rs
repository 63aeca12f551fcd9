//! Takes from a process what it does not need to compile: files, network, other processes.
//!
//! What it reads and writes is open already. Should an artifact take over the compiler, it can therefore write wrong machine
//! code for itself, and reach neither the key that makes code trusted, nor other apps, nor anybody outside. Kernels differ
//! in what they offer, so each measure is taken as far as it goes.

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _,
    RulesetError, RulesetStatus, Scope,
};
use nix::sched::{CloneFlags, unshare};

/// What is still within reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reach {
    pub(super) files: bool,
    pub(super) network: bool,
}

impl Reach {
    pub(super) fn words(self) -> impl Iterator<Item = &'static str> {
        let words = [(self.files, "files"), (self.network, "network")];
        words.into_iter().filter_map(|(within_reach, word)| within_reach.then_some(word))
    }
}

/// Must be called while the process has one thread.
pub(super) fn confine_self() -> Reach {
    let network = !leave_network();
    let files =
        !matches!(deny_everything(), Ok(RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced));
    Reach { files, network }
}

/// Moves to a network without an interface. Root may make one; others may where the system lets everybody make user
/// namespaces.
fn leave_network() -> bool {
    unshare(CloneFlags::CLONE_NEWNET).is_ok()
        || unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET).is_ok()
}

/// Landlock without a single rule: no file, no TCP, no signals to others; and no new rights by `exec`. Files need Linux 5.13,
/// TCP 6.7, the rest 6.12.
fn deny_everything() -> Result<RulesetStatus, RulesetError> {
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V6))?
        .handle_access(AccessNet::from_all(ABI::V6))?
        .scope(Scope::from_all(ABI::V6))?
        .create()?
        .restrict_self()?;
    Ok(status.ruleset)
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn who_is_confined_opens_neither_files_nor_connections() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // It holds for the thread that asks for it, and for what that one starts.
        let confined = std::thread::spawn(move || match deny_everything().unwrap() {
            RulesetStatus::NotEnforced => None,
            status => Some((status, std::fs::File::open("/proc/self/status"), TcpStream::connect(address))),
        });
        let Some((status, file, connection)) = confined.join().unwrap() else {
            eprintln!("skipped: this kernel has no Landlock");
            return;
        };
        assert_eq!(file.unwrap_err().kind(), ErrorKind::PermissionDenied);
        if status == RulesetStatus::FullyEnforced {
            assert_eq!(connection.unwrap_err().kind(), ErrorKind::PermissionDenied);
        }
    }

    #[test]
    fn what_is_within_reach_is_said() {
        assert_eq!(Reach::default().words().count(), 0);
        let all = Reach { files: true, network: true };
        assert!(all.words().eq(["files", "network"]));
    }
}
