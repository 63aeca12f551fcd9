//! Repositories and their refs, without a client.

use uuid::Uuid;
use wharf_git::{GitError, Limits, ObjectId, RefName, Repositories};

use crate::client::Client;
use crate::server::Server;

fn name(text: &str) -> RefName {
    text.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_is_made_once_whoever_asks() {
    let root = tempfile::tempdir().unwrap();
    let repositories = Repositories::open(root.path(), Limits::default()).unwrap();
    let id = Uuid::now_v7();
    assert!(repositories.find(id).await.unwrap().is_none());
    let all = futures::future::join_all((0..8).map(|_| repositories.ensure(id))).await;
    assert!(all.into_iter().all(|made| made.is_ok()));
    let names: Vec<_> = std::fs::read_dir(root.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| ![".home", ".hooks"].contains(&name.as_str()))
        .collect();
    assert_eq!(names, [format!("{id}.git")]);
    assert!(!root.path().join(format!("{id}.git/hooks")).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_is_removed_has_gone_with_all_that_was_in_it() {
    let server = Server::accepting().await;
    let folder = server.folder();
    let id: Uuid = folder.file_stem().unwrap().to_str().unwrap().parse().unwrap();
    assert!(server.repositories.remove(id).await.unwrap());
    assert!(!server.repositories.remove(id).await.unwrap());
    assert!(server.repositories.find(id).await.unwrap().is_none());
    assert!(!folder.exists());
    assert!(server.repository.refs().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_left_half_made_or_half_removed_is_given_up_at_the_next_start() {
    let root = tempfile::tempdir().unwrap();
    for name in [".new-1", ".removed-1/objects"] {
        std::fs::create_dir_all(root.path().join(name)).unwrap();
    }
    let repositories = Repositories::open(root.path(), Limits::default()).unwrap();
    let kept = repositories.ensure(Uuid::now_v7()).await.unwrap();
    drop(repositories);
    Repositories::open(root.path(), Limits::default()).unwrap();
    assert!(!root.path().join(".new-1").exists() && !root.path().join(".removed-1").exists());
    assert_eq!(kept.refs().await.unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn refs_are_moved_only_from_where_they_are_thought_to_be() {
    let (server, client) = (Server::accepting().await, Client::with_commit().await);
    let first: ObjectId = client.head().await.parse().unwrap();
    let second: ObjectId = client.commit("more", "").await.parse().unwrap();
    client.git(&["push", &server.url, "main"]).await.succeeds();
    let (repository, pin) = (&server.repository, name("refs/wharf/releases/1"));
    assert!(repository.update_ref(&pin, None, first).await.unwrap());
    assert!(!repository.update_ref(&pin, None, second).await.unwrap());
    assert!(!repository.update_ref(&pin, Some(second), second).await.unwrap());
    assert!(repository.update_ref(&pin, Some(first), second).await.unwrap());
    assert_eq!(repository.find_ref(&pin).await.unwrap(), Some(second));
    assert!(!repository.delete_ref(&pin, first).await.unwrap());
    assert!(repository.delete_ref(&pin, second).await.unwrap());
    assert_eq!(repository.find_ref(&pin).await.unwrap(), None);
    let unknown = "1".repeat(40).parse().unwrap();
    let refused = repository.update_ref(&pin, None, unknown).await;
    assert!(matches!(refused, Err(GitError::Failed { .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_resolved_and_expressions_are_not() {
    let (server, client) = (Server::accepting().await, Client::with_commit().await);
    client.commit("more", "").await;
    client.git(&["tag", "-a", "-m", "first", "v1"]).await.succeeds();
    client.git(&["push", &server.url, "main", "v1"]).await.succeeds();
    let head = client.head().await;
    for text in ["main", "v1", "refs/heads/main", "refs/tags/v1", &head, &head[..8], "HEAD"] {
        let found = server.repository.resolve(text).await.unwrap().map(|id| id.to_string());
        assert_eq!(found.as_ref(), Some(&head), "{text}");
    }
    for text in
        ["", "none", "main~1", "main^", ":/change", "--all", "main\n", "@{-1}", "a..b", &"x".repeat(600)]
    {
        assert_eq!(server.repository.resolve(text).await.unwrap(), None, "{text:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clones_check_out_the_branch_that_head_points_to() {
    let (server, client) = (Server::accepting().await, Client::with_commit().await);
    client.git(&["push", &server.url, "main:trunk"]).await.succeeds();
    server.repository.point_head(&name("refs/heads/trunk")).await.unwrap();
    let other = Client::empty();
    other.git(&["clone", &server.url, "."]).await.succeeds();
    assert_eq!(other.git(&["branch", "--show-current"]).await.stdout, "trunk\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_pushes_are_packed_into_one_and_nothing_is_lost() {
    let (server, client) = (Server::accepting().await, Client::with_commit().await);
    for number in 0..5 {
        client.commit("file", number.to_string()).await;
        client.git(&["push", &server.url, "main"]).await.succeeds();
    }
    let packs = || {
        let entries = std::fs::read_dir(server.folder().join("objects/pack")).unwrap();
        entries
            .filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|end| end == "pack"))
            .count()
    };
    assert_eq!(packs(), 5);
    server.repository.tidy().await.unwrap();
    assert_eq!(packs(), 1);
    let held = server.repository.held().await.unwrap();
    assert_eq!((held.packs, held.loose), (1, 0));
    let other = Client::empty();
    other.git(&["clone", &server.url, "."]).await.succeeds();
    assert_eq!(other.head().await, client.head().await);
}
