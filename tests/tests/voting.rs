//! The voting app from its one compose file: two servers in containers, three parts as WebAssembly, and not one acknowledged vote lost
//! whatever dies.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use http::Request;
use http::header::HOST;
use serde_json::Value;
use tokio::process::Command;
use wharf_tests::{DockerEngine, Platform, SHORT, eventually, full, workspace};
use wharf_types::state::RolloutState;

/// Set to `off` where Debian's packages, of which the images are made, cannot be had.
const VARIABLE: &str = "WHARF_TEST_VOTING";
const VOTES: u32 = 60;

/// The compose file in a folder of its own, with the components that it names.
fn copy(to: &Path) {
    let from = workspace::root().join("examples/voting-app");
    std::fs::copy(from.join("compose.yml"), to.join("compose.yml")).unwrap();
    std::fs::write(to.join("db_password.txt"), "a password of this test").unwrap();
    for part in ["vote", "worker", "result"] {
        std::fs::create_dir(to.join(part)).unwrap();
        let guest = workspace::root().join(format!("target/guests/voting-app-{part}.wasm"));
        std::fs::copy(guest, to.join(part).join("app.wasm")).unwrap();
    }
}

async fn vote(platform: &Platform, number: u32) -> u16 {
    // The same vote may be sent until it is acknowledged: its id counts once.
    let body = format!("choice={}&id={number:032x}", if number.is_multiple_of(3) { "b" } else { "a" });
    let request = Request::post("/").header(HOST, "vote.default.localhost");
    let request =
        request.header("content-type", "application/x-www-form-urlencoded").body(full(body)).unwrap();
    platform.apps.send(request).await.map_or(0, |reply| reply.status.as_u16())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_vote_is_counted_once_while_servers_and_workers_are_killed() {
    if std::env::var(VARIABLE).is_ok_and(|value| value == "off") {
        eprintln!("{VARIABLE} is off: the voting app is not tested");
        return;
    }
    let Some(engine) = DockerEngine::of_this_machine().await else { return };
    let images =
        Command::new("bash").arg(workspace::root().join("examples/voting-app/images.sh")).output().await;
    let images = images.unwrap();
    assert!(
        images.status.success(),
        "the images could not be made ({VARIABLE}=off leaves this out): {}",
        String::from_utf8_lossy(&images.stderr)
    );
    let mut platform = Platform::start().await;
    let node = std::fs::read_to_string(platform.data().join("worker/node.id")).unwrap().trim().to_owned();
    let folder = tempfile::tempdir().unwrap();
    copy(folder.path());
    let user = platform.user().in_folder(folder.path());
    user.run(&["stack", "deploy", "voting", "-c", "compose.yml"]).await.ok();
    platform.serves("vote").await;
    // What dies within the monitor window of its first release has failed for good: there is none to go back to.
    for app in ["redis", "db", "vote", "worker", "result"] {
        platform
            .app_is(app, "its rollout is over", |app| {
                app.rollout.as_ref().is_some_and(|rollout| rollout.state == RolloutState::Succeeded)
            })
            .await;
    }

    for number in 1..=VOTES {
        if number == VOTES / 4 || number == VOTES / 2 {
            let app = if number == VOTES / 2 { "db" } else { "redis" };
            let found = engine.containers(&node, app).await;
            engine.docker(&["kill", &found[0]]).await;
        }
        if number == VOTES / 4 * 3 {
            platform.wharf(&["restart", "worker"]).await.ok();
        }
        eventually(SHORT, "the vote is acknowledged", async || {
            (vote(&platform, number).await == 303).then_some(())
        })
        .await;
    }
    let counted = eventually(SHORT, "all votes are counted", async || {
        let reply = platform.get("result", "/votes").await.ok()?;
        let votes: Value = serde_json::from_slice(&reply.body).ok()?;
        (votes["received"].as_u64()? >= u64::from(VOTES)).then_some(votes)
    })
    .await;
    // And none twice.
    assert_eq!(
        (&counted["received"], &counted["b"]),
        (&Value::from(VOTES), &Value::from(VOTES / 3)),
        "{counted}"
    );

    // The platform is killed, and everything goes on where it was.
    platform.kill().await;
    platform.start_again().await;
    eventually(SHORT, "the votes are still there", async || {
        let reply = platform.get("result", "/votes").await.ok()?;
        let votes: Value = serde_json::from_slice(&reply.body).ok()?;
        (votes["received"] == VOTES).then_some(())
    })
    .await;
    user.run(&["stack", "rm", "voting", "--yes"]).await.ok();
    platform.terminate().await;
    engine.clean(&node).await;
}
