//! Images that come as archives of `docker save`.
//!
//! The names in such an archive are taken out on the way: loaded as they are they would take the names of images that others use. The image
//! gets a name of the archive's own digest instead, by which it is found again.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write};
use std::path::Path;

use bollard::query_parameters::ImportImageOptionsBuilder;
use bytes::Bytes;
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use wharf_types::Digest;

use crate::engine::Engine;
use crate::error::bounded;
use crate::image::{ImageError, ImageId, built_for, id_of};

const NAME: &str = "wharf.localhost/artifact";
const MANIFEST: &str = "manifest.json";
/// Where else names are. Without them every engine reads [`MANIFEST`].
const OTHER_NAMES: [&str; 3] = ["repositories", "index.json", "oci-layout"];
const MANIFEST_MAX_BYTES: u64 = 1 << 20;
const CHUNK_BYTES: usize = 64 << 10;
/// For one step of the engine while it takes an archive.
const STEP_LIMIT: std::time::Duration = std::time::Duration::from_secs(120);

#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    #[error("it is compressed: deploy what `docker save` itself writes")]
    Compressed,
    #[error("it is no archive of `docker save`: {0}")]
    Not(&'static str),
    #[error("it holds {0} images, and an app has one: save them apart")]
    Images(usize),
    #[error("the Docker engine does not take it: {0}")]
    Refused(String),
}

impl ArchiveError {
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Read(_))
    }
}

impl Engine {
    /// The image of an archive that was loaded before.
    pub async fn loaded(&self, digest: Digest) -> Result<Option<ImageId>, ImageError> {
        let name = format!("{NAME}:{}", digest.hex());
        let Some(found) = self.inspect_image(&name).await? else { return Ok(None) };
        self.check_platform(&name, &built_for(&found)).await?;
        Ok(Some(id_of(&found)?))
    }

    /// Loads an archive, whose digest was checked before, unless it is there already.
    pub async fn load(&self, archive: &Path, digest: Digest) -> Result<ImageId, ImageError> {
        if let Some(image) = self.loaded(digest).await? {
            return Ok(image);
        }
        let name = format!("{NAME}:{}", digest.hex());
        let (path, tag) = (archive.to_owned(), name.clone());
        let opened = tokio::task::spawn_blocking(move || open(&path, &tag)).await;
        let (file, manifest) = opened.map_err(|error| ArchiveError::Read(io::Error::other(error)))??;
        self.send(file, manifest).await?;
        let found = self.inspect_image(&name).await?;
        let found = found.ok_or(ArchiveError::Not("the engine has found no image in it"))?;
        let id = id_of(&found)?;
        if let Err(error) = self.check_platform(&format!("the image of {digest}"), &built_for(&found)).await {
            self.remove_image(id).await?;
            return Err(error);
        }
        Ok(id)
    }

    async fn send(&self, file: File, manifest: Vec<u8>) -> Result<(), ImageError> {
        let (chunks_tx, mut chunks) = mpsc::channel::<io::Result<Bytes>>(4);
        let written = tokio::task::spawn_blocking(move || {
            let mut chunks = Chunks::new(chunks_tx);
            if let Err(error) = rewrite(file, &manifest, &mut chunks) {
                chunks.fail(error);
            }
        });
        let body = futures::stream::poll_fn(move |context| chunks.poll_recv(context));
        let options = ImportImageOptionsBuilder::new().quiet(true).build();
        let mut said = self.docker.import_image_stream(options, body, None);
        loop {
            match self.call("load the image", STEP_LIMIT, async { Ok(said.next().await) }).await? {
                None => break,
                Some(Ok(_)) => {}
                Some(Err(bollard::errors::Error::DockerStreamError { error }))
                    if !error.contains("no space left on device") =>
                {
                    return Err(ArchiveError::Refused(bounded(&error)).into());
                }
                Some(Err(error)) => return Err(self.error("load the image", error).into()),
            }
        }
        let _ = written.await;
        Ok(())
    }
}

/// Whether a name of an image is one that [`Engine::load`] gives.
pub(crate) fn is_our_name(name: &str) -> bool {
    name.strip_prefix(NAME).is_some_and(|rest| rest.starts_with(':'))
}

/// Opens an archive and makes the manifest that goes to the engine instead of its own.
fn open(path: &Path, name: &str) -> Result<(File, Vec<u8>), ArchiveError> {
    let mut file = File::open(path).map_err(ArchiveError::Read)?;
    let mut magic = [0; 4];
    let read = file.read(&mut magic).map_err(ArchiveError::Read)?;
    if read == 4 && (magic.starts_with(&[0x1f, 0x8b]) || magic == [0x28, 0xb5, 0x2f, 0xfd]) {
        return Err(ArchiveError::Compressed);
    }
    file.rewind().map_err(ArchiveError::Read)?;
    let manifest = find_manifest(&file)?;
    file.rewind().map_err(ArchiveError::Read)?;
    Ok((file, renamed(&manifest, name)?))
}

