//! The image of an app: in the engine, whatever kind of artifact it is.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tracing::info;
use wharf_docker::{Credentials, Engine, ImageError, ImageId, PullProgress};
use wharf_types::InstanceId;
use wharf_types::image::{DOCUMENT_MAX_BYTES, ImageDocument};
use wharf_types::node::{AssignedInstance, ReasonKind};

use super::brought::Images;
use crate::artifacts::Artifacts;
use crate::backend::Failure;
use crate::secrets::SecretStore;

/// A pull of which nothing has come for so long is given up, and tried again.
const STALLED_AFTER: Duration = Duration::from_secs(60);

/// How far the images are that are being brought, by the instance that needs each.
#[derive(Default)]
pub(super) struct Progress(Mutex<HashMap<InstanceId, String>>);

/// What is told of one of them, until this is dropped.
pub(super) struct Told<'a> {
    progress: &'a Progress,
    id: InstanceId,
}

impl Progress {
    pub(super) fn of(&self, id: InstanceId) -> Told<'_> {
        Told { progress: self, id }
    }

    pub(super) fn read(&self, id: InstanceId) -> Option<String> {
        self.known().get(&id).cloned()
    }

    fn known(&self) -> MutexGuard<'_, HashMap<InstanceId, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Told<'_> {
    fn say(&self, words: String) {
        self.progress.known().insert(self.id, words);
    }
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        self.progress.known().remove(&self.id);
    }
}

/// How much of an image is here, such as `pulling redis:7: 34 of 120 MB, 2 of 6 layers`.
fn pulling(image: &str, progress: PullProgress) -> String {
    let PullProgress { layers_done, layers, downloaded_bytes, total_bytes } = progress;
    if layers == 0 {
        return format!("pulling {image}");
    }
    // Rounded down, so that all of it is here only when it is.
    let (mb, of_mb) = (downloaded_bytes / 1_000_000, total_bytes.div_ceil(1_000_000));
    match total_bytes {
        0 => format!("pulling {image}: {layers_done} of {layers} layers"),
        _ if downloaded_bytes >= total_bytes => {
            format!("pulling {image}: {of_mb} MB are here, {layers_done} of {layers} layers unpacked")
        }
        _ => format!("pulling {image}: {mb} of {of_mb} MB, {layers_done} of {layers} layers"),
    }
}

/// Why an image is not there.
pub(super) enum EnsureError {
    /// The engine's disk is full: with more room it may be brought.
    DiskFull(Failure),
    Failed(Failure),
}

impl From<Failure> for EnsureError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<ImageError> for EnsureError {
    fn from(error: ImageError) -> Self {
        let failure = failed(&error, error.is_retryable());
        match error {
            ImageError::DiskFull { .. } => Self::DiskFull(failure),
            _ => Self::Failed(failure),
        }
    }
}

impl From<EnsureError> for Failure {
    fn from(error: EnsureError) -> Self {
        let (EnsureError::DiskFull(failure) | EnsureError::Failed(failure)) = error;
        failure
    }
}

/// Brings the image of an instance into the engine, unless it is there, and notes that in `images`. An archive is put into `folder` for as
/// long as that takes.
pub(super) async fn ensure(
    (engine, images): (&Engine, &Images),
    given: (&Arc<Artifacts>, &SecretStore),
    folder: &Path,
    assigned: &AssignedInstance,
    told: &Told<'_>,
) -> Result<ImageId, EnsureError> {
    let _stays = images.bringing().await;
    let (image, was_there) = bring(engine, given, folder, assigned, told).await?;
    // What somebody else has named or brought by another digest is not for this worker to remove.
    if !was_there && engine.is_nobody_elses(image).await.map_err(ImageError::from)? {
        images.brought(image, assigned.artifact);
    } else {
        images.used(image, assigned.artifact);
    }
    Ok(image)
}

