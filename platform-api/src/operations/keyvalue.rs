//! Carries out guests' key-value operations. Each is one transaction, so `increment` and the batches are atomic.

use wharf_types::keyvalue::{
    self, BATCH_VALUES_MAX_BYTES, KeyValueOp, KeyValueReply, KeyValueRequest, Octets,
};

use super::{Result, app_not_found};
use crate::context::Context;
use crate::store;
use crate::store::Conn;
use crate::store::keyvalue::Bucket;

pub(crate) async fn carry_out(context: &Context, request: KeyValueRequest) -> Result<KeyValueReply> {
    request.op.check(&request.bucket)?;
    let mut tx = if request.op.is_read() {
        context.store.read().await?
    } else {
        context.store.write_for(&request.namespace, &request.app).await?
    };
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
            set(conn, bucket, &[(key.as_str(), value.0.as_slice())]).await?;
            Ok(KeyValueReply::Done)
        }
        KeyValueOp::Delete { key } => {
            store::keyvalue::delete_all(conn, bucket, &[key.as_str()]).await?;
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
            let pairs: Vec<(&str, &[u8])> =
                pairs.iter().map(|(key, value)| (key.as_str(), value.0.as_slice())).collect();
            set(conn, bucket, &pairs).await?;
            Ok(KeyValueReply::Done)
        }
        KeyValueOp::DeleteMany { keys } => {
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            store::keyvalue::delete_all(conn, bucket, &keys).await?;
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
            return Err(keyvalue::too_many_values(keys.len()).into());
        }
        values.push(value.map(Octets));
    }
    Ok(KeyValueReply::Values(values))
}

async fn set(conn: &mut Conn, bucket: Bucket<'_>, pairs: &[(&str, &[u8])]) -> Result<()> {
    if store::keyvalue::set_all(conn, bucket, pairs).await? {
        Ok(())
    } else {
        Err(keyvalue::no_room().into())
    }
}

async fn increment(conn: &mut Conn, bucket: Bucket<'_>, key: &str, delta: i64) -> Result<KeyValueReply> {
    let value = store::keyvalue::get(conn, bucket, key).await?;
    let sum = keyvalue::sum(key, value.as_deref(), delta)?;
    set(conn, bucket, &[(key, sum.to_string().as_bytes())]).await?;
    Ok(KeyValueReply::Number(sum))
}