pub(crate) fn find_manifest(file: impl io::Read + io::Seek) -> Result<Vec<u8>, ArchiveError> {
    let not_tar = |_| ArchiveError::Not("it is no tar archive");
    let mut archive = tar::Archive::new(file);
    for entry in archive.entries_with_seek().map_err(not_tar)? {
        let entry = entry.map_err(not_tar)?;
        if !is_named(&entry, &[MANIFEST]) {
            continue;
        }
        if entry.size() > MANIFEST_MAX_BYTES {
            return Err(ArchiveError::Not("its manifest.json is longer than 1 MiB"));
        }
        let mut octets = Vec::new();
        entry.take(MANIFEST_MAX_BYTES).read_to_end(&mut octets).map_err(ArchiveError::Read)?;
        return Ok(octets);
    }
    Err(ArchiveError::Not("it has no manifest.json"))
}

fn is_named<R: io::Read>(entry: &tar::Entry<'_, R>, names: &[&str]) -> bool {
    let path = entry.path_bytes();
    let path = path.strip_prefix(b"./").unwrap_or(&path);
    names.iter().any(|name| name.as_bytes() == path)
}

/// The manifest with one name only.
pub(crate) fn renamed(manifest: &[u8], name: &str) -> Result<Vec<u8>, ArchiveError> {
    let not_json = |_| ArchiveError::Not("its manifest.json is not understood");
    let mut images: Vec<Value> = serde_json::from_slice(manifest).map_err(not_json)?;
    let count = images.len();
    let [Value::Object(image)] = images.as_mut_slice() else {
        return Err(ArchiveError::Images(count));
    };
    image.insert("RepoTags".to_owned(), json!([name]));
    serde_json::to_vec(&images).map_err(not_json)
}

/// Copies an archive without the names in it.
fn rewrite(file: File, manifest: &[u8], to: &mut Chunks) -> io::Result<()> {
    let mut out = tar::Builder::new(to);
    let mut archive = tar::Archive::new(file);
    for entry in archive.entries()? {
        let mut entry = entry?;
        if is_named(&entry, &[MANIFEST]) || is_named(&entry, &OTHER_NAMES) {
            continue;
        }
        let mut header = entry.header().clone();
        let path = entry.path()?.into_owned();
        match entry.link_name()? {
            Some(target) => out.append_link(&mut header, path, target)?,
            None => out.append_data(&mut header, path, &mut entry)?,
        }
    }
    let mut header = tar::Header::new_gnu();
    header.set_size(manifest.len() as u64);
    header.set_mode(0o644);
    out.append_data(&mut header, MANIFEST, manifest)?;
    out.into_inner()?.flush()
}

/// Gives what is written to the task that speaks with the engine, and waits for it.
pub(crate) struct Chunks {
    to: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
}

impl Chunks {
    pub(crate) fn new(to: mpsc::Sender<io::Result<Bytes>>) -> Self {
        Self { to, buffer: Vec::with_capacity(CHUNK_BYTES) }
    }

    pub(crate) fn fail(self, error: io::Error) {
        // Nobody listens any more if it was the engine that has ended this.
        let _ = self.to.blocking_send(Err(error));
    }
}

impl Write for Chunks {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(octets);
        if self.buffer.len() >= CHUNK_BYTES {
            self.flush()?;
        }
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK_BYTES));
        self.to.blocking_send(Ok(chunk.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_loses_its_names() {
        let manifest =
            br#"[{"Config":"a.json","RepoTags":["redis:7","redis:latest"],"Layers":["b/layer.tar"]}]"#;
        let manifest: Value = serde_json::from_slice(&renamed(manifest, "ours:1").unwrap()).unwrap();
        assert_eq!(manifest[0]["RepoTags"], json!(["ours:1"]));
        assert_eq!(manifest[0]["Layers"], json!(["b/layer.tar"]));
    }

    #[test]
    fn what_does_not_hold_one_image_is_refused() {
        assert!(matches!(renamed(b"[]", "a"), Err(ArchiveError::Images(0))));
        assert!(matches!(renamed(b"[{},{}]", "a"), Err(ArchiveError::Images(2))));
        assert!(matches!(renamed(b"[1]", "a"), Err(ArchiveError::Images(1))));
        assert!(matches!(renamed(b"{}", "a"), Err(ArchiveError::Not(_))));
        assert!(matches!(renamed(b"", "a"), Err(ArchiveError::Not(_))));
    }
}
