//! Which pushes are under way in a repository, and what those have left that did not end by themselves.
//!
//! Git removes the quarantine of a push when it ends, but not when a signal or a closed pipe ends it. Whoever is alone in a repository may remove
//! what is there.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::git::GitError;
use crate::repositories::Repository;

/// How git names the folders in which it keeps what is being pushed.
const QUARANTINE: &str = "tmp_objdir-";

/// How many pushes are under way, by repository.
#[derive(Debug, Default)]
pub(crate) struct UnderWay(Mutex<HashMap<PathBuf, usize>>);

impl UnderWay {
    fn change(&self, path: &Path, change: impl FnOnce(&mut usize)) -> usize {
        // Nothing in here panics half-way.
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(path.to_owned()).or_default();
        change(count);
        let count = *count;
        if count == 0 {
            counts.remove(path);
        }
        count
    }
}

/// The right to push. It ends with this.
#[derive(Debug)]
pub(crate) struct Turn(Repository);

impl Turn {
    /// Begins a push, and removes what others have left if there is no other.
    pub(crate) async fn take(repository: &Repository) -> Result<Self, GitError> {
        let under_way = &repository.shared.under_way;
        let count = under_way.change(&repository.path, |count| *count += 1);
        let turn = Self(repository.clone());
        if count == 1 {
            sweep(repository).await?;
        }
        Ok(turn)
    }

    pub(crate) fn repository(&self) -> &Repository {
        &self.0
    }

    /// Ends the push, and removes what it has left.
    pub(crate) async fn end(self) {
        let count = self.0.shared.under_way.change(&self.0.path, |_| ());
        if count == 1
            && let Err(error) = sweep(&self.0).await
        {
            tracing::warn!("what a push has left cannot be removed: {error}");
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.shared.under_way.change(&self.0.path, |count| *count = count.saturating_sub(1));
    }
}

/// Removes what pushes have left. Only for who is alone.
async fn sweep(repository: &Repository) -> Result<(), GitError> {
    let path = repository.path.join("objects");
    let swept = tokio::task::spawn_blocking({
        let path = path.clone();
        move || remove_quarantines(&path)
    });
    let swept = swept.await.unwrap_or_else(|panic| Err(io::Error::other(panic)));
    swept.map_err(|source| GitError::Disk { path, source })
}

fn remove_quarantines(objects: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(objects)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(QUARANTINE.as_bytes()) {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

impl Repository {
    /// Removes what pushes have left that a crash has ended, unless one is under way. Each push does so, too.
    pub async fn sweep(&self) -> Result<(), GitError> {
        Turn::take(self).await.map(drop)
    }
}
