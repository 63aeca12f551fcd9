//! Carries out guests' key-value operations. Each is one transaction, so `increment` and the batches are atomic.

use wharf_types::keyvalue::{
    BATCH_VALUES_MAX_BYTES, KEY_MAX_BYTES, KeyValueOp, KeyValueReply, KeyValueRequest, NAMESPACE_MAX_BYTES,
    Octets, VALUE_MAX_BYTES,
};
use wharf_types::problem::ProblemCode;

use super::{Result, app_not_found, problem};
use crate::context::Context;
use crate::store;
use crate::store::Conn;
use crate::store::keyvalue::Bucket;

/// Longest name of a bucket, in octets.
const BUCKET_MAX_BYTES: usize = 128;
/// Keys of one batch.
const BATCH_MAX: usize = 1000;

pub(crate) async fn carry_out(context: &Context, request: KeyValueRequest) -> Result<KeyValueReply> {
    check(&request)?;
    let reads = matches!(
        request.op,
        KeyValueOp::Get { .. }
            | KeyValueOp::Exists { .. }
            | KeyValueOp::ListKeys { .. }
            | KeyValueOp::GetMany { .. }
    );
    let mut tx = if reads { context.store.read().await? } else { context.store.write().await? };
    let Some(app) = store::app::find(&mut tx, &request.namespace, &request.app).await? else {
        return Err(app_not_found(&request.namespace, &request.app).into());
    };
    let bucket = Bucket { namespace: app.namespace_id, app: app.id, name: &request.bucket };
    let reply = apply(&mut tx, bucket, &request.op).await?;
    tx.commit().await?;
    Ok(reply)
}

async fn apply(conn: &mut Conn, bucket: Bucket<'_>, op: &KeyValueOp) -> Result<KeyValueReply> {
    match op {
        KeyValueOp::Get { key } => {
            Ok(KeyValueReply::Value(store::keyvalue::get(conn, bucket, key).await?.map(Octets)))
        }
        KeyValueOp::Set { key, value } => {
            set(conn, bucket, key, &value.0).await?;
            Ok(KeyValueReply::Done)
        }
        KeyValueOp::Delete { key } => {
            store::keyvalue::delete(conn, bucket, key).await?;
            Ok(KeyValueReply::Done)
        }
        KeyValueOp::Exists { key } => {
            Ok(KeyValueReply::Exists(store::keyvalue::get(conn, bucket, key).await?.is_some()))
        }
        KeyValueOp::ListKeys { after } => {
            let (keys, more) = store::keyvalue::keys(conn, bucket, after.as_deref()).await?;
            Ok(KeyValueReply::Keys { keys, more })
        }
        KeyValueOp::Increment { key, delta } => increment(conn, bucket, key, *delta).await,
        KeyValueOp::GetMany { keys } => get_many(conn, bucket, keys).await,
        KeyValueOp::SetMany { pairs } => {
            for (key, value) in pairs {
                set(conn, bucket, key, &value.0).await?;
            }
            Ok(KeyValueReply::Done)
        }
        KeyValueOp::DeleteMany { keys } => {
            for key in keys {
                store::keyvalue::delete(conn, bucket, key).await?;
            }
            Ok(KeyValueReply::Done)
        }
    }
}

/// One short request may name a thousand values of a mebibyte, so what it gathers is counted.
async fn get_many(conn: &mut Conn, bucket: Bucket<'_>, keys: &[String]) -> Result<KeyValueReply> {
    let mut values = Vec::with_capacity(keys.len());
    let mut bytes = 0;
    for key in keys {
        let value = store::keyvalue::get(conn, bucket, key).await?;
        bytes += value.as_ref().map_or(0, Vec::len);
        if bytes > BATCH_VALUES_MAX_BYTES {
            let detail = format!(
                "the values of these {} keys are more than {} MiB together; ask for fewer keys at once",
                keys.len(),
                BATCH_VALUES_MAX_BYTES >> 20
            );
            return problem(ProblemCode::TooLarge, detail);
        }
        values.push(value.map(Octets));
    }
    Ok(KeyValueReply::Values(values))
}

async fn set(conn: &mut Conn, bucket: Bucket<'_>, key: &str, value: &[u8]) -> Result<()> {
    if store::keyvalue::set(conn, bucket, key, value).await? {
        return Ok(());
    }
    let detail = format!(
        "the namespace's key-value data would exceed {} MiB; delete some keys",
        NAMESPACE_MAX_BYTES >> 20
    );
    problem(ProblemCode::QuotaExceeded, detail)
}

async fn increment(conn: &mut Conn, bucket: Bucket<'_>, key: &str, delta: i64) -> Result<KeyValueReply> {
    let number = match store::keyvalue::get(conn, bucket, key).await? {
        None => Some(0),
        Some(value) => std::str::from_utf8(&value).ok().and_then(|text| text.trim().parse::<i64>().ok()),
    };
    let Some(number) = number else {
        return problem(ProblemCode::InvalidRequest, format!("the value of the key `{key}` is not a number"));
    };
    let Some(sum) = number.checked_add(delta) else {
        return problem(
            ProblemCode::InvalidRequest,
            format!("the value of the key `{key}` would exceed 64 bits"),
        );
    };
    set(conn, bucket, key, sum.to_string().as_bytes()).await?;
    Ok(KeyValueReply::Number(sum))
}

fn check(request: &KeyValueRequest) -> Result<()> {
    if request.bucket.is_empty() || request.bucket.len() > BUCKET_MAX_BYTES {
        let detail =
            format!("a bucket's name has 1 to {BUCKET_MAX_BYTES} bytes, this one {}", request.bucket.len());
        return problem(ProblemCode::InvalidRequest, detail);
    }
    if request.bucket.contains('\0') {
        return problem(ProblemCode::InvalidRequest, "a bucket's name holds a NUL character; leave it out");
    }
    let no_values = Vec::new();
    let (keys, values): (Vec<&String>, Vec<&Octets>) = match &request.op {
        KeyValueOp::Get { key }
        | KeyValueOp::Delete { key }
        | KeyValueOp::Exists { key }
        | KeyValueOp::Increment { key, .. } => (vec![key], no_values),
        KeyValueOp::Set { key, value } => (vec![key], vec![value]),
        // An empty one is before every key.
        KeyValueOp::ListKeys { after } => {
            (after.iter().filter(|after| !after.is_empty()).collect(), no_values)
        }
        KeyValueOp::GetMany { keys } | KeyValueOp::DeleteMany { keys } => (keys.iter().collect(), no_values),
        KeyValueOp::SetMany { pairs } => pairs.iter().map(|(key, value)| (key, value)).unzip(),
    };
    if keys.len() > BATCH_MAX {
        return problem(
            ProblemCode::TooLarge,
            format!("{} keys in one batch, more than {BATCH_MAX}", keys.len()),
        );
    }
    for key in keys {
        // Databases differ in what they make of it.
        if key.contains('\0') {
            let detail = format!("the key {key:?} holds a NUL character; leave it out, or encode it");
            return problem(ProblemCode::InvalidRequest, detail);
        }
        if key.is_empty() || key.len() > KEY_MAX_BYTES {
            let detail = format!("a key has 1 to {KEY_MAX_BYTES} bytes, this one {}", key.len());
            return problem(ProblemCode::InvalidRequest, detail);
        }
    }
    match values.into_iter().find(|value| value.0.len() > VALUE_MAX_BYTES) {
        Some(value) => problem(
            ProblemCode::TooLarge,
            format!("a value of {} bytes, more than {VALUE_MAX_BYTES}", value.0.len()),
        ),
        None => Ok(()),
    }
}
