//! `wasi:keyvalue@0.2.0-draft`, kept by the platform in its store.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError};

use wasmtime::component::{HasData, Linker, Resource, ResourceTable, ResourceTableError};
use wharf_types::keyvalue::{KEYS_PER_PAGE, KeyValueOp, KeyValueReply, KeyValueRequest, Octets};
use wharf_types::{AppName, NamespaceName};

use crate::control::ControlClient;

mod generated {
    wasmtime::component::bindgen!({
        inline: "
            package wasi:keyvalue@0.2.0-draft;
            interface store {
                variant error { no-such-store, access-denied, other(string) }
                record key-response { keys: list<string>, cursor: option<u64> }
                open: func(identifier: string) -> result<bucket, error>;
                resource bucket {
                    get: func(key: string) -> result<option<list<u8>>, error>;
                    set: func(key: string, value: list<u8>) -> result<_, error>;
                    delete: func(key: string) -> result<_, error>;
                    exists: func(key: string) -> result<bool, error>;
                    list-keys: func(cursor: option<u64>) -> result<key-response, error>;
                }
            }
            interface atomics {
                use store.{bucket, error};
                increment: func(bucket: borrow<bucket>, key: string, delta: u64) -> result<u64, error>;
            }
            interface batch {
                use store.{bucket, error};
                get-many: func(bucket: borrow<bucket>, keys: list<string>) -> result<list<option<tuple<string, list<u8>>>>, error>;
                set-many: func(bucket: borrow<bucket>, key-values: list<tuple<string, list<u8>>>) -> result<_, error>;
                delete-many: func(bucket: borrow<bucket>, keys: list<string>) -> result<_, error>;
            }
            world imports { import store; import atomics; import batch; }
        ",
        world: "imports",
        imports: { default: async | trappable },
        with: { "wasi:keyvalue/store.bucket": super::Bucket },
        trappable_error_type: { "wasi:keyvalue/store.error" => super::Error },
    });
}

use self::generated::wasi::keyvalue;

/// Why an operation failed; becomes the guest's own `error`.
#[allow(unreachable_pub, reason = "the generated bindings re-export it")]
pub enum Error {
    NoSuchStore,
    Other(String),
}

impl From<ResourceTableError> for Error {
    fn from(error: ResourceTableError) -> Self {
        Self::Other(error.to_string())
    }
}

/// An open bucket.
#[allow(unreachable_pub, reason = "the generated bindings re-export it")]
pub struct Bucket {
    name: String,
    /// A cursor of `wasi:keyvalue` is a number, ours is a key: the last page that was given out, and where it ended.
    listed: Option<(u64, String)>,
}

/// Where the buckets of an app are.
#[derive(Clone)]
pub(super) struct KeyValueHost {
    namespace: NamespaceName,
    app: AppName,
    store: Store,
}

#[derive(Clone)]
enum Store {
    Platform(ControlClient),
    /// For `wharf run`, where there is no platform: ends with the process.
    Local(Arc<Mutex<LocalBuckets>>),
}

type LocalBuckets = BTreeMap<String, BTreeMap<String, Vec<u8>>>;

impl KeyValueHost {
    pub(super) fn platform(control: ControlClient, namespace: NamespaceName, app: AppName) -> Self {
        Self { namespace, app, store: Store::Platform(control) }
    }

    pub(super) fn local(namespace: NamespaceName, app: AppName) -> Self {
        Self { namespace, app, store: Store::Local(Arc::default()) }
    }

    async fn call(&self, bucket: &str, op: KeyValueOp) -> Result<KeyValueReply, Error> {
        match &self.store {
            Store::Platform(control) => {
                let request = KeyValueRequest {
                    namespace: self.namespace.clone(),
                    app: self.app.clone(),
                    bucket: bucket.to_owned(),
                    op,
                };
                control.keyvalue(&request).await.map_err(|error| Error::Other(error.to_string()))
            }
            Store::Local(buckets) => {
                let mut buckets = buckets.lock().unwrap_or_else(PoisonError::into_inner);
                local(buckets.entry(bucket.to_owned()).or_default(), op)
            }
        }
    }
}

