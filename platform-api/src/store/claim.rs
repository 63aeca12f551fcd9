//! Table `content_claim`: who does something with bytes in a bucket that servers share. Bringing in and removing exclude each other by the
//! primary key, whichever servers do it.

use wharf_types::{Digest, Timestamp};

use super::codec::parse;
use super::query::{query, query_as};
use super::{Conn, Result};

const UPLOAD: i64 = 10;
const REMOVAL: i64 = 20;

/// Claims bytes for who brings them in. `false`: they are being removed at this moment.
pub(crate) async fn upload(conn: &mut Conn, digest: Digest, now: Timestamp) -> Result<bool> {
    let done = query(
        "INSERT INTO content_claim (digest, kind, claimed_at) VALUES ($1, $2, $3)
         ON CONFLICT (digest) DO UPDATE SET claimed_at = excluded.claimed_at WHERE content_claim.kind = $2",
    )
    .bind(digest.to_string())
    .bind(UPLOAD)
    .bind(now.as_microsecond())
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Claims bytes for their removal. `false`: somebody brings them in.
pub(crate) async fn removal(conn: &mut Conn, digest: Digest, now: Timestamp) -> Result<bool> {
    let done = query(
        "INSERT INTO content_claim (digest, kind, claimed_at) VALUES ($1, $2, $3)
         ON CONFLICT (digest) DO NOTHING",
    )
    .bind(digest.to_string())
    .bind(REMOVAL)
    .bind(now.as_microsecond())
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// What was claimed for its removal before a time, and has not been removed: a server ended over it, or its storage did not answer.
pub(crate) async fn removals(conn: &mut Conn, before: Timestamp) -> Result<Vec<Digest>> {
    let select = query_as("SELECT digest FROM content_claim WHERE kind = $1 AND claimed_at < $2");
    let rows: Vec<(String,)> = select.bind(REMOVAL).bind(before.as_microsecond()).fetch_all(conn).await?;
    rows.iter().map(|(digest,)| parse(digest)).collect()
}

/// Ends the claim of a removal that has been carried out.
pub(crate) async fn removed(conn: &mut Conn, digest: Digest) -> Result<()> {
    let delete = query("DELETE FROM content_claim WHERE digest = $1 AND kind = $2");
    delete.bind(digest.to_string()).bind(REMOVAL).execute(conn).await?;
    Ok(())
}

/// Forgets who began to bring something in before a time: it is there by now, or never will be.
pub(crate) async fn forget_uploads(conn: &mut Conn, before: Timestamp) -> Result<()> {
    let delete = query("DELETE FROM content_claim WHERE kind = $1 AND claimed_at < $2");
    delete.bind(UPLOAD).bind(before.as_microsecond()).execute(conn).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::tests::database;

    #[tokio::test]
    async fn what_is_brought_in_is_not_removed_and_what_is_removed_is_not_brought_in() {
        let (_dir, store) = database::store().await;
        let (now, [a, b]) = (Timestamp::now(), [Digest::of(b"a"), Digest::of(b"b")]);
        let mut tx = store.write().await.unwrap();
        assert!(upload(&mut tx, a, now).await.unwrap());
        assert!(upload(&mut tx, a, now).await.unwrap(), "two servers may bring in the same");
        assert!(!removal(&mut tx, a, now).await.unwrap());
        assert!(removal(&mut tx, b, now).await.unwrap());
        assert!(!upload(&mut tx, b, now).await.unwrap());
        assert_eq!(removals(&mut tx, now).await.unwrap(), [], "whoever claimed it may be at it");
        assert_eq!(removals(&mut tx, now + Duration::from_secs(1)).await.unwrap(), [b]);
        removed(&mut tx, a).await.unwrap();
        removed(&mut tx, b).await.unwrap();
        assert!(upload(&mut tx, b, now).await.unwrap());
        forget_uploads(&mut tx, now).await.unwrap();
        assert!(!removal(&mut tx, a, now).await.unwrap());
        forget_uploads(&mut tx, now + Duration::from_secs(1)).await.unwrap();
        assert!(removal(&mut tx, a, now).await.unwrap());
    }
}
