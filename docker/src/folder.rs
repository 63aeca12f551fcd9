//! The folders of the host that are a container's volumes.

use std::io;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;

use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, DownloadFromContainerOptionsBuilder, RemoveContainerOptionsBuilder,
};
use futures::StreamExt as _;

use crate::container::{RunError, look_name};
use crate::engine::{Engine, LONG, SHORT, existing};
use crate::error::EngineError;
use crate::labels;
use crate::run::Run;

/// How much of a folder's archive is read: its first entry is the folder itself.
const HEAD_BYTES: usize = 16 << 10;

/// Whose a folder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ownership {
    uid: u32,
    gid: u32,
    mode: u32,
}

const ROOTS: Ownership = Ownership { uid: 0, gid: 0, mode: 0o755 };

impl Engine {
    /// Makes the folders of a run, and gives those that are empty to whom the image gives them.
    pub(crate) async fn prepare_folders(&self, run: &Run<'_>) -> Result<(), RunError> {
        let mut empty = Vec::new();
        for volume in &run.volumes {
            let failed = |source| RunError::Folder { folder: volume.folder.clone(), source };
            if make(&volume.folder).map_err(failed)? {
                empty.push(volume);
            }
        }
        if empty.is_empty() {
            return Ok(());
        }
        // A container that is never started: the engine shows nothing of an image but through one.
        let name = look_name(run.id);
        self.make_look(run, &name).await?;
        for volume in empty {
            let owner = self.ownership(&name, &volume.path).await?;
            let failed = |source| RunError::Folder { folder: volume.folder.clone(), source };
            give(&volume.folder, owner).map_err(failed)?;
        }
        self.remove_look(&name).await?;
        Ok(())
    }

    async fn make_look(&self, run: &Run<'_>, name: &str) -> Result<(), RunError> {
        let body = ContainerCreateBody {
            image: Some(run.image.to_string()),
            cmd: Some(vec!["-".to_owned()]),
            labels: Some(labels::of_look(&self.settings.platform, run.id)),
            host_config: Some(HostConfig { network_mode: Some("none".into()), ..HostConfig::default() }),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptionsBuilder::new().name(name).build();
        let created = self.docker.create_container(Some(options), body);
        match self.call("look into the image", LONG, created).await {
            // Left by a try that was cut off.
            Ok(_) | Err(EngineError::Refused { status: 409, .. }) => Ok(()),
            Err(EngineError::NotFound { .. }) => Err(RunError::ImageGone { image: run.image }),
            Err(error) => Err(error.into()),
        }
    }

    async fn ownership(&self, name: &str, path: &str) -> Result<Ownership, EngineError> {
        let options = DownloadFromContainerOptionsBuilder::new().path(path).build();
        let mut archive = self.docker.download_from_container(name, Some(options));
        let mut head: Vec<u8> = Vec::new();
        let read = async {
            while let Some(octets) = archive.next().await {
                head.extend_from_slice(&octets?);
                if head.len() >= HEAD_BYTES {
                    break;
                }
            }
            Ok(())
        };
        let found = existing(self.call("look into the image", SHORT, read).await)?;
        Ok(found.and_then(|()| first_folder(&head)).unwrap_or(ROOTS))
    }

    pub(crate) async fn remove_look(&self, name: &str) -> Result<(), EngineError> {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        let removed = self.docker.remove_container(name, Some(options));
        match self.call("remove a container", LONG, removed).await {
            // 409: it is being removed.
            Ok(()) | Err(EngineError::NotFound { .. } | EngineError::Refused { status: 409, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Whose the folder is that an archive begins with, if it begins with one.
fn first_folder(archive: &[u8]) -> Option<Ownership> {
    let mut archive = tar::Archive::new(archive);
    let entry = archive.entries().ok()?.next()?.ok()?;
    let header = entry.header();
    let id = |id: io::Result<u64>| u32::try_from(id.ok()?).ok();
    header.entry_type().is_dir().then_some(())?;
    // Without the bits that give a program its owner's rights: they mean nothing on a folder that anybody should need.
    Some(Ownership { uid: id(header.uid())?, gid: id(header.gid())?, mode: header.mode().ok()? & 0o1777 })
}

/// Makes a folder if it is missing. Returns whether it is empty.
fn make(folder: &Path) -> io::Result<bool> {
    std::fs::create_dir_all(folder)?;
    Ok(std::fs::read_dir(folder)?.next().is_none())
}

fn give(folder: &Path, owner: Ownership) -> io::Result<()> {
    chown(folder, Some(owner.uid), Some(owner.gid))?;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(owner.mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(kind: tar::EntryType) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_uid(999);
        header.set_gid(998);
        header.set_mode(0o4750);
        header.set_size(0);
        let mut archive = tar::Builder::new(Vec::new());
        archive.append_data(&mut header, "data", io::empty()).unwrap();
        archive.into_inner().unwrap()
    }

    #[test]
    fn a_folder_belongs_to_whom_the_image_gives_it() {
        let owner = first_folder(&archive(tar::EntryType::Directory));
        assert_eq!(owner, Some(Ownership { uid: 999, gid: 998, mode: 0o750 }));
    }

    #[test]
    fn what_is_no_folder_or_cut_off_says_nothing() {
        assert_eq!(first_folder(&archive(tar::EntryType::Regular)), None);
        assert_eq!(first_folder(&archive(tar::EntryType::Directory)[..100]), None);
        assert_eq!(first_folder(&[]), None);
    }
}
