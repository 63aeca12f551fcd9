use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::filesystem::Descriptor;
use wharf_types::node::AssignedVolume;

use super::*;
use crate::fake;
use wharf_types::InstanceId;

fn assigned(id: VolumeId, edit: impl FnOnce(&mut VolumeSpec)) -> AssignedInstance {
    let mut assigned = fake::assigned(InstanceId::new());
    let mut spec = (*assigned.spec).clone();
    let mut volume: VolumeSpec =
        serde_json::from_str(r#"{"name": "data", "path": "/data", "size": "1MiB"}"#).unwrap();
    edit(&mut volume);
    assigned.volumes = vec![AssignedVolume { name: volume.name.clone(), id }];
    spec.volumes = vec![volume];
    assigned.spec = Arc::new(spec);
    assigned
}

fn quota(folder: &tempfile::TempDir, size: u64) -> Quota {
    Quota::new(Arc::new(File::open(folder.path()).unwrap()), size)
}

/// Waits for what comes a moment later.
async fn until(is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn of_two_that_write_one_waits_for_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let volumes = Volumes::new(folder.path().join("volumes")).unwrap();
    let id = VolumeId::new();
    let first = volumes.mount(&assigned(id, |_| {})).await.unwrap();
    let refused = volumes.mount(&assigned(id, |_| {})).await.err().unwrap();
    assert!(refused.reason.message.contains("`data`"), "{refused}");
    volumes.mount(&assigned(id, |volume| volume.shared = true)).await.err().unwrap();
    // Whoever only reads is in nobody's way.
    volumes.mount(&assigned(id, |volume| volume.read_only = true)).await.unwrap();
    drop(first);
    let one = volumes.mount(&assigned(id, |volume| volume.shared = true)).await.unwrap();
    let other = volumes.mount(&assigned(id, |volume| volume.shared = true)).await.unwrap();
    volumes.mount(&assigned(id, |_| {})).await.err().unwrap();
    drop((one, other));
    volumes.mount(&assigned(id, |_| {})).await.unwrap();
}

#[tokio::test]
async fn a_volume_is_removed_when_asked_for_and_not_while_an_instance_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("volumes");
    let volumes = Volumes::new(path.clone()).unwrap();
    let (removed, kept) = (VolumeId::new(), VolumeId::new());
    let mounts = volumes.mount(&assigned(removed, |_| {})).await.unwrap();
    drop(volumes.mount(&assigned(kept, |_| {})).await.unwrap());
    fs::write(path.join(removed.to_string()).join("note"), "x").unwrap();
    let (ask, asked) = watch::channel(vec![removed, VolumeId::new()]);
    let task = tokio::spawn(volumes.clone().remove_as_asked(asked));
    let is_gone = async |count: usize| until(|| volumes.removed().len() == count).await;
    is_gone(1).await;
    assert!(path.join(removed.to_string()).join("note").exists(), "an instance has it");
    drop(mounts);
    is_gone(2).await;
    let left: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, [kept.to_string().as_str()]);
    assert_eq!(volumes.figures().len(), 1);
    drop(ask);
    task.await.unwrap();
}

#[tokio::test]
async fn what_was_half_removed_is_gone_after_a_start_and_the_rest_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let (half, whole) = (format!("{}.{REMOVING}", VolumeId::new()), VolumeId::new().to_string());
    for name in [&half, &whole] {
        fs::create_dir(folder.path().join(name)).unwrap();
        fs::write(folder.path().join(name).join("note"), "x").unwrap();
    }
    Volumes::new(folder.path().to_owned()).unwrap();
    until(|| !folder.path().join(&half).exists()).await;
    assert!(folder.path().join(whole).join("note").exists());
}

