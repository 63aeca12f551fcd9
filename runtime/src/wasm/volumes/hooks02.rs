//! What WASI 0.2 makes of a volume: roots among the preopened folders, and a question to the quota before each function that adds.

use wasmtime::component::{Linker, Resource};
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemView as _};
use wasmtime_wasi::p2::bindings::filesystem::preopens::Host as _;
use wasmtime_wasi::p2::bindings::filesystem::types::{
    DescriptorFlags, DescriptorType, ErrorCode, HostDescriptor as _, OpenFlags, PathFlags,
};
use wasmtime_wasi::p2::{DynOutputStream, FsResult};

use super::super::outbound::has_room;
use super::super::state::State;
use super::handles::{file_of, is_plain};
use super::quota::{ENTRY_BYTES, Moving, growth};
use super::stream::QuotaStream;

/// Interfaces as the engine's own linker calls them.
pub(super) const PREOPENS: &str = "wasi:filesystem/preopens@0.2.12";
pub(super) const TYPES: &str = "wasi:filesystem/types@0.2.12";

type Handle = Resource<Descriptor>;
type Stream = Resource<DynOutputStream>;

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

/// The roots of a store's volumes, beside the folders that it has otherwise.
pub(super) fn roots(
    state: &mut State,
    others: &[(Handle, String)],
) -> wasmtime::Result<Vec<(Handle, String)>> {
    let State { table, volumes, .. } = state;
    for (folder, _) in others {
        volumes.opened(table, None, folder);
    }
    volumes.roots(table)
}

/// Puts the quota before a stream that leads into a volume; `position` as for [`QuotaStream`].
pub(super) fn with_quota(
    state: &mut State,
    handle: &Handle,
    stream: Stream,
    position: Option<u64>,
) -> wasmtime::Result<Stream> {
    let (Some(quota), Some(file)) = (state.volumes.quota_of(handle), file_of(&state.table, handle)) else {
        return Ok(stream);
    };
    let inner = state.table.delete(stream)?;
    let stream: DynOutputStream = Box::new(QuotaStream::new(inner, quota, file, position));
    Ok(state.table.push(stream)?)
}

fn streams(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut types = linker.instance(TYPES)?;
    types.func_wrap("[method]descriptor.write-via-stream", |mut store, (file, offset): (Handle, u64)| {
        let stream = store.data_mut().filesystem().write_via_stream(again(&file), offset);
        Ok((match answer(stream)? {
            Ok(stream) => Ok(with_quota(store.data_mut(), &file, stream, Some(offset))?),
            Err(code) => Err(code),
        },))
    })?;
    types.func_wrap("[method]descriptor.append-via-stream", |mut store, (file,): (Handle,)| {
        let stream = store.data_mut().filesystem().append_via_stream(again(&file));
        Ok((match answer(stream)? {
            Ok(stream) => Ok(with_quota(store.data_mut(), &file, stream, None)?),
            Err(code) => Err(code),
        },))
    })
}

fn files(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut types = linker.instance(TYPES)?;
    types.func_wrap_async(
        "[method]descriptor.write",
        |mut store, (file, bytes, offset): (Handle, Vec<u8>, u64)| {
            Box::new(async move {
                let end = offset.saturating_add(bytes.len() as u64);
                if let Err(code) = reserve_up_to(store.data(), &file, end).await {
                    return Ok((Err(code),));
                }
                Ok((answer(store.data_mut().filesystem().write(file, bytes, offset).await)?,))
            })
        },
    )?;
    types.func_wrap_async("[method]descriptor.set-size", |mut store, (file, size): (Handle, u64)| {
        Box::new(async move {
            if let Err(code) = reserve_up_to(store.data(), &file, size).await {
                return Ok((Err(code),));
            }
            Ok((answer(store.data_mut().filesystem().set_size(file, size).await)?,))
        })
    })?;
    types.func_wrap_async(
        "[method]descriptor.open-at",
        |mut store,
         (folder, path_flags, path, open_flags, flags): (
            Handle,
            PathFlags,
            String,
            OpenFlags,
            DescriptorFlags,
        )| {
            Box::new(async move {
                if !has_room() {
                    return Ok((Err(ErrorCode::InsufficientMemory),));
                }
                let volume = store.data().volumes.volume_of(&folder);
                if volume.is_some() {
                    let mut files = store.data_mut().filesystem();
                    let there = files.stat_at(again(&folder), path_flags, path.clone()).await;
                    match there.map(|there| there.type_) {
                        // Seen before, as opening a pipe waits for its other end, and some devices take it for an order.
                        Ok(kind) if !is_openable(kind) => return Ok((Err(ErrorCode::NotPermitted),)),
                        Err(_) if open_flags.contains(OpenFlags::CREATE) => {
                            if let Err(code) = reserve(store.data(), &folder, ENTRY_BYTES).await {
                                return Ok((Err(code),));
                            }
                        }
                        Ok(_) | Err(_) => {}
                    }
                }
                let mut files = store.data_mut().filesystem();
                let opened = files.open_at(folder, path_flags, path, open_flags, flags).await;
                let kept = match answer(opened)? {
                    Ok(handle) => keep(store.data_mut(), volume, handle)?.ok_or(ErrorCode::NotPermitted),
                    Err(code) => Err(code),
                };
                Ok((kept,))
            })
        },
    )
}

