//! Files of containers, out and in, in the archives that the engine makes and takes. Nothing of them is kept here.

use std::io;

use bollard::query_parameters::{
    ContainerArchiveInfoOptionsBuilder, DownloadFromContainerOptionsBuilder, UploadToContainerOptionsBuilder,
};
use bytes::Bytes;
use futures::{Stream, TryStreamExt as _};
use wharf_types::InstanceId;

use crate::container::name_of;
use crate::engine::{Engine, SHORT, existing};
use crate::error::EngineError;

/// Bits of a mode, as the engine writes it.
const FOLDER: u32 = 1 << 31;
const LINK: u32 = 1 << 27;

/// What is at a path of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathLook {
    /// The path, or where the link leads that is there.
    pub path: String,
    /// None: there is nothing, or no such container.
    pub kind: Option<PathKind>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathKind {
    Folder,
    /// Whatever is none.
    File,
}

impl Engine {
    /// Looks at a path, and follows the link that may be there, as the container would.
    pub async fn look_at(&self, id: InstanceId, path: &str) -> Result<PathLook, EngineError> {
        let Some((mode, target)) = self.mode_of(id, path).await? else {
            return Ok(PathLook { path: path.to_owned(), kind: None });
        };
        if mode & LINK == 0 {
            return Ok(PathLook { path: path.to_owned(), kind: Some(kind_of(mode)) });
        }
        // The engine has followed it to its end already.
        let at_end = self.mode_of(id, &target).await?;
        Ok(PathLook { kind: at_end.map(|(mode, _)| kind_of(mode)), path: target })
    }

    /// The mode of what is at a path, and where it leads if it is a link.
    async fn mode_of(&self, id: InstanceId, path: &str) -> Result<Option<(u32, String)>, EngineError> {
        let options = ContainerArchiveInfoOptionsBuilder::new().path(path).build();
        let name = name_of(id);
        let asked = self.docker.get_container_archive_info(&name, Some(options));
        let found = existing(self.call("look into the container", SHORT, asked).await)?;
        Ok(found.map(|found| (found.file_mode, found.link_target)))
    }

    /// The archive of what is at a path. Its first entry is that, by its last name, and all others are below it.
    pub fn copy_out(
        &self,
        id: InstanceId,
        path: &str,
    ) -> impl Stream<Item = Result<Bytes, EngineError>> + Send + Unpin + use<> {
        let options = DownloadFromContainerOptionsBuilder::new().path(path).build();
        let engine = self.clone();
        let archive = self.docker.download_from_container(&name_of(id), Some(options));
        archive.map_err(move |error| engine.error("copy out of the container", error))
    }

    /// Unpacks an archive into a folder. What has come before an error of it is there afterwards.
    pub async fn copy_in(
        &self,
        id: InstanceId,
        folder: &str,
        archive: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Result<(), EngineError> {
        // A folder is never replaced by a file, nor the other way round.
        let options = UploadToContainerOptionsBuilder::new().path(folder).no_overwrite_dir_non_dir("true");
        let body = bollard::body_try_stream(archive);
        let copied = self.docker.upload_to_container(&name_of(id), Some(options.build()), body).await;
        copied.map_err(|error| self.error("copy into the container", error))
    }
}

fn kind_of(mode: u32) -> PathKind {
    if mode & FOLDER == 0 { PathKind::File } else { PathKind::Folder }
}
