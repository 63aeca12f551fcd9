//! Where things are: the workspace, the binary under test, the built guests.

use std::path::{Path, PathBuf};

/// The workspace's folder.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate's folder lies in the workspace's")
}

/// The binary under test: `WHARF_BIN`, or the one that `cargo build` makes.
///
/// # Panics
///
/// When it is not there.
pub fn wharf_binary() -> PathBuf {
    let built = || {
        let target =
            std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
        target.join("debug/wharf")
    };
    let binary = std::env::var_os("WHARF_BIN").map_or_else(built, PathBuf::from);
    assert!(
        binary.is_file(),
        "there is no {}: run `cargo build --bin wharf`, or set WHARF_BIN",
        binary.display()
    );
    binary
}

/// The binary of an older version, where `WHARF_OLDER_BIN` names one.
pub fn older_binary() -> Option<PathBuf> {
    std::env::var_os("WHARF_OLDER_BIN").map(PathBuf::from)
}

/// A built example, such as `hello`: from the folder `WHARF_GUESTS`, or from `target/guests`.
///
/// # Panics
///
/// When it is not there.
pub fn guest(name: &str) -> PathBuf {
    let folder = std::env::var_os("WHARF_GUESTS").map_or_else(|| root().join("target/guests"), PathBuf::from);
    let file = folder.join(format!("{name}.wasm"));
    assert!(
        file.is_file(),
        "the guest {} is missing: build the examples with `scripts/guest-examples.sh`, as `make test` does, \
         or name their folder in WHARF_GUESTS",
        file.display()
    );
    file
}

/// The library that shows a process another time of day.
///
/// # Panics
///
/// When it is not installed.
pub fn faketime() -> PathBuf {
    let libraries = Path::new("/usr/lib");
    // Debian has a folder for each kind of processor, others do not.
    let folders = std::fs::read_dir(libraries).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut places = folders.chain([libraries.to_owned(), PathBuf::from("/usr/lib64")]);
    places
        .find_map(|folder| Some(folder.join("faketime/libfaketimeMT.so.1")).filter(|file| file.is_file()))
        .expect("libfaketime is missing: `scripts/setup.sh test` installs it")
}
