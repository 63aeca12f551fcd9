//! Gives up the artifacts, and the archives of files, that nobody needs any more: those that no kept release is made of.
//!
//! An artifact is pushed before its release is made, so one that was pushed a short while ago stays. The file goes after its
//! row: what a crash leaves in between is a file without a row, and those are looked for, too. Nothing is lost by looking late, and much by
//! looking with the wrong database, so these are left alone just after a start, and by a platform that knows no artifacts at all.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use wharf_types::{Digest, Timestamp};

use super::UPLOADS_MAX;
use crate::context::Context;
use crate::reconcile::chain;
use crate::store::{self, Tx};

const PERIOD: Duration = Duration::from_secs(600);
/// How long an artifact waits for its release.
const UNUSED_MAX: Duration = Duration::from_secs(3600);
/// A removal that was claimed so long ago has broken off: the requests of whoever claimed it have long had their answers.
const REMOVAL_MAX: Duration = Duration::from_secs(300);
/// Batches of old records that are forgotten in a row: more than are made until the next time.
const BATCHES_MAX: usize = 200;

/// What becomes of files that had no row when they were looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strays {
    Kept,
    Removed,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Collected {
    pub(crate) rows: u64,
    pub(crate) files: u64,
}

/// Collects at the start and then every few minutes, until `shutdown`.
pub(crate) async fn run(context: Arc<Context>, shutdown: CancellationToken) {
    let mut period = interval(PERIOD);
    period.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut strays = Strays::Kept;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = period.tick() => {}
        }
        if let Err(error) = forget_records(&context).await {
            warn!(
                "cannot forget old events, records of the audit log and Idempotency-Keys, trying again later: {}",
                chain(&error)
            );
        }
        let collected = collect(&context, Timestamp::now(), strays).await;
        strays = Strays::Removed;
        match collected {
            Ok(Collected { rows: 0, files: 0 }) => {}
            Ok(Collected { rows, files }) => {
                info!("gave up {rows} artifacts that no release uses, and {files} files");
            }
            Err(error) => warn!("cannot give up unused artifacts, trying again later: {}", chain(&error)),
        }
    }
}

/// Events, the audit log and `Idempotency-Key`s are looked after here, too: what is old or too much goes, a batch at a time, so that nobody waits long for the
/// writer.
async fn forget_records(context: &Context) -> store::Result<()> {
    let now = Timestamp::now();
    for _ in 0..BATCHES_MAX {
        let mut tx = context.write_as_leader().await?;
        let forgotten = store::audit::prune(&mut tx, now).await?
            + store::event::prune(&mut tx, now).await?
            + store::once::prune(&mut tx, now).await?;
        tx.commit().await?;
        if forgotten == 0 {
            break;
        }
    }
    // Counted beside the writer, whom it would hold for too long.
    let mut tx = context.store.read().await?;
    let too_much = store::surplus::find(&mut tx).await?;
    drop(tx);
    for surplus in too_much {
        for _ in 0..BATCHES_MAX {
            let mut tx = context.write_as_leader().await?;
            let is_gone = surplus.give_up(&mut tx).await?;
            tx.commit().await?;
            if is_gone {
                break;
            }
        }
    }
    Ok(())
}

pub(crate) async fn collect(context: &Context, now: Timestamp, strays: Strays) -> store::Result<Collected> {
    let is_shared = context.config.artifacts.is_shared();
    // An upload has its file before it has its row, so this is done while there is none. Uploads into a bucket are in the database, also
    // those of this server, and must not wait for its storage.
    let no_upload = (!is_shared).then(|| context.uploads.try_acquire_many(UPLOADS_MAX));
    let Ok(_no_upload) = no_upload.transpose() else {
        return Ok(Collected::default());
    };
    let before = now.checked_sub(UNUSED_MAX).unwrap_or(Timestamp::MIN);
    let stored = context.artifacts.list().await.unwrap_or_else(|error| {
        warn!("cannot list the files of artifacts: {}", chain(&error));
        Vec::new()
    });
    let mut tx = context.write_as_leader().await?;
    let had = known(&mut tx).await?;
    let rows = store::artifact::delete_unused(&mut tx, before).await?
        + store::archive::delete_unused(&mut tx, before).await?;
    let mut unused = unused(stored, before, &had, &known(&mut tx).await?, strays);
    if is_shared {
        unused = claim(&mut tx, unused, before, now).await?;
    }
    tx.commit().await?;
    let mut files = 0;
    for digest in unused {
        match context.artifacts.remove(digest).await {
            Ok(()) => files += 1,
            Err(error) => {
                // What is claimed stays so: the removal may have been carried out all the same, and is tried again.
                warn!("cannot remove the file of artifact {digest}: {}", chain(&error));
                if is_shared {
                    // Each of the others would wait for the same storage.
                    break;
                }
                continue;
            }
        }
        if is_shared {
            let mut tx = context.write_as_leader().await?;
            store::claim::removed(&mut tx, digest).await?;
            tx.commit().await?;
        }
    }
    Ok(Collected { rows, files })
}

/// What the database speaks of.
async fn known(tx: &mut Tx) -> store::Result<BTreeSet<Digest>> {
    let mut known: BTreeSet<Digest> = store::artifact::digests(tx).await?.into_iter().collect();
    known.extend(store::archive::digests(tx).await?);
    Ok(known)
}

