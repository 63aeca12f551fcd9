//! Images that this worker has brought into the engine, and when they go again.
//!
//! They are remembered in a file of the worker's folder: what was in the engine before, or has got a name or a digest of somebody else's, is never
//! one of them. An image goes when no assignment has named it for a while. Which it is is decided by [`due`]; whether it really can go the
//! engine knows, which keeps what any container was made of.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{RwLock, RwLockReadGuard};
use tracing::{debug, info, warn};
use wharf_docker::{Engine, ImageId};
use wharf_types::{Digest, Timestamp};

use super::backend::ContainerBackend;

/// How long an image is kept that nothing needs.
const KEPT_FOR: Duration = Duration::from_secs(3600);
/// How often it is looked for those.
const LOOK: Duration = Duration::from_secs(300);
/// The most that go at once; the others do when it is looked the next time.
const ROUND_MAX: usize = 4;
const FILE: &str = "images.json";

/// An image that would not be there without this worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Brought {
    /// As the engine calls it.
    image: String,
    /// What it was needed for last.
    artifacts: BTreeSet<Digest>,
    /// None: it was needed when it was looked last.
    unused_since: Option<Timestamp>,
}

pub(super) struct Images {
    file: PathBuf,
    known: Mutex<Vec<Brought>>,
    /// Held while an image is brought, or looked for and then used; held whole while one is removed.
    bringing: RwLock<()>,
}

impl Images {
    /// `folder` is the worker's own.
    pub(super) fn new(folder: &Path) -> Self {
        let file = folder.join(FILE);
        let known = read(&file).unwrap_or_else(|error| {
            // Rather left where they are than taken from somebody.
            warn!("{} cannot be read, so images that it names are kept for good: {error}", file.display());
            Vec::new()
        });
        Self { file, known: Mutex::new(known), bringing: RwLock::default() }
    }

    /// While this is there no image is removed.
    pub(super) async fn bringing(&self) -> RwLockReadGuard<'_, ()> {
        self.bringing.read().await
    }

    /// Takes note that an image is there only because it was brought for this artifact.
    pub(super) fn brought(&self, image: ImageId, artifact: Digest) {
        let mut known = self.known();
        if !known.iter().any(|it| it.image == image.to_string()) {
            let image = image.to_string();
            known.push(Brought { image, artifacts: BTreeSet::new(), unused_since: None });
        }
        drop(known);
        self.used(image, artifact);
    }

    /// Takes note that an image is used for this artifact, if it is one of these.
    pub(super) fn used(&self, image: ImageId, artifact: Digest) {
        let mut known = self.known();
        let Some(brought) = known.iter_mut().find(|it| it.image == image.to_string()) else { return };
        let is_new = brought.artifacts.insert(artifact);
        if brought.unused_since.take().is_some() || is_new {
            self.write(&known);
        }
    }

    /// Removes what no artifact in use has needed for so long, or as much of it as is done at once. Returns how many have gone.
    pub(super) async fn remove_unused(
        &self,
        engine: &Engine,
        in_use: impl Fn() -> HashSet<Digest>,
        kept_for: Duration,
    ) -> usize {
        let wanted = {
            let mut known = self.known();
            let before = known.clone();
            let wanted = due(&mut known, &in_use(), Timestamp::now(), kept_for);
            if *known != before {
                self.write(&known);
            }
            wanted
        };
        let mut gone = 0;
        for image in wanted {
            // Whoever is bringing one may be about to use this one.
            let Ok(_alone) = self.bringing.try_write() else { break };
            let needed = in_use();
            if self.known().iter().any(|it| it.image == image && it.is_needed(&needed)) {
                continue;
            }
            let Ok(id) = image.parse::<ImageId>() else {
                self.forget(&image);
                continue;
            };
            match engine.remove_image(id).await {
                Ok(true) => {
                    gone += 1;
                    self.forget(&image);
                    info!("removed the image {image}, which nothing here has needed for a while");
                }
                // Somebody else has found a use for it.
                Ok(false) => debug!("the image {image} is used by others, and stays"),
                Err(error) => {
                    debug!("the image {image} is removed later: {error}");
                    break;
                }
            }
        }
        gone
    }

    fn forget(&self, image: &str) {
        let mut known = self.known();
        known.retain(|it| it.image != image);
        self.write(&known);
    }

    fn write(&self, known: &[Brought]) {
        if let Err(error) = write(&self.file, known) {
            // What is not noted is not removed.
            warn!("cannot write {}: {error}", self.file.display());
        }
    }

    fn known(&self) -> MutexGuard<'_, Vec<Brought>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Brought {
    fn is_needed(&self, in_use: &HashSet<Digest>) -> bool {
        self.artifacts.iter().any(|digest| in_use.contains(digest))
    }
}

