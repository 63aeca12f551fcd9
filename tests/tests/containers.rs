//! Ordinary images beside WebAssembly, in a real Docker engine.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, lchown};
use std::process::Stdio;
use std::time::{Duration, Instant};

use http::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use wharf_tests::{ANSWER, Cluster, DockerEngine, Ours, PrivateRegistry, SHORT, WEB, eventually, within};
use wharf_types::api::{AppInfo, CreatedToken, Page, VolumeInfo};
use wharf_types::event::Event;

const MANIFEST: &str = "app = \"web\"\nimage = \"wharf-test/web:1\"\n[env]\nWORD = \"one\"\n[container]\nhttp_port = 8000\n\
    [http]\nhealth = { path = \"/cgi-bin/answer\" }\n[stop]\ndrain = \"2s\"\n[update]\nmonitor = \"50ms\"\n";

/// Goes over to `echo` where it is asked to, and otherwise answers with a word.
const ECHO: &str = r#"app = "echo"
image = "wharf-test/web:1"
[container]
http_port = 8000
stop_signal = "SIGKILL"
entrypoint = ["/bin/busybox", "nc", "-ll", "-p", "8000", "-e", "/bin/sh", "-c", '''
while read -r line; do case "$line" in [Uu]pgrade:*echo*) asked=1;; ?) break;; esac; done
if [ "$asked" ]; then printf "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"; exec cat; fi
printf "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nplain"
''']
[limits]
concurrency = 1
[stop]
drain = "2s"
[update]
monitor = "50ms"
"#;

/// Asks an app at a front door, such as `127.0.0.1:8080`, to go over to `echo`; returns the connection and the head of the answer.
async fn asks_to_go_over(door: &str, app: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(door).await.unwrap();
    let head = format!(
        "GET / HTTP/1.1\r\nHost: {app}.default.localhost\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    within(SHORT, "the head of an answer", async {
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
    })
    .await;
    (stream, String::from_utf8(head).unwrap())
}

