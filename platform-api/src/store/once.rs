//! Table `once_reply`: which requests with an `Idempotency-Key` were carried out, and their replies, sealed for whoever sent them.

use wharf_types::{Timestamp, TokenId};

use super::codec::{parse, time};
use super::query::{query, query_as};
use super::surplus::BATCH;
use super::{Conn, Result};

/// How long a key is known.
const KEPT_MICROS: i64 = 24 * 3600 * 1_000_000;
/// Keys that are kept of one token, the newest of them.
pub(super) const OF_TOKEN_MAX: i64 = 1000;

/// What is known of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Reply(Vec<u8>),
    /// The request was carried out at this time, and its reply is not there, or not yet.
    Unanswered(Timestamp),
    /// The key was used for another request.
    Other,
}

pub(crate) async fn find(
    conn: &mut Conn,
    token: TokenId,
    (key, request_hash): (&str, &str),
    now: Timestamp,
) -> Result<Option<Found>> {
    let row: Option<(String, Vec<u8>, i64)> = query_as(
        "SELECT request_hash, reply, created_at FROM once_reply WHERE token = $1 AND key = $2 AND created_at >= $3",
    )
    .bind(token.to_string())
    .bind(key)
    .bind(now.as_microsecond() - KEPT_MICROS)
    .fetch_optional(conn)
    .await?;
    let Some((hash, reply, created_at)) = row else { return Ok(None) };
    Ok(Some(if hash != request_hash {
        Found::Other
    } else if reply.is_empty() {
        Found::Unanswered(time(created_at)?)
    } else {
        Found::Reply(reply)
    }))
}

/// Takes the key for the request that this transaction carries out. Returns `false` when another one has taken it. One that is too old to be
/// known may still be there, and gives way.
pub(crate) async fn claim(
    conn: &mut Conn,
    token: TokenId,
    (key, request_hash): (&str, &str),
    now: Timestamp,
) -> Result<bool> {
    let done = query(
        "INSERT INTO once_reply (token, key, request_hash, reply, created_at) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (token, key) DO UPDATE
             SET request_hash = excluded.request_hash, reply = excluded.reply, created_at = excluded.created_at
             WHERE once_reply.created_at < $6",
    )
    .bind(token.to_string())
    .bind(key)
    .bind(request_hash)
    .bind(b"".as_slice())
    .bind(now.as_microsecond())
    .bind(now.as_microsecond() - KEPT_MICROS)
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Keeps the reply to a request whose key was taken.
pub(crate) async fn answer(conn: &mut Conn, token: TokenId, key: &str, reply: &[u8]) -> Result<()> {
    query("UPDATE once_reply SET reply = $3 WHERE token = $1 AND key = $2")
        .bind(token.to_string())
        .bind(key)
        .bind(reply)
        .execute(conn)
        .await?;
    Ok(())
}

/// Forgets what is too old, at most so much at once. Returns how many.
pub(crate) async fn prune(conn: &mut Conn, now: Timestamp) -> Result<u64> {
    let done = query(
        "DELETE FROM once_reply WHERE (token, key) IN (
             SELECT token, key FROM once_reply WHERE created_at < $1 ORDER BY created_at LIMIT $2)",
    )
    .bind(now.as_microsecond() - KEPT_MICROS)
    .bind(BATCH)
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}

/// Keys of a token that are too many: those taken up to `until`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeysSurplus {
    token: TokenId,
    until: i64,
}

/// What is too much where of each token so many are kept.
pub(super) async fn surplus(conn: &mut Conn, of_token: i64) -> Result<Vec<KeysSurplus>> {
    let tokens: Vec<(String,)> =
        query_as("SELECT token FROM once_reply GROUP BY token HAVING count(*) > $1 ORDER BY token")
            .bind(of_token)
            .fetch_all(&mut *conn)
            .await?;
    let mut found = Vec::new();
    for (token,) in tokens {
        let newest: Option<(i64,)> = query_as(
            "SELECT created_at FROM once_reply WHERE token = $1 ORDER BY created_at DESC LIMIT 1 OFFSET $2",
        )
        .bind(&token)
        .bind(of_token)
        .fetch_optional(&mut *conn)
        .await?;
        if let Some((until,)) = newest {
            found.push(KeysSurplus { token: parse(&token)?, until });
        }
    }
    Ok(found)
}

