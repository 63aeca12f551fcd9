//! Apps that want every place of a node: whoever else is there gets places all the same, and is not taken for ill.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::task::JoinSet;
use wharf_tests::{COMPILED, SHORT, Siege, eventually, request, with_core_instances, workspace};

/// As many as the node has places.
const REQUESTS: usize = 1000;

/// What the platform may keep of an attack with so many connections and stores.
const KEEPS_MIB: u64 = 512;

/// An app that is restarted at its first failed look, and taken out of the routes as well.
const NEIGHBOUR: &str = "app = \"well\"\n[http.health]\npath = \"/healthz\"\nliveness_path = \"/healthz\"\n\
                         period = \"100ms\"\nthreshold = 1\n";

/// Requests that hang in an app until this is dropped.
struct Hanging {
    _requests: JoinSet<()>,
    answered: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
}

fn hang(siege: &Siege, app: &str, requests: usize) -> Hanging {
    // Each takes a socket of this process.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let (answered, refused) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let mut hanging = JoinSet::new();
    for _ in 0..requests {
        let (client, hostname) = (siege.platform.apps.clone(), format!("{app}.default.localhost"));
        let (answered, refused) = (answered.clone(), refused.clone());
        hanging.spawn(async move {
            let reply = client.send(request(&hostname, "/hang")).await;
            let is_refused = reply.is_ok_and(|reply| reply.status == 503);
            let ended = if is_refused { refused } else { answered };
            ended.fetch_add(1, Relaxed);
        });
    }
    Hanging { _requests: hanging, answered, refused }
}

/// The neighbour answers every request for a few seconds, and every look at it.
async fn is_well(siege: &Siege) {
    for _ in 0..50 {
        let reply = siege.attack("well", "/healthz").await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(siege.platform.app("well").await.ready, 1);
    let events = siege.platform.wharf(&["events", "well"]).await.ok();
    assert!(!events.contains("failed") && !events.contains("not ready"), "{events}");
}

/// A thousand requests hang in an app that was deployed like this.
async fn besieged(manifest: &str) {
    let siege = Siege::begin().await;
    siege.platform.deploy_manifest("crash", NEIGHBOUR).await.ok();
    siege.platform.deploy_manifest("crash", manifest).await.ok();
    siege.platform.serves_at("bad", "/healthz").await;
    let hanging = hang(&siege, "bad", REQUESTS);
    eventually(COMPILED, "the app has all places that it gets", || async {
        (hanging.refused.load(Relaxed) > REQUESTS / 3).then_some(())
    })
    .await;
    is_well(&siege).await;
    // What comes now starts, too.
    siege.platform.deploy_manifest("hello", "app = \"late\"\n").await.ok();
    siege.platform.text("late", "/").await;
    drop(hanging);
    let served = || async { (siege.attack("bad", "/healthz").await.status == 200).then_some(()) };
    eventually(SHORT, "the attacked app serves", served).await;
    siege.end(KEEPS_MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_may_have_more_requests_than_the_node_has_places_leaves_half_of_them() {
    besieged("app = \"bad\"\n[limits]\nconcurrency = 1100\ntimeout = \"55s\"\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_with_many_instances_has_no_more_places_than_one_with_one() {
    besieged("app = \"bad\"\n[scale]\nreplicas = 5\n[limits]\ntimeout = \"55s\"\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_of_very_many_core_instances_uses_up_nothing_but_places() {
    let siege = Siege::begin().await;
    siege.platform.deploy_manifest("crash", NEIGHBOUR).await.ok();
    let large = with_core_instances(std::fs::read(workspace::guest("crash")).unwrap(), 185);
    let manifest = "app = \"bad\"\n[limits]\ntimeout = \"55s\"\n";
    siege.platform.deploy_bytes(&large, manifest).await.ok();
    siege.platform.serves_at("bad", "/healthz").await;
    let hanging = hang(&siege, "bad", 100);
    is_well(&siege).await;
    assert_eq!((hanging.answered.load(Relaxed), hanging.refused.load(Relaxed)), (0, 0));
    assert_eq!(siege.attack("bad", "/healthz").await.status, 200, "there are places for it, too");
    drop(hanging);
    siege.end(KEEPS_MIB).await;
}
