//! Several hosts: any front door answers for any app, and what happens when hosts are drained, die, are cut off, or lose the control plane.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::{Duration, Instant};

use wharf_tests::{Cluster, SHORT, eventually, within};
use wharf_types::api::{AppInfo, NodeInfo};
use wharf_types::{InstanceId, NodeId};

/// For a second worker on a host.
const ELSEWHERE: [&str; 4] = ["--http", "127.0.0.1:0", "--peers", "127.0.0.1:0"];

fn ready_on(app: &AppInfo) -> BTreeSet<NodeId> {
    app.instances.iter().filter(|it| !it.state.is_final()).filter_map(|it| it.node).collect()
}

fn live(app: &AppInfo) -> BTreeSet<InstanceId> {
    app.instances.iter().filter(|it| !it.state.is_final()).map(|it| it.id).collect()
}

#[tokio::test]
async fn any_front_door_answers_for_an_app_on_another_host_and_knows_its_client() {
    let cluster = Cluster::start(3).await;
    cluster.deploy("stream", "stream", "").await;
    let on = ready_on(&cluster.app("stream").await);
    assert_eq!(on.len(), 1, "one instance is on one host");
    let client = cluster.hosts[0].address.octets();
    let client = format!("{}.{}.{}.1", client[0], client[1], client[2]);
    for host in 0..3 {
        let seen = eventually(SHORT, "the front door knows the app", async || {
            let reply = cluster.hosts[host].apps.get("stream.default.localhost", "/headers").await.ok()?;
            (reply.status == 200).then(|| reply.text())
        })
        .await;
        assert!(seen.contains(&format!("x-forwarded-for: {client}\n")), "host {host}: {seen}");
    }
}

#[tokio::test]
async fn a_host_is_drained_without_a_failed_request_also_of_an_app_with_one_instance() {
    let cluster = Cluster::start(2).await;
    cluster.deploy("hello", "one", "").await;
    cluster.deploy("hello", "two", "[scale]\nreplicas = 2\n").await;
    let from = *ready_on(&cluster.app("one").await).first().unwrap();
    let mut loads =
        [(0, "one"), (1, "one"), (0, "two"), (1, "two")].map(|(host, app)| cluster.load(host, app, "/"));
    for load in &mut loads {
        load.go_on_for(20).await;
    }
    cluster.wharf(&["node", "drain", &from.to_string()]).await.ok();
    for load in &mut loads {
        load.go_on_for(20).await;
    }
    let mut requests = 0;
    for (load, what) in loads.into_iter().zip(["one at 0", "one at 1", "two at 0", "two at 1"]) {
        let served = load.stop().await;
        assert_eq!(served.failures, Vec::<String>::new(), "{what}, of {} requests", served.requests);
        requests += served.requests;
    }
    println!("{requests} requests, none of which failed");
    for app in ["one", "two"] {
        assert!(!ready_on(&cluster.app(app).await).contains(&from), "{app}");
        let events = cluster.wharf(&["events", app]).await.ok();
        assert!(events.contains("instance.moved") && events.contains("which is being drained"), "{events}");
    }
    let events = cluster.wharf(&["node", "events"]).await.ok();
    assert!(events.contains("node.draining"), "{events}");
    cluster.wharf(&["node", "resume", &from.to_string()]).await.ok();
    cluster.wharf(&["scale", "two", "4"]).await.ok();
    cluster.app_is("two", "the host takes instances again", |app| ready_on(app).contains(&from)).await;
}