/// Gives up some of what is too much. Returns how many.
pub(super) async fn give_up(conn: &mut Conn, surplus: &KeysSurplus) -> Result<u64> {
    let done = query(
        "DELETE FROM once_reply WHERE token = $1 AND key IN (
             SELECT key FROM once_reply WHERE token = $1 AND created_at <= $2 LIMIT $3)",
    )
    .bind(surplus.token.to_string())
    .bind(surplus.until)
    .bind(BATCH)
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use wharf_types::api::Role;

    use super::*;
    use crate::store;
    use crate::tests::database;

    async fn token(conn: &mut Conn, now: Timestamp) -> TokenId {
        let id = TokenId::new();
        let secret_hash = id.to_string();
        let new = store::token::NewToken {
            id,
            name: "laptop",
            secret_hash: &secret_hash,
            owner: None,
            role: Role::Admin,
            namespace: None,
            verbs: &[],
            first_of: None,
            expires_at: None,
        };
        store::token::create(conn, new, now).await.unwrap();
        id
    }

    #[tokio::test]
    async fn a_key_is_of_one_token_and_one_request_for_a_day() {
        let (_dir, store) = database::store().await;
        let mut tx = store.write().await.unwrap();
        let now = Timestamp::UNIX_EPOCH;
        let (mine, other) = (token(&mut tx, now).await, token(&mut tx, now).await);
        let (wish, another) = (("k", "wish"), ("k", "another"));
        assert!(claim(&mut tx, mine, wish, now).await.unwrap());
        assert!(!claim(&mut tx, mine, another, now).await.unwrap());
        let found = find(&mut tx, mine, wish, now).await.unwrap();
        assert_eq!(found, Some(Found::Unanswered(now)));
        answer(&mut tx, mine, "k", b"sealed").await.unwrap();
        let found = find(&mut tx, mine, wish, now).await.unwrap();
        assert_eq!(found, Some(Found::Reply(b"sealed".to_vec())));
        assert_eq!(find(&mut tx, mine, another, now).await.unwrap(), Some(Found::Other));
        assert_eq!(find(&mut tx, other, wish, now).await.unwrap(), None);
        let later = now + Duration::from_secs(24 * 3600 + 1);
        assert_eq!(find(&mut tx, mine, wish, later).await.unwrap(), None);
        assert!(claim(&mut tx, mine, another, later).await.unwrap());
        store::token::delete(&mut tx, mine).await.unwrap();
        assert_eq!(find(&mut tx, mine, another, later).await.unwrap(), None);
    }

    #[tokio::test]
    async fn what_is_too_old_is_forgotten() {
        let (_dir, store) = database::store().await;
        let mut tx = store.write().await.unwrap();
        let then = Timestamp::UNIX_EPOCH;
        let mine = token(&mut tx, then).await;
        assert!(claim(&mut tx, mine, ("old", "wish"), then).await.unwrap());
        let later = then + Duration::from_secs(24 * 3600);
        assert!(claim(&mut tx, mine, ("new", "wish"), later).await.unwrap());
        assert_eq!(prune(&mut tx, later).await.unwrap(), 0);
        let later = later + Duration::from_secs(1);
        assert_eq!(prune(&mut tx, later).await.unwrap(), 1);
        assert!(find(&mut tx, mine, ("new", "wish"), later).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn of_each_token_the_newest_keys_are_kept() {
        let (_dir, store) = database::store().await;
        let mut tx = store.write().await.unwrap();
        let at = |millis| Timestamp::UNIX_EPOCH + Duration::from_millis(millis);
        let (mine, other) = (token(&mut tx, at(0)).await, token(&mut tx, at(0)).await);
        assert!(claim(&mut tx, other, ("0", "wish"), at(0)).await.unwrap());
        for number in 0..10 {
            let key = number.to_string();
            assert!(claim(&mut tx, mine, (&key, "wish"), at(number)).await.unwrap());
        }
        assert_eq!(surplus(&mut tx, 10).await.unwrap(), []);
        for surplus in surplus(&mut tx, 8).await.unwrap() {
            assert_eq!(give_up(&mut tx, &surplus).await.unwrap(), 2);
        }
        let now = at(10);
        assert_eq!(find(&mut tx, mine, ("1", "wish"), now).await.unwrap(), None);
        let found = find(&mut tx, mine, ("2", "wish"), now).await.unwrap();
        assert_eq!(found, Some(Found::Unanswered(at(2))));
        assert!(find(&mut tx, other, ("0", "wish"), now).await.unwrap().is_some());
        assert_eq!(surplus(&mut tx, 8).await.unwrap(), []);
    }
}
