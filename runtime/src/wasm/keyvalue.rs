//! `wasi:keyvalue@0.2.0-draft`, kept by the platform in its store.
//!
//! What a guest hands over is checked before anything is made of it, counts as memory of the guest until it is answered, and waits while too much
//! of its app, or of all apps, is under way.

mod cursors;
mod local;
mod share;

use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;
use wasmtime::component::{HasData, Linker, Resource, ResourceTable, ResourceTableError};
use wharf_types::keyvalue::{BUCKET_MAX_BYTES, KeyValueOp, KeyValueReply, KeyValueRequest, Octets};
use wharf_types::{AppName, NamespaceName, Problem};

use self::local::LocalBuckets;
pub(super) use self::share::{KeyValueShare, KeyValueShares};
use super::memory::Limits;
use crate::control::{ControlClient, decode_keyvalue, encode_keyvalue};

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

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Self::Other(problem.detail)
    }
}

/// An open bucket.
#[allow(unreachable_pub, reason = "the generated bindings re-export it")]
pub struct Bucket {
    name: String,
    /// The last cursor that was given out, and the key behind which it goes on.
    listed: Option<(u64, String)>,
}

/// Where the buckets of an app are.
#[derive(Clone)]
pub(super) struct KeyValueHost {
    namespace: NamespaceName,
    app: AppName,
    share: Arc<KeyValueShare>,
    store: Store,
}

#[derive(Clone)]
enum Store {
    /// With the runtime that sends, whatever becomes of the guest.
    Platform(ControlClient, Handle),
    /// For `wharf run`.
    Local(Arc<Mutex<LocalBuckets>>),
}

impl KeyValueHost {
    /// To be called within the runtime that is to send.
    pub(super) fn platform(
        control: ControlClient,
        namespace: NamespaceName,
        app: AppName,
        shares: &KeyValueShares,
    ) -> Self {
        let share = shares.of(&namespace, &app);
        Self { namespace, app, share, store: Store::Platform(control, Handle::current()) }
    }

    pub(super) fn local(namespace: NamespaceName, app: AppName) -> Self {
        let share = KeyValueShares::default().of(&namespace, &app);
        Self { namespace, app, share, store: Store::Local(Arc::default()) }
    }

    /// Carries out an operation that was checked.
    async fn call(&self, bucket: &str, op: KeyValueOp) -> Result<KeyValueReply, Error> {
        match &self.store {
            Store::Platform(control, runtime) => {
                let of_app = self.share.of_app(&op).await;
                let request = KeyValueRequest {
                    namespace: self.namespace.clone(),
                    app: self.app.clone(),
                    bucket: bucket.to_owned(),
                    op,
                };
                let request = encode_keyvalue(request).await;
                let (control, share) = (control.clone(), self.share.clone());
                // The room of the app goes along: it is free again once nothing is under way any more.
                let sending = runtime.spawn(async move {
                    let _of_node = share.of_node(&of_app).await;
                    (control.send_keyvalue(request).await, of_app)
                });
                let sent = AbortOnDropHandle::new(sending).await;
                let (answer, _of_app) = sent.map_err(|error| Error::Other(error.to_string()))?;
                let answer = answer.map_err(|error| Error::Other(error.to_string()))?;
                decode_keyvalue(answer).await.map_err(|error| Error::Other(error.to_string()))
            }
            Store::Local(buckets) => {
                let mut buckets = buckets.lock().unwrap_or_else(PoisonError::into_inner);
                Ok(buckets.carry_out(bucket, op)?)
            }
        }
    }
}

/// Less than this is handed over without being counted as the guest's memory.
const SMALL_BYTES: usize = 64 << 10;

/// What the host has of a guest's memory during a call.
struct Held<'a> {
    limits: &'a mut Limits,
    bytes: u64,
}

impl<'a> Held<'a> {
    fn take(limits: &'a mut Limits, op: &KeyValueOp) -> Result<Self, Error> {
        let bytes = op.bytes();
        let bytes = if bytes < SMALL_BYTES { 0 } else { bytes as u64 };
        if bytes == 0 || limits.hold(bytes) {
            return Ok(Self { limits, bytes });
        }
        Err(Error::Other(format!(
            "the {bytes} bytes of this call, which the host holds until it is answered, do not fit into the memory that the guest may have: \
             raise `limits.memory`, or set fewer keys at once"
        )))
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.limits.let_go(self.bytes);
    }
}

/// The view through which a store's host functions see it.
pub(super) struct KeyValue<'a> {
    host: &'a KeyValueHost,
    table: &'a mut ResourceTable,
    limits: &'a mut Limits,
}

impl<'a> KeyValue<'a> {
    pub(super) fn new(host: &'a KeyValueHost, table: &'a mut ResourceTable, limits: &'a mut Limits) -> Self {
        Self { host, table, limits }
    }

    async fn call(&mut self, bucket: &Resource<Bucket>, op: KeyValueOp) -> Result<KeyValueReply, Error> {
        // The table is not `Sync`, so nothing of it may be borrowed across the await.
        let name = self.table.get(bucket)?.name.clone();
        op.check(&name)?;
        let _held = Held::take(self.limits, &op)?;
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
        if name.len() > BUCKET_MAX_BYTES {
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
        let Bucket { name, listed } = self.table.get(&bucket)?;
        let name = name.clone();
        let known = match (cursor, listed) {
            (None, _) => None,
            (Some(cursor), Some((given, end))) if *given == cursor => Some(end.clone()),
            (Some(cursor), _) => self.host.share.cursors.find(&name, cursor),
        };
        let (mut page, wanted) = match (cursor, &known) {
            (None, _) => (0, 0),
            (Some(cursor), Some(_)) => (cursors::page(cursor), cursors::page(cursor)),
            (Some(cursor), None) => {
                let unknown = || {
                    Error::Other(format!(
                        "the cursor {cursor} is not known here any more; list the keys from the start"
                    ))
                };
                (0, cursors::page_again(cursor).ok_or_else(unknown)?)
            }
        };
        let mut after = known;
        loop {
            let KeyValueReply::Keys { keys, more } =
                self.call(&bucket, KeyValueOp::ListKeys { after: after.clone() }).await?
            else {
                return Err(Error::Other("the platform did not answer with keys".into()));
            };
            let end = keys.last().filter(|_| more).cloned();
            if page == wanted {
                let mut next = None;
                if let Some(end) = end {
                    let cursor = self.host.share.cursors.put(&name, page + 1, &end);
                    self.table.get_mut(&bucket)?.listed = Some((cursor, end));
                    next = Some(cursor);
                }
                return Ok(keyvalue::store::KeyResponse { keys, cursor: next });
            }
            if end.is_none() {
                return Ok(keyvalue::store::KeyResponse { keys: Vec::new(), cursor: None });
            }
            after = end;
            page += 1;
        }
    }

    async fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
        self.table.delete(bucket)?;
        Ok(())
    }
}

impl keyvalue::atomics::Host for KeyValue<'_> {
    async fn increment(&mut self, bucket: Resource<Bucket>, key: String, delta: u64) -> Result<u64, Error> {
        let delta = i64::try_from(delta)
            .map_err(|_| Error::Other(format!("the delta {delta} is more than 2^63-1")))?;
        match self.call(&bucket, KeyValueOp::Increment { key, delta }).await? {
            // A control plane of an earlier version may have made one.
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
        let op = KeyValueOp::GetMany { keys };
        // Before there are two of them.
        op.check(&self.table.get(&bucket)?.name)?;
        let KeyValueOp::GetMany { keys } = op.clone() else { return Ok(Vec::new()) };
        match self.call(&bucket, op).await? {
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