#[tokio::test]
async fn a_global_app_follows_the_hosts_without_a_failed_request() {
    let mut cluster = Cluster::start(2).await;
    cluster.deploy("hello", "hello", "[scale]\nreplicas = \"global\"\n").await;
    let has = |hosts: u32| {
        move |app: &AppInfo| {
            app.global
                && (app.ready, app.replicas) == (hosts, hosts)
                && ready_on(app).len() == hosts as usize
                && live(app).len() == hosts as usize
        }
    };
    cluster.app_is("hello", "both hosts have one", has(2)).await;
    let mut loads = [cluster.load(0, "hello", "/"), cluster.load(1, "hello", "/")];
    for load in &mut loads {
        load.go_on_for(20).await;
    }
    let joined = cluster.add_host().await.node;
    let three = cluster.app_is("hello", "the one that joins gets one", has(3)).await;
    assert!(ready_on(&three).contains(&joined), "{three:?}");

    let drained = cluster.hosts[1].node;
    cluster.wharf(&["node", "drain", &drained.to_string()]).await.ok();
    let two = cluster.app_is("hello", "the drained one has lost its own", has(2)).await;
    assert!(!ready_on(&two).contains(&drained), "{two:?}");
    for load in &mut loads {
        load.go_on_for(20).await;
    }
    cluster.wharf(&["node", "resume", &drained.to_string()]).await.ok();
    cluster.app_is("hello", "it gets one again", has(3)).await;
    for load in &mut loads {
        load.go_on_for(20).await;
    }
    for load in loads {
        let served = load.stop().await;
        assert_eq!(served.failures, Vec::<String>::new(), "of {} requests", served.requests);
    }

    let status = cluster.wharf(&["status", "hello"]).await;
    assert!(status.ok().contains("3/3 global"));
    let refused = cluster.wharf(&["scale", "hello", "2"]).await;
    assert!(refused.stderr.contains("`placement.constraints`"), "{}", refused.stderr);
    cluster.wharf(&["node", "label", &joined.to_string(), "edge=yes"]).await.ok();
    let constrained =
        "[scale]\nreplicas = \"global\"\n[placement]\nconstraints = [\"node.labels.edge == yes\"]\n";
    cluster.deploy("hello", "hello", constrained).await;
    let one = cluster.app_is("hello", "only what has the label is left", has(1)).await;
    assert!(ready_on(&one).contains(&joined), "{one:?}");
    cluster.wharf(&["node", "label", &drained.to_string(), "edge=yes"]).await.ok();
    cluster.app_is("hello", "another label brings it another", has(2)).await;
}

#[tokio::test]
async fn a_guest_calls_an_app_of_other_hosts_by_its_name_also_when_one_of_them_dies() {
    let mut cluster = Cluster::start(3).await;
    let first = cluster.hosts[0].node;
    let at = |condition: &str| format!("[placement]\nconstraints = [\"node.id {condition} {first}\"]\n");
    let grant = "[outbound]\nallow = [\"http://hello.internal\"]\n";
    cluster.deploy("stream", "fetcher", &format!("{}{grant}", at("=="))).await;
    cluster.deploy("hello", "hello", &format!("{}[scale]\nreplicas = 2\n", at("!="))).await;
    let both = cluster.app_is("hello", "both others have one", |app| ready_on(app).len() == 2).await;
    assert!(!ready_on(&both).contains(&first), "the guest has no neighbour on its own host");
    let called =
        async |cluster: &Cluster| cluster.text(0, "fetcher", "/fetch?url=http://hello.internal/").await;
    eventually(SHORT, "the host knows of the others", async || {
        (called(&cluster).await == "Hello from WASI 0.2\n").then_some(())
    })
    .await;
    for _ in 0..20 {
        assert_eq!(called(&cluster).await, "Hello from WASI 0.2\n");
    }
    let answered = async |cluster: &Cluster, path: &str| {
        let there = cluster.hosts[0].apps.get("fetcher.default.localhost", path).await.unwrap();
        (there.status.as_u16(), there.text())
    };
    let (status, text) = answered(&cluster, "/fetch?url=http://other.internal/").await;
    assert_ne!(status, 200, "{text}");
    cluster.hosts[1].dies().await;
    eventually(SHORT, "the one that is left answers each call", async || {
        for _ in 0..20 {
            if called(&cluster).await != "Hello from WASI 0.2\n" {
                return None;
            }
        }
        Some(())
    })
    .await;
}

#[tokio::test]
async fn a_host_that_dies_costs_the_requests_on_it_and_no_other() {
    let mut cluster = Cluster::start(3).await;
    cluster.deploy("hello", "hello", "[scale]\nreplicas = 6\n").await;
    cluster.app_is("hello", "every host has two", |app| ready_on(app).len() == 3 && app.ready == 6).await;
    let mut loads = [cluster.load(0, "hello", "/"), cluster.load(1, "hello", "/")];
    for load in &mut loads {
        load.go_on_for(50).await;
    }
    let dead = cluster.hosts[2].node;
    cluster.hosts[2].dies().await;
    cluster
        .app_is("hello", "its instances are elsewhere", |app| {
            app.ready == 6 && live(app).len() == 6 && !ready_on(app).contains(&dead)
        })
        .await;
    for load in &mut loads {
        load.go_on_for(50).await;
    }
    for load in loads {
        let served = load.stop().await;
        // One request after the other: one may have been on its way.
        assert!(served.failures.len() <= 1, "{:?} of {} requests", served.failures, served.requests);
    }
    cluster.wharf(&["node", "rm", &dead.to_string()]).await.ok();
    assert_eq!(cluster.nodes().await.len(), 2);
}