#[tokio::test]
async fn of_a_volume_that_is_removed_nothing_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let volumes = Volumes::new(folder.path().to_owned()).unwrap();
    let id = VolumeId::new();
    let path = volumes.folder(id);
    for left in ["", REMOVING, RESTORING, BEFORE] {
        fs::create_dir(path.with_extension(left)).unwrap();
        fs::write(path.with_extension(left).join("note"), "x").unwrap();
    }
    volumes.remove(id).await.unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    // Also where it has no folder of its own.
    fs::create_dir(path.with_extension(BEFORE)).unwrap();
    volumes.remove(id).await.unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn only_a_folder_of_an_archive_is_kept_before_the_one_of_before() {
    assert!(!has_taken_place(None, false) && !has_taken_place(None, true));
    assert!(has_taken_place(Some(true), true) && has_taken_place(Some(true), false));
    assert!(has_taken_place(Some(false), false), "the archive held nothing");
    assert!(!has_taken_place(Some(false), true), "somebody opened it between both renames");
}

#[tokio::test]
async fn a_folder_that_another_has_replaced_is_not_the_volumes() {
    let folder = tempfile::tempdir().unwrap();
    let volumes = Volumes::new(folder.path().join("volumes")).unwrap();
    let id = VolumeId::new();
    let assigned = assigned(id, |_| {});
    let keep = |root| volumes.keep_opened(id, root, &assigned.spec.volumes[0], &assigned);
    let opened = open_folder(&volumes.dir, id).unwrap();
    fs::rename(volumes.folder(id), volumes.folder(id).with_extension(BEFORE)).unwrap();
    open_folder(&volumes.dir, id).unwrap_err();
    assert!(!volumes.folder(id).exists(), "none is made beside the one of before");
    assert!(keep(opened.try_clone().unwrap()).unwrap().is_none());
    fs::create_dir(volumes.folder(id)).unwrap();
    assert!(keep(opened).unwrap().is_none());
    assert!(keep(open_folder(&volumes.dir, id).unwrap()).unwrap().is_some());
}

#[tokio::test]
async fn what_cannot_be_removed_is_no_reason_not_to_start() {
    let folder = tempfile::tempdir().unwrap();
    let stuck = folder.path().join(format!("{}.{REMOVING}", VolumeId::new()));
    fs::write(&stuck, "not a folder").unwrap();
    let volumes = Volumes::new(folder.path().to_owned()).unwrap();
    volumes.mount(&assigned(VolumeId::new(), |_| {})).await.unwrap();
    assert!(stuck.exists());
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_is_refused_until_something_is_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let quota = quota(&folder, 3 * ENTRY);
    let file = folder.path().join("file");
    fs::write(&file, vec![0; ENTRY as usize]).unwrap();
    quota.measure().await.unwrap();
    assert_eq!(quota.used(), 2 * ENTRY);
    quota.reserve(ENTRY).await.unwrap();
    // Nothing came of that, so a look at the folder makes room for the next.
    quota.reserve(ENTRY).await.unwrap();
    fs::write(folder.path().join("empty"), "").unwrap();
    let refused = quota.reserve(1).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
    assert!(quota.is_full());
    quota.reserve(u64::MAX).await.unwrap_err();
    fs::remove_file(&file).unwrap();
    quota.reserve(2 * ENTRY).await.unwrap();
    assert!(quota.is_full(), "the owner would not get to know");
    tokio::time::advance(Duration::from_secs(3)).await;
    assert!(!quota.is_full());
}

#[tokio::test]
async fn a_deleted_file_makes_room_only_when_it_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let quota = quota(&folder, 2 * ENTRY);
    let path = folder.path().join("file");
    fs::write(&path, vec![0; ENTRY as usize]).unwrap();
    let open = Arc::new(File::open(&path).unwrap());
    quota.opened(&open);
    fs::remove_file(&path).unwrap();
    quota.measure().await.unwrap();
    quota.reserve(1).await.unwrap_err();
    drop(open);
    quota.reserve(1).await.unwrap();
}

#[tokio::test]
async fn a_volume_of_too_many_files_is_full_until_some_are_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let quota = quota(&folder, 100 * ENTRY).with_entries_max(1);
    for name in ["one", "two"] {
        fs::write(folder.path().join(name), "").unwrap();
    }
    quota.measure().await.unwrap();
    assert!(quota.is_full());
    assert_eq!(quota.used(), 100 * ENTRY);
    quota.reserve(1).await.unwrap_err();
    fs::remove_file(folder.path().join("one")).unwrap();
    quota.reserve(1).await.unwrap();
    assert_eq!(quota.used(), ENTRY + 1);
}

