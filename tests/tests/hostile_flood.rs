//! A flood of small requests to one app out of a hundred.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use futures::StreamExt as _;
use http::Method;
use serde_json::json;
use wharf_tests::{SHORT, Siege, eventually, workspace};
use wharf_types::Digest;

const APPS: usize = 100;
const FLOODERS: usize = 32;

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_requests_to_one_app_of_a_hundred_leaves_the_others_in_service() {
    let siege = Siege::begin().await;
    let platform = &siege.platform;
    // The one that is flooded serves few at once, so that most of the flood waits or is turned away.
    platform.deploy_manifest("crash", "app = \"bad\"\n[limits]\nconcurrency = 4\n").await.ok();
    let artifact = Digest::of(&std::fs::read(workspace::guest("hello")).unwrap());
    let names: Vec<String> = (1..APPS).map(|number| format!("app-{number}")).collect();
    let release = json!({ "artifact": artifact, "spec": {} }).to_string();
    for name in &names {
        let path = format!("/v1/namespaces/default/apps/{name}/releases");
        let reply = platform.api(Method::POST, &path, release.clone()).await;
        assert!(reply.status.is_success(), "{}", reply.text());
    }
    for name in &names {
        platform.serves(name).await;
    }

    let besieged = &siege;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let flood = futures::future::join_all((0..FLOODERS).map(|_| async {
        let mut statuses = Vec::new();
        while !*stopped.borrow() {
            statuses.push(siege.attack("bad", "/sleep?ms=1").await.status.as_u16());
        }
        statuses
    }));
    let others = async {
        // Each of them is asked a few times, some of them at once.
        let asked = futures::stream::iter(names.iter().cycle().take(3 * names.len()));
        let answers =
            asked.map(|name| async move { (name, besieged.attack(name, "/").await.status.as_u16()) });
        let refused: Vec<_> = answers
            .buffer_unordered(4)
            .filter(|(_, status)| std::future::ready(*status != 200))
            .collect()
            .await;
        stop.send_replace(true);
        refused
    };
    let (statuses, refused) = futures::future::join(flood, others).await;
    assert!(refused.is_empty(), "the others failed: {refused:?}");
    let statuses: Vec<u16> = statuses.into_iter().flatten().collect();
    assert!(statuses.len() > APPS, "that was no flood: {}", statuses.len());
    assert!(statuses.iter().all(|status| matches!(status, 200 | 503)), "{statuses:?}");
    let served = || async { (siege.attack("bad", "/").await.status == 200).then_some(()) };
    eventually(SHORT, "the flooded app serves", served).await;
    siege.end(128).await;
}
