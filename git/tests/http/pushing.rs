//! Pushes that are fine, and pushes that a handler refuses.

use std::sync::Arc;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::sync::{Mutex, Notify, mpsc};
use wharf_git::{CheckoutLimits, Limits, Progress, Push, RefName, Verdict};

use crate::client::Client;
use crate::server::Server;
use crate::within;

/// A server that accepts, and what its handlers were asked.
async fn recording() -> (Server, Mutex<mpsc::UnboundedReceiver<Push>>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let server = Server::start(Limits::default(), move |push, _| {
        let _ = sender.send(push);
        async { Verdict::Accept }
    })
    .await;
    (server, Mutex::new(receiver))
}

fn name(text: &str) -> RefName {
    text.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_moves_the_ref_and_the_handler_hears_of_it() {
    let (server, pushes) = recording().await;
    let client = Client::with_commit().await;
    client.git(&["push", &server.url, "main"]).await.succeeds();
    let push = pushes.lock().await.recv().await.unwrap();
    let head = client.head().await;
    assert_eq!(push.updates.len(), 1);
    assert_eq!(push.updates[0].name.branch(), Some("main"));
    assert_eq!((push.updates[0].old, push.updates[0].new), (None, Some(head.parse().unwrap())));
    assert_eq!(server.outcome().await.moved, push.updates);
    assert_eq!(server.repository.resolve("main").await.unwrap().unwrap().to_string(), head);
}

#[tokio::test(flavor = "multi_thread")]
async fn history_may_be_rewritten_and_the_handler_can_tell() {
    let (server, pushes) = recording().await;
    let client = Client::with_commit().await;
    client.git(&["push", &server.url, "main"]).await.succeeds();
    client.git(&["commit", "--amend", "-m", "other"]).await.succeeds();
    client.git(&["push", &server.url, "main"]).await.fails_with("rejected");
    client.git(&["push", "--force", &server.url, "main"]).await.succeeds();
    let mut pushes = pushes.lock().await;
    pushes.recv().await.unwrap();
    let update = pushes.recv().await.unwrap().updates.remove(0);
    let objects = server.repository.objects();
    assert!(!objects.is_ancestor(update.old.unwrap(), update.new.unwrap()).await.unwrap());
    assert!(objects.is_ancestor(update.new.unwrap(), update.new.unwrap()).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn branches_and_tags_are_pushed_at_once_and_deleted() {
    let (server, pushes) = recording().await;
    let client = Client::with_commit().await;
    client.git(&["tag", "-a", "-m", "first", "v1"]).await.succeeds();
    client.git(&["push", &server.url, "main", "main:refs/heads/preview/a", "v1"]).await.succeeds();
    let push = pushes.lock().await.recv().await.unwrap();
    let mut names: Vec<_> = push.updates.iter().map(|update| update.name.to_string()).collect();
    names.sort();
    assert_eq!(names, ["refs/heads/main", "refs/heads/preview/a", "refs/tags/v1"]);
    assert_eq!(server.outcome().await.moved.len(), 3);
    let head = client.head().await;
    assert_eq!(server.repository.resolve("v1").await.unwrap().unwrap().to_string(), head);

    client.git(&["push", &server.url, ":preview/a", ":v1", ":main"]).await.succeeds();
    let push = pushes.lock().await.recv().await.unwrap();
    assert!(push.updates.iter().all(|update| update.new.is_none() && update.old.is_some()));
    // There is no quarantine then; the repository itself can be read.
    assert_eq!(push.objects.commit(head.parse().unwrap()).await.unwrap().subject, "change README");
    assert_eq!(server.outcome().await.moved.len(), 3);
    assert_eq!(server.repository.refs().await.unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_existing_commit_is_pushed_to_another_branch() {
    let (server, client) = (Server::accepting().await, Client::with_commit().await);
    client.git(&["push", &server.url, "main"]).await.succeeds();
    client.git(&["push", &server.url, "main:other"]).await.succeeds();
    let refs = server.repository.refs().await.unwrap();
    assert_eq!(refs[&name("refs/heads/main")], refs[&name("refs/heads/other")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn push_options_reach_the_handler() {
    let (server, pushes) = recording().await;
    let client = Client::with_commit().await;
    client.git(&["push", "-o", "env=staging", "-o", "note=a b", &server.url, "main"]).await.succeeds();
    assert_eq!(pushes.lock().await.recv().await.unwrap().options, ["env=staging", "note=a b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_without_history_can_be_pushed_and_later_all_of_it() {
    let first = Server::accepting().await;
    let root = tempfile::tempdir().unwrap();
    let (sender, read) = mpsc::unbounded_channel();
    // A deploy reads what was pushed before git has taken it.
    let into = root.path().to_owned();
    let second = Server::start(Limits::default(), move |push: Push, _| {
        let (sender, tip) = (sender.clone(), push.updates[0].new.unwrap());
        let into = into.join(tip.to_string());
        async move {
            let commit = push.objects.commit(tip).await;
            let written = push.objects.checkout(tip, &into, &CheckoutLimits::default()).await;
            let _ = sender.send((commit, written));
            Verdict::Accept
        }
    })
    .await;
    let read = Mutex::new(read);
    let client = Client::with_commit().await;
    client.commit("more", "1").await;
    client.git(&["push", &first.url, "main"]).await.succeeds();
    let shallow = Client::empty();
    shallow.git(&["clone", "--depth=1", &first.url, "."]).await.succeeds();
    shallow.git(&["push", &second.url, "main"]).await.succeeds();
    assert_eq!(second.outcome().await.moved.len(), 1);
    let (commit, written) = read.lock().await.recv().await.unwrap();
    let (commit, written) = (commit.unwrap(), written.unwrap());
    assert_eq!((commit.subject.as_str(), commit.author.as_str()), ("change more", "Ada"));
    assert!(commit.authored_at.as_second() > 1_600_000_000);
    assert_eq!(written.files, 2);
    let tip = client.head().await.parse().unwrap();
    assert_eq!(second.repository.objects().commit(tip).await.unwrap(), commit);

    client.commit("more", "2").await;
    client.git(&["push", &second.url, "main"]).await.succeeds();
    let other = Client::empty();
    other.git(&["clone", &second.url, "."]).await.succeeds();
    assert_eq!(other.head().await, client.head().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_push_leaves_the_ref_and_nothing_else_and_says_why() {
    let server = Server::start(Limits::default(), |push, progress: Progress| async move {
        progress.line("-----> Building");
        let commit = push.objects.commit(push.updates[0].new.unwrap()).await.unwrap();
        progress.line(&format!("\u{1b}[31m       {}\u{1b}[0m", commit.subject));
        Verdict::Refuse("the build failed: cargo exited with 101".to_owned())
    })
    .await;
    let client = Client::with_commit().await;
    let ran = client.git(&["push", &server.url, "main"]).await.fails_with("pre-receive hook declined");
    for line in ["-----> Building", "       change README", "the build failed: cargo exited with 101"] {
        assert!(ran.stderr.contains(&format!("remote: {line}")), "{line}: {}", ran.stderr);
    }
    let outcome = server.outcome().await;
    assert_eq!((outcome.moved.len(), outcome.unmoved.len()), (0, 1));
    assert_eq!(server.repository.resolve("main").await.unwrap(), None);
    let id = client.head().await.parse().unwrap();
    assert!(server.repository.objects().commit(id).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_arrives_while_the_handler_still_works() {
    let go_on = Arc::new(Notify::new());
    let wait = go_on.clone();
    let server = Server::start(Limits::default(), move |_, progress| {
        let wait = wait.clone();
        async move {
            progress.line("building");
            wait.notified().await;
            progress.line("built");
            Verdict::Accept
        }
    })
    .await;
    let client = Client::with_commit().await;
    let mut push = client.command(&["push", &server.url, "main"]).spawn().unwrap();
    let mut lines = BufReader::new(push.stderr.take().unwrap()).lines();
    loop {
        let line = within(lines.next_line()).await.unwrap().expect("a line of progress");
        if line.contains("remote: building") {
            break;
        }
    }
    // The handler waits for this, so the line was not kept until its end.
    go_on.notify_one();
    let mut rest = String::new();
    while let Some(line) = within(lines.next_line()).await.unwrap() {
        rest += &line;
    }
    assert!(rest.contains("remote: built"), "{rest}");
    assert!(within(push.wait()).await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_panics_has_refused() {
    let server = Server::start(Limits::default(), |_, _| async { panic!("a bug") }).await;
    let client = Client::with_commit().await;
    client.git(&["push", &server.url, "main"]).await.fails_with("remote: the server has failed");
    assert_eq!(server.outcome().await.moved, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_larger_than_a_buffer_come_in_pieces() {
    let (server, client) = (Server::accepting().await, Client::with_commit().await);
    client.commit("large", crate::noise(3 << 20)).await;
    // Beyond `http.postBuffer` git asks with an empty push first, and then sends chunks.
    client.git(&["-c", "http.postBuffer=65536", "push", &server.url, "main"]).await.succeeds();
    assert_eq!(server.outcome().await.moved.len(), 1);
    let mut outcomes = server.outcomes.lock().await;
    assert!(outcomes.try_recv().is_err(), "the empty push is nobody's business");
}