#[tokio::test]
async fn two_that_have_a_volume_first_have_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let volumes = Volumes::new(folder.path().join("volumes")).unwrap();
    let id = VolumeId::new();
    let assigned = assigned(id, |volume| volume.shared = true);
    let open = || volumes.open(id, &assigned.spec.volumes[0], &assigned);
    let (one, other) = tokio::join!(open(), open());
    assert!(Arc::ptr_eq(&one.unwrap(), &other.unwrap()), "they would not share a quota");
}

#[tokio::test]
async fn a_measurement_during_a_rename_lowers_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let quota = Arc::new(quota(&folder, 8 * ENTRY));
    quota.reserve(4 * ENTRY).await.unwrap();
    let moving = quota.moving().await;
    quota.measure().await.unwrap();
    assert_eq!(quota.used(), 4 * ENTRY, "what was under way may be anywhere");
    fs::write(folder.path().join("file"), vec![0; 5 * ENTRY as usize]).unwrap();
    quota.measure().await.unwrap();
    assert_eq!(quota.used(), 6 * ENTRY, "what was seen is there");
    fs::remove_file(folder.path().join("file")).unwrap();
    drop(moving);
    quota.measure_if_touched().await.unwrap();
    assert_eq!(quota.used(), 0, "nothing was under way");
}

#[tokio::test(start_paused = true)]
async fn renames_wait_while_it_is_decided_whether_a_write_fits() {
    let folder = tempfile::tempdir().unwrap();
    let quota = Arc::new(quota(&folder, 2 * ENTRY));
    quota.reserve(2 * ENTRY).await.unwrap();
    let moving = quota.moving().await;
    let mut reserve = tokio::spawn({
        let quota = quota.clone();
        async move { quota.reserve(ENTRY).await }
    });
    tokio::time::timeout(Duration::from_millis(50), &mut reserve).await.unwrap_err();
    let mut next = tokio::spawn({
        let quota = quota.clone();
        async move { drop(quota.moving().await) }
    });
    tokio::time::timeout(Duration::from_millis(50), &mut next).await.unwrap_err();
    drop(moving);
    reserve.await.unwrap().expect("the folder is empty, and the count was lowered");
    next.await.unwrap();
}

#[test]
fn a_handle_of_a_device_is_told_from_one_of_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    let mut table = ResourceTable::new();
    let mut is_plain = |path: &Path| {
        let file = File::open(path).unwrap();
        let file = wasmtime_wasi::filesystem::File::new(file, FsPerms::ReadWrite, OpenMode::READ, false);
        let handle = table.push(Descriptor::File(file)).unwrap();
        handles::is_plain(&table, &handle)
    };
    assert!(is_plain(&file));
    assert!(!is_plain(Path::new("/dev/null")));
}

#[test]
fn what_is_put_behind_functions_is_what_the_engine_has() {
    use super::super::engine::{Purpose, config};
    let functions = [
        "write-via-stream",
        "append-via-stream",
        "set-size",
        "open-at",
        "create-directory-at",
        "symlink-at",
        "link-at",
        "rename-at",
    ];
    let engine = wasmtime::Engine::new(&config(Profile::Concurrent, Purpose::Compile)).unwrap();
    let is_there = |interface: &str, function: &str| {
        let mut fresh = Linker::<State>::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut fresh).unwrap();
        wasmtime_wasi::p3::add_to_linker(&mut fresh).unwrap();
        // Without shadowing, a name that is there cannot be defined again.
        let again = fresh.instance(interface).unwrap().func_wrap(function, |_, (): ()| Ok(()));
        assert!(again.is_err(), "{interface} has no {function}");
    };
    for (types, preopens) in [(hooks02::TYPES, hooks02::PREOPENS), (hooks03::TYPES, hooks03::PREOPENS)] {
        is_there(preopens, "get-directories");
        for function in functions {
            is_there(types, &format!("[method]descriptor.{function}"));
        }
    }
    is_there(hooks02::TYPES, "[method]descriptor.write");
}

const ENTRY: u64 = quota::ENTRY_BYTES;
