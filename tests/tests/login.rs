//! How a user somewhere else reaches a platform: by a saved login, by the environment, and never by accident.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::Value;
use tempfile::TempDir;
use wharf_tests::{Platform, Wharf, workspace};
use wharf_types::api::CreatedToken;

/// A user with a home of their own, who knows no platform yet.
fn stranger() -> (TempDir, Wharf) {
    let home = tempfile::tempdir().unwrap();
    let user = Wharf::at_home(home.path());
    (home, user)
}

async fn token(platform: &Platform, flags: &[&str]) -> String {
    let args = [&["token", "create", "laptop", "--json"], flags].concat();
    platform.wharf(&args).await.json::<CreatedToken>().secret
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_kept_until_the_logout() {
    let platform = Platform::start().await;
    platform.deploy("hello", "hello", &[]).await;
    let secret = token(&platform, &["--role", "developer", "-n", "default"]).await;
    let (_home, user) = stranger();
    // Nothing listens at the usual address, or somebody who does not know this user.
    assert!(matches!(user.run(&["apps"]).await.code, 4 | 8), "a stranger got in");

    // The token is the first line of stdin, so that no list of processes shows it.
    let login = ["login", &platform.ready.api, "--name", "work"];
    let told = user.run_with_input(&login, &format!("{secret}\n")).await.ok();
    assert!(told.contains("laptop (developer") && !told.contains(&secret), "{told}");
    assert!(user.run(&["apps"]).await.ok().contains("hello"));
    let file = workspace::guest("hello");
    user.run(&["deploy", file.to_str().unwrap(), "--app", "mine"]).await.ok();
    platform.text("mine", "/").await;
    user.run(&["namespace", "create", "theirs"]).await.fails(4, &["admin"]);

    let list = user.run(&["context", "list"]).await.ok();
    assert!(list.contains("work") && list.contains(&platform.ready.api), "{list}");
    user.run(&["logout"]).await.ok();
    assert_ne!(user.run(&["apps"]).await.code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_with_a_wrong_token_is_refused_and_not_kept() {
    let platform = Platform::start().await;
    let (_home, user) = stranger();
    let login = ["login", &platform.ready.api];
    user.run_with_input(&login, "wrong\n").await.fails(4, &["token"]);
    user.run_with_input(&login, "").await.fails(2, &["no token was given"]);
    let list = user.run(&["context", "list"]).await;
    assert!(!list.stdout.contains(&platform.ready.api), "{}", list.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_several_platforms_is_chosen() {
    let platforms = [Platform::start().await, Platform::start().await];
    let (_home, user) = stranger();
    for (platform, name) in platforms.iter().zip(["first", "second"]) {
        platform.deploy("hello", name, &[]).await;
        user.run_with_input(&["login", &platform.ready.api, "--name", name], &platform.token).await.ok();
    }
    assert!(user.run(&["apps"]).await.ok().contains("second"), "the newest login is the current one");
    user.run(&["context", "use", "first"]).await.ok();
    assert!(user.run(&["apps"]).await.ok().contains("first"));
    user.run(&["context", "use", "third"]).await.fails(3, &["third"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_leads_to_a_platform_and_before_a_login() {
    let platforms = [Platform::start().await, Platform::start().await];
    platforms[0].deploy("hello", "here", &[]).await;
    let (_home, user) = stranger();
    let user = user.env("WHARF_API", &platforms[0].ready.api).env("WHARF_TOKEN", &platforms[0].token);
    assert!(user.run(&["apps"]).await.ok().contains("here"));
    user.run_with_input(&["login", &platforms[1].ready.api, "--token", &platforms[1].token], "").await.ok();
    assert!(user.run(&["apps"]).await.ok().contains("here"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_not_sent_to_an_address_that_it_was_not_saved_for() {
    let platforms = [Platform::start().await, Platform::start().await];
    let (_home, user) = stranger();
    user.run_with_input(&["login", &platforms[0].ready.api], &platforms[0].token).await.ok();
    user.run(&["apps", "--api", &platforms[1].ready.api]).await.fails(4, &["wharf login"]);
    let shown: Value = user.run(&["context", "show", "--json"]).await.json();
    assert!(!shown.to_string().contains(&platforms[0].token), "{shown}");
}