#[tokio::test]
async fn without_a_control_plane_everything_goes_on() {
    let mut cluster = Cluster::start(2).await;
    cluster.deploy("hello", "hello", "[scale]\nreplicas = 2\n").await;
    let before = cluster.app_is("hello", "it is on both hosts", |app| ready_on(app).len() == 2).await;
    let mut loads = [cluster.load(0, "hello", "/"), cluster.load(1, "hello", "/")];
    cluster.kill_server(0).await;
    for load in &mut loads {
        load.go_on_for(300).await;
    }
    cluster.start_server(0).await;
    cluster.nodes_are("both are back", |nodes| nodes.iter().all(|node| node.ready)).await;
    for load in &mut loads {
        load.go_on_for(50).await;
    }
    for load in loads {
        let served = load.stop().await;
        assert_eq!(served.failures, Vec::<String>::new(), "of {} requests", served.requests);
    }
    assert_eq!(live(&cluster.app("hello").await), live(&before), "nothing was started anew");
}

#[tokio::test]
async fn a_host_that_was_cut_off_comes_back_and_lets_go_of_what_others_have_taken_over() {
    let cluster = Cluster::start(2).await;
    cluster.deploy("hello", "hello", "[scale]\nreplicas = 2\n").await;
    let before = cluster.app_is("hello", "it is on both hosts", |app| ready_on(app).len() == 2).await;
    let (cut, other) = (cluster.hosts[1].node, cluster.hosts[0].node);
    let mut load = cluster.load(0, "hello", "/");
    load.go_on_for(20).await;
    cluster.hosts[1].is_cut_off();
    cluster
        .app_is("hello", "both instances are on the other host", |app| {
            app.ready == 2 && ready_on(app) == BTreeSet::from([other])
        })
        .await;
    cluster.hosts[1].is_connected();
    cluster.nodes_are("it is back", |nodes| nodes.iter().any(|node| node.id == cut && node.ready)).await;
    let after = cluster
        .app_is("hello", "the host has its share again", |app| {
            app.ready == 2 && live(app).len() == 2 && ready_on(app).len() == 2
        })
        .await;
    let was_cut: BTreeSet<InstanceId> =
        before.instances.iter().filter(|it| it.node == Some(cut)).map(|it| it.id).collect();
    assert!(live(&after).is_disjoint(&was_cut), "what was given up does not come back");
    load.go_on_for(20).await;
    let served = load.stop().await;
    assert!(served.failures.len() <= 1, "{:?} of {} requests", served.failures, served.requests);
    let text = eventually(SHORT, "its front door answers", async || {
        let reply = cluster.hosts[1].apps.get("hello.default.localhost", "/").await.ok()?;
        (reply.status == 200).then(|| reply.text())
    })
    .await;
    assert!(text.contains("Hello"), "{text}");
}

