//! Two tenants on one platform: neither sees the other, who is removed is out, quotas hold, and the audit log tells all of it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Instant;

use http::Method;
use serde_json::Value;
use tempfile::TempDir;
use wharf_tests::{Platform, SHORT, Wharf, eventually, workspace};
use wharf_types::api::{AuditOutcome, AuditRecord, CreatedToken, Page, QuotaInfo};

/// A user with a home of their own, and the secret of a token of theirs.
struct Tenant {
    wharf: Wharf,
    secret: String,
    _home: TempDir,
}

impl Tenant {
    /// Makes a user who is a member of a namespace, and logs them in.
    async fn join(platform: &Platform, user: &str, namespace: &str, role: &str) -> Self {
        platform.wharf(&["user", "add", user]).await.ok();
        platform.wharf(&["member", "add", user, "--role", role, "-n", namespace]).await.ok();
        let args = ["token", "create", "laptop", "--user", user, "--json"];
        let secret = platform.wharf(&args).await.json::<CreatedToken>().secret;
        let home = tempfile::tempdir().unwrap();
        let wharf = Wharf::at_home(home.path());
        let login = ["login", &platform.ready.api, "--name", "work"];
        let said = wharf.run_with_input(&login, &format!("{secret}\n")).await.ok();
        assert!(said.contains(&format!("{role} in {namespace}")), "{said}");
        Self { wharf, secret, _home: home }
    }

    async fn deploys(&self, app: &str) -> Value {
        let file = workspace::guest("hello");
        self.wharf.run(&["deploy", file.to_str().unwrap(), "--app", app, "--json"]).await.json()
    }
}

