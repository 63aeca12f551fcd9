//! Artifacts in a bucket that servers share, with copies here of those that were used last.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use tracing::warn;
use wharf_types::{Digest, Timestamp};

use super::bucket::Bucket;
use super::cache::Cache;
use super::incoming::take_in;
use super::{ARTIFACT_MAX_BYTES, ArtifactError, ArtifactStore, Body, Content, Place, PutError};
use crate::reconcile::chain;

pub(super) struct SharedArtifacts {
    bucket: Bucket,
    cache: Cache,
    under_way: UnderWay,
}

/// What is being brought. However many ask for an artifact, it is brought once, and all of them hear how that went.
type UnderWay = Arc<Mutex<HashMap<Digest, Shared<BoxFuture<'static, Result<bool, ArtifactError>>>>>>;

impl SharedArtifacts {
    pub(super) fn open(bucket: Bucket, cache: Cache) -> Self {
        Self { bucket, cache, under_way: UnderWay::default() }
    }

    async fn bring(&self, digest: Digest) -> Result<Option<(u64, tokio::fs::File)>, ArtifactError> {
        let attempt = {
            let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
            under_way.entry(digest).or_insert_with(|| self.begin(digest)).clone()
        };
        let is_there = attempt.await?;
        match (is_there, self.cache.get(digest).await?) {
            // Somebody had to make room at this moment.
            (true, None) => Err(io::Error::from(io::ErrorKind::StorageFull).into()),
            (_, copy) => Ok(copy),
        }
    }

    /// Goes on when nobody waits any more. Called while what is under way is locked, so that it cannot end before it is listed.
    fn begin(&self, digest: Digest) -> Shared<BoxFuture<'static, Result<bool, ArtifactError>>> {
        let (bucket, cache) = (self.bucket.clone(), self.cache.clone());
        let listed = Listed { under_way: self.under_way.clone(), digest };
        let task = tokio::spawn(async move {
            let _listed = listed;
            copy(&bucket, &cache, digest).await
        });
        task.map(|ended| ended.unwrap_or_else(|panic| Err(io::Error::other(panic).into()))).boxed().shared()
    }
}

/// Takes an attempt off the list when it ends, however it does.
struct Listed {
    under_way: UnderWay,
    digest: Digest,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.digest);
    }
}

/// Makes a copy of what is in the bucket. `false`: it is not there.
async fn copy(bucket: &Bucket, cache: &Cache, digest: Digest) -> Result<bool, ArtifactError> {
    // Somebody else may have brought it meanwhile.
    if cache.get(digest).await?.is_some() {
        return Ok(true);
    }
    match download(bucket, cache, digest).await {
        Err(ArtifactError::Disk(error)) if error.kind() == io::ErrorKind::StorageFull => {
            cache.clear().await?;
            download(bucket, cache, digest).await
        }
        // It may have been changed on its way. If not, nobody is to take it for the artifact, so that a push brings it again.
        Err(ArtifactError::Bucket(error)) if error.is_damage() => {
            let again = download(bucket, cache, digest).await;
            if let Err(ArtifactError::Bucket(error)) = &again
                && error.is_damage()
            {
                warn!("{}", chain(error));
                bucket.put_aside(digest).await?;
            }
            again
        }
        copied => copied,
    }
}

async fn download(bucket: &Bucket, cache: &Cache, digest: Digest) -> Result<bool, ArtifactError> {
    let draft = cache.draft();
    match bucket.download(digest, &draft.0).await? {
        Some(_) => cache.keep(draft, digest).await.map(|()| true).map_err(ArtifactError::Disk),
        None => Ok(false),
    }
}

#[async_trait::async_trait]
impl ArtifactStore for SharedArtifacts {
    async fn put(
        &self,
        digest: Digest,
        content: Content,
        body: Body,
        place: &Place,
    ) -> Result<u64, PutError> {
        let draft = self.cache.draft();
        let taken = take_in(draft.0.clone(), digest, content, body, |_| Ok(())).await;
        if let Err(PutError::Write(error)) = &taken
            && error.kind() == io::ErrorKind::StorageFull
        {
            // The next one has room.
            self.cache.clear().await.map_err(PutError::Write)?;
        }
        let bytes = taken?;
        let (bucket, cache, place) = (self.bucket.clone(), self.cache.clone(), place.clone());
        // A client that goes away leaves no half of an upload.
        let uploading = tokio::spawn(async move {
            let _place = place;
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
            None => self.bring(digest).await,
        }
    }

    async fn size(&self, digest: Digest) -> Result<Option<u64>, ArtifactError> {
        let Some(bytes) = self.bucket.size(digest).await? else { return Ok(None) };
        // To bring gigabytes only to compare them would take longer than whoever asks waits. They are compared when somebody wants them.
        if bytes > ARTIFACT_MAX_BYTES {
            return Ok(Some(bytes));
        }
        match self.open(digest).await {
            // A copy that is right says that the other is not.
            Ok(found) => Ok(found.filter(|(copied, _)| *copied == bytes).map(|_| bytes)),
            Err(ArtifactError::Bucket(error)) if error.is_damage() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn remove(&self, digest: Digest) -> Result<(), ArtifactError> {
        self.bucket.remove(digest).await?;
        self.cache.remove(digest).await?;
        Ok(())
    }

    async fn list(&self) -> Result<Vec<(Digest, Timestamp)>, ArtifactError> {
        Ok(self.bucket.list().await?)
    }
}
