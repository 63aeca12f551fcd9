//! Whoever comes to the ports of a cluster and is none of it: refused, with a reason where there is somebody to tell, and nothing else is disturbed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use wharf_tests::{Cluster, Load, SHORT, eventually, within};
use wharf_types::Timestamp;
use wharf_types::api::{AppInfo, JoinTokenInfo, Page};

/// What a stranger sends at most before the other side has to have hung up.
const FLOOD_MAX: usize = 64 << 20;

/// An app on both hosts, with a load on it at each.
async fn served() -> (Cluster, Vec<Load>) {
    let cluster = Cluster::start(2).await;
    cluster.deploy("hello", "hello", "[scale]\nreplicas = 2\n").await;
    cluster.app_is("hello", "both serve", |app| app.ready == 2).await;
    let loads = (0..2).map(|host| cluster.load(host, "hello", "/")).collect();
    (cluster, loads)
}

async fn nobody_was_disturbed(cluster: &Cluster, loads: Vec<Load>) {
    for mut load in loads {
        load.go_on_for(50).await;
        let served = load.stop().await;
        assert_eq!(served.failures, Vec::<String>::new(), "of {} requests", served.requests);
    }
    let nodes = cluster.nodes().await;
    assert!(nodes.len() == 2 && nodes.iter().all(|node| node.ready), "{nodes:?}");
}

/// Where workers come, and where other front doors do.
async fn inner_doors(cluster: &Cluster) -> Vec<SocketAddr> {
    let token = cluster.join_token(&[]).await;
    let (_, workers) = token.rsplit_once('@').unwrap();
    vec![workers.parse().unwrap(), (cluster.hosts[0].address, 7072).into()]
}

#[tokio::test]
async fn a_worker_of_another_cluster_is_refused_and_both_logs_say_why() {
    let (cluster, loads) = served().await;
    let other = Cluster::start(1).await;
    let folder = cluster.folder().join("foreign");
    let copied = std::process::Command::new("cp").arg("-a").args([other.hosts[0].folder(), &folder]).status();
    assert!(copied.unwrap().success());
    // It comes here with what it is there.
    let identity = folder.join("node.json");
    let mut known: Value = serde_json::from_slice(&std::fs::read(&identity).unwrap()).unwrap();
    known["servers"] = inner_doors(&cluster).await[0].to_string().into();
    known.as_object_mut().unwrap().remove("known");
    std::fs::write(&identity, known.to_string()).unwrap();
    let flags = ["--http", "127.0.0.1:0", "--peers", "127.0.0.1:0"];
    let log = cluster.folder().join("foreign.log");
    let mut command = cluster.hosts[0].command(&cluster.user(), &folder, &flags);
    command.stdout(Stdio::null()).stderr(std::fs::File::create(&log).unwrap());
    let mut foreign = command.spawn().unwrap();
    eventually(SHORT, "the worker says why", async || {
        let said = std::fs::read_to_string(&log).unwrap();
        (said.contains("certificate") && said.contains("trying again")).then_some(())
    })
    .await;
    eventually(SHORT, "the control plane says why", async || {
        cluster.server_log(0).contains("was refused as a worker").then_some(())
    })
    .await;
    nobody_was_disturbed(&cluster, loads).await;
    foreign.kill().await.unwrap();
}

#[tokio::test]
async fn a_worker_that_is_told_of_servers_that_are_none_goes_on_with_those_that_it_knew() {
    let mut cluster = Cluster::start(1).await;
    cluster.deploy("hello", "hello", "").await;
    let join = cluster.join_token(&[]).await;
    let (wrong, _) = join.rsplit_once(':').unwrap();
    let wrong = format!("{wrong}:9");
    // The second start knows nothing but what the first one has kept.
    for (replicas, flags) in [("2", &["--join", wrong.as_str()][..]), ("3", &[][..])] {
        let node = cluster.hosts[0].node;
        cluster.hosts[0].kill().await;
        cluster.start_again_with(0, flags).await;
        assert_eq!(cluster.hosts[0].node, node);
        cluster.wharf(&["scale", "hello", replicas]).await.ok();
        let is_carried_out = |app: &AppInfo| app.ready.to_string() == replicas;
        cluster.app_is("hello", "the worker does what is wanted", is_carried_out).await;
    }
    assert!(cluster.hosts[0].log().contains("none of the servers that --join names answers"));
}

#[tokio::test]
async fn a_host_whose_token_has_expired_is_refused_and_both_logs_say_why() {
    let (cluster, loads) = served().await;
    let token = cluster.join_token(&["--expires-in", "1s"]).await;
    let expired_at = eventually(SHORT, "the token has expired", async || {
        let listed: Page<JoinTokenInfo> = cluster.wharf(&["node", "token", "ls", "--json"]).await.json();
        // Those of the hosts last an hour.
        let first = listed.items.iter().map(|token| token.expires_at).min().unwrap();
        (first <= Timestamp::now()).then_some(first)
    })
    .await;
    let folder = cluster.folder().join("late");
    let flags = ["--http", "127.0.0.1:0", "--peers", "127.0.0.1:0", "--join", &token];
    let mut late = cluster.hosts[0].command(&cluster.user(), &folder, &flags);
    let ended = within(SHORT, "it is refused", late.output()).await.unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(!ended.status.success(), "{said}");
    let reason = format!("the join token expired at {expired_at}");
    assert!(said.contains(&reason) && said.contains("`wharf node token create` makes another"), "{said}");
    let log = cluster.server_log(0);
    assert!(log.contains(&format!("a host that wants to join was refused: {reason}")), "{log}");
    assert!(!folder.join("node.json").exists(), "it is a node of no cluster");
    nobody_was_disturbed(&cluster, loads).await;
}

#[tokio::test]
async fn nonsense_at_the_inner_doors_is_cut_off_and_disturbs_nobody() {
    let (cluster, loads) = served().await;
    for door in inner_doors(&cluster).await {
        // Half a message, after which nothing comes; another protocol; and noise.
        for said in
            [&b"\x16\x03\x01\x02\x00\x01\x00"[..], b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", &[0xff; 4096]]
        {
            let mut stranger = TcpStream::connect(door).await.unwrap();
            // What is no TLS may be cut off before all of it has gone.
            let _ = stranger.write_all(said).await;
            let mut rest = Vec::new();
            let _ = within(SHORT, "it is cut off", stranger.read_to_end(&mut rest)).await;
        }
        let mut flood = TcpStream::connect(door).await.unwrap();
        let chunk = vec![0x17; 64 << 10];
        let endless = async {
            let mut sent = 0;
            while sent < FLOOD_MAX && flood.write_all(&chunk).await.is_ok() {
                sent += chunk.len();
            }
            sent
        };
        let sent = within(SHORT, "the flood is cut off", endless).await;
        assert!(sent < FLOOD_MAX, "{door} has taken {sent} octets of nothing");
    }
    nobody_was_disturbed(&cluster, loads).await;
}
