//! Artifacts in a bucket that servers share, with copies here of those that were used last.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::warn;
use wharf_types::{Digest, Timestamp};

use super::bucket::Bucket;
use super::cache::Cache;
use super::incoming::take_in;
use super::{ArtifactError, ArtifactStore, Body, Content, PutError};
use crate::reconcile::chain;

pub(super) struct SharedArtifacts {
    bucket: Bucket,
    cache: Cache,
    /// One lock an artifact, so that it is brought once however many ask for it.
    under_way: Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
}

impl SharedArtifacts {
    pub(super) fn open(bucket: Bucket, cache: PathBuf) -> io::Result<Self> {
        Ok(Self { bucket, cache: Cache::open(cache)?, under_way: Mutex::default() })
    }

    /// Makes a copy of what is in the bucket. `false`: it is not there.
    async fn bring(&self, digest: Digest) -> Result<bool, ArtifactError> {
        let draft = self.cache.draft();
        match self.bucket.download(digest, &draft.0).await? {
            Some(_) => self.cache.keep(draft, digest).await.map(|()| true).map_err(ArtifactError::Disk),
            None => Ok(false),
        }
    }

    async fn bring_alone(&self, digest: Digest) -> Result<Option<(u64, tokio::fs::File)>, ArtifactError> {
        let lock = {
            let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
            under_way.entry(digest).or_default().clone()
        };
        let brought = async {
            let _guard = lock.lock().await;
            // Somebody else may have brought it meanwhile.
            if let Some(copy) = self.cache.get(digest).await? {
                return Ok(Some(copy));
            }
            let brought = match self.bring(digest).await {
                Err(ArtifactError::Disk(error)) if error.kind() == io::ErrorKind::StorageFull => {
                    self.cache.clear();
                    self.bring(digest).await?
                }
                brought => brought?,
            };
            match (brought, self.cache.get(digest).await?) {
                // Somebody had to make room at this moment.
                (true, None) => Err(io::Error::from(io::ErrorKind::StorageFull).into()),
                (_, copy) => Ok(copy),
            }
        }
        .await;
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever still waits has the lock, too, and finds the copy.
        under_way.remove(&digest);
        brought
    }
}

#[async_trait::async_trait]
impl ArtifactStore for SharedArtifacts {
    async fn put(&self, digest: Digest, content: Content, body: Body) -> Result<u64, PutError> {
        let draft = self.cache.draft();
        let taken = take_in(draft.0.clone(), digest, content, body, |_| Ok(())).await;
        if let Err(PutError::Write(error)) = &taken
            && error.kind() == io::ErrorKind::StorageFull
        {
            // The next one has room.
            self.cache.clear();
        }
        let bytes = taken?;
        let (bucket, cache) = (self.bucket.clone(), self.cache.clone());
        // A client that goes away leaves no half of an upload.
        let uploading = tokio::spawn(async move {
            bucket.upload(&draft.0, digest, bytes).await?;
            if let Err(error) = cache.keep(draft, digest).await {
                warn!("cannot keep a copy of {digest} here: {error}");
            }
            Ok(bytes)
        });
        match uploading.await {
            Ok(uploaded) => uploaded.map_err(|error| match error {
                ArtifactError::Disk(error) => PutError::Write(error),
                ArtifactError::Bucket(error) => PutError::Bucket(error),
            }),
            Err(panic) => Err(PutError::Write(io::Error::other(panic))),
        }
    }

    async fn open(&self, digest: Digest) -> Result<Option<(u64, tokio::fs::File)>, ArtifactError> {
        match self.cache.get(digest).await? {
            Some(copy) => Ok(Some(copy)),
            None => self.bring_alone(digest).await,
        }
    }

    async fn size(&self, digest: Digest) -> Result<Option<u64>, ArtifactError> {
        let Some(bytes) = self.bucket.size(digest).await? else { return Ok(None) };
        match self.open(digest).await {
            Ok(found) => Ok(found.map(|_| bytes)),
            Err(ArtifactError::Bucket(error)) if error.is_damage() => {
                warn!("{}", chain(&error));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn remove(&self, digest: Digest) -> Result<(), ArtifactError> {
        self.bucket.remove(digest).await?;
        self.cache.remove(digest);
        Ok(())
    }

    async fn list(&self) -> Result<Vec<(Digest, Timestamp)>, ArtifactError> {
        Ok(self.bucket.list().await?)
    }
}
