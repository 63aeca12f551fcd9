//! Placement: what is known of a node, which apps may run there, and the words where none may.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use wharf_tests::{Platform, SHORT, Start, eventually};
use wharf_types::api::{NodeInfo, Page};

async fn in_zone(zone: &str) -> Platform {
    let flags = ["--label".to_owned(), format!("zone={zone}"), "--label".to_owned(), "rack=12".to_owned()];
    Platform::start_with(Start { flags: flags.to_vec(), ..Start::default() }).await
}

fn manifest(placement: &str) -> String {
    format!("app = \"hello\"\n[update]\nprogress_deadline = \"1s\"\n[placement]\n{placement}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_runs_where_its_constraints_hold_and_says_what_is_missing_where_they_do_not() {
    let mut platform = in_zone("eu-1").await;
    let node = eventually(SHORT, "the worker has registered", async || {
        platform.wharf(&["node", "ls", "--json"]).await.json::<Page<NodeInfo>>().items.pop()
    });
    let node = node.await;
    assert_eq!((node.labels["zone"].as_str(), node.role.as_str()), ("eu-1", "server"));
    assert_eq!((node.os.as_str(), node.arch.as_str()), (std::env::consts::OS, std::env::consts::ARCH));
    let table = platform.wharf(&["node", "ls"]).await.ok();
    assert!(table.contains("rack=12,zone=eu-1") && table.contains("server"), "{table}");

    let here = r#"constraints = ["node.labels.zone in (eu-1, eu-2)", "node.labels.rack >= 10", "node.role == server"]"#;
    platform.deploy_manifest("hello", &manifest(&format!("{here}\nspread = [\"zone\"]"))).await.ok();
    platform.serves("hello").await;

    let elsewhere = manifest(r#"constraints = ["node.labels.zone == eu-2"]"#);
    let failed = platform.deploy_manifest("hello", &elsewhere).await;
    failed.fails(5, &["0 of 1 nodes fit: 1 lacks the label zone=eu-2 (it has eu-1)"]);
    platform.serves("hello").await;

    // A label that changes moves nothing that was placed.
    platform.start_mut().flags[1] = "zone=eu-3".to_owned();
    platform.terminate().await;
    platform.start_again().await;
    let label = async || {
        let nodes = platform.wharf(&["node", "ls", "--json"]).await.json::<Page<NodeInfo>>().items;
        (nodes[0].labels["zone"] == "eu-3").then_some(())
    };
    eventually(SHORT, "the node has its new label", label).await;
    platform.serves("hello").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_placement_that_makes_no_sense_is_refused_before_anything_is_sent() {
    let platform = Platform::start().await;
    let refused =
        platform.deploy_manifest("hello", &manifest(r#"constraints = ["node.hostnam == a"]"#)).await;
    refused.fails(6, &["placement.constraints", "column 1", "did you mean `node.hostname`?"]);
    let both = r#"constraints = ["node.cpus > 8", "node.cpus <= 4"]"#;
    let refused = platform.deploy_manifest("hello", &manifest(both)).await;
    refused.fails(6, &["no node can meet both `node.cpus > 8` and `node.cpus <= 4`"]);
    platform.wharf(&["up", "--label", "zone"]).await.fails(2, &["`zone` is not a label: write KEY=VALUE"]);
}
