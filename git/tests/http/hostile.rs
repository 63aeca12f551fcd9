//! Pushes that are broken, too large or meant to harm, and what limits make of them.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use wharf_git::{CheckoutError, CheckoutLimits, Limits, Verdict};

use crate::client::Client;
use crate::server::Server;

async fn limited(limits: Limits) -> Server {
    Server::start(limits, |_, _| async { Verdict::Accept }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_beyond_the_limit_is_refused_with_a_cure_however_it_is_sent() {
    let server = limited(Limits { pack_max_bytes: 1 << 20, ..Limits::default() }).await;
    let client = Client::with_commit().await;
    client.commit("large", crate::noise(8 << 20)).await;
    for buffer in ["http.postBuffer=100000000", "http.postBuffer=65536"] {
        let ran = client.git(&["-c", buffer, "push", &server.url, "main"]).await.fails_with("(too large)");
        assert!(
            ran.stderr.contains("remote: the push is larger than 1 MiB: keep large files out"),
            "{}",
            ran.stderr
        );
    }
    server.is_untouched().await;
    assert!(!server.has_quarantine());
    client.git(&["push", &server.url, "main~1:refs/heads/main"]).await.succeeds();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_of_too_many_objects_is_refused_before_they_are_read() {
    let server = limited(Limits { objects_max: 3, ..Limits::default() }).await;
    let client = Client::with_commit().await;
    client.git(&["push", &server.url, "main"]).await.succeeds();
    for number in 0..2 {
        client.commit("more", number.to_string()).await;
    }
    let ran = client.git(&["push", &server.url, "main"]).await.fails_with("(too many objects)");
    assert!(ran.stderr.contains("remote: the push has 6 objects, and may have 3"), "{}", ran.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_of_too_many_refs_is_refused() {
    let server = limited(Limits { updates_max: 1, ..Limits::default() }).await;
    let client = Client::with_commit().await;
    client.git(&["push", &server.url, "main", "main:b"]).await.fails_with("changes 2 refs, and may change 1");
    server.is_untouched().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stops_sending_is_told_and_cut_off() {
    let server = limited(Limits { stall: Duration::from_millis(300), ..Limits::default() }).await;
    let (body, _) = Client::with_commit().await.body("refs/heads/main").await;
    let answer = server.send(&body[..body.len() - 10], body.len()).await;
    assert!(
        answer.contains("nothing came for") && answer.contains("ng refs/heads/main too slow"),
        "{answer}"
    );
    server.is_untouched().await;
    assert!(!server.has_quarantine());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_takes_too_long_is_told_and_cut_off() {
    let server = limited(Limits { receive: Duration::from_millis(500), ..Limits::default() }).await;
    let (body, _) = Client::with_commit().await.body("refs/heads/main").await;
    let answer = server.send(&body[..body.len() - 10], body.len()).await;
    assert!(answer.contains("took longer than"), "{answer}");
    server.is_untouched().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_is_cut_off_or_damaged_never_reaches_the_handler() {
    let server = Server::accepting().await;
    let (body, head) = Client::with_commit().await.body("refs/heads/main").await;
    for end in [head + 12, head + 20, body.len() - 1] {
        let answer = server.send(&body[..end], end).await;
        assert!(answer.contains("ng refs/heads/main unpacker error"), "{answer}");
    }
    for at in [head + 14, body.len() - 5] {
        let mut damaged = body.clone();
        damaged[at] ^= 0x55;
        let answer = server.send(&damaged, damaged.len()).await;
        assert!(answer.contains("ng refs/heads/main unpacker error"), "{answer}");
    }
    server.is_untouched().await;
    assert!(!server.has_quarantine());
    let answer = server.send(&body, body.len()).await;
    assert!(answer.contains("ok refs/heads/main"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_a_push_gets_an_error_of_http() {
    let server = Server::accepting().await;
    let (body, head) = Client::with_commit().await.body("refs/heads/main").await;
    for (body, words) in [
        (&b"<html>"[..], "not in git's protocol"),
        (b"", "broke off"),
        (&body[..head - 2], "broke off"),
        (&body[..head], "broke off"),
        (b"0009hello0000", "where the change of a ref stands"),
    ] {
        let answer = server.send(body, body.len()).await;
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains(words), "{answer}");
    }
    // What git sends before a large push.
    assert!(server.send(b"0000", 4).await.starts_with("HTTP/1.1 200"));
    server.is_untouched().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_knows_an_older_ref_is_refused_before_the_handler_is_asked() {
    let server = Server::accepting().await;
    let command = format!("{} {} refs/heads/main\0report-status", "1".repeat(40), "0".repeat(40));
    let body = format!("{:04x}{command}0000", command.len() + 4);
    let answer = server.send(body.as_bytes(), body.len()).await;
    assert!(answer.contains("ng refs/heads/main pre-receive hook declined"), "{answer}");
    server.is_untouched().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refs_of_the_platform_cannot_be_pushed() {
    let (server, client) = (Server::accepting().await, Client::with_commit().await);
    let push = client.git(&["push", &server.url, "main:refs/wharf/releases/1"]).await;
    push.fails_with("remote: refs/wharf/releases/1 is the platform's own");
    server.is_untouched().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_hook_of_anybody_else_is_ever_run() {
    let (server, client) = (Server::accepting().await, Client::with_commit().await);
    let mark = server.root.path().join("ran");
    let script = format!("#!/bin/sh\necho $0 >>{}\n", mark.display());
    let hooks = [
        "pre-receive",
        "update",
        "post-receive",
        "post-update",
        "reference-transaction",
        "proc-receive",
        "post-checkout",
    ];
    for hook in hooks {
        // In what is pushed, where git looks in a working copy, and where it looks by default in the repository.
        let folder = server.folder().join("hooks");
        std::fs::create_dir_all(&folder).unwrap();
        for path in [
            client.write(&format!("hooks/{hook}"), &script),
            client.write(&format!(".githooks/{hook}"), &script),
            folder.join(hook),
        ] {
            std::fs::write(&path, &script).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
    }
    client.write("config", "[core]\n\thooksPath = .githooks\n");
    let head = client.commit_all("hooks").await;
    client.git(&["push", &server.url, "main"]).await.succeeds();
    let into = server.root.path().join("out");
    let objects = server.repository.objects();
    objects.checkout(head.parse().unwrap(), &into, &CheckoutLimits::default()).await.unwrap();
    assert!(into.join("hooks/post-checkout").exists());
    client.git(&["push", &server.url, ":main"]).await.succeeds();
    assert!(!mark.exists(), "{}", std::fs::read_to_string(mark).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_is_taken_without_as_much_memory_and_not_written_out() {
    // Git may allocate no piece as large as the file.
    let server = limited(Limits { object_memory_max_bytes: 48 << 20, ..Limits::default() }).await;
    let client = Client::with_commit().await;
    let file = std::fs::File::create(client.path().join("bomb")).unwrap();
    file.set_len(200 << 20).unwrap();
    let head = client.commit_all("a file of zeros").await;
    client.git(&["push", &server.url, "main"]).await.succeeds();
    let into = server.root.path().join("out");
    let limits = CheckoutLimits { file_max_bytes: 100 << 20, ..CheckoutLimits::default() };
    let (objects, head) = (server.repository.objects(), head.parse().unwrap());
    let refused = objects.checkout(head, &into, &limits).await;
    assert!(matches!(refused, Err(CheckoutError::FileTooLarge { bytes: 209_715_200, .. })), "{refused:?}");
    let all = server.root.path().join("all");
    let written = objects.checkout(head, &all, &CheckoutLimits::default()).await.unwrap();
    assert_eq!(written.bytes, (200 << 20) + 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_too_much_memory_is_refused() {
    let server = limited(Limits { object_memory_max_bytes: 16 << 20, ..Limits::default() }).await;
    let client = Client::with_commit().await;
    // Git puts a delta together in memory, of whatever size it says it is.
    let noise = crate::noise(24 << 20);
    client.commit("large", &noise).await;
    client.commit("large", [&noise[..], b"changed"].concat()).await;
    client.git(&["push", &server.url, "main"]).await.fails_with("attempting to allocate");
    client.git(&["reset", "--hard", "--quiet", "HEAD~2"]).await.succeeds();
    // Memory grows with the message: it cannot be read in pieces.
    client.write("message", vec![b'x'; 40 << 20]);
    client.git(&["commit", "--quiet", "--allow-empty", "-F", "message"]).await.succeeds();
    client.git(&["push", &server.url, "main"]).await.fails_with("attempting to allocate");
    server.is_untouched().await;
    assert!(!server.has_quarantine());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_that_names_git_or_leads_out_is_refused_by_git_itself() {
    let (server, client) = (Server::accepting().await, Client::with_commit().await);
    let blob = client.git(&["hash-object", "-w", "README"]).await.succeeds().stdout.trim().to_owned();
    for (name, why) in [(".git", "contains '.git'"), (".GIT", "contains '.git'"), ("..", "contains '..'")] {
        let id: Vec<u8> = blob
            .as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect();
        let tree = [format!("100644 {name}\0").as_bytes(), &id].concat();
        let tree = client
            .git_with(&["hash-object", "--literally", "-t", "tree", "-w", "--stdin"], &tree)
            .await
            .succeeds();
        let commit = client.git(&["commit-tree", "-m", "evil", tree.stdout.trim()]).await.succeeds();
        let target = format!("{}:refs/heads/evil", commit.stdout.trim());
        let ran = client.git(&["push", &server.url, &target]).await.fails_with("unpacker error");
        let told =
            ran.stderr.lines().any(|line| line.starts_with("remote: error: object") && line.contains(why));
        assert!(told, "{name}: {}", ran.stderr);
    }
    server.is_untouched().await;
}
