//! Volumes: data that outlives requests, releases and the platform's own end, is seen by its app only, and never grows beyond its size.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;

use http::header::{CONTENT_LENGTH, HOST};
use http::{Method, Request};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::mkfifo;
use wharf_tests::{Platform, Reply, SHORT, eventually, full};
use wharf_types::api::{Page, VolumeInfo, VolumeState};
use wharf_types::event::Event;

const NOTES: &str = "app = \"notes\"\n[[volumes]]\nname = \"notes\"\npath = \"/data\"\n";

async fn send(platform: &Platform, app: &str, method: Method, path: &str, body: &[u8]) -> Reply {
    let request =
        Request::builder().method(method).uri(path).header(HOST, format!("{app}.default.localhost"));
    let request = request.header(CONTENT_LENGTH, body.len()).body(full(body.to_vec())).unwrap();
    platform.apps.send(request).await.unwrap()
}

async fn put(platform: &Platform, app: &str, path: &str, body: &[u8]) -> u16 {
    send(platform, app, Method::PUT, path, body).await.status.as_u16()
}

async fn volumes(platform: &Platform) -> Vec<VolumeInfo> {
    platform.wharf(&["volume", "ls", "--json"]).await.json::<Page<VolumeInfo>>().items
}

fn folder(platform: &Platform, volume: &VolumeInfo) -> PathBuf {
    platform.data().join("worker/volumes").join(volume.id.to_string())
}

