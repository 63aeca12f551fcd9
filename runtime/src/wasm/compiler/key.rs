//! The key that authenticates compiled artifacts: whoever has it can make this process run any code.

use std::io::Write;
use std::path::Path;

/// What a compiled file with this content must have beside it.
pub(super) fn keyed_hash(key: &[u8; 32], file: &Path) -> std::io::Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update_reader(std::fs::File::open(file)?)?;
    Ok(hasher.finalize())
}

/// The key in `file`, readable by this user only; made at the first call.
pub fn key_in(file: &Path) -> std::io::Result<[u8; 32]> {
    use std::os::unix::fs::OpenOptionsExt;
    match std::fs::read(file) {
        Ok(bytes) => bytes.try_into().map_err(|_| {
            std::io::Error::new(
                std::io::ErrorKind::InvalidData,
                format!("{} is not a key of 32 bytes; delete it", file.display()),
            )
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let mut key = [0; 32];
            getrandom::fill(&mut key).map_err(std::io::Error::other)?;
            let folder = file.parent().unwrap_or(Path::new("."));
            std::fs::create_dir_all(folder)?;
            // Two processes may make it at once: the first to link it wins, and both use that one.
            let draft = folder.join(format!(".key-{}", std::process::id()));
            std::fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&draft)?
                .write_all(&key)?;
            let linked = std::fs::hard_link(&draft, file);
            std::fs::remove_file(&draft)?;
            match linked {
                Ok(()) => Ok(key),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => key_in(file),
                Err(error) => Err(error),
            }
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_for_this_user_and_a_damaged_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("worker/compiled.key");
        let key = key_in(&file).unwrap();
        assert_eq!(key_in(&file).unwrap(), key);
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&file, b"short").unwrap();
        let refused = key_in(&file).unwrap_err().to_string();
        assert!(refused.contains("delete it"), "{refused}");
    }
}
