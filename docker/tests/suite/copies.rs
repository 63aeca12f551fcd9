//! Files that come out of containers and go into them.

use std::io::{self, Read as _};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use wharf_docker::{EngineError, PathKind, PathLook};
use wharf_types::InstanceId;
use wharf_types::spec::ContainerSpec;

use crate::support::{LIMIT, Test, eventually, shell};

const MAKES: &str =
    "busybox mkdir -p /srv/a && echo hi >/srv/a/b && busybox ln -s /srv/a /link && exec sleep 1000";

/// A container in which the files are.
async fn begin(test: &Test) -> InstanceId {
    let id = test.shell(MAKES).await;
    eventually("the last of its files", async || {
        test.engine.look_at(id, "/link").await.unwrap().kind.map(drop)
    })
    .await;
    id
}

/// The names in the archive of a path, and the content of each.
async fn copied_out(test: &Test, id: InstanceId, path: &str) -> Vec<(String, String)> {
    let octets = test.engine.copy_out(id, path).try_fold(Vec::new(), |mut all, octets| async move {
        all.extend_from_slice(&octets);
        Ok(all)
    });
    let octets = tokio::time::timeout(LIMIT, octets).await.unwrap().unwrap();
    let mut archive = tar::Archive::new(&octets[..]);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_string_lossy().into_owned();
        let mut content = String::new();
        entry.read_to_string(&mut content).unwrap();
        (path, content)
    });
    entries.collect()
}

fn archive(path: &str, content: &str) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o640);
    header.set_uid(1000);
    header.set_gid(1000);
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_data(&mut header, path, content.as_bytes()).unwrap();
    archive.into_inner().unwrap()
}

async fn copy_in(
    test: &Test,
    id: InstanceId,
    folder: &str,
    pieces: Vec<io::Result<Bytes>>,
) -> Result<(), EngineError> {
    let copied = test.engine.copy_in(id, folder, futures::stream::iter(pieces));
    tokio::time::timeout(LIMIT, copied).await.unwrap()
}

#[tokio::test]
async fn what_is_at_a_path_comes_out_by_its_name() {
    let Some(test) = Test::begin().await else { return };
    let id = begin(&test).await;
    let file = PathLook { path: "/srv/a/b".into(), kind: Some(PathKind::File) };
    assert_eq!(test.engine.look_at(id, "/srv/a/b").await.unwrap(), file);
    let folder = PathLook { path: "/srv/a".into(), kind: Some(PathKind::Folder) };
    assert_eq!(test.engine.look_at(id, "/link").await.unwrap(), folder);
    let nothing = PathLook { path: "/srv/c".into(), kind: None };
    assert_eq!(test.engine.look_at(id, "/srv/c").await.unwrap(), nothing);
    assert_eq!(copied_out(&test, id, "/srv/a/b").await, [("b".to_owned(), "hi\n".to_owned())]);
    let names: Vec<String> =
        copied_out(&test, id, "/srv/a").await.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["a/", "a/b"]);
    let first = test.engine.copy_out(id, "/srv/c").next().await;
    assert!(matches!(first, Some(Err(EngineError::NotFound { .. }))), "{first:?}");
}

#[tokio::test]
async fn an_archive_goes_into_a_folder_with_its_owners() {
    let Some(test) = Test::begin().await else { return };
    let id = begin(&test).await;
    let octets = archive("new", "there");
    let pieces = octets.chunks(100).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    copy_in(&test, id, "/srv/a", pieces).await.unwrap();
    let look = shell("[ $(cat /srv/a/new) = there ] && [ $(stat -c %u:%g:%a /srv/a/new) = 1000:1000:640 ]");
    let probe = test.engine.probe_command(id, &look, LIMIT).await.unwrap();
    assert_eq!(probe.exit_code, Some(0), "{probe:?}");
    let error = copy_in(&test, id, "/srv/none", vec![Ok(octets.clone().into())]).await.unwrap_err();
    assert!(matches!(error, EngineError::NotFound { .. }), "{error:?}");
    let cut_off = vec![Ok(Bytes::copy_from_slice(&octets[..300])), Err(io::ErrorKind::UnexpectedEof.into())];
    copy_in(&test, id, "/srv/a", cut_off).await.unwrap_err();
    // It would make a file of a folder.
    copy_in(&test, id, "/srv", vec![Ok(archive("a", "").into())]).await.unwrap_err();
    let spec = ContainerSpec { read_only: true, ..ContainerSpec::default() };
    let id = test.shell_with(&spec, "exec sleep 1000").await;
    let error = copy_in(&test, id, "/tmp", vec![Ok(octets.into())]).await.unwrap_err();
    assert!(error.to_string().contains("read-only"), "{error}");
}