fn names(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut types = linker.instance(TYPES)?;
    types.func_wrap_async(
        "[method]descriptor.create-directory-at",
        |mut store, (folder, path): (Handle, String)| {
            Box::new(async move {
                if let Err(code) = reserve(store.data(), &folder, ENTRY_BYTES).await {
                    return Ok((Err(code),));
                }
                Ok((answer(store.data_mut().filesystem().create_directory_at(folder, path).await)?,))
            })
        },
    )?;
    types.func_wrap_async(
        "[method]descriptor.symlink-at",
        |mut store, (folder, to, path): (Handle, String, String)| {
            Box::new(async move {
                if let Err(code) = reserve(store.data(), &folder, ENTRY_BYTES + to.len() as u64).await {
                    return Ok((Err(code),));
                }
                Ok((answer(store.data_mut().filesystem().symlink_at(folder, to, path).await)?,))
            })
        },
    )?;
    types.func_wrap_async(
        "[method]descriptor.link-at",
        |mut store,
         (folder, path_flags, path, new_folder, new_path): (Handle, PathFlags, String, Handle, String)| {
            Box::new(async move {
                if is_elsewhere(store.data(), &folder, &new_folder) {
                    return Ok((Err(ErrorCode::CrossDevice),));
                }
                if let Err(code) = reserve(store.data(), &new_folder, ENTRY_BYTES).await {
                    return Ok((Err(code),));
                }
                let _moving = moving(store.data(), &new_folder).await;
                let mut files = store.data_mut().filesystem();
                let linked = files.link_at(folder, path_flags, path, new_folder, new_path).await;
                Ok((answer(linked)?,))
            })
        },
    )?;
    types.func_wrap_async(
        "[method]descriptor.rename-at",
        |mut store, (folder, path, new_folder, new_path): (Handle, String, Handle, String)| {
            Box::new(async move {
                if is_elsewhere(store.data(), &folder, &new_folder) {
                    return Ok((Err(ErrorCode::CrossDevice),));
                }
                let _moving = moving(store.data(), &new_folder).await;
                let mut files = store.data_mut().filesystem();
                let renamed = files.rename_at(folder, path, new_folder, new_path).await;
                Ok((answer(renamed)?,))
            })
        },
    )
}

/// Whether what is there may be opened. Of a link the engine says what becomes of it.
fn is_openable(kind: DescriptorType) -> bool {
    matches!(kind, DescriptorType::RegularFile | DescriptorType::Directory | DescriptorType::SymbolicLink)
}

/// Keeps a handle that was opened from one that lies in `volume`. None: it leads to neither a file nor a folder, though that was seen before, and is
/// closed again.
pub(super) fn keep(
    state: &mut State,
    volume: Option<usize>,
    handle: Handle,
) -> wasmtime::Result<Option<Handle>> {
    let State { table, volumes, .. } = state;
    if volume.is_some() && !is_plain(table, &handle) {
        table.delete(handle)?;
        return Ok(None);
    }
    volumes.opened(table, volume, &handle);
    Ok(Some(handle))
}

/// Whether two folders lie in different volumes, between which nothing moves without being counted.
pub(super) fn is_elsewhere(state: &State, one: &Handle, other: &Handle) -> bool {
    state.volumes.volume_of(one) != state.volumes.volume_of(other)
}

fn reserve(
    state: &State,
    handle: &Handle,
    bytes: u64,
) -> impl Future<Output = Result<(), ErrorCode>> + Send + use<> {
    let quota = state.volumes.quota_of(handle);
    async move {
        match quota {
            Some(quota) => quota.reserve(bytes).await.map_err(ErrorCode::from),
            None => Ok(()),
        }
    }
}

/// The same for what makes a file longer, up to `end`.
fn reserve_up_to(
    state: &State,
    handle: &Handle,
    end: u64,
) -> impl Future<Output = Result<(), ErrorCode>> + Send + use<> {
    let bytes = file_of(&state.table, handle).map_or(0, |file| growth(&file, end));
    reserve(state, handle, bytes)
}

/// To be held while something gets a name in `folder`.
fn moving(state: &State, folder: &Handle) -> impl Future<Output = Option<Moving>> + Send + use<> {
    let quota = state.volumes.quota_of(folder);
    async move { Some(quota?.moving().await) }
}

/// A second name for a handle, which stays with whoever has it.
pub(super) fn again(handle: &Handle) -> Handle {
    Resource::new_borrow(handle.rep())
}

fn answer<T>(result: FsResult<T>) -> wasmtime::Result<Result<T, ErrorCode>> {
    result.map(Ok).or_else(|error| error.downcast().map(Err))
}