/// Which images go, those first that were unused for longest, and notes since when each is.
fn due(known: &mut [Brought], in_use: &HashSet<Digest>, now: Timestamp, kept_for: Duration) -> Vec<String> {
    let mut due = Vec::new();
    for brought in known {
        if brought.is_needed(in_use) {
            brought.artifacts.retain(|digest| in_use.contains(digest));
            brought.unused_since = None;
            continue;
        }
        // A clock that was set back begins anew.
        let since = brought.unused_since.map_or(now, |since| since.min(now));
        brought.unused_since = Some(since);
        let span = Duration::try_from(now.duration_since(since)).unwrap_or_default();
        if span >= kept_for {
            due.push((since, brought.image.clone()));
        }
    }
    due.sort();
    due.into_iter().take(ROUND_MAX).map(|(_, image)| image).collect()
}

fn read(file: &Path) -> io::Result<Vec<Brought>> {
    match fs::read(file) {
        Ok(text) => Ok(serde_json::from_slice(&text)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Writes a file that is whole, old or new, whenever the machine stops.
fn write(file: &Path, known: &[Brought]) -> io::Result<()> {
    let mut draft = tempfile::NamedTempFile::new_in(file.parent().unwrap_or(Path::new(".")))?;
    draft.write_all(&serde_json::to_vec(known)?)?;
    draft.as_file().sync_all()?;
    draft.persist(file)?;
    Ok(())
}

/// Looks for images that nothing needs, for as long as the backend is there.
pub(super) async fn keep_few(backend: Weak<ContainerBackend>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(backend) = backend.upgrade() else { return };
        // Before the first assignment nobody knows what is needed.
        if backend.has_swept() {
            backend.remove_unused_images(KEPT_FOR).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn digest(name: u8) -> Digest {
        Digest::of(&[name])
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    fn brought(name: u8, artifacts: &[u8]) -> Brought {
        Brought {
            image: digest(name).to_string(),
            artifacts: artifacts.iter().map(|name| digest(*name)).collect(),
            unused_since: None,
        }
    }

    fn in_use(names: &[u8]) -> HashSet<Digest> {
        names.iter().map(|name| digest(*name)).collect()
    }

    #[test]
    fn an_image_goes_when_nothing_has_needed_it_for_an_hour() {
        let mut known = [brought(1, &[10]), brought(2, &[20])];
        let mut due = |names: &[u8], seconds| due(&mut known, &in_use(names), at(seconds), HOUR);
        assert!(due(&[10], 0).is_empty());
        assert!(due(&[10], 3599).is_empty());
        assert_eq!(due(&[10], 3600), [digest(2).to_string()]);
        assert_eq!(due(&[], 3601), [digest(2).to_string()], "the other one was needed until now");
        assert!(due(&[20], 3700).is_empty());
        assert!(due(&[], 3800).is_empty(), "it was needed in between");
        assert_eq!(due(&[], 7201), [digest(1).to_string()]);
    }

    #[test]
    fn an_image_that_several_artifacts_name_is_needed_for_each_of_them() {
        let mut known = [brought(1, &[10, 11])];
        assert!(due(&mut known, &in_use(&[11]), at(0), Duration::ZERO).is_empty());
        assert_eq!(known[0].artifacts, BTreeSet::from([digest(11)]));
        assert_eq!(due(&mut known, &in_use(&[10]), at(1), Duration::ZERO).len(), 1);
    }

    #[test]
    fn few_go_at_once_the_longest_unused_first_and_a_clock_may_be_set_back() {
        let mut known: Vec<_> = (0..9).map(|name| brought(name, &[name])).collect();
        for (name, brought) in known.iter_mut().enumerate() {
            brought.unused_since = Some(at(-10_000 - i64::try_from(name).unwrap()));
        }
        let gone = due(&mut known, &in_use(&[8]), at(0), HOUR);
        assert_eq!(gone, [7, 6, 5, 4].map(|name| digest(name).to_string()));
        known[0].unused_since = Some(at(5000));
        due(&mut known, &in_use(&[]), at(0), HOUR);
        assert_eq!(known[0].unused_since, Some(at(0)));
    }

    #[test]
    fn what_was_brought_is_remembered_and_what_is_damaged_names_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let images = Images::new(folder.path());
        let (id, other) = (digest(1).to_string().parse().unwrap(), digest(2).to_string().parse().unwrap());
        images.brought(id, digest(10));
        images.used(id, digest(11));
        images.used(other, digest(12));
        let expected = vec![brought(1, &[10, 11])];
        assert_eq!(*Images::new(folder.path()).known(), expected);
        fs::write(folder.path().join(FILE), "{").unwrap();
        assert!(Images::new(folder.path()).known().is_empty());
    }
}