/// The same where it must be granted, and one word there and back.
async fn goes_over(door: &str) -> TcpStream {
    let (mut stream, head) = asks_to_go_over(door, "echo").await;
    assert!(head.starts_with("HTTP/1.1 101 ") && head.contains("upgrade: echo\r\n"), "{head}");
    stream.write_all(b"hello").await.unwrap();
    let mut heard = [0; 5];
    within(SHORT, "an echo", stream.read_exact(&mut heard)).await.unwrap();
    assert_eq!(&heard, b"hello");
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_deployed_scaled_changed_rolled_back_and_removed_like_any_app() {
    let Some(ours) = Ours::start().await else { return };
    let deployed = ours.deploy(MANIFEST).await.ok();
    assert!(deployed.contains("release 1"), "{deployed}");
    assert_eq!(ours.asks("web", "").await, "one");
    assert_eq!(ours.containers("web").await.len(), 1);

    ours.platform.wharf(&["scale", "web", "3"]).await.ok();
    eventually(SHORT, "three containers", async || (ours.containers("web").await.len() == 3).then_some(()))
        .await;

    // Not one request fails while all three are replaced.
    let load = ours.platform.load("web", ANSWER);
    ours.deploy(&MANIFEST.replace("one", "two")).await.ok();
    assert_eq!(ours.asks("web", "").await, "two");
    ours.platform.wharf(&["rollback", "web"]).await.ok();
    let served = load.stop().await;
    assert!(served.requests > 0 && served.failures.is_empty(), "{served:?}");
    assert_eq!(ours.asks("web", "").await, "one");

    ours.platform.wharf(&["delete", "web", "--yes"]).await.ok();
    eventually(SHORT, "no container is left", async || ours.containers("web").await.is_empty().then_some(()))
        .await;
    ours.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_dies_is_replaced_and_what_it_printed_is_kept() {
    let Some(ours) = Ours::start().await else { return };
    ours.deploy(MANIFEST).await.ok();
    ours.asks("web", "say=the-last-words").await;
    let [before] = &ours.containers("web").await[..] else { panic!("one") };
    ours.engine.docker(&["kill", before]).await;
    eventually(SHORT, "another container serves", async || {
        let now = ours.containers("web").await;
        let reply = ours.platform.get("web", ANSWER).await.ok()?;
        (reply.status == 200 && now.len() == 1 && now[0] != *before).then_some(())
    })
    .await;
    eventually(SHORT, "the words of the dead one are told", async || {
        let said = ours.platform.wharf(&["logs", "web"]).await.ok();
        said.contains("the-last-words").then_some(())
    })
    .await;
    ours.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_go_on_when_the_worker_is_killed_and_are_adopted() {
    let Some(mut ours) = Ours::start().await else { return };
    let stranger = ours.engine.docker(&["run", "-d", "--network", "none", WEB]).await;
    ours.deploy(MANIFEST).await.ok();
    ours.deploy(&MANIFEST.replace("\"web\"", "\"gone\"")).await.ok();
    let before = ours.containers("web").await;
    ours.platform.kill().await;
    assert_eq!(ours.containers("web").await, before);
    // One that somebody removes meanwhile is made again.
    let gone = ours.containers("gone").await;
    ours.engine.docker(&["rm", "-f", &gone[0]]).await;
    ours.platform.start_again().await;
    ours.platform.serves_at("web", ANSWER).await;
    assert_eq!(ours.containers("web").await, before, "it was adopted");
    ours.platform.serves_at("gone", ANSWER).await;
    assert_eq!(ours.engine.docker(&["inspect", "-f", "{{.State.Running}}", &stranger]).await, "true");
    ours.engine.docker(&["rm", "-f", &stranger]).await;
    ours.end().await;
}

/// [`MANIFEST`] of a container that does this before it answers, and is replaced for no longer than it takes to look.
fn writing(line: &str, settings: &str) -> String {
    let line = format!("{line}; exec httpd -f -p 8000 -h /www");
    let container = format!("[container]\n{settings}entrypoint = [\"sh\", \"-c\", \"{line}\"]\n");
    MANIFEST.replace("[container]\n", &container)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_fills_its_disk_or_its_volume_is_ended_and_its_owner_told() {
    let Some(ours) = Ours::start().await else { return };
    ours.deploy(&writing("busybox dd if=/dev/zero of=/large bs=1M count=80", "disk_max = \"64MiB\"\n")).await;
    let told = |app: &AppInfo, words: &str| {
        let mut reasons = app.instances.iter().filter_map(|instance| instance.reason.as_ref());
        reasons.any(|reason| reason.message.contains(words))
    };
    ours.platform
        .app_is("web", "ended for what it wrote", |app| told(app, "more than `container.disk_max`, 64MiB"))
        .await;
    let volume = "[[volumes]]\nname = \"words\"\npath = \"/data\"\nsize = \"8MiB\"\n";
    let manifest =
        writing("busybox dd if=/dev/zero of=/data/large bs=1M count=16", "").replace("\"web\"", "\"full\"");
    ours.deploy(&format!("{manifest}{volume}")).await;
    ours.platform.app_is("full", "ended for its volume", |app| told(app, "the volume `words` holds")).await;
    let listed = ours.platform.wharf(&["volume", "ls", "--json"]).await.json::<Page<VolumeInfo>>();
    let words = &listed.items[0];
    assert!(words.full && words.used_bytes.is_some_and(|used| used > 16 << 20), "{words:?}");
    ours.end().await;
}

/// [`MANIFEST`] of a container that does this when it is to end, and has so long for it.
fn ending(trap: &str, drain: &str) -> String {
    let line = format!("trap '{trap}' TERM; httpd -f -p 8000 -h /www & while :; do wait; done");
    let container = format!("[container]\nentrypoint = [\"sh\", \"-c\", \"{line}\"]\n");
    MANIFEST.replace("[container]\n", &container).replace("drain = \"2s\"", &format!("drain = \"{drain}\""))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_platform_waits_for_containers_as_long_as_they_declare() {
    let Some(mut ours) = Ours::start().await else { return };
    let manifest = ending("sleep 8; echo whole >/data/word; exit 0", "25s");
    ours.deploy(&format!("{manifest}[[volumes]]\nname = \"words\"\npath = \"/data\"\n")).await.ok();
    let listed = ours.platform.wharf(&["volume", "ls", "--json"]).await;
    let volume = listed.json::<Page<VolumeInfo>>().items.remove(0);
    let began = Instant::now();
    ours.platform.terminate().await;
    assert!(began.elapsed() >= Duration::from_secs(8), "{:?}", began.elapsed());
    let word = ours.platform.data().join("worker/volumes").join(volume.id.to_string()).join("word");
    assert_eq!(std::fs::read_to_string(word).unwrap().trim(), "whole");
    assert_eq!(ours.all_containers().await, [""; 0], "nothing is left of it");
    ours.engine.clean(&ours.node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_end_with_the_platform_is_killed_and_removed() {
    let Some(mut ours) = Ours::start().await else { return };
    ours.deploy(&ending("", "1s")).await.ok();
    ours.platform.terminate().await;
    assert_eq!(ours.all_containers().await, [""; 0], "its time was over");
    ours.platform.start_again().await;
    ours.deploy(&ending("", "10m")).await.ok();
    let began = Instant::now();
    ours.interrupt_twice().await;
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(ours.all_containers().await, [""; 0], "nobody wanted to wait");
    ours.engine.clean(&ours.node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_to_a_volume_outlives_the_container() {
    let Some(ours) = Ours::start().await else { return };
    let manifest = format!("{MANIFEST}[[volumes]]\nname = \"words\"\npath = \"/data\"\n");
    ours.deploy(&manifest).await.ok();
    ours.asks("web", "keep=kept").await;
    assert_eq!(ours.asks("web", "").await, "kept");
    ours.deploy(&manifest.replace("one", "two")).await.ok();
    assert_eq!(ours.asks("web", "").await, "kept");
    ours.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_a_containers_volume_keeps_owners_modes_and_links() {
    let Some(ours) = Ours::start().await else { return };
    let platform = &ours.platform;
    ours.deploy(&format!("{MANIFEST}[[volumes]]\nname = \"words\"\npath = \"/data\"\n")).await.ok();
    ours.asks("web", "keep=kept").await;
    let volume = platform.wharf(&["volume", "ls", "--json"]).await.json::<Page<VolumeInfo>>().items.remove(0);
    let place = platform.data().join("worker/volumes").join(volume.id.to_string());
    let at = |name: &str| place.join(name);
    std::fs::create_dir(at("private")).unwrap();
    std::fs::write(at("private/key"), "secret").unwrap();
    std::os::unix::fs::symlink("private/key", at("link")).unwrap();
    for (name, mode) in [("private/key", 0o640), ("private", 0o710)] {
        chown(at(name), Some(1234), Some(5678)).unwrap();
        std::fs::set_permissions(at(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    lchown(at("link"), Some(1), Some(2)).unwrap();
    let seen = || {
        [".", "word", "private", "private/key", "link"].map(|name| {
            let found = std::fs::symlink_metadata(at(name)).unwrap();
            (name, found.mode(), found.uid(), found.gid(), found.mtime(), found.mtime_nsec())
        })
    };
    platform.wharf(&["stop", "web"]).await.ok();
    eventually(SHORT, "it has ended", async || ours.containers("web").await.is_empty().then_some(())).await;
    let before = seen();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("words.tar");
    let file = file.to_str().unwrap();
    platform.wharf(&["volume", "backup", "web/words", "-o", file]).await.ok();
    std::fs::remove_dir_all(at("private")).unwrap();
    std::fs::write(at("word"), "changed").unwrap();
    eventually(SHORT, "it is restored", async || {
        let restored = platform.wharf(&["volume", "restore", "web/words", file, "--yes"]).await;
        (restored.code == 0).then_some(())
    })
    .await;
    assert_eq!(seen(), before);
    platform.wharf(&["start", "web"]).await.ok();
    platform.serves_at("web", ANSWER).await;
    assert_eq!(ours.asks("web", "").await, "kept");
    ours.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_ends_while_its_worker_starts_again_is_not_said_to_have_ended_before() {
    let Some(mut ours) = Ours::start().await else { return };
    // It takes a while to end.
    let container = "[container]\nentrypoint = [\"sh\", \"-c\", \"trap 'sleep 4; exit 0' TERM; httpd -f -p 8000 -h /www & wait\"]\n";
    let manifest = MANIFEST.replace("[container]\n", container).replace("drain = \"2s\"", "drain = \"20s\"");
    ours.deploy(&manifest).await.ok();
    let stop = "/v1/namespaces/default/apps/web/stop";
    assert_eq!(ours.platform.api(Method::POST, stop, "").await.status, 200);
    ours.platform.kill().await;
    assert_eq!(ours.containers("web").await.len(), 1);
    ours.platform.start_again().await;
    eventually(SHORT, "no instance is left", async || {
        let app =
            ours.platform.api(Method::GET, "/v1/namespaces/default/apps/web", "").await.json::<AppInfo>();
        app.instances.iter().all(|instance| instance.state.is_final()).then_some(())
    })
    .await;
    assert!(ours.containers("web").await.is_empty(), "it is over when that is said");
    ours.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_has_few_rights_and_its_secrets_in_memory() {
    let Some(ours) = Ours::start().await else { return };
    ours.platform.user().run_with_input(&["secret", "set", "word"], "hush").await.ok();
    let manifest = format!(
        "{MANIFEST}[secrets]\nSECRET = \"word\"\n[[container.files]]\nfrom = \"SECRET\"\npath = \"/run/secrets/word\"\n"
    );
    let manifest = manifest.replace("[container]\n", "[container]\nuser = \"1000\"\nread_only = true\n");
    ours.deploy(&manifest).await.ok();
    assert_eq!(ours.asks("web", "id").await, "1000\nNoNewPrivs:\t1");
    assert_eq!(ours.asks("web", "secret").await, "hush");
    let [id] = &ours.containers("web").await[..] else { panic!("one") };
    let inspected = ours.engine.docker(&["inspect", id]).await;
    assert!(!inspected.contains("hush"), "the engine keeps its variables on a disk");
    ours.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_by_a_command_says_when_a_container_is_ill() {
    let Some(ours) = Ours::start().await else { return };
    let manifest = format!(
        "{MANIFEST}[container.health]\ncommand = [\"sh\", \"-c\", \"test ! -e /tmp/ill\"]\ninterval = \"200ms\"\nstart_period = \"0s\"\n"
    );
    ours.deploy(&manifest).await.ok();
    let before = ours.containers("web").await;
    ours.asks("web", "ill").await;
    eventually(SHORT, "it was replaced", async || {
        let now = ours.containers("web").await;
        (now.len() == 1 && now != before).then_some(())
    })
    .await;
    eventually(SHORT, "it is told why", async || {
        let events = ours.platform.api(Method::GET, "/v1/namespaces/default/apps/web/events", "").await;
        let events: wharf_types::api::Page<Event> = serde_json::from_slice(&events.body).unwrap();
        events.items.iter().any(|event| event.message.contains("health check failed 3 times")).then_some(())
    })
    .await;
    ours.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_a_namespace_reach_each_other_by_name_and_connections_reach_their_ports() {
    let Some(ours) = Ours::start().await else { return };
    ours.deploy(MANIFEST).await.ok();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let other = format!(
        "app = \"other\"\nimage = \"wharf-test/web:1\"\n[env]\nWORD = \"other\"\n[tcp]\nports = [{port}]\n[container]\nhttp_port = 8000\ntcp = {{ {port} = 8000 }}\n"
    );
    ours.deploy(&other).await.ok();
    assert_eq!(ours.asks("web", &format!("ask=other:8000{ANSWER}")).await, "other");
    let direct = wharf_tests::Client::new(&format!("http://127.0.0.1:{port}"));
    let reply = direct.get("other", ANSWER).await.unwrap();
    assert_eq!(reply.text().trim(), "other");
    ours.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_reaches_every_app_of_its_namespace_by_name_and_no_other() {
    let Some(ours) = Ours::start().await else { return };
    ours.deploy(MANIFEST).await.ok();
    ours.deploy(&MANIFEST.replace("\"web\"", "\"other\"").replace("one", "other")).await.ok();
    let hello = "app = \"hello\"\n[env]\nGREETING = \"from Wasm\"\n";
    ours.platform.deploy_manifest("hello", hello).await.ok();
    assert_eq!(ours.asks("web", "ask=hello.internal/").await, "from Wasm");
    assert_eq!(ours.asks("web", &format!("ask=other.internal{ANSWER}")).await, "other");
    assert_eq!(ours.asks("web", &format!("ask=other.internal:8000{ANSWER}")).await, "other");
    // Where there is nothing, nobody waits.
    let began = std::time::Instant::now();
    assert_eq!(ours.asks("web", "ask=nobody.internal/").await, "");
    assert_eq!(ours.asks("web", "ask=other.internal:8001/").await, "");
    assert!(began.elapsed() < SHORT / 2, "{:?}", began.elapsed());

    ours.platform.wharf(&["namespace", "create", "team"]).await.ok();
    ours.platform.wharf(&["quota", "set", "--containers", "isolated", "-n", "team"]).await.ok();
    let stranger = MANIFEST.replace("app = ", "namespace = \"team\"\napp = ").replace("\"web\"", "\"spy\"");
    ours.deploy(&stranger).await.ok();
    let asks = async |query: &str| {
        let path = format!("{ANSWER}?{query}");
        ours.platform.apps.get("spy.team.localhost", &path).await.unwrap().text().trim().to_owned()
    };
    assert_eq!(asks(&format!("ask=spy.internal{ANSWER}")).await, "one");
    assert_eq!(asks(&format!("ask=other.internal{ANSWER}")).await, "");
    assert_eq!(asks("ask=hello.internal/").await, "");

    let rules = async || {
        let listed = tokio::process::Command::new("iptables").args(["-w", "5", "-t", "nat", "-S"]).output();
        String::from_utf8(listed.await.unwrap().stdout).unwrap()
    };
    let node = ours.node.clone();
    assert!(rules().await.contains(&node));
    ours.end().await;
    assert!(!rules().await.contains(&node), "an end in order takes the rules along");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_without_a_way_out_is_asked_as_any_other() {
    let Some(ours) = Ours::start().await else { return };
    let inside = |networks: &str| {
        let networks = format!("[container]\nnetworks = {{ {networks} }}\ninternal_networks = [\"back\"]\n");
        MANIFEST.replace("[container]\n", &networks)
    };
    ours.deploy(&inside("back = [\"store\"]")).await.ok();
    let of_two = inside("back = [], front = []").replace("\"web\"", "\"other\"").replace("one", "other");
    ours.deploy(&of_two).await.ok();
    let hello = "app = \"hello\"\n[env]\nGREETING = \"from Wasm\"\n";
    ours.platform.deploy_manifest("hello", hello).await.ok();
    assert_eq!(ours.asks("web", "").await, "one");
    assert_eq!(ours.asks("other", "").await, "other");
    // By the names of the network, in both directions, and by those of the platform where there is a way to it.
    assert_eq!(ours.asks("web", &format!("ask=other:8000{ANSWER}")).await, "other");
    assert_eq!(ours.asks("other", &format!("ask=store:8000{ANSWER}")).await, "one");
    assert_eq!(ours.asks("other", &format!("ask=web.internal{ANSWER}")).await, "one");
    // Whatever route the engine has given it.
    assert_eq!(ours.asks("other", "ask=hello.internal/").await, "from Wasm");
    assert_eq!(ours.asks("web", "ask=hello.internal/").await, "");
    ours.deploy(&inside("front = []")).await.fails(6, &["`back` is none of `networks`"]);
    ours.end().await;
}

/// A host beside this one, as far as containers can tell.
struct Outside {
    name: String,
    address: String,
}

impl Outside {
    fn start() -> Self {
        let id = std::process::id();
        let [_, _, high, low] = id.to_be_bytes();
        let (name, network) = (format!("whe{id}"), format!("10.{}.{low}", 192 + high % 64));
        let outside = Self { name: name.clone(), address: format!("{network}.2") };
        let script = format!(
            "ip netns add {name}
             ip link add {name} type veth peer name eth0 netns {name}
             ip addr add {network}.1/24 dev {name}
             ip link set {name} up
             ip -n {name} addr add {network}.2/24 dev eth0
             ip -n {name} link set eth0 up
             ip -n {name} route add default via {network}.1"
        );
        let made = std::process::Command::new("sh").args(["-ec", &script]).status().unwrap();
        assert!(made.success(), "another host takes root and iproute2");
        outside
    }

    /// What comes in by the first connection to port 5001. It lasts for as long as the child's stdin is open.
    fn takes(&self) -> tokio::process::Child {
        let listens = ["netns", "exec", &self.name, "busybox", "nc", "-l", "-p", "5001"];
        let mut command = tokio::process::Command::new("ip");
        command.args(listens).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap()
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = std::process::Command::new("ip").args(["netns", "del", &self.name]).output();
        let _ = std::process::Command::new("ip").args(["link", "del", &self.name]).output();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_containers_send_leaves_their_node_no_faster_than_the_quota_of_their_namespace() {
    const RATE: u128 = 200_000;
    let Some(ours) = Ours::start().await else { return };
    ours.platform.wharf(&["quota", "set", "-n", "default", "--egress", "200KB"]).await.ok();
    ours.deploy(MANIFEST).await.ok();
    let rules = async || {
        let listed =
            tokio::process::Command::new("iptables").args(["-w", "5", "-t", "mangle", "-S"]).output();
        let listed = String::from_utf8(listed.await.unwrap().stdout).unwrap();
        listed.lines().filter(|line| line.contains(&ours.node)).count()
    };
    // One that drops and one that counts, at the namespace's network.
    eventually(SHORT, "the rules are there", async || (rules().await == 2).then_some(())).await;

    let outside = Outside::start();
    let mut taken = outside.takes();
    let container = &ours.containers("web").await[0];
    let sends = format!(
        "for try in 1 2 3 4 5; do cat /dev/zero | nc {} 5001 && break; sleep 1; done",
        outside.address
    );
    ours.engine.docker(&["exec", "-d", container, "sh", "-c", &sends]).await;
    let mut octets = taken.stdout.take().unwrap();
    let mut piece = vec![0; 64 << 10];
    within(SHORT, "the first octets", octets.read_exact(&mut piece[..1])).await.unwrap();
    let mut count_for = async |seconds: u64| {
        let until = tokio::time::Instant::now() + std::time::Duration::from_secs(seconds);
        let mut count = 0;
        while let Ok(read) = tokio::time::timeout_at(until, octets.read(&mut piece)).await {
            let length = read.unwrap();
            assert!(length > 0, "the connection has ended");
            count += length as u128;
        }
        count
    };
    // What leaves at once is of no interest.
    count_for(5).await;
    let count = count_for(10).await;
    assert!(count <= RATE * 10 * 5 / 4, "{count} octets in ten seconds");
    assert!(count >= RATE * 10 / 4, "{count} octets in ten seconds");

    // The same budget: an answer has to wait where the container has taken more than its part, and arrives all the same.
    assert_eq!(ours.asks("web", "").await, "one");
    ours.platform.wharf(&["quota", "set", "-n", "default", "--egress", "none"]).await.ok();
    eventually(SHORT, "the rules have gone", async || (rules().await == 0).then_some(())).await;
    drop(outside);
    ours.end().await;
}

/// Two workers beside one engine, each with networks and addresses of its own.
#[tokio::test(flavor = "multi_thread")]
async fn names_lead_to_apps_on_other_hosts_from_containers_and_from_guests() {
    let Some(engine) = DockerEngine::of_this_machine().await else { return };
    let mut cluster = Cluster::start(0).await;
    for side in ["side=a", "side=b"] {
        cluster.add_worker_here(&["--label", side, "--drain", "0s"]).await;
    }
    cluster.nodes_are("both are ready", |nodes| nodes.iter().filter(|node| node.ready).count() == 2).await;
    cluster.wharf(&["quota", "set", "--containers", "isolated", "-n", "default"]).await.ok();
    let on = |side: &str| format!("[placement]\nconstraints = [\"node.labels.side == {side}\"]\n");
    let deploy = async |app: &str, word: &str, side: &str, container: &str| {
        let folder = cluster.folder().join(format!("{app}-manifest"));
        std::fs::create_dir_all(&folder).unwrap();
        let manifest = MANIFEST.replace("\"web\"", &format!("\"{app}\"")).replace("one", word);
        let manifest = manifest.replace("[container]\n", &format!("[container]\n{container}"));
        std::fs::write(folder.join("wharf.toml"), format!("{manifest}{}", on(side))).unwrap();
        cluster.user_at(0).in_folder(&folder).run(&["deploy"]).await.ok();
    };
    let own = "networks = { both = [] }\n";
    deploy("front", "near", "a", own).await;
    deploy("web", "far", "b", "networks = { both = [\"store\"], back = [] }\n").await;
    deploy("hidden", "hidden", "b", "networks = { back = [] }\n").await;
    cluster.deploy("hello", "hello", &format!("{}[env]\nGREETING = \"from Wasm\"\n", on("b"))).await;

    let asks = async |of: &str| {
        let path = format!("{ANSWER}?ask={of}");
        let reply = cluster.hosts[0].apps.get("front.default.localhost", &path).await.ok()?;
        Some(reply.text().trim().to_owned())
    };
    let says = async |of: &str, what: &str| {
        let asked = async || asks(of).await.filter(|said| said == what);
        eventually(SHORT, &format!("{of} says {what}"), asked).await;
    };
    for name in ["web", "web.internal", "store", "store.internal"] {
        says(&format!("{name}:8000{ANSWER}"), "far").await;
    }
    says(&format!("web.internal{ANSWER}"), "far").await;
    says("hello.internal/", "from Wasm").await;
    says(&format!("front.internal{ANSWER}"), "near").await;
    assert_eq!(asks(&format!("hidden.internal:8000{ANSWER}")).await.unwrap(), "", "it is in another network");

    // Datagrams go the same way, from one port to several of theirs as well, and answers come back from where they were sent to.
    let container = async |host: usize, app: &str| {
        let node = cluster.hosts[host].node.to_string();
        engine.containers(&node, app).await.into_iter().next()
    };
    let one_of = async |app: &str| match container(0, app).await {
        Some(found) => found,
        None => container(1, app).await.expect("it runs on one of the two hosts"),
    };
    let (front, web) = (one_of("front").await, one_of("web").await);
    let near = engine.datagrams_in(&front, 0).await;
    let far = [engine.datagrams_in(&web, 8125).await, engine.datagrams_in(&web, 5514).await];
    let mut buffer = [0; 2000];
    for name in ["web.internal", "store.internal"] {
        let address = engine.resolves(&front, name).await.expect("it has an address");
        for (socket, port) in far.iter().zip([8125, 5514]) {
            let said = format!("{name}:{port}");
            near.send_to(said.as_bytes(), (address, port)).await.unwrap();
            let (length, from) = within(SHORT, "a datagram", socket.recv_from(&mut buffer)).await.unwrap();
            assert_eq!(String::from_utf8_lossy(&buffer[..length]), said);
            socket.send_to(b"heard", from).await.unwrap();
            let (length, from) = within(SHORT, "an answer", near.recv_from(&mut buffer)).await.unwrap();
            let to = std::net::SocketAddr::from((address, port));
            assert_eq!((&buffer[..length], from), (&b"heard"[..], to));
        }
    }

    // A guest on the other host than the container, by both of its names.
    for (guest, name) in [("guest", "web"), ("other-guest", "store.internal")] {
        let asking = format!(
            "args = [\"keep-asking\", \"{name}\", \"8000\", \"{ANSWER}\"]\n[outbound]\nallow = [\"tcp://{name}:8000\"]\n"
        );
        // Before the tables, because `args` belongs to none.
        let folder = cluster.folder().join(guest);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("wharf.toml"), format!("app = \"{guest}\"\n{asking}{}", on("a"))).unwrap();
        let artifact = wharf_tests::workspace::guest("conformance-command");
        let args = ["deploy", artifact.to_str().unwrap()];
        cluster.user_at(0).in_folder(&folder).run(&args).await.ok();
        eventually(SHORT, "the guest is answered by the container", async || {
            let said = cluster.wharf(&["logs", guest]).await.ok();
            (said.contains("200 OK") && said.contains("far")).then_some(())
        })
        .await;
    }

    // One that is gone is refused, and answers again when it is back.
    cluster.wharf(&["stop", "web"]).await.ok();
    let began = std::time::Instant::now();
    says(&format!("web.internal:8000{ANSWER}"), "").await;
    assert!(began.elapsed() < SHORT / 2, "{:?}", began.elapsed());
    cluster.wharf(&["start", "web"]).await.ok();
    says(&format!("web.internal:8000{ANSWER}"), "far").await;

    let nodes: Vec<String> = cluster.hosts.iter().map(|host| host.node.to_string()).collect();
    for app in ["front", "web", "hidden"] {
        cluster.wharf(&["delete", app, "--yes"]).await.ok();
    }
    for host in &mut cluster.hosts {
        host.stop().await;
    }
    for node in nodes {
        engine.clean(&node).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_runs_no_containers_until_an_admin_allows_it() {
    let Some(ours) = Ours::start().await else { return };
    ours.platform.wharf(&["namespace", "create", "team"]).await.ok();
    let manifest = MANIFEST.replace("app = ", "namespace = \"team\"\napp = ");
    ours.deploy(&manifest)
        .await
        .fails(4, &["may not run containers", "wharf quota set --containers isolated -n team"]);
    ours.platform.wharf(&["quota", "set", "--containers", "isolated", "-n", "team"]).await.ok();
    ours.deploy(&manifest).await.ok();
    let privileged = manifest.replace("[container]\n", "[container]\nprivileged = true\n");
    ours.deploy(&privileged).await.fails(4, &["container.privileged", "--containers node -n team"]);
    ours.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_run_is_refused_or_fails_with_its_reason() {
    let Some(ours) = Ours::start().await else { return };
    let missing = MANIFEST.replace("wharf-test/web:1", "localhost:1/nobody/has:this");
    ours.deploy(&missing).await.fails(1, &["localhost:1"]);
    let absent = MANIFEST.replace("[container]\n", "args = []\n[container]\nentrypoint = [\"/not/there\"]\n");
    ours.deploy(&absent.replace("args = []\n", "")).await.fails(5, &["/not/there"]);
    let began = Instant::now();
    let nobody = MANIFEST.replace("[container]\n", "[container]\nuser = \"nosuchuser\"\n");
    ours.deploy(&nobody).await.fails(5, &["nosuchuser", "`container.user`"]);
    assert!(began.elapsed() < Duration::from_secs(20), "it is not tried again: {:?}", began.elapsed());
    let wasm = "app = \"hello\"\n[container]\nhttp_port = 80\n";
    ours.platform.deploy_manifest("hello", wasm).await.fails(6, &["container: is for images"]);
    ours.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_of_docker_save_needs_no_registry() {
    let Some(ours) = Ours::start().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("saved.tar");
    ours.engine.docker(&["save", "-o", archive.to_str().unwrap(), WEB]).await;
    std::fs::write(folder.path().join("wharf.toml"), MANIFEST.replace("image = \"wharf-test/web:1\"\n", ""))
        .unwrap();
    let user = ours.platform.user().in_folder(folder.path());
    user.run(&["deploy", "--image-archive", "saved.tar"]).await.ok();
    assert_eq!(ours.asks("web", "").await, "one");
    std::fs::write(&archive, b"no archive at all").unwrap();
    user.run(&["deploy", "--image-archive", "saved.tar"]).await.fails(6, &["docker save"]);
    ours.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_port_that_an_image_exposes_answers_http_where_nobody_says_another() {
    let Some(ours) = Ours::start().await else { return };
    let image = "wharf-test/exposed:1";
    let made = ours.engine.docker(&["create", WEB]).await;
    ours.engine.docker(&["commit", "-c", "EXPOSE 8000", &made, image]).await;
    ours.engine.docker(&["rm", &made]).await;
    let folder = tempfile::tempdir().unwrap();
    let user = ours.platform.user().in_folder(folder.path());
    let deployed = user.run(&["deploy", "--image", image, "--app", "web", "-e", "WORD=one"]).await;
    assert!(deployed.stderr.contains("port 8000 answers HTTP"), "{}", deployed.stderr);
    assert_eq!(ours.asks("web", "").await, "one");
    // What was taken once stays, and is not told again.
    let again = user.run(&["deploy", "--image", image, "--app", "web", "-e", "WORD=two"]).await;
    assert!(!again.stderr.contains("note:"), "{}", again.stderr);
    assert_eq!(ours.asks("web", "").await, "two");

    let archive = folder.path().join("saved.tar");
    ours.engine.docker(&["save", "-o", archive.to_str().unwrap(), image]).await;
    let packed = std::process::Command::new("gzip").arg(&archive).status().unwrap();
    assert!(packed.success());
    let deployed = user.run(&["deploy", "--image-archive", "saved.tar.gz", "--app", "packed"]).await;
    assert!(deployed.stderr.contains("port 8000 answers HTTP"), "{}", deployed.stderr);
    ours.platform.serves_at("packed", ANSWER).await;
    // Of one that exposes nothing it is told that nobody gets to it.
    let silent = user.run(&["deploy", "--image", WEB, "--app", "silent"]).await;
    assert!(silent.stderr.contains("gets no requests"), "{}", silent.stderr);
    assert!(silent.stderr.contains("`[container] http_port`"), "{}", silent.stderr);
    ours.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_registry_is_opened_by_a_secret_that_the_container_does_not_see() {
    let Some(ours) = Ours::start().await else { return };
    let registry = PrivateRegistry::start().await;
    let image = ours.engine.push_web(&registry).await;
    let closed = MANIFEST.replace(WEB, &image);
    ours.deploy(&closed).await.fails(6, &["without the right credentials", "`container.registry_login`"]);
    let open = closed.replace(
        "[container]\n",
        "[secrets]\nLOGIN = \"registry\"\n[container]\nregistry_login = \"LOGIN\"\n",
    );
    ours.deploy(&open).await.fails(3, &["`registry`"]);
    let set = async |value: &str| {
        ours.platform.user().run_with_input(&["secret", "set", "registry"], value).await.ok();
    };
    set("hush").await;
    ours.deploy(&open).await.fails(6, &["USER:PASSWORD"]);
    set(&format!("{}:{}\n", PrivateRegistry::USER, PrivateRegistry::PASSWORD)).await;
    ours.deploy(&open).await.ok();
    assert_eq!(ours.asks("web", "").await, "one");
    let [container] = &ours.containers("web").await[..] else { panic!("one container") };
    let given = ours.engine.docker(&["inspect", "--format", "{{.Config.Env}}", container]).await;
    assert!(given.contains("WORD=one") && !given.contains("LOGIN") && !given.contains("hush"), "{given}");
    // Without a manifest, the app is asked which secret it is.
    ours.platform.wharf(&["deploy", "--image", &image, "--app", "web"]).await.ok();
    ours.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_runs_in_a_container_with_both_streams_its_stdin_and_its_exit_code() {
    let Some(ours) = Ours::start().await else { return };
    ours.deploy(MANIFEST).await.ok();
    let platform = &ours.platform;
    let ran = platform.wharf(&["exec", "web", "--", "sh", "-c", "echo out; echo err >&2; exit 3"]).await;
    assert_eq!((ran.code, &ran.stdout[..], &ran.stderr[..]), (3, "out\n", "err\n"));

    // More than all the buffers on the way have room for.
    let text = format!("{}\n", "a line of some length\n".repeat(200_000));
    let copied = platform.user().run_with_input(&["exec", "-i", "web", "--", "cat"], &text).await.ok();
    assert!(copied == text, "{} of {} octets came back", copied.len(), text.len());

    let flags = ["exec", "--app", "web", "-e", "A=b", "--workdir", "/www", "--user", "1000", "--"];
    let said = platform.wharf(&[&flags[..], &["sh", "-c", "echo $A $PWD $WORD; id -u"]].concat()).await.ok();
    assert_eq!(said, "b /www one\n1000\n");
    let said = platform.wharf(&["exec", "-t", "web", "--", "sh", "-c", "test -t 1 && echo yes"]).await.ok();
    assert_eq!(said, "yes\r\n");
    let missing = platform.wharf(&["exec", "web", "--", "/not/there"]).await;
    assert!(matches!(missing.code, 126 | 127), "{missing:?}");
    ours.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_refused_where_it_cannot_run_or_may_not() {
    let Some(ours) = Ours::start().await else { return };
    ours.deploy(MANIFEST).await.ok();
    let platform = &ours.platform;
    platform.wharf(&["exec", "web", "--slot", "2", "--", "id"]).await.fails(3, &["no slot 2", "it has 1"]);
    let looker = ["token", "create", "looker", "--role", "viewer", "--json"];
    let looker = platform.wharf(&looker).await.json::<CreatedToken>().secret;
    let viewer = platform.user().env("WHARF_TOKEN", &looker);
    viewer.run(&["exec", "web", "--", "id"]).await.fails(4, &["role `developer`"]);
    platform.deploy("hello", "hello", &[]).await;
    platform
        .wharf(&["exec", "hello", "--", "sh"])
        .await
        .fails(6, &["`hello` is a WebAssembly app", "wharf job run --app hello"]);
    platform.wharf(&["stop", "web"]).await.ok();
    platform.wharf(&["exec", "web", "--", "id"]).await.fails(7, &["is stopped", "wharf start web"]);
    platform.wharf(&["exec", "none", "--", "id"]).await.fails(3, &["no app `none`"]);
    ours.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_copied_into_a_container_and_out_of_it() {
    let Some(ours) = Ours::start().await else { return };
    ours.deploy(MANIFEST).await.ok();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let user = ours.platform.user().in_folder(folder.path());
    let in_container =
        async |line: &str| ours.platform.wharf(&["exec", "web", "--", "sh", "-c", line]).await.ok();
    std::fs::write(at("new"), "copied\n").unwrap();
    user.run(&["cp", "new", "web:/data/word"]).await.ok();
    assert_eq!(ours.asks("web", "").await, "copied");
    let said = user.run(&["cp", "--owner", "1000:100", "new", "web.1:/data/"]).await.ok();
    assert!(said.contains("copied new to web.1:/data/"), "{said}");
    assert_eq!(in_container("busybox stat -c %u:%g /data/new").await, "1000:100\n");

    // A folder with a program, there and back, by its own name and by another.
    user.run(&["cp", "web:/www", "."]).await.ok();
    assert_eq!(std::fs::metadata(at("www/cgi-bin/answer")).unwrap().permissions().mode() & 0o777, 0o755);
    user.run(&["cp", "www", "web:/copy"]).await.ok();
    assert_eq!(in_container("test -x /copy/cgi-bin/answer && echo yes").await, "yes\n");

    // More than all the buffers on the way have room for, and links that stay links.
    let large = "a line of some length\n".repeat(400_000);
    std::fs::create_dir(at("large")).unwrap();
    std::fs::write(at("large/text"), &large).unwrap();
    std::os::unix::fs::symlink("text", at("large/link")).unwrap();
    std::os::unix::fs::symlink("/etc", at("large/out")).unwrap();
    user.run(&["cp", "large", "web:/tmp"]).await.ok();
    let back = user.run(&["cp", "web:/tmp/large", "back"]).await;
    assert!(back.code == 0 && back.stderr.contains("leads out of what is copied"), "{back:?}");
    assert!(std::fs::read_to_string(at("back/text")).unwrap() == large);
    assert_eq!(std::fs::read_link(at("back/link")).unwrap().to_str(), Some("text"));
    assert!(std::fs::symlink_metadata(at("back/out")).is_err());

    // An archive of text is text itself.
    let archive = user.run(&["cp", "web:/data/new", "-"]).await.ok();
    user.run_with_input(&["cp", "-", "web:/tmp/"], &archive).await.ok();
    assert_eq!(in_container("cat /tmp/new").await, "copied\n");
    ours.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_refused_where_there_is_nothing_to_copy_or_who_may_not() {
    let Some(ours) = Ours::start().await else { return };
    ours.deploy(MANIFEST).await.ok();
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("some")).unwrap();
    let user = ours.platform.user().in_folder(folder.path());
    let tries = async |from: &str, to: &str| user.run(&["cp", from, to]).await;
    tries("web:/none", ".").await.fails(3, &["there is nothing at /none"]);
    tries("some", "web:/none/").await.fails(3, &["there is no folder /none"]);
    tries("some", "web:/www/cgi-bin/answer").await.fails(7, &["is a file in the container"]);
    tries("some", "web:/none/some").await.fails(3, &["could not copy into the container"]);
    tries("web.2:/www", ".").await.fails(3, &["no slot 2"]);
    tries("none:/www", ".").await.fails(3, &["no app `none`"]);
    tries("missing", "web:/").await.fails(6, &["missing"]);
    tries("some", "other").await.fails(2, &["APP:PATH"]);
    tries("web:/a", "web:/b").await.fails(2, &["through a pipe"]);
    tries("web:a", ".").await.fails(2, &["begin with `/`"]);
    let cut_off = user.run_with_input(&["cp", "-", "web:/tmp/"], "this is no archive").await;
    assert_ne!(cut_off.code, 0, "{cut_off:?}");
    let looker = ["token", "create", "looker", "--role", "viewer", "--json"];
    let looker = ours.platform.wharf(&looker).await.json::<CreatedToken>().secret;
    let viewer = user.clone().env("WHARF_TOKEN", &looker);
    viewer.run(&["cp", "web:/www", "."]).await.fails(4, &["role `developer`"]);
    ours.platform.deploy("hello", "hello", &[]).await;
    tries("hello:/www", ".").await.fails(6, &["`hello` is a WebAssembly app", "wharf volume backup"]);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing has come");
    ours.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_ends_with_the_client_that_wanted_it() {
    let Some(ours) = Ours::start().await else { return };
    ours.deploy(MANIFEST).await.ok();
    let [id] = &ours.containers("web").await[..] else { panic!("one") };
    let runs = async || ours.engine.docker(&["top", id]).await.contains("sleep 1234");
    let mut command = ours.platform.user().command(&["exec", "web", "--", "sleep", "1234"]);
    let mut client =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    eventually(SHORT, "it runs", async || runs().await.then_some(())).await;
    client.kill().await.unwrap();
    eventually(SHORT, "it was killed", async || (!runs().await).then_some(())).await;
    ours.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_upgraded_to_a_container_and_ends_with_either_side() {
    let Some(ours) = Ours::start().await else { return };
    ours.deploy(ECHO).await.ok();
    let door = ours.platform.ready.http.trim_start_matches("http://").trim_end_matches('/').to_owned();
    assert_eq!(ours.platform.text("echo", "/").await, "plain");

    // More than all the buffers on the way have room for, until both sides have ended.
    let stream = goes_over(&door).await;
    let text = "a line of some length\n".repeat(100_000);
    let (mut reader, mut writer) = stream.into_split();
    let sent = text.clone();
    let sends = tokio::spawn(async move {
        writer.write_all(sent.as_bytes()).await.unwrap();
        writer.shutdown().await.unwrap();
    });
    let mut heard = String::new();
    within(SHORT, "all of it and an end", reader.read_to_string(&mut heard)).await.unwrap();
    sends.await.unwrap();
    assert!(heard == text, "{} of {} octets came back", heard.len(), text.len());

    // One that is open takes the only place, until its client leaves.
    let open = goes_over(&door).await;
    let reply = ours.platform.get("echo", "/").await.unwrap();
    assert_eq!(reply.status, 503);
    assert_eq!(reply.headers["x-wharf-error"], "busy");
    drop(open);
    eventually(SHORT, "the place is free", async || {
        (ours.platform.get("echo", "/").await.ok()?.status == 200).then_some(())
    })
    .await;

    // One that the stop of its app meets has the time of `stop.drain`, and no more.
    let mut open = goes_over(&door).await;
    ours.platform.wharf(&["stop", "echo"]).await.ok();
    let _ = within(SHORT, "the end", open.read_to_end(&mut Vec::new())).await;
    eventually(SHORT, "the container is gone", async || {
        ours.containers("echo").await.is_empty().then_some(())
    })
    .await;

    // A guest gets a plain request.
    ours.platform.deploy("hello", "hello", &[]).await;
    let (_, head) = asks_to_go_over(&door, "hello").await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    ours.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_upgraded_to_a_container_of_another_host() {
    let Some(engine) = DockerEngine::of_this_machine().await else { return };
    let cluster = Cluster::start(2).await;
    cluster.wharf(&["quota", "set", "--containers", "isolated", "-n", "default"]).await.ok();
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("saved.tar");
    engine.docker(&["save", "-o", archive.to_str().unwrap(), WEB]).await;
    std::fs::write(folder.path().join("wharf.toml"), ECHO.replace("image = \"wharf-test/web:1\"\n", ""))
        .unwrap();
    let user = cluster.user_at(0).in_folder(folder.path());
    user.run(&["deploy", "--image-archive", "saved.tar"]).await.ok();
    for host in 0..2 {
        eventually(SHORT, "the host knows the app", async || {
            (cluster.text(host, "echo", "/").await == "plain").then_some(())
        })
        .await;
        // At one of the two it is on another host.
        let mut open = goes_over(&format!("{}:8080", cluster.hosts[host].address)).await;
        open.shutdown().await.unwrap();
        let ended = within(SHORT, "the end", open.read_to_end(&mut Vec::new())).await;
        assert_eq!(ended.unwrap(), 0);
    }
    cluster.wharf(&["delete", "echo", "--yes"]).await.ok();
    for host in &cluster.hosts {
        let node = host.node.to_string();
        eventually(SHORT, "no container is left", async || {
            engine.containers(&node, "echo").await.is_empty().then_some(())
        })
        .await;
        engine.clean(&node).await;
    }
}
