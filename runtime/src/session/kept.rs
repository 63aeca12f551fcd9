//! The newest assignment on the worker's own disk, so that a worker that starts while no control plane answers runs what it was told last.
//!
//! It holds secrets, so the file is sealed with a key that is derived from the worker's own, which lies beside it: whoever gets a copy of the
//! one without the other has nothing. What was changed, or is of another node, does not open.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::warn;
use wharf_types::node::{AssignedInstance, Assignment};
use wharf_types::state::InstanceState;
use wharf_types::{NodeId, Timestamp};
use zeroize::Zeroizing;

/// Only the newest is of use, so those that come within this are not written.
const PAUSE: Duration = Duration::from_millis(250);
const KEY_DOMAIN: &str = "wharf 2026-11 assignment on a worker's disk";

/// Where the assignment is, and how it is read.
pub struct Kept {
    file: PathBuf,
    key: LessSafeKey,
}

/// Why a worker cannot go by what it was told last.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    #[error("cannot read {}", file.display())]
    Read {
        file: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} does not open: it is damaged, or of another node or key; remove it", .0.display())]
    Sealed(PathBuf),
    #[error("{} is not understood: it may be of another version; remove it", file.display())]
    Decode {
        file: PathBuf,
        #[source]
        source: serde_json::Error,
    },
}

impl Kept {
    /// `key` is the worker's own.
    pub fn new(file: PathBuf, key: &[u8; 32]) -> Self {
        let key = Zeroizing::new(blake3::derive_key(KEY_DOMAIN, key));
        let key = UnboundKey::new(&CHACHA20_POLY1305, &*key).expect("the key has the cipher's length");
        Self { file, key: LessSafeKey::new(key) }
    }

    /// What the node was told last, and when it was written. None: nothing yet.
    pub(super) fn read(&self, node: NodeId) -> Result<Option<(Assignment, Timestamp)>, KeptError> {
        let failed = |source| KeptError::Read { file: self.file.clone(), source };
        let mut octets = match std::fs::read(&self.file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(failed)?,
        };
        let written = std::fs::metadata(&self.file).and_then(|it| it.modified()).map_err(failed)?;
        let written = Timestamp::try_from(written).unwrap_or_default();
        let sealed = || KeptError::Sealed(self.file.clone());
        let (nonce, text) = octets.split_first_chunk_mut::<NONCE_LEN>().ok_or_else(sealed)?;
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let text = self.key.open_in_place(nonce, aad(node), text).map_err(|_| sealed())?;
        let assignment = serde_json::from_slice(text)
            .map_err(|source| KeptError::Decode { file: self.file.clone(), source });
        zeroize::Zeroize::zeroize(text);
        Ok(Some((assignment?, written)))
    }

    /// Writes it whole: old or new, whenever the machine stops.
    fn write(&self, assignment: &Assignment) -> io::Result<()> {
        let mut text = Zeroizing::new(serde_json::to_vec(assignment)?);
        // Otherwise the tag would make it move, and leave secrets behind.
        text.reserve_exact(CHACHA20_POLY1305.tag_len());
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).map_err(io::Error::other)?;
        self.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad(assignment.node), &mut *text)
            .map_err(|_| io::Error::other("it is too long to be sealed"))?;
        let folder = self.file.parent().unwrap_or(std::path::Path::new("."));
        let mut draft = tempfile::NamedTempFile::new_in(folder)?;
        draft.write_all(&nonce)?;
        draft.write_all(&text)?;
        draft.as_file().sync_all()?;
        draft.persist(&self.file)?;
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn write_now(&self, assignment: &Assignment) {
        self.write(assignment).unwrap();
    }

    /// Writes each that comes, or of several the newest, until there will be no more.
    pub(super) async fn follow(self: Arc<Self>, mut newest: watch::Receiver<Option<Arc<Assignment>>>) {
        let mut failed = false;
        while newest.changed().await.is_ok() {
            let Some(assignment) = newest.borrow_and_update().clone() else { continue };
            let kept = self.clone();
            let written = tokio::task::spawn_blocking(move || kept.write(&assignment)).await;
            match written.map_err(io::Error::other).flatten() {
                Ok(()) => failed = false,
                Err(error) if !failed => {
                    failed = true;
                    warn!("what this node is to run cannot be written to {}: {error}", self.file.display());
                }
                Err(_) => {}
            }
            sleep(PAUSE).await;
        }
    }
}

fn aad(node: NodeId) -> Aad<[u8; 16]> {
    Aad::from(node.as_uuid().into_bytes())
}

/// An assignment of an earlier process, as this one has to take it: whatever it lists may have run since, and is not revived.
pub fn after_a_restart(assignment: Assignment) -> Assignment {
    let started = |instance: AssignedInstance| AssignedInstance {
        observed: instance.observed.max(InstanceState::Starting),
        ..instance
    };
    Assignment { instances: assignment.instances.into_iter().map(started).collect(), ..assignment }
}

#[cfg(test)]
mod tests {
    use wharf_types::InstanceId;

    use super::*;
    use crate::fake::assigned;

    fn assignment(node: NodeId) -> Assignment {
        Assignment {
            node,
            generation: 7,
            instances: vec![assigned(InstanceId::new())],
            secrets: Vec::new(),
            routes: Arc::default(),
            removed_volumes: Vec::new(),
        }
    }

    #[test]
    fn what_was_written_opens_for_its_node_and_key_and_for_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("assignment");
        let (kept, node) = (Kept::new(file.clone(), &[1; 32]), NodeId::new());
        assert!(kept.read(node).unwrap().is_none());
        let assignment = assignment(node);
        kept.write(&assignment).unwrap();
        assert_eq!(kept.read(node).unwrap().unwrap().0, assignment);
        let octets = std::fs::read(&file).unwrap();
        let name = assignment.instances[0].app.as_str().as_bytes();
        assert!(!octets.windows(name.len()).any(|window| window == name), "it is sealed");
        assert!(matches!(kept.read(NodeId::new()), Err(KeptError::Sealed(_))));
        assert!(matches!(Kept::new(file.clone(), &[2; 32]).read(node), Err(KeptError::Sealed(_))));
        std::fs::write(&file, &octets[..octets.len() / 2]).unwrap();
        let error = kept.read(node).unwrap_err().to_string();
        assert!(error.contains("remove it") && error.contains(file.to_str().unwrap()), "{error}");
        std::fs::write(&file, b"short").unwrap();
        assert!(matches!(kept.read(node), Err(KeptError::Sealed(_))));
    }

    #[test]
    fn nothing_of_an_earlier_process_is_revived() {
        let node = NodeId::new();
        let read = after_a_restart(assignment(node));
        assert_eq!(read.instances[0].observed, InstanceState::Starting);
    }

    #[tokio::test]
    async fn of_several_assignments_the_newest_is_on_the_disk_in_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Arc::new(Kept::new(folder.path().join("assignment"), &[1; 32]));
        let newest = watch::Sender::new(None);
        let following = tokio::spawn(kept.clone().follow(newest.subscribe()));
        let first = assignment(NodeId::new());
        for generation in 1..=20 {
            newest.send_replace(Some(Arc::new(Assignment { generation, ..first.clone() })));
        }
        drop(newest);
        tokio::time::timeout(Duration::from_secs(20), following).await.unwrap().unwrap();
        assert_eq!(kept.read(first.node).unwrap().unwrap().0.generation, 20);
    }
}
