//! Clients and servers that go away in the middle.

use std::sync::Arc;

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use wharf_git::{Limits, Repositories, Verdict};

use crate::client::Client;
use crate::server::Server;
use crate::{eventually, within};

/// A server whose handlers say that they were asked, and wait.
async fn waiting() -> (Server, Arc<Notify>, Arc<Notify>) {
    let (asked, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tell, wait) = (asked.clone(), go_on.clone());
    let server = Server::start(Limits::default(), move |_, progress| {
        let (tell, wait) = (tell.clone(), wait.clone());
        async move {
            tell.notify_one();
            wait.notified().await;
            (0..10_000).for_each(|_| progress.line("nobody hears this"));
            Verdict::Accept
        }
    })
    .await;
    (server, asked, go_on)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_leaves_the_push_to_its_end() {
    let (server, asked, go_on) = waiting().await;
    let client = Client::with_commit().await;
    let mut push = client.command(&["push", &server.url, "main"]).spawn().unwrap();
    within(asked.notified()).await;
    // With its helper, which holds the connection.
    within(push.kill()).await.unwrap();
    go_on.notify_one();
    assert_eq!(server.outcome().await.moved.len(), 1);
    assert!(server.repository.resolve("main").await.unwrap().is_some());
    within(server.repositories.idle()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_holds_up_nothing() {
    let server = Server::start(Limits::default(), |_, progress| async move {
        let line = "x".repeat(1000);
        for _ in 0..20_000 {
            progress.line(&line);
            tokio::task::yield_now().await;
        }
        Verdict::Accept
    })
    .await;
    let (body, _) = Client::with_commit().await.body("refs/heads/main").await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = format!(
        "POST /app.git/git-receive-pack HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&body).await.unwrap();
    assert_eq!(server.outcome().await.moved.len(), 1);
    drop(stream);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_while_the_pack_comes_is_no_push() {
    let server = Server::accepting().await;
    let (body, head) = Client::with_commit().await.body("refs/heads/main").await;
    for end in [head / 2, head, body.len() - 1] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let head = format!(
            "POST /app.git/git-receive-pack HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&body[..end]).await.unwrap();
        drop(stream);
    }
    server.is_untouched().await;
    eventually(|| !server.has_quarantine()).await;
}

#[test]
fn a_server_that_ends_before_its_verdict_leaves_the_ref() {
    let outside = tokio::runtime::Runtime::new().unwrap();
    let inside = tokio::runtime::Runtime::new().unwrap();
    let (server, asked, _) = inside.block_on(waiting());
    let client = outside.block_on(Client::with_commit());
    outside.block_on(async {
        let push = client.command(&["push", &server.url, "main"]).spawn().unwrap();
        within(asked.notified()).await;
        assert!(server.has_quarantine());
        // All tasks end where they are, and what they hold is closed, as when a process is killed.
        inside.shutdown_background();
        let output = within(push.wait_with_output()).await.unwrap();
        assert!(!output.status.success());
        let folder = server.folder();
        eventually(|| !runs_in(&folder)).await;
        let next = Repositories::open(&server.root.path().join("git"), Limits::default()).unwrap();
        let id = folder.file_stem().unwrap().to_str().unwrap().parse().unwrap();
        let repository = next.find(id).await.unwrap().unwrap();
        assert_eq!(repository.refs().await.unwrap().len(), 0);
        repository.sweep().await.unwrap();
        assert!(!server.has_quarantine());
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_whose_client_goes_away_ends() {
    let (server, client) = (Server::accepting().await, Client::with_commit().await);
    client.commit("large", crate::noise(20 << 20)).await;
    client.git(&["push", &server.url, "main"]).await.succeeds();
    // Passes on what the client says, and never reads the answer.
    let proxy = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}/app.git", proxy.local_addr().unwrap());
    let address = server.address;
    let passed = tokio::spawn(async move {
        let (mut client, _) = proxy.accept().await.unwrap();
        let mut server = TcpStream::connect(address).await.unwrap();
        let (mut from_server, mut to_server) = server.split();
        let (mut from_client, mut to_client) = client.split();
        let copy_back = async {
            let mut all = 0;
            let mut chunk = vec![0; 64 << 10];
            while all < 1 << 20 {
                let read = tokio::io::AsyncReadExt::read(&mut from_server, &mut chunk).await.unwrap();
                to_client.write_all(&chunk[..read]).await.unwrap();
                all += read;
            }
        };
        tokio::select! {
            () = copy_back => {},
            _ = tokio::io::copy(&mut from_client, &mut to_server) => {},
        }
    });
    Client::empty().git(&["clone", &url, "."]).await.fails_with("");
    within(passed).await.unwrap();
    let folder = server.folder();
    eventually(|| !runs_in(&folder)).await;
}

/// Whether a process of git names this folder.
fn runs_in(folder: &std::path::Path) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap();
    processes.filter_map(|process| std::fs::read(process.ok()?.path().join("cmdline")).ok()).any(|line| {
        line.windows(folder.as_os_str().len()).any(|part| part == folder.as_os_str().as_encoded_bytes())
    })
}
