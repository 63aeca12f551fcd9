//! Volumes of a cluster: a host that is cut off goes on to write to its own, and nobody else does, neither meanwhile nor when it is back.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use wharf_tests::{Cluster, Host, SHORT, Watch, eventually, seen_beside_another};
use wharf_types::InstanceId;
use wharf_types::api::AppInfo;
use wharf_types::state::RolloutState;

/// Longer than anything is counted as running that the control plane has not heard of.
const CUT: Duration = Duration::from_secs(15);
/// Between two looks at both sides.
const PAUSE: Duration = Duration::from_millis(20);

const NOTES: &str = "[[volumes]]\nname = \"notes\"\npath = \"/data\"\n";
/// A command that listens, so that one can see whether two of it run. It may write, and that is what counts.
const WRITER: &str =
    "[[volumes]]\nname = \"data\"\npath = \"/data\"\n[tcp]\nports = [7500]\n[env]\nGREETING = \"writer\"\n";
const PLACED: &str = "[placement]\nconstraints = [\"node.labels.first == yes\"]\n";

/// Notes that were written from the host that has the volume.
#[derive(Default)]
struct Notes {
    sent: u32,
    acknowledged: BTreeSet<u32>,
}

impl Notes {
    fn write(&mut self, host: &Host) {
        self.sent += 1;
        let (path, text) = (format!("PUT /{}", self.sent), format!("note {}", self.sent));
        if host.sends_itself("notes", &path, &text, Duration::from_secs(5)) == Some(200) {
            self.acknowledged.insert(self.sent);
        }
    }
}

fn live(app: &AppInfo) -> BTreeSet<InstanceId> {
    app.instances.iter().filter(|it| !it.state.is_final()).map(|it| it.id).collect()
}

/// Until then, an end would be held against the release.
fn is_rolled_out(app: &AppInfo) -> bool {
    app.ready == 1 && app.rollout.as_ref().is_some_and(|rollout| rollout.state == RolloutState::Succeeded)
}

/// Whether one instance serves, which is another than before.
fn has_followed(before: &BTreeSet<InstanceId>, app: &AppInfo) -> bool {
    app.ready == 1 && live(app).len() == 1 && live(app).is_disjoint(before)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_of_a_host_that_is_cut_off_never_has_two_writers_and_keeps_all_that_was_written() {
    let cluster = Cluster::start(2).await;
    let [first, second] = [0, 1].map(|host| cluster.hosts[host].node.to_string());
    cluster.wharf(&["node", "label", &first, "first=yes"]).await.ok();
    cluster.deploy("notes", "notes", &format!("{NOTES}{PLACED}")).await;
    cluster.deploy("echo-tcp", "writer", &format!("{WRITER}{PLACED}")).await;
    // From now on it is the volumes alone that keep them where they are.
    cluster.wharf(&["node", "label", &second, "first=yes"]).await.ok();
    let notes_before = live(&cluster.app_is("notes", "it is rolled out", is_rolled_out).await);
    let writer_before = live(&cluster.app_is("writer", "it is rolled out", is_rolled_out).await);
    let watch = Watch::start(&cluster, "writer from port");
    let mut notes = Notes::default();
    notes.write(&cluster.hosts[0]);
    assert_eq!(notes.acknowledged.len(), 1);

    cluster.hosts[0].is_cut_off();
    let began = Instant::now();
    let mut elsewhere = Vec::new();
    while began.elapsed() < CUT {
        notes.write(&cluster.hosts[0]);
        elsewhere.push(cluster.hosts[1].asks_itself("notes"));
        tokio::time::sleep(PAUSE).await;
    }
    assert!(!elsewhere.contains(&Some(200)), "another host has the volume: {elsewhere:?}");
    assert_eq!(notes.acknowledged.len(), notes.sent as usize, "it goes on to write");
    cluster.app_is("notes", "it is counted as gone", |app| app.ready == 0).await;
    eventually(SHORT, "it is said why it waits", async || {
        let why = cluster.wharf(&["why", "notes"]).await;
        why.stdout.contains("not have the app's volumes").then_some(())
    })
    .await;

    cluster.hosts[0].is_connected();
    let deadline = Instant::now() + SHORT;
    while !has_followed(&notes_before, &cluster.app("notes").await) {
        // It is the same folder, whoever writes to it now.
        notes.write(&cluster.hosts[0]);
        assert!(Instant::now() < deadline, "another instance has taken over");
    }
    cluster.app_is("writer", "another has taken over", |app| has_followed(&writer_before, app)).await;
    eventually(SHORT, "the other front door leads to it", async || {
        let reply = cluster.hosts[1].apps.get("notes.default.localhost", "/").await.ok()?;
        (reply.status == 200).then_some(())
    })
    .await;
    for note in &notes.acknowledged {
        assert_eq!(cluster.text(1, "notes", &format!("/{note}")).await, format!("note {note}"));
    }

    let sights = watch.stop(&[]);
    assert!(sights.iter().all(|sight| sight.host == 0), "a writer ran elsewhere");
    assert!(sights.iter().any(|sight| sight.answered > began + CUT), "its last sights are of after the cut");
    assert_eq!(seen_beside_another(&sights), None, "two writers ran at once");
}