fn local(entries: &mut BTreeMap<String, Vec<u8>>, op: KeyValueOp) -> Result<KeyValueReply, Error> {
    Ok(match op {
        KeyValueOp::Get { key } => KeyValueReply::Value(entries.get(&key).cloned().map(Octets)),
        KeyValueOp::Exists { key } => KeyValueReply::Exists(entries.contains_key(&key)),
        KeyValueOp::GetMany { keys } => {
            KeyValueReply::Values(keys.iter().map(|key| entries.get(key).cloned().map(Octets)).collect())
        }
        KeyValueOp::Set { key, value } => {
            entries.insert(key, value.0);
            KeyValueReply::Done
        }
        KeyValueOp::SetMany { pairs } => {
            entries.extend(pairs.into_iter().map(|(key, value)| (key, value.0)));
            KeyValueReply::Done
        }
        KeyValueOp::Delete { key } => {
            entries.remove(&key);
            KeyValueReply::Done
        }
        KeyValueOp::DeleteMany { keys } => {
            for key in keys {
                entries.remove(&key);
            }
            KeyValueReply::Done
        }
        KeyValueOp::ListKeys { after } => {
            let start = after.map_or(Bound::Unbounded, Bound::Excluded);
            let mut rest = entries.range((start, Bound::Unbounded)).map(|(key, _)| key.clone());
            let keys: Vec<String> = rest.by_ref().take(KEYS_PER_PAGE).collect();
            KeyValueReply::Keys { keys, more: rest.next().is_some() }
        }
        KeyValueOp::Increment { key, delta } => {
            let value = entries.entry(key).or_insert_with(|| b"0".to_vec());
            let number = std::str::from_utf8(value).ok().and_then(|text| text.parse::<i64>().ok());
            let sum = number
                .and_then(|number| number.checked_add(delta))
                .ok_or_else(|| Error::Other("the value is not a number, or the sum is too large".into()))?;
            *value = sum.to_string().into_bytes();
            KeyValueReply::Number(sum)
        }
    })
}

/// The view through which a store's host functions see it.
pub(super) struct KeyValue<'a> {
    host: &'a KeyValueHost,
    table: &'a mut ResourceTable,
}

impl<'a> KeyValue<'a> {
    pub(super) fn new(host: &'a KeyValueHost, table: &'a mut ResourceTable) -> Self {
        Self { host, table }
    }

    async fn call(&mut self, bucket: &Resource<Bucket>, op: KeyValueOp) -> Result<KeyValueReply, Error> {
        // The table is not `Sync`, so nothing of it may be borrowed across the await.
        let name = self.table.get(bucket)?.name.clone();
        self.host.call(&name, op).await
    }
}

fn unexpected(reply: &KeyValueReply) -> Error {
    Error::Other(format!("the platform answered with {reply:?}, which does not fit the call"))
}

fn done(reply: KeyValueReply) -> Result<(), Error> {
    if reply == KeyValueReply::Done { Ok(()) } else { Err(unexpected(&reply)) }
}

impl keyvalue::store::Host for KeyValue<'_> {
    async fn open(&mut self, identifier: String) -> Result<Resource<Bucket>, Error> {
        // The empty name is wasmtime's own convention for the only bucket.
        let name = if identifier.is_empty() { "default".to_owned() } else { identifier };
        if name.len() > 128 {
            return Err(Error::NoSuchStore);
        }
        Ok(self.table.push(Bucket { name, listed: None })?)
    }

    fn convert_error(&mut self, error: Error) -> wasmtime::Result<keyvalue::store::Error> {
        Ok(match error {
            Error::NoSuchStore => keyvalue::store::Error::NoSuchStore,
            Error::Other(text) => keyvalue::store::Error::Other(text),
        })
    }
}

