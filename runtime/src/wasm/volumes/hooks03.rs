//! The same as [`super::hooks02`] for WASI 0.3, whose functions wait beside each other in one store.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::oneshot;
use wasmtime::StoreContextMut;
use wasmtime::component::{
    Access, Accessor, FutureReader, Linker, Resource, Source, StreamConsumer, StreamReader, StreamResult,
};
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystem, WasiFilesystemView as _};
use wasmtime_wasi::p2::bindings::filesystem::types::HostDescriptor as Host02;
use wasmtime_wasi::p2::{DynOutputStream, FsResult, StreamError};
use wasmtime_wasi::p3::bindings::filesystem::preopens::Host as _;
use wasmtime_wasi::p3::bindings::filesystem::types::{
    DescriptorFlags, DescriptorType, ErrorCode, HostDescriptorWithStore as Host03, OpenFlags, PathFlags,
};
use wasmtime_wasi::p3::filesystem::FilesystemResult;

use super::super::outbound::has_room;
use super::super::state::State;
use super::handles::file_of;
use super::hooks02::{again, is_elsewhere, keep, roots, with_quota};
use super::quota::{ENTRY_BYTES, Moving, Quota, growth};

pub(super) const PREOPENS: &str = "wasi:filesystem/preopens@0.3.0";
pub(super) const TYPES: &str = "wasi:filesystem/types@0.3.0";

/// As much as the engine's own streams write at once.
const CHUNK_BYTES: usize = 64 << 10;

type Handle = Resource<Descriptor>;
type Written = FutureReader<Result<(), ErrorCode>>;

pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.instance(PREOPENS)?.func_wrap("get-directories", |mut store, (): ()| {
        let mut folders = store.data_mut().filesystem().get_directories()?;
        folders.extend(roots(store.data_mut(), &folders)?);
        Ok((folders,))
    })?;
    streams(linker)?;
    files(linker)?;
    names(linker)
}

fn streams(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut types = linker.instance(TYPES)?;
    types.func_wrap(
        "[method]descriptor.write-via-stream",
        |mut store, (file, data, offset): (Handle, StreamReader<u8>, u64)| {
            if store.data().volumes.quota_of(&file).is_none() {
                let access = Access::<_, WasiFilesystem>::new(store, |state| state.filesystem());
                return Ok((WasiFilesystem::write_via_stream(access, file, data, offset)?,));
            }
            let stream = Host02::write_via_stream(&mut store.data_mut().filesystem(), again(&file), offset);
            Ok((write(store, &file, data, Some(offset), stream)?,))
        },
    )?;
    types.func_wrap(
        "[method]descriptor.append-via-stream",
        |mut store, (file, data): (Handle, StreamReader<u8>)| {
            if store.data().volumes.quota_of(&file).is_none() {
                let access = Access::<_, WasiFilesystem>::new(store, |state| state.filesystem());
                return Ok((WasiFilesystem::append_via_stream(access, file, data)?,));
            }
            let stream = Host02::append_via_stream(&mut store.data_mut().filesystem(), again(&file));
            Ok((write(store, &file, data, None, stream)?,))
        },
    )
}

/// Writes what a guest sends through a stream of WASI 0.2, which asks the quota.
fn write(
    mut store: StoreContextMut<'_, State>,
    file: &Handle,
    mut data: StreamReader<u8>,
    position: Option<u64>,
    stream: FsResult<Resource<DynOutputStream>>,
) -> wasmtime::Result<Written> {
    let (result, written) = oneshot::channel();
    match stream {
        Ok(stream) => {
            let stream = with_quota(store.data_mut(), file, stream, position)?;
            let stream = store.data_mut().table.delete(stream)?;
            data.pipe(&mut store, Writer { stream: Some(stream), result: Some(result), task: None })?;
        }
        // A folder, or a file that was opened to be read.
        Err(error) => {
            error.downcast()?;
            data.close(&mut store)?;
            let _ = result.send(Err(ErrorCode::BadDescriptor));
        }
    }
    FutureReader::new(&mut store, written)
}