/// What the front doors of two hosts that cannot reach each other said of an app, one after the other: 200 only where an instance runs.
async fn who_serves(cluster: &Cluster, span: Duration) -> Vec<[bool; 2]> {
    let began = Instant::now();
    let mut seen = Vec::new();
    while began.elapsed() < span {
        seen.push([0, 1].map(|host| cluster.hosts[host].asks_itself("only") == Some(200)));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_host_is_cut_off_for_a_minute_a_singleton_never_runs_twice() {
    let mut cluster = Cluster::start(2).await;
    cluster.deploy("hello", "only", "[scale]\nsingleton = true\n").await;
    cluster.deploy("hello", "both", "[scale]\nreplicas = 2\n").await;
    cluster.app_is("both", "it is on both hosts", |app| ready_on(app).len() == 2).await;
    let on = *ready_on(&cluster.app_is("only", "it serves", |app| app.ready == 1).await).first().unwrap();
    // The host that has it comes first.
    cluster.hosts.sort_by_key(|host| host.node != on);
    let before = cluster.app("both").await;
    let stays: BTreeSet<InstanceId> =
        before.instances.iter().filter(|it| it.node != Some(on)).map(|it| it.id).collect();
    cluster.hosts[0].is_cut_off();
    let seen = who_serves(&cluster, Duration::from_secs(60)).await;
    cluster.hosts[0].is_connected();
    assert!(seen.iter().all(|both| *both != [true, true]), "{seen:?}");
    assert_eq!(seen.first(), Some(&[true, false]), "it goes on for as long as nobody else may have it");
    assert_eq!(seen.last(), Some(&[false, true]), "another has taken over");
    cluster.nodes_are("it is back", |nodes| nodes.iter().all(|node| node.ready)).await;
    let after = cluster.app_is("only", "there is one", |app| app.ready == 1 && live(app).len() == 1).await;
    assert!(!ready_on(&after).contains(&on), "it stays where it is now");
    let both = cluster.app_is("both", "it has its share", |app| app.ready == 2 && live(app).len() == 2).await;
    assert!(live(&both).is_superset(&stays), "the host that was reached all the time restarted nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_cut_off_in_one_direction_is_replaced_and_a_singleton_never_runs_twice() {
    let mut cluster = Cluster::start(2).await;
    cluster.deploy("hello", "only", "[scale]\nsingleton = true\n").await;
    cluster.deploy("hello", "both", "[scale]\nreplicas = 2\n").await;
    for way in ["in", "out"] {
        cluster.app_is("both", "it is on both hosts", |app| app.ready == 2 && ready_on(app).len() == 2).await;
        let only = cluster.app_is("only", "it serves", |app| app.ready == 1 && live(app).len() == 1).await;
        let on = *ready_on(&only).first().unwrap();
        // The host that has it comes first.
        cluster.hosts.sort_by_key(|host| host.node != on);
        let other = cluster.hosts[1].node;
        let mut load = cluster.load(1, "both", "/");
        load.go_on_for(20).await;
        match way {
            "in" => cluster.hosts[0].hears_nobody(),
            _ => cluster.hosts[0].is_heard_by_nobody(),
        }
        let seen = who_serves(&cluster, Duration::from_secs(30)).await;
        let has_moved = |app: &AppInfo| app.ready == 2 && ready_on(app) == BTreeSet::from([other]);
        cluster.app_is("both", "both instances are on the other host", has_moved).await;
        cluster.hosts[0].hears_and_is_heard();
        assert!(seen.iter().all(|both| *both != [true, true]), "{way}: {seen:?}");
        assert_eq!(
            seen.first(),
            Some(&[true, false]),
            "{way}: it goes on as long as nobody else may have it"
        );
        assert_eq!(seen.last(), Some(&[false, true]), "{way}: another has taken over");
        cluster.nodes_are("it is back", |nodes| nodes.iter().all(|node| node.ready)).await;
        load.go_on_for(20).await;
        let served = load.stop().await;
        // One request after the other: one may have been on its way.
        assert!(served.failures.len() <= 1, "{way}: {:?} of {} requests", served.failures, served.requests);
    }
}

#[tokio::test]
async fn a_singleton_moves_when_its_host_is_drained_and_ends_first() {
    let cluster = Cluster::start(2).await;
    cluster.deploy("hello", "only", "[scale]\nsingleton = true\n").await;
    let before = cluster.app_is("only", "it serves", |app| app.ready == 1).await;
    let from = *ready_on(&before).first().unwrap();
    let ran = cluster.wharf(&["scale", "only", "2"]).await;
    assert!(ran.stderr.contains("scale.singleton"), "{ran:?}");
    cluster.wharf(&["node", "drain", &from.to_string()]).await.ok();
    let after = cluster
        .app_is("only", "it is elsewhere", |app| app.ready == 1 && !ready_on(app).contains(&from))
        .await;
    let ended = |app: &AppInfo, id| app.instances.iter().find(|it| it.id == id).map(|it| it.state);
    assert!(live(&before).iter().all(|id| ended(&after, *id).is_none_or(|state| state.is_final())));
}

#[tokio::test]
async fn a_worker_that_starts_without_a_control_plane_serves_what_it_was_told_last() {
    let mut cluster = Cluster::start(2).await;
    cluster.deploy("hello", "hello", "[scale]\nreplicas = 2\n").await;
    cluster.deploy("hello", "only", "[scale]\nsingleton = true\n").await;
    cluster.app_is("hello", "it is on both hosts", |app| ready_on(app).len() == 2).await;
    let only = *ready_on(&cluster.app_is("only", "it serves", |app| app.ready == 1).await).first().unwrap();
    cluster.hosts.sort_by_key(|host| host.node != only);
    let kept = std::fs::read(cluster.hosts[0].folder().join("assignment")).unwrap();
    assert!(!kept.windows(5).any(|window| window == b"hello"), "it is sealed");
    cluster.kill_server(0).await;
    cluster.hosts[0].kill().await;
    cluster.start_again_with(0, &[]).await;
    cluster.hosts.sort_by_key(|host| host.node != only);
    eventually(SHORT, "it serves again", async || {
        (cluster.hosts[0].asks_itself("hello") == Some(200)).then_some(())
    })
    .await;
    // From elsewhere, too, and nobody knows yet whether another has what there is to be only one of.
    let reply = cluster.hosts[1].apps.get("hello.default.localhost", "/").await.unwrap();
    assert_eq!(reply.status, 200);
    assert_ne!(cluster.hosts[0].asks_itself("only"), Some(200));
    cluster.start_server(0).await;
    cluster.nodes_are("both are back", |nodes| nodes.iter().all(|node| node.ready)).await;
    cluster.app_is("hello", "there are two", |app| app.ready == 2 && live(app).len() == 2).await;
    cluster.app_is("only", "there is one", |app| app.ready == 1 && live(app).len() == 1).await;
}

#[tokio::test]
async fn a_worker_that_is_killed_is_back_as_the_same_node_and_a_copy_of_it_is_refused() {
    let mut cluster = Cluster::start(2).await;
    cluster.deploy("hello", "hello", "[scale]\nreplicas = 2\n").await;
    let node = cluster.hosts[1].node;
    cluster.hosts[1].kill().await;
    cluster.start_again(1).await;
    assert_eq!(cluster.hosts[1].node, node);
    cluster.app_is("hello", "both serve", |app| app.ready == 2).await;

    let copy = cluster.hosts[1].folder().with_extension("copy");
    let copied = std::process::Command::new("cp").arg("-a").args([cluster.hosts[1].folder(), &copy]).status();
    assert!(copied.unwrap().success());
    let mut impostor = cluster.hosts[0].command(&cluster.user(), &copy, &ELSEWHERE);
    impostor.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut impostor = impostor.spawn().unwrap();
    let mut said = tokio::io::BufReader::new(impostor.stderr.take().unwrap());
    let refused = async {
        use tokio::io::AsyncBufReadExt as _;
        let mut line = String::new();
        while !line.contains("another worker speaks for node") {
            line.clear();
            assert!(said.read_line(&mut line).await.unwrap() > 0, "it ended");
        }
    };
    within(SHORT, "the copy is told why", refused).await;
    eventually(SHORT, "the control plane says so, too", async || {
        cluster.server_log(0).contains("another worker speaks for node").then_some(())
    })
    .await;
    cluster.app_is("hello", "nothing else is disturbed", |app| app.ready == 2).await;
    impostor.kill().await.unwrap();
}

#[tokio::test]
async fn one_line_is_printed_to_paste_and_the_host_that_joins_by_it_is_shown() {
    let cluster = Cluster::start(1).await;
    let printed = cluster.wharf(&["node", "token", "create"]).await.ok();
    let line = printed.trim_end();
    let join = line.strip_prefix("wharf worker --join ").filter(|join| !join.contains(char::is_whitespace));
    let join = join.unwrap_or_else(|| panic!("it is no line to paste: {printed}"));
    let folder = cluster.hosts[0].folder().with_extension("pasted");
    let mut pasted = cluster.hosts[0].command(&cluster.user(), &folder, &ELSEWHERE);
    let mut pasted = pasted.args(["--join", join]).stdout(Stdio::null()).spawn().unwrap();
    let are_two = |nodes: &[NodeInfo]| nodes.len() == 2 && nodes.iter().all(|node| node.ready);
    for node in cluster.nodes_are("it has joined", are_two).await {
        let shown: NodeInfo = cluster.wharf(&["node", "show", &node.id.to_string(), "--json"]).await.json();
        assert_eq!((shown.id, shown.hostname), (node.id, node.hostname));
    }
    pasted.kill().await.unwrap();
}

#[tokio::test]
async fn nobody_joins_with_a_token_that_is_used_up_or_of_another_cluster() {
    let cluster = Cluster::start(1).await;
    let host = &cluster.hosts[0];
    let folder = |name: &str| host.folder().with_extension(name);
    let refused = async |name: &str, join: &str| {
        let mut command = host.command(&cluster.user(), &folder(name), &ELSEWHERE);
        command.args(["--join", join]);
        let ended = within(SHORT, "it is refused", command.output()).await.unwrap();
        assert!(!ended.status.success(), "{name}");
        String::from_utf8_lossy(&ended.stderr).into_owned() + &String::from_utf8_lossy(&ended.stdout)
    };
    let token = cluster.join_token(&[]).await;
    let mut joins = host.command(&cluster.user(), &folder("first"), &ELSEWHERE);
    joins.args(["--join", &token]).stdout(Stdio::null());
    let mut joined = joins.spawn().unwrap();
    cluster.nodes_are("the first has joined", |nodes| nodes.len() == 2).await;
    joined.kill().await.unwrap();
    let said = refused("second", &token).await;
    assert!(said.contains("used as often as it may"), "{said}");
    let log = cluster.server_log(0);
    assert!(log.contains("was refused: the join token has been used as often as it may"), "{log}");

    let (secret, address) = token.rsplit_once('@').unwrap();
    let (_, rest) = secret.split_once('.').unwrap();
    let foreign = format!("wharf-join.{}{}@{address}", "ab".repeat(32), &rest[64..]);
    let said = refused("foreign", &foreign).await;
    assert!(said.contains("join the cluster"), "{said}");
    let said = refused("nobody", secret).await;
    assert!(said.contains("TOKEN@ADDR"), "{said}");
    let mut without = host.command(&cluster.user(), &folder("none"), &ELSEWHERE);
    let ended = within(SHORT, "it is refused", without.output()).await.unwrap();
    let said = String::from_utf8_lossy(&ended.stderr).into_owned() + &String::from_utf8_lossy(&ended.stdout);
    assert!(said.contains("belongs to no cluster yet"), "{said}");
}

#[tokio::test]
async fn a_host_that_was_removed_joins_as_another_node_with_a_new_token() {
    let mut cluster = Cluster::start(1).await;
    let before = cluster.hosts[0].node;
    cluster.hosts[0].kill().await;
    cluster.nodes_are("it is silent", |nodes| nodes.iter().all(|node| !node.ready)).await;
    cluster.wharf(&["node", "rm", &before.to_string()]).await.ok();
    let token = cluster.join_token(&[]).await;
    cluster.start_again_with(0, &["--join", &token]).await;
    let nodes = cluster.nodes_are("it is back", |nodes| nodes.iter().any(|node| node.ready)).await;
    assert_eq!(nodes.len(), 1);
    assert_ne!(nodes[0].id, before);
}

#[tokio::test]
async fn after_a_restore_workers_that_run_do_what_the_backup_says() {
    let mut cluster = Cluster::start(1).await;
    cluster.deploy("hello", "hello", "[scale]\nreplicas = 2\n").await;
    cluster.app_is("hello", "its rollout has ended", |app| app.ready == 2).await;
    let file = cluster.folder().join("backup.tar");
    let file = file.to_str().unwrap();
    let data = cluster.data(0);
    let data = data.to_str().unwrap();
    cluster.user().run(&["server", "backup", "--data", data, file, "--with-keys"]).await.ok();
    cluster.wharf(&["scale", "hello", "4"]).await.ok();
    cluster.app_is("hello", "there are four", |app| app.ready == 4).await;
    cluster.kill_server(0).await;
    std::fs::remove_dir_all(data).unwrap();
    cluster.user().run(&["server", "restore", "--data", data, file]).await.ok();
    let mut load = cluster.load(0, "hello", "/");
    cluster.start_server(0).await;
    cluster.nodes_are("the worker is there", |nodes| nodes.iter().all(|node| node.ready)).await;
    cluster.app_is("hello", "there are two", |app| app.ready == 2 && live(app).len() == 2).await;
    load.go_on_for(20).await;
    let served = load.stop().await;
    assert_eq!(served.failures, Vec::<String>::new(), "of {} requests", served.requests);
}
