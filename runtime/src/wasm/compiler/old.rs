//! What engines of other versions have compiled: kept for a while, so that going back to the older version compiles nothing either.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// How long a folder is kept after the first start of a version that does not use it.
const KEPT_FOR: Duration = Duration::from_secs(7 * 24 * 3600);

/// In a folder that the last start had no use for; its age is that of this file.
const UNUSED: &str = "unused";

/// Removes the folders beside the `current` ones that have been unused for long, and marks those that are now. Only for who owns the
/// place: another version that runs there meanwhile would lose its files.
pub(super) fn give_up(current: &[&Path], now: SystemTime) -> io::Result<()> {
    for folder in current {
        match std::fs::remove_file(folder.join(UNUSED)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    let Some(place) = current.first().and_then(|folder| folder.parent()) else { return Ok(()) };
    for entry in std::fs::read_dir(place)? {
        let folder = entry?.path();
        if current.contains(&folder.as_path()) || !is_an_engines(&folder) {
            continue;
        }
        match std::fs::metadata(folder.join(UNUSED)).and_then(|mark| mark.modified()) {
            Ok(since) if now.duration_since(since).is_ok_and(|age| age > KEPT_FOR) => {
                std::fs::remove_dir_all(&folder)?;
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {
                File::create(folder.join(UNUSED))?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether a folder has the name of one, 16 hexadecimal digits.
fn is_an_engines(folder: &Path) -> bool {
    let name = folder.file_name().and_then(OsStr::to_str).unwrap_or_default();
    name.len() == 16 && name.bytes().all(|octet| octet.is_ascii_hexdigit()) && folder.is_dir()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_engines_folder_goes_a_week_after_it_was_last_of_use() {
        let place = tempfile::tempdir().unwrap();
        let folder = |name: &str| place.path().join(name);
        let (old, new, foreign) = (folder("0123456789abcdef"), folder("fedcba9876543210"), folder("notes"));
        for folder in [&old, &new, &foreign] {
            std::fs::create_dir(folder).unwrap();
        }
        let (now, day) = (SystemTime::now(), Duration::from_secs(24 * 3600));
        give_up(&[&new], now).unwrap();
        give_up(&[&new], now + 6 * day).unwrap();
        assert!(old.exists(), "it may be wanted back");
        // It is: the older version starts again, and the newer one's turn to wait comes.
        give_up(&[&old], now + 6 * day).unwrap();
        assert!(!old.join(UNUSED).exists() && new.join(UNUSED).exists());

        give_up(&[&new], now + 7 * day).unwrap();
        give_up(&[&new], now + 9 * day).unwrap();
        assert!(!old.exists());
        assert!(new.exists() && foreign.exists());
    }
}
