//! The folder of a worker: who the node is, and where its cluster is.

use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use nix::fcntl::{Flock, FlockArg};
use tracing::warn;
use wharf_pki::NodeKey;
use wharf_types::api::NodeCertificate;

use super::Certificate;
use super::address::server_address;
use super::servers::Servers;
use crate::exit::{Exit, Failure};
use crate::worker::write_whole;

/// The folder, held by this process.
pub(super) struct Kept {
    file: PathBuf,
    /// The key with which this host joins, until it has.
    joining: PathBuf,
    _lock: Flock<File>,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct OnDisk {
    /// Those that were given, separated by commas.
    servers: String,
    #[serde(flatten)]
    others: Servers,
    key: String,
    issued: NodeCertificate,
}

impl Kept {
    pub(super) fn open(folder: &Path) -> anyhow::Result<Self> {
        let failed = || format!("cannot use the folder {}", folder.display());
        std::fs::create_dir_all(folder).with_context(failed)?;
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700)).with_context(failed)?;
        let lock = File::options().create(true).truncate(false).write(true).open(folder.join("lock"));
        let lock =
            Flock::lock(lock.with_context(failed)?, FlockArg::LockExclusiveNonblock).map_err(|_| {
                Failure::new(Exit::Platform, format!("another worker works with {}", folder.display()))
                    .help("stop it, or give this one a folder of its own with --data DIR")
            })?;
        Ok(Self { file: folder.join("node.json"), joining: folder.join("joining.key"), _lock: lock })
    }

    pub(super) fn read(&self) -> anyhow::Result<Option<(Certificate, Servers)>> {
        let text = match std::fs::read_to_string(&self.file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.with_context(|| format!("cannot read {}", self.file.display()))?,
        };
        let OnDisk { servers, mut others, key, issued } = serde_json::from_str(&text).with_context(|| {
            format!("{} is damaged: remove it, and join again with a new token", self.file.display())
        })?;
        let given = servers.split(',').map(|it| server_address(it).unwrap_or_else(|_| it.to_owned()));
        others.given = given.collect();
        Ok(Some((Certificate { key, issued }, others)))
    }

    pub(super) fn write(&self, certificate: &Certificate, servers: &Servers) -> anyhow::Result<()> {
        let Certificate { key, issued } = certificate;
        let kept = OnDisk {
            servers: servers.given.join(","),
            others: servers.clone(),
            key: key.clone(),
            issued: issued.clone(),
        };
        write_whole(&self.file, &serde_json::to_string(&kept)?)
            .with_context(|| format!("cannot write {}", self.file.display()))
    }

    /// The key to join with. It is the same until this host has joined: whoever has lost an answer is known by it, and uses up no more of a
    /// token.
    pub(super) fn joining_key(&self) -> anyhow::Result<NodeKey> {
        let begun = std::fs::read_to_string(&self.joining).ok();
        if let Some(key) = begun.and_then(|pem| NodeKey::from_pem(&pem).ok()) {
            return Ok(key);
        }
        let key = NodeKey::generate()?;
        write_whole(&self.joining, &key.to_pem())
            .with_context(|| format!("cannot write {}", self.joining.display()))?;
        Ok(key)
    }

    /// This host has joined, and what it is now has been written.
    pub(super) fn has_joined(&self) {
        match std::fs::remove_file(&self.joining) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                warn!("{} is of no use any more, and could not be removed: {error}", self.joining.display());
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use wharf_pki::key_of;
    use wharf_runtime::control::Heard;
    use wharf_types::NodeId;

    use super::*;

    fn certificate() -> Certificate {
        let issued =
            NodeCertificate { node: NodeId::new(), certificate: "c".into(), authorities: "a".into() };
        Certificate { key: "k".into(), issued }
    }

    #[test]
    fn a_folder_has_one_worker_and_damage_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Kept::open(folder.path()).unwrap();
        assert!(kept.read().unwrap().is_none());
        let error = Kept::open(folder.path()).err().unwrap();
        assert!(error.to_string().contains("another worker"), "{error}");
        let written = certificate();
        let mut servers = Servers::given(vec!["a:1".to_owned(), "b:1".to_owned()]);
        servers.hear(&Heard { from: "a:1".to_owned(), servers: vec!["c:1".to_owned()] });
        kept.write(&written, &servers).unwrap();
        let (read, found) = kept.read().unwrap().unwrap();
        assert_eq!((read.issued, read.key.as_str(), found), (written.issued, "k", servers));
        std::fs::write(&kept.file, "{").unwrap();
        assert!(format!("{:#}", kept.read().err().unwrap()).contains("join again"));
    }

    #[test]
    fn what_an_earlier_version_has_written_is_read_and_it_reads_what_is_written_now() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Kept::open(folder.path()).unwrap();
        let Certificate { key, issued } = certificate();
        let before = serde_json::json!({"servers": "a:1,[::1]:2", "key": key, "issued": issued});
        std::fs::write(&kept.file, before.to_string()).unwrap();
        let (certificate, servers) = kept.read().unwrap().unwrap();
        assert_eq!(servers.all(), ["a:1", "[::1]:2"]);
        kept.write(&certificate, &servers).unwrap();
        let text = std::fs::read_to_string(&kept.file).unwrap();
        let after: serde_json::Value = serde_json::from_str(&text).unwrap();
        for (name, value) in before.as_object().unwrap() {
            assert_eq!(after[name], *value, "{name}");
        }
    }

    #[test]
    fn a_host_joins_with_one_key_until_it_has_joined() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Kept::open(folder.path()).unwrap();
        let key = || key_of(&kept.joining_key().unwrap().request().unwrap()).unwrap();
        let first = key();
        assert_eq!(key(), first);
        kept.has_joined();
        kept.has_joined();
        assert_ne!(key(), first);
        std::fs::write(&kept.joining, "damaged").unwrap();
        assert_eq!(key(), key());
    }
}