async fn with_two_namespaces() -> Platform {
    let platform = Platform::start().await;
    for namespace in ["blue", "red"] {
        platform.wharf(&["namespace", "create", namespace]).await.ok();
    }
    platform
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tenants_see_nothing_of_each_other() {
    let platform = with_two_namespaces().await;
    let alice = Tenant::join(&platform, "alice", "blue", "admin").await;
    let rob = Tenant::join(&platform, "rob", "red", "admin").await;
    // Logging in has chosen the only namespace that each of them has.
    alice.deploys("shop").await;
    rob.deploys("store").await;
    let reply = platform.apps.get("shop.blue.localhost", "/").await.unwrap();
    assert_eq!(reply.status, 200);

    for (who, own, app) in [(&alice, "blue", "shop"), (&rob, "red", "store")] {
        let listed = who.wharf.run(&["namespace", "list"]).await.ok();
        assert!(listed.contains(own) && listed.lines().count() == 2, "{listed}");
        let apps = who.wharf.run(&["apps"]).await.ok();
        assert!(apps.contains(app) && apps.lines().count() == 2, "{apps}");
    }
    for args in [
        &["apps", "-n", "red"][..],
        &["status", "store", "-n", "red"],
        &["logs", "store", "-n", "red"],
        &["events", "-n", "red"],
        &["secret", "ls", "-n", "red"],
        &["volume", "ls", "-n", "red"],
        &["member", "ls", "-n", "red"],
        &["quota", "show", "-n", "red"],
        &["audit", "-n", "red"],
        &["scale", "store", "3", "-n", "red"],
        &["delete", "store", "--yes", "-n", "red"],
    ] {
        alice.wharf.run(args).await.fails(3, &["there is no namespace `red`"]);
    }
    // What does not exist is answered in the same way.
    for name in ["red", "nowhere"] {
        let path = format!("/v1/namespaces/{name}/apps/store");
        let reply = platform.api_as(&alice.secret, Method::GET, &path, "").await;
        let text = reply.text().replace(name, "NAME");
        let expected = r#""detail":"there is no namespace `NAME`""#;
        assert!(reply.status == 404 && text.contains(expected), "{text}");
    }
    alice.wharf.run(&["node"]).await.fails(4, &["whole platform"]);
    alice.wharf.run(&["user", "ls"]).await.fails(4, &["whole platform"]);
    let refused = platform.api_as(&alice.secret, Method::GET, "/metrics", "").await;
    assert_eq!(refused.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_member_is_out_within_a_second_and_so_are_their_streams() {
    let platform = with_two_namespaces().await;
    let alice = Tenant::join(&platform, "alice", "blue", "admin").await;
    let bob = Tenant::join(&platform, "bob", "blue", "developer").await;
    bob.deploys("shop").await;
    let ci =
        bob.wharf.run(&["token", "create", "ci", "--verbs", "read,scale", "--expires", "1d", "--json"]).await;
    let ci = ci.json::<CreatedToken>().secret;
    let path = "/v1/namespaces/blue/apps/shop";
    let scale = format!("{path}/scale");
    let scaled = platform.api_as(&ci, Method::PUT, &scale, r#"{"replicas":2}"#).await;
    assert_eq!(scaled.status, 200, "{}", scaled.text());
    let refused = platform.api_as(&ci, Method::POST, &format!("{path}/restart"), "").await;
    assert!(
        refused.status == 403 && refused.text().contains("limited to `read`, `scale`"),
        "{}",
        refused.text()
    );
    let mut logs = bob.wharf.command(&["events", "shop", "-f"]);
    let mut following =
        logs.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();

    alice.wharf.run(&["member", "rm", "bob"]).await.ok();
    let removed = Instant::now();
    for secret in [&bob.secret, &ci] {
        let reply = platform.api_as(secret, Method::GET, path, "").await;
        assert!(reply.status == 404 && reply.text().contains("no namespace `blue`"), "{}", reply.text());
    }
    assert!(removed.elapsed().as_millis() < 1000, "{:?}", removed.elapsed());
    eventually(SHORT, "the stream is over, and cannot be opened again", || {
        let ended = following.try_wait().unwrap().map(|status| status.code());
        async move { ended }
    })
    .await;
    bob.wharf.run(&["apps"]).await.fails(3, &["no namespace `blue`"]);
    let context = bob.wharf.run(&["context", "show"]).await.ok();
    assert!(context.contains("user bob, no namespace"), "{context}");

    platform.wharf(&["user", "rm", "bob", "--yes"]).await.ok();
    bob.wharf.run(&["apps"]).await.fails(4, &["revoked"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn quotas_say_what_is_used_asked_and_allowed_and_the_way_out() {
    let platform = with_two_namespaces().await;
    let alice = Tenant::join(&platform, "alice", "blue", "admin").await;
    platform.wharf(&["quota", "set", "-n", "blue", "--apps", "1", "--instances", "3"]).await.ok();
    alice.deploys("shop").await;
    let file = workspace::guest("hello");
    let second = alice.wharf.run(&["deploy", file.to_str().unwrap(), "--app", "second"]).await;
    second.fails(
        9,
        &[
            "apps: the namespace uses 1 of 1, and this asks for 1 more",
            "delete an app",
            "wharf quota set -n blue --apps",
        ],
    );
    alice
        .wharf
        .run(&["scale", "shop", "4"])
        .await
        .fails(9, &["instances: the namespace uses 1 of 3", "asks for 3 more"]);
    alice.wharf.run(&["quota", "set", "--apps", "none"]).await.fails(4, &["cluster admin"]);
    alice.wharf.run(&["scale", "shop", "3"]).await.ok();
    let lowered = platform.wharf(&["quota", "set", "-n", "blue", "--instances", "2"]).await;
    assert!(lowered.stderr.contains("instances: used 3 of 2"), "{}", lowered.stderr);
    lowered.ok();
    let shown = alice.wharf.run(&["namespace", "show", "blue"]).await.ok();
    assert!(shown.lines().any(|line| line.split_whitespace().eq(["instances", "3", "2"])), "{shown}");
    alice.wharf.run(&["scale", "shop", "1"]).await.ok();

    let wants = [["--secrets", "5"], ["--volumes", "1GiB"], ["--artifacts", "2GiB"]];
    let together = wants.map(|limit| {
        let args = [&["quota", "set", "-n", "blue"][..], &limit[..]].concat();
        let platform = &platform;
        async move { platform.wharf(&args).await.ok() }
    });
    futures::future::join_all(together).await;
    let quota = alice.wharf.run(&["quota", "show", "--json"]).await.json::<QuotaInfo>().quota;
    let limits = (quota.secrets, quota.volume_bytes, quota.artifact_bytes, quota.apps);
    assert_eq!(limits, (Some(5), Some(1 << 30), Some(2 << 30), Some(1)));

    platform.wharf(&["quota", "set", "-n", "blue", "--requests-per-second", "2"]).await.ok();
    let limited = eventually(SHORT, "requests are refused", || async {
        let reply = platform.apps.get("shop.blue.localhost", "/").await.ok()?;
        (reply.status == 429).then_some(reply)
    })
    .await;
    assert_eq!(limited.headers["x-wharf-error"], "rate_limited");
    assert_eq!(limited.headers["retry-after"], "1");
    platform.wharf(&["quota", "set", "-n", "blue", "--requests-per-second", "none"]).await.ok();
    eventually(SHORT, "twenty requests in a row pass", || async {
        for _ in 0..20 {
            let reply = platform.apps.get("shop.blue.localhost", "/").await.ok()?;
            if reply.status != 200 {
                return None;
            }
        }
        Some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_tells_who_did_what_and_what_was_refused() {
    let platform = with_two_namespaces().await;
    let alice = Tenant::join(&platform, "alice", "blue", "admin").await;
    let rob = Tenant::join(&platform, "rob", "red", "developer").await;
    alice.deploys("shop").await;
    alice.wharf.run(&["scale", "shop", "2"]).await.ok();
    alice.wharf.run(&["env", "set", "TOKEN=hush-hush", "--app", "shop"]).await.ok();
    rob.deploys("store").await;
    rob.wharf.run(&["member", "add", "alice", "--role", "viewer"]).await.fails(4, &["role `admin`"]);

    let records = async |who: &Wharf, args: &[&str]| {
        let all = [&["audit", "--json"][..], args].concat();
        who.run(&all).await.json::<Page<AuditRecord>>().items
    };
    let of_shop = records(&alice.wharf, &["--app", "shop"]).await;
    let actions: Vec<&str> = of_shop.iter().map(|record| record.action.as_str()).collect();
    assert_eq!(
        actions,
        ["post_namespace_app_releases", "put_namespace_app_scale", "patch_namespace_app_env"]
    );
    let scale = &of_shop[1];
    assert_eq!((scale.actor.as_str(), scale.token_name.as_str()), ("alice", "laptop"));
    assert_eq!(scale.remote.as_deref(), Some("127.0.0.1"));
    assert_eq!(scale.before.as_ref().unwrap()["replicas"], 1);
    assert_eq!(scale.after.as_ref().unwrap()["replicas"], 2);

    let all = records(&platform.user(), &[]).await;
    let refused: Vec<&AuditRecord> =
        all.iter().filter(|record| record.outcome == AuditOutcome::Refused).collect();
    assert_eq!(
        (refused.len(), refused[0].actor.as_str(), refused[0].object.as_str()),
        (1, "rob", "members/alice")
    );
    for (actor, object) in
        [("admin", "users/alice"), ("admin", "members/rob"), ("alice", "apps/shop"), ("rob", "apps/store")]
    {
        assert!(
            all.iter().any(|record| record.actor == actor && record.object == object),
            "{actor} {object}"
        );
    }
    assert!(!serde_json::to_string(&all).unwrap().contains("hush-hush"));
    let of_blue = records(&alice.wharf, &[]).await;
    assert!(
        !of_blue.is_empty()
            && of_blue.iter().all(|record| record.namespace.as_ref().unwrap().as_str() == "blue")
    );
    let table = alice.wharf.run(&["audit", "--since", "1h"]).await.ok();
    assert!(
        table.contains("put_namespace_app_scale") && table.contains("replicas:1 -> replicas:2"),
        "{table}"
    );
}