/// The image, and whether it was there.
async fn bring(
    engine: &Engine,
    (artifacts, secrets): (&Arc<Artifacts>, &SecretStore),
    folder: &Path,
    assigned: &AssignedInstance,
    told: &Told<'_>,
) -> Result<(ImageId, bool), EnsureError> {
    if let Some(image) = engine.loaded(assigned.artifact).await? {
        return Ok((image, true));
    }
    let turn = artifacts.turn(assigned.artifact).await;
    // Whoever had the turn before may have loaded it.
    if let Some(image) = engine.loaded(assigned.artifact).await? {
        return Ok((image, true));
    }
    let folder = tempfile::tempdir_in(folder).map_err(|error| no_room(&error))?;
    let file = folder.path().join("image.tar");
    artifacts.get_into(assigned.artifact, &file).await?;
    let Some(document) = document_in(&file).await? else {
        told.say("loading the image's archive into the Docker engine".to_owned());
        return Ok((engine.load(&file, assigned.artifact).await?, false));
    };
    drop((turn, folder));
    let tell = |progress: PullProgress| told.say(pulling(&document.image, progress));
    let credentials = credentials(secrets, assigned)?;
    let was_there = engine.has(&document).await?;
    if !was_there {
        told.say(pulling(&document.image, PullProgress::default()));
        info!("pulling {} for {}", document.image, assigned.app);
    }
    Ok((engine.ensure(&document, credentials.as_ref(), STALLED_AFTER, &tell).await?, was_there))
}

/// The document that a file holds. None: it is an archive.
async fn document_in(file: &Path) -> Result<Option<ImageDocument>, Failure> {
    let read = async {
        let mut octets = Vec::new();
        let file = tokio::fs::File::open(file).await?;
        // Of an archive no more is looked at either.
        file.take(DOCUMENT_MAX_BYTES as u64 + 1).read_to_end(&mut octets).await?;
        Ok::<_, std::io::Error>(octets)
    };
    let octets = read.await.map_err(|error| no_room(&error))?;
    if !octets.starts_with(b"{") {
        return Ok(None);
    }
    let document = ImageDocument::parse(&octets);
    document.map(Some).map_err(|error| Failure::new(ReasonKind::Artifact, error.to_string()))
}

/// What opens the image's registry. None: nothing has to.
fn credentials(secrets: &SecretStore, assigned: &AssignedInstance) -> Result<Option<Credentials>, Failure> {
    let Some(variable) = &assigned.spec.container.registry_login else { return Ok(None) };
    let environment = secrets.environment(assigned)?;
    let value = environment.iter().find(|(name, _)| name == variable).map(|(_, value)| value.as_str());
    match value.map(Credentials::parse) {
        Some(Ok(credentials)) => Ok(Some(credentials)),
        Some(Err(error)) => {
            let message = format!("the secret of `{variable}`, container.registry_login: {error}");
            Err(Failure::new(ReasonKind::Artifact, message))
        }
        None => {
            let message = format!("container.registry_login: there is no variable `{variable}`");
            Err(Failure::new(ReasonKind::Platform, message))
        }
    }
}

fn no_room(error: &std::io::Error) -> Failure {
    Failure::new(
        ReasonKind::Platform,
        format!("could not put the image's archive on this node's disk: {error}"),
    )
}

/// With all that lies behind an error: the engine's own words are in there.
pub(super) fn failed(error: &(dyn std::error::Error + 'static), is_retryable: bool) -> Failure {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        source = cause.source();
    }
    Failure::new(if is_retryable { ReasonKind::Platform } else { ReasonKind::Artifact }, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pull_is_told_in_octets_and_layers() {
        let told = |layers_done, layers, downloaded_bytes, total_bytes| {
            pulling("redis:7", PullProgress { layers_done, layers, downloaded_bytes, total_bytes })
        };
        assert_eq!(told(0, 0, 0, 0), "pulling redis:7");
        assert_eq!(told(1, 6, 0, 0), "pulling redis:7: 1 of 6 layers");
        assert_eq!(told(2, 6, 34_900_000, 119_100_000), "pulling redis:7: 34 of 120 MB, 2 of 6 layers");
        assert_eq!(told(3, 6, 120, 120), "pulling redis:7: 1 MB are here, 3 of 6 layers unpacked");
    }

    #[test]
    fn what_was_told_is_over_with_the_pull() {
        let (progress, id) = (Progress::default(), InstanceId::new());
        let told = progress.of(id);
        assert_eq!(progress.read(id), None);
        told.say("pulling".to_owned());
        told.say("still pulling".to_owned());
        assert_eq!(progress.read(id).as_deref(), Some("still pulling"));
        drop(told);
        assert_eq!(progress.read(id), None);
    }
}