impl keyvalue::store::HostBucket for KeyValue<'_> {
    async fn get(&mut self, bucket: Resource<Bucket>, key: String) -> Result<Option<Vec<u8>>, Error> {
        match self.call(&bucket, KeyValueOp::Get { key }).await? {
            KeyValueReply::Value(value) => Ok(value.map(|octets| octets.0)),
            other => Err(unexpected(&other)),
        }
    }

    async fn set(&mut self, bucket: Resource<Bucket>, key: String, value: Vec<u8>) -> Result<(), Error> {
        done(self.call(&bucket, KeyValueOp::Set { key, value: Octets(value) }).await?)
    }

    async fn delete(&mut self, bucket: Resource<Bucket>, key: String) -> Result<(), Error> {
        done(self.call(&bucket, KeyValueOp::Delete { key }).await?)
    }

    async fn exists(&mut self, bucket: Resource<Bucket>, key: String) -> Result<bool, Error> {
        match self.call(&bucket, KeyValueOp::Exists { key }).await? {
            KeyValueReply::Exists(exists) => Ok(exists),
            other => Err(unexpected(&other)),
        }
    }

    async fn list_keys(
        &mut self,
        bucket: Resource<Bucket>,
        cursor: Option<u64>,
    ) -> Result<keyvalue::store::KeyResponse, Error> {
        let page = cursor.unwrap_or(0);
        let (mut at, mut after) = match &self.table.get(&bucket)?.listed {
            Some((listed, end)) if *listed == page => (page, Some(end.clone())),
            _ => (0, None),
        };
        loop {
            let KeyValueReply::Keys { keys, more } =
                self.call(&bucket, KeyValueOp::ListKeys { after: after.clone() }).await?
            else {
                return Err(Error::Other("the platform did not answer with keys".into()));
            };
            after = keys.last().cloned();
            let more = more && after.is_some();
            if at == page {
                if let (true, Some(end)) = (more, after) {
                    self.table.get_mut(&bucket)?.listed = Some((page + 1, end));
                }
                return Ok(keyvalue::store::KeyResponse { keys, cursor: more.then(|| page + 1) });
            }
            if !more {
                return Ok(keyvalue::store::KeyResponse { keys: Vec::new(), cursor: None });
            }
            at += 1;
        }
    }

    async fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
        self.table.delete(bucket)?;
        Ok(())
    }
}

impl keyvalue::atomics::Host for KeyValue<'_> {
    async fn increment(&mut self, bucket: Resource<Bucket>, key: String, delta: u64) -> Result<u64, Error> {
        let delta = i64::try_from(delta).map_err(|_| Error::Other("the delta is too large".into()))?;
        match self.call(&bucket, KeyValueOp::Increment { key, delta }).await? {
            KeyValueReply::Number(sum) => {
                u64::try_from(sum).map_err(|_| Error::Other(format!("the sum {sum} is negative")))
            }
            other => Err(unexpected(&other)),
        }
    }
}

impl keyvalue::batch::Host for KeyValue<'_> {
    async fn get_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> Result<Vec<Option<(String, Vec<u8>)>>, Error> {
        match self.call(&bucket, KeyValueOp::GetMany { keys: keys.clone() }).await? {
            KeyValueReply::Values(values) => Ok(keys
                .into_iter()
                .zip(values)
                .map(|(key, value)| value.map(|value| (key, value.0)))
                .collect()),
            other => Err(unexpected(&other)),
        }
    }

    async fn set_many(
        &mut self,
        bucket: Resource<Bucket>,
        pairs: Vec<(String, Vec<u8>)>,
    ) -> Result<(), Error> {
        let pairs = pairs.into_iter().map(|(key, value)| (key, Octets(value))).collect();
        done(self.call(&bucket, KeyValueOp::SetMany { pairs }).await?)
    }

    async fn delete_many(&mut self, bucket: Resource<Bucket>, keys: Vec<String>) -> Result<(), Error> {
        done(self.call(&bucket, KeyValueOp::DeleteMany { keys }).await?)
    }
}

struct HasKeyValue;

impl HasData for HasKeyValue {
    type Data<'a> = KeyValue<'a>;
}

pub(super) fn add_to_linker<T: Send + 'static>(
    linker: &mut Linker<T>,
    view: fn(&mut T) -> KeyValue<'_>,
) -> wasmtime::Result<()> {
    keyvalue::store::add_to_linker::<_, HasKeyValue>(linker, view)?;
    keyvalue::atomics::add_to_linker::<_, HasKeyValue>(linker, view)?;
    keyvalue::batch::add_to_linker::<_, HasKeyValue>(linker, view)?;
    Ok(())
}