type Step = Pin<Box<dyn Future<Output = (DynOutputStream, usize, Result<(), StreamError>)> + Send>>;

struct Writer {
    /// None: it is in the task.
    stream: Option<DynOutputStream>,
    result: Option<oneshot::Sender<Result<(), ErrorCode>>>,
    task: Option<Step>,
}

impl Writer {
    fn close(&mut self, result: Result<(), ErrorCode>) {
        if let Some(sender) = self.result.take() {
            // Whoever does not wait for the result does not get it.
            let _ = sender.send(result);
        }
    }
}

impl<T> StreamConsumer<T> for Writer {
    type Item = u8;

    fn poll_consume(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        store: StoreContextMut<'_, T>,
        source: Source<'_, u8>,
        _finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let mut source = source.as_direct(store);
        let writer = &mut *self;
        if let Some(mut stream) = writer.stream.take() {
            let remaining = source.remaining();
            let chunk = Bytes::copy_from_slice(&remaining[..remaining.len().min(CHUNK_BYTES)]);
            writer.task = Some(Box::pin(async move {
                let length = chunk.len();
                let done = stream.blocking_write_and_flush(chunk).await;
                (stream, length, done)
            }));
        }
        let Some(task) = &mut writer.task else { return Poll::Ready(Ok(StreamResult::Dropped)) };
        // Also when the guest would rather not wait: a write that has begun comes to its end.
        let (stream, length, done) = std::task::ready!(task.as_mut().poll(context));
        writer.task = None;
        match done {
            Ok(()) => {
                source.mark_read(length);
                writer.stream = Some(stream);
                Poll::Ready(Ok(StreamResult::Completed))
            }
            Err(error) => {
                writer.close(Err(error_code(error)));
                Poll::Ready(Ok(StreamResult::Dropped))
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.close(Ok(()));
    }
}

fn error_code(error: StreamError) -> ErrorCode {
    match error {
        StreamError::LastOperationFailed(error) => {
            error.downcast_ref::<io::Error>().map_or(ErrorCode::Io, ErrorCode::from)
        }
        StreamError::Closed | StreamError::Trap(_) => ErrorCode::Io,
    }
}

fn files(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut types = linker.instance(TYPES)?;
    types.func_wrap_concurrent(
        "[method]descriptor.set-size",
        |store: &Accessor<State>, (file, size): (Handle, u64)| {
            Box::pin(async move {
                let bytes = store.with(|mut store| {
                    file_of(&store.data_mut().table, &file).map_or(0, |file| growth(&file, size))
                });
                if let Err(code) = reserve(store, &file, bytes).await {
                    return Ok((Err(code),));
                }
                Ok((answer(WasiFilesystem::set_size(&files_of(store), file, size).await)?,))
            })
        },
    )?;
    types.func_wrap_concurrent(
        "[method]descriptor.open-at",
        |store: &Accessor<State>,
         (folder, path_flags, path, open_flags, flags): (
            Handle,
            PathFlags,
            String,
            OpenFlags,
            DescriptorFlags,
        )| {
            Box::pin(async move {
                if !has_room() {
                    return Ok((Err(ErrorCode::InsufficientMemory),));
                }
                let volume = store.with(|mut store| store.data_mut().volumes.volume_of(&folder));
                let files = files_of(store);
                if volume.is_some() {
                    let there = WasiFilesystem::stat_at(&files, again(&folder), path_flags, path.clone());
                    match there.await.map(|there| there.type_) {
                        Ok(kind) if !is_openable(&kind) => return Ok((Err(ErrorCode::NotPermitted),)),
                        Err(_) if open_flags.contains(OpenFlags::CREATE) => {
                            if let Err(code) = reserve(store, &folder, ENTRY_BYTES).await {
                                return Ok((Err(code),));
                            }
                        }
                        Ok(_) | Err(_) => {}
                    }
                }
                let opened =
                    WasiFilesystem::open_at(&files, folder, path_flags, path, open_flags, flags).await;
                let kept = match answer(opened)? {
                    Ok(handle) => {
                        let kept = store.with(|mut store| keep(store.data_mut(), volume, handle))?;
                        kept.ok_or(ErrorCode::NotPermitted)
                    }
                    Err(code) => Err(code),
                };
                Ok((kept,))
            })
        },
    )
}

fn names(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut types = linker.instance(TYPES)?;
    types.func_wrap_concurrent(
        "[method]descriptor.create-directory-at",
        |store: &Accessor<State>, (folder, path): (Handle, String)| {
            Box::pin(async move {
                if let Err(code) = reserve(store, &folder, ENTRY_BYTES).await {
                    return Ok((Err(code),));
                }
                Ok((answer(WasiFilesystem::create_directory_at(&files_of(store), folder, path).await)?,))
            })
        },
    )?;
    types.func_wrap_concurrent(
        "[method]descriptor.symlink-at",
        |store: &Accessor<State>, (folder, to, path): (Handle, String, String)| {
            Box::pin(async move {
                if let Err(code) = reserve(store, &folder, ENTRY_BYTES + to.len() as u64).await {
                    return Ok((Err(code),));
                }
                Ok((answer(WasiFilesystem::symlink_at(&files_of(store), folder, to, path).await)?,))
            })
        },
    )?;
    types.func_wrap_concurrent(
        "[method]descriptor.link-at",
        |store: &Accessor<State>,
         (folder, path_flags, path, new_folder, new_path): (Handle, PathFlags, String, Handle, String)| {
            Box::pin(async move {
                if store.with(|mut store| is_elsewhere(store.data_mut(), &folder, &new_folder)) {
                    return Ok((Err(ErrorCode::CrossDevice),));
                }
                if let Err(code) = reserve(store, &new_folder, ENTRY_BYTES).await {
                    return Ok((Err(code),));
                }
                let _moving = moving(store, &new_folder).await;
                let files = files_of(store);
                let linked = WasiFilesystem::link_at(&files, folder, path_flags, path, new_folder, new_path);
                Ok((answer(linked.await)?,))
            })
        },
    )?;
    types.func_wrap_concurrent(
        "[method]descriptor.rename-at",
        |store: &Accessor<State>, (folder, path, new_folder, new_path): (Handle, String, Handle, String)| {
            Box::pin(async move {
                if store.with(|mut store| is_elsewhere(store.data_mut(), &folder, &new_folder)) {
                    return Ok((Err(ErrorCode::CrossDevice),));
                }
                let _moving = moving(store, &new_folder).await;
                let files = files_of(store);
                let renamed = WasiFilesystem::rename_at(&files, folder, path, new_folder, new_path);
                Ok((answer(renamed.await)?,))
            })
        },
    )
}

/// Whether what is there may be opened. Of a link the engine says what becomes of it.
fn is_openable(kind: &DescriptorType) -> bool {
    matches!(kind, DescriptorType::RegularFile | DescriptorType::Directory | DescriptorType::SymbolicLink)
}

fn files_of(store: &Accessor<State>) -> Accessor<State, WasiFilesystem> {
    store.with_getter(|state| state.filesystem())
}

async fn reserve(store: &Accessor<State>, handle: &Handle, bytes: u64) -> Result<(), ErrorCode> {
    let quota: Option<Arc<Quota>> = store.with(|mut store| store.data_mut().volumes.quota_of(handle));
    match quota {
        Some(quota) => quota.reserve(bytes).await.map_err(ErrorCode::from),
        None => Ok(()),
    }
}

/// To be held while something gets a name in `folder`.
async fn moving(store: &Accessor<State>, folder: &Handle) -> Option<Moving> {
    let quota = store.with(|mut store| store.data_mut().volumes.quota_of(folder));
    Some(quota?.moving().await)
}

fn answer<T>(result: FilesystemResult<T>) -> wasmtime::Result<Result<T, ErrorCode>> {
    result.map(Ok).or_else(|error| error.downcast().map(Err))
}