/// Of the files that were there already at a time, those that go: `had` rows when they were looked for, and of these some are `left`.
fn unused(
    stored: Vec<(Digest, Timestamp)>,
    before: Timestamp,
    had: &BTreeSet<Digest>,
    left: &BTreeSet<Digest>,
    strays: Strays,
) -> Vec<Digest> {
    let strays_go = strays == Strays::Removed && !had.is_empty();
    stored
        .into_iter()
        .filter(|(digest, written_at)| !left.contains(digest) && *written_at < before)
        .map(|(digest, _)| digest)
        .filter(|digest| strays_go || had.contains(digest))
        .collect()
}

/// Of bytes that nobody uses, those that can be removed, because no server brings them in; from now on none does. Together with those
/// whose removal has broken off.
async fn claim(
    tx: &mut Tx,
    unused: Vec<Digest>,
    before: Timestamp,
    now: Timestamp,
) -> store::Result<Vec<Digest>> {
    store::claim::forget_uploads(tx, before).await?;
    let left_over = now.checked_sub(REMOVAL_MAX).unwrap_or(Timestamp::MIN);
    let mut claimed = store::claim::removals(tx, left_over).await?;
    for digest in unused {
        if store::claim::removal(tx, digest, now).await? {
            claimed.push(digest);
        }
    }
    Ok(claimed)
}

#[cfg(test)]
mod tests {
    use axum::http::Method;
    use serde_json::Value;

    use super::*;
    use crate::artifacts::AN_ARTIFACT;
    use crate::tests::fixture::{Platform, component, quick};

    impl Platform {
        async fn knows(&self, number: u32) -> bool {
            let path = format!("/v1/namespaces/default/artifacts/{}", Digest::of(&component(number)));
            self.call(Method::GET, &path, Value::Null).await.status == 200
        }
    }

    fn in_two_hours() -> Timestamp {
        Timestamp::now() + 2 * UNUSED_MAX
    }

    #[test]
    fn files_without_a_row_stay_after_a_start_and_where_no_artifact_is_known() {
        let [kept, given_up, stray, new] = [b"a", b"b", b"c", b"d"].map(|octets| Digest::of(octets));
        let at = |secs| Timestamp::from_second(secs).unwrap();
        let stored = || vec![(kept, at(0)), (given_up, at(0)), (stray, at(0)), (new, at(10))];
        let (had, left) = (BTreeSet::from([kept, given_up]), BTreeSet::from([kept]));
        assert_eq!(unused(stored(), at(5), &had, &left, Strays::Removed), [given_up, stray]);
        assert_eq!(unused(stored(), at(5), &had, &left, Strays::Kept), [given_up]);
        let none = BTreeSet::new();
        assert_eq!(unused(stored(), at(5), &none, &none, Strays::Removed), []);
        assert_eq!(unused(stored(), at(5), &had, &none, Strays::Removed), [kept, given_up, stray]);
    }

    #[tokio::test]
    async fn an_artifact_that_no_release_uses_goes_after_a_while_and_a_used_one_stays() {
        let platform = Platform::start().await;
        platform.deploy("hello", &component(0), quick()).await.is(201);
        platform.push("default", &component(1)).await.is(201);
        let abandoned = Digest::of(b"\0asm\x01\0\0\0");
        let bytes = bytes::Bytes::from_static(b"\0asm\x01\0\0\0");
        let body = Box::pin(futures::stream::iter([Ok(bytes)]));
        platform
            .context
            .artifacts
            .put(abandoned, AN_ARTIFACT, body, &crate::artifacts::a_place())
            .await
            .unwrap();

        assert_eq!(
            collect(&platform.context, Timestamp::now(), Strays::Removed).await.unwrap(),
            Collected::default()
        );
        assert!(platform.knows(1).await);
        let collected = collect(&platform.context, in_two_hours(), Strays::Removed).await.unwrap();
        assert_eq!(collected, Collected { rows: 1, files: 2 });
        assert_eq!((platform.knows(0).await, platform.knows(1).await), (true, false));
        for (digest, there) in [(Digest::of(&component(0)), true), (Digest::of(&component(1)), false)] {
            assert_eq!(platform.context.artifacts.open(digest).await.unwrap().is_some(), there);
        }
        platform.push("default", &component(1)).await.is(201);
    }

    #[tokio::test]
    async fn files_are_kept_as_long_as_a_release_that_has_them() {
        let platform = Platform::start().await;
        let files = |content: &[u8]| {
            let mut writer = wharf_types::archive::Writer::new(Vec::new());
            writer.append("a.txt", content.len() as u64, content).unwrap();
            writer.finish().unwrap().0
        };
        let (used, unused) = (files(b"used"), files(b"unused"));
        platform.push_files(&used).await.is(201);
        platform.push_files(&unused).await.is(201);
        let spec = serde_json::json!({"files": {"digest": Digest::of(&used)}});
        platform.deploy("hello", &component(0), spec).await.is(201);
        let collected = collect(&platform.context, in_two_hours(), Strays::Removed).await.unwrap();
        assert_eq!(collected, Collected { rows: 1, files: 1 });
        for (files, there) in [(used, true), (unused, false)] {
            assert_eq!(platform.context.artifacts.open(Digest::of(&files)).await.unwrap().is_some(), there);
        }
    }

    #[tokio::test]
    async fn nothing_is_given_up_while_something_is_pushed() {
        let platform = Platform::start().await;
        platform.push("default", &component(0)).await.is(201);
        let upload = platform.context.uploads.try_acquire().unwrap();
        assert_eq!(
            collect(&platform.context, in_two_hours(), Strays::Removed).await.unwrap(),
            Collected::default()
        );
        drop(upload);
        assert_eq!(collect(&platform.context, in_two_hours(), Strays::Removed).await.unwrap().rows, 1);
    }
}