async fn happened(platform: &Platform, app: &str, kind: &str) -> Event {
    eventually(SHORT, &format!("{kind} of {app} is told"), || async {
        let path = format!("/v1/namespaces/default/apps/{app}/events");
        let events = platform.api(Method::GET, &path, "").await;
        let events: Page<Event> = serde_json::from_slice(&events.body).unwrap();
        events.items.into_iter().find(|event| event.kind == kind)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_outlives_requests_releases_rollbacks_restarts_and_kill_9() {
    let mut platform = Platform::start().await;
    platform.deploy_manifest("notes", NOTES).await.ok();
    assert_eq!(put(&platform, "notes", "/today", b"buy bread").await, 200);
    assert_eq!(platform.text("notes", "/today").await, "buy bread");

    platform.deploy_manifest("notes", &format!("{NOTES}[env]\nA = \"2\"\n")).await.ok();
    assert_eq!(platform.text("notes", "/today").await, "buy bread");
    put(&platform, "notes", "/today", b"buy milk").await;
    platform.wharf(&["restart", "notes"]).await.ok();
    assert_eq!(platform.text("notes", "/today").await, "buy milk");
    platform.wharf(&["rollback", "notes"]).await.ok();
    assert_eq!(platform.text("notes", "/").await, "today\n");

    platform.kill().await;
    platform.start_again().await;
    platform.serves("notes").await;
    assert_eq!(platform.text("notes", "/today").await, "buy milk");
    platform.terminate().await;
    platform.start_again().await;
    platform.serves("notes").await;
    assert_eq!(platform.text("notes", "/today").await, "buy milk");
    eventually(SHORT, "the status says how full it is", || async {
        let status = platform.wharf(&["status", "notes"]).await.ok();
        status.contains("volume notes: 4.0 KiB of 1.0 GiB used").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pipes_and_devices_in_a_volume_are_not_opened() {
    let platform = Platform::start().await;
    platform.deploy_manifest("notes", NOTES).await.ok();
    let folder = folder(&platform, &volumes(&platform).await.remove(0));
    mkfifo(&folder.join("pipe"), Mode::S_IRWXU).unwrap();
    let mut names = vec!["/pipe"];
    // That of `/dev/null`.
    match mknod(&folder.join("device"), SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, 3)) {
        Ok(()) => names.push("/device"),
        Err(error) => eprintln!("no device was tried, as none can be made without root: {error}"),
    }
    for name in names {
        let read = send(&platform, "notes", Method::GET, name, b"").await;
        assert_eq!(read.status.as_u16(), 403, "{name}: {:?}", read.body);
        // It opens what is there to write at its end.
        let written = send(&platform, "notes", Method::POST, name, b"x").await;
        assert_eq!(written.status.as_u16(), 403, "{name}: {:?}", written.body);
    }
    put(&platform, "notes", "/today", b"buy bread").await;
    assert_eq!(platform.text("notes", "/today").await, "buy bread");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_its_apps_alone_and_is_kept_when_the_app_goes() {
    let platform = Platform::start().await;
    platform.deploy_manifest("notes", NOTES).await.ok();
    let other = NOTES.replacen("\"notes\"", "\"other\"", 1);
    platform.deploy_manifest("notes", &other).await.ok();
    put(&platform, "notes", "/secret", b"mine").await;
    assert_eq!(platform.text("other", "/").await, "");

    let deleted = platform.wharf(&["delete", "notes", "--yes"]).await;
    assert!(deleted.stderr.contains("volumes are kept"), "{}", deleted.stderr);
    deleted.ok();
    let kept = volumes(&platform).await.into_iter().find(|volume| volume.state == VolumeState::Kept).unwrap();
    assert_eq!((kept.app.as_str(), kept.name.as_str()), ("notes", "notes"));
    assert_eq!(std::fs::read(folder(&platform, &kept).join("secret")).unwrap(), b"mine");
    // Another app of the name begins with nothing.
    platform.deploy_manifest("notes", NOTES).await.ok();
    assert_eq!(platform.text("notes", "/").await, "");

    let refused = platform.wharf(&["namespace", "delete", "default", "--yes"]).await;
    assert_ne!(refused.code, 0);
    let all = volumes(&platform).await;
    let used = all.iter().find(|volume| volume.app.as_str() == "other").unwrap();
    let refused = platform.wharf(&["volume", "rm", &used.id.to_string(), "--yes"]).await;
    assert!(refused.stderr.contains("release 1 of the app `other`"), "{}", refused.stderr);

    platform.wharf(&["volume", "rm", &kept.id.to_string(), "--yes"]).await.ok();
    eventually(SHORT, "the kept volume is gone", || async {
        let listed = volumes(&platform).await.iter().any(|volume| volume.id == kept.id);
        (!listed && !folder(&platform, &kept).exists()).then_some(())
    })
    .await;
    platform.wharf(&["delete", "other", "--volumes", "--yes"]).await.ok();
    eventually(SHORT, "the volume has gone with its app", || async {
        (!folder(&platform, used).exists() && volumes(&platform).await.len() == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_refused_to_the_guest_and_told_to_the_owner() {
    let platform = Platform::start().await;
    platform.deploy_manifest("notes", &format!("{NOTES}size = \"1MiB\"\n")).await.ok();
    let half = vec![b'x'; 600 << 10];
    assert_eq!(put(&platform, "notes", "/one", &half).await, 200);
    let refused = send(&platform, "notes", Method::PUT, "/two", &half).await;
    assert_eq!(refused.status, 507, "{}", refused.text());
    // What is there is whole, and what does fit fits.
    assert_eq!(platform.text("notes", "/").await, "one\n");
    assert_eq!(platform.text("notes", "/one").await.len(), half.len());
    let small = vec![b'x'; 100 << 10];
    assert_eq!(put(&platform, "notes", "/small", &small).await, 200);
    let event = happened(&platform, "notes", "volume.full").await;
    assert!(event.message.contains("`notes` is full"), "{}", event.message);

    // However small the steps, and also without any content.
    let mut steps = 0;
    while send(&platform, "notes", Method::POST, "/log", &vec![b'x'; 60 << 10]).await.status == 200 {
        steps += 1;
        assert!(steps < 10, "more fits than there is room for");
    }
    let mut files = 0;
    while put(&platform, "notes", &format!("/empty-{files}"), b"").await == 200 {
        files += 1;
        assert!(files < 100, "empty files take no room");
    }
    let on_disk: u64 = std::fs::read_dir(folder(&platform, &volumes(&platform).await[0]))
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert!(on_disk <= 1 << 20, "{on_disk} bytes");
    let metrics = platform.api(Method::GET, "/metrics", "").await.text();
    assert!(metrics.contains("wharf_volume_full{namespace=\"default\",app=\"notes\""), "{metrics}");

    // What is deleted makes room at once, and a larger size as well.
    assert_eq!(send(&platform, "notes", Method::DELETE, "/one", b"").await.status, 200);
    assert_eq!(put(&platform, "notes", "/two", &half).await, 200);
    happened(&platform, "notes", "volume.has_room").await;
    platform.deploy_manifest("notes", &format!("{NOTES}size = \"4MiB\"\n")).await.ok();
    assert_eq!(put(&platform, "notes", "/one", &half).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_functions_of_wasi_0_3_and_commands_have_volumes_too() {
    let platform = Platform::start().await;
    let manifest = "app = \"p3\"\n[[volumes]]\nname = \"log\"\npath = \"/data\"\nsize = \"1MiB\"\n";
    platform.deploy_manifest("crash-p3", manifest).await.ok();
    let chunk = vec![b'x'; 300 << 10];
    let mut fitted = 0;
    let refused = loop {
        let reply = send(&platform, "p3", Method::POST, "/append", &chunk).await;
        if reply.status != 200 || fitted > 5 {
            break reply;
        }
        fitted += 1;
    };
    assert_eq!((refused.status.as_u16(), fitted), (507, 3), "{}", refused.text());
    let log = std::fs::metadata(folder(&platform, &volumes(&platform).await[0]).join("log")).unwrap();
    assert!((900 << 10..=1 << 20).contains(&log.len()), "{} bytes", log.len());

    let manifest = "app = \"ticker\"\n[[volumes]]\nname = \"banner\"\npath = \"/kept\"\nread_only = true\n[env]\nBANNER_FILE = \"/kept/banner\"\n";
    platform.deploy_manifest("ticker", manifest).await.ok();
    let volume = volumes(&platform).await.into_iter().find(|volume| volume.app.as_str() == "ticker").unwrap();
    std::fs::write(folder(&platform, &volume).join("banner"), "from a volume\n").unwrap();
    platform.wharf(&["restart", "ticker"]).await.ok();
    eventually(SHORT, "the command has printed the file", || async {
        let log = platform.wharf(&["logs", "ticker"]).await.ok();
        log.contains("from a volume").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_outside_is_reached_through_a_link_and_nothing_is_written_where_only_reading_is_allowed() {
    let platform = Platform::start().await;
    platform.deploy_manifest("notes", NOTES).await.ok();
    let volume = folder(&platform, &volumes(&platform).await[0]);
    for (link, to) in [("absolute", "/etc"), ("relative", "../../.."), ("file", "../../node.id")] {
        std::os::unix::fs::symlink(to, volume.join(link)).unwrap();
    }
    for path in ["/absolute/passwd", "/relative/wharf.db", "/file", "/../node.id", "/../../wharf.db"] {
        let reply = platform.get("notes", path).await.unwrap();
        assert!(reply.status.is_client_error(), "{path}: {} {}", reply.status, reply.text());
    }
    assert_ne!(put(&platform, "notes", "/relative/escaped", b"x").await, 200);
    assert!(!platform.data().join("escaped").exists());

    put(&platform, "notes", "/note", b"x").await;
    platform.deploy_manifest("notes", &format!("{NOTES}read_only = true\n")).await.ok();
    assert_eq!(platform.text("notes", "/note").await, "x");
    assert_eq!(put(&platform, "notes", "/note", b"y").await, 403);
    assert_eq!(send(&platform, "notes", Method::DELETE, "/note", b"").await.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_waits_for_the_last_request_of_the_one_that_writes() {
    let platform = Platform::start().await;
    let manifest = "app = \"crash\"\n[[volumes]]\nname = \"data\"\npath = \"/data\"\n";
    platform.deploy_manifest("crash", manifest).await.ok();
    let client = platform.apps.clone();
    let slow = tokio::spawn(async move { client.get("crash.default.localhost", "/sleep?ms=3000").await });
    eventually(SHORT, "the request is under way", || async {
        let usage: wharf_types::api::Usage = platform.wharf(&["top", "--json"]).await.json();
        usage.apps.iter().any(|app| app.active > 0).then_some(())
    })
    .await;
    let next = format!("{manifest}[env]\nA = \"2\"\n");
    platform.deploy_manifest_with("crash", &next, &["--no-wait"]).await.ok();
    let started = |info: &wharf_types::api::AppInfo| info.instances.iter().any(|i| i.release == 2);
    let info = platform.app_is("crash", "about to run release 2", started).await;
    let old: Vec<_> = info.instances.iter().filter(|instance| instance.release == 1).collect();
    assert!(!old.is_empty() && old.iter().all(|instance| instance.state.is_final()), "{old:?}");
    assert_eq!(slow.await.unwrap().unwrap().text(), "slept for 3000 ms\n");
    platform.app_is("crash", "on release 2", |info| info.ready == 1 && info.release == Some(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_cannot_start_gives_the_volume_back() {
    let platform = Platform::start().await;
    platform.deploy_manifest("notes", NOTES).await.ok();
    put(&platform, "notes", "/today", b"buy bread").await;
    let bad =
        format!("{NOTES}[http]\nhealth = {{ path = \"/missing\" }}\n[update]\nprogress_deadline = \"2s\"\n");
    platform.deploy_manifest("notes", &bad).await.fails(5, &[]);
    platform.app_is("notes", "back on release 1", |info| info.release == Some(1) && info.ready == 1).await;
    // The ingress learns of an instance after it has become ready.
    let text = eventually(SHORT, "release 1 answers", || async {
        let reply = platform.get("notes", "/today").await.ok()?;
        (reply.status == 200).then(|| reply.text())
    });
    assert_eq!(text.await, "buy bread");
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_that_cannot_work_are_refused_by_name_or_line() {
    let platform = Platform::start().await;
    let volume = |name: &str, rest: &str| format!("[[volumes]]\nname = \"{name}\"\n{rest}\n");
    for (volumes, words) in [
        (volume("data", "path = \"data\""), "volumes.data.path"),
        (volume("data", "path = \"/data\"\nsize = \"0B\""), "volumes.data.size"),
        (volume("Data", "path = \"/data\""), "wharf.toml:3:"),
        (volume("data", "path = \"/data\"\nkind = \"ssd\""), "wharf.toml:5:"),
        (volume("data", ""), "path"),
        (volume("a", "path = \"/a\"") + &volume("a", "path = \"/b\""), "two volumes named `a`"),
        (volume("a", "path = \"/a\"") + &volume("b", "path = \"/a/b\""), "volumes.b.path"),
        (volume("a", "path = \"/a\"") + "[files]\npath = \"public\"\n", "mount = \"/public\""),
        (volume("a", "path = \"/a\"") + "[scale]\nreplicas = 2\n", "shared = true"),
    ] {
        let refused = platform.deploy_manifest("notes", &format!("app = \"notes\"\n{volumes}")).await;
        assert_ne!(refused.code, 0, "{volumes}");
        assert!(refused.stderr.contains(words), "`{words}` is not in {}", refused.stderr);
    }
    assert_eq!(platform.wharf(&["status", "notes"]).await.code, 3, "an app was left behind");
    platform.deploy_manifest("notes", NOTES).await.ok();
    let refused = platform.wharf(&["scale", "notes", "2"]).await;
    assert!(refused.stderr.contains("the volume `notes` at once"), "{}", refused.stderr);
    platform.deploy_manifest("notes", &format!("{NOTES}shared = true\n")).await.ok();
    platform.wharf(&["scale", "notes", "2"]).await.ok();
    platform.app_is("notes", "scaled to two", |info| info.ready == 2).await;
    let refused = platform.deploy_manifest("notes", NOTES).await;
    assert!(refused.stderr.contains("`wharf scale`"), "{}", refused.stderr);
}
