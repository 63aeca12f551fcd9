//! Bad input: each kind gets its own code and one clear sentence, and leaves everything as it was.

use axum::body::Body;
use axum::http::Method;
use serde_json::{Value, json};
use wharf_types::Digest;

use super::fixture::{Platform, component, eventually, quick, request};
use super::worker::Worker;
use crate::context::ARCHIVE_INSPECTIONS_MAX;

#[tokio::test]
async fn artifacts_that_cannot_run_are_refused() {
    let platform = Platform::start().await;
    platform.push("default", b"#!/bin/sh").await.refuses(
        422,
        "invalid_artifact",
        &["begins with `#!/bin/s`"],
    );
    platform.push("default", b"").await.refuses(422, "invalid_artifact", &["empty"]);
    let whole = component(0);
    let cut = &whole[..whole.len() - 4];
    platform.push("default", cut).await.refuses(422, "invalid_artifact", &["truncated", "offset"]);
    let odd = wat::parse_str(r#"(component (import "wasi:nn/graph@0.2.0" (instance)))"#).unwrap();
    platform.push("default", &odd).await.refuses(422, "invalid_artifact", &["`wasi:nn/graph@0.2.0`"]);
    let worldless = wat::parse_str("(component)").unwrap();
    platform.push("default", &worldless).await.refuses(422, "invalid_artifact", &["exports nothing"]);
    let wrong = Digest::of(b"other").to_string();
    platform.push_as("default", &wrong, &whole).await.refuses(422, "digest_mismatch", &[&wrong]);
    platform.push_as("default", "sha256:zz", &whole).await.refuses(400, "invalid_request", &["not a digest"]);
    platform.push("nowhere", &whole).await.refuses(404, "not_found", &["`nowhere`"]);
    for refused in [cut, &odd, &worldless, &whole] {
        let path = format!("/v1/namespaces/default/artifacts/{}", Digest::of(refused));
        platform.call(Method::GET, &path, Value::Null).await.refuses(404, "not_found", &["push it first"]);
    }
}

#[tokio::test]
async fn more_uploads_than_have_a_place_are_put_off() {
    let platform = Platform::start().await;
    let places = platform.context.uploads.try_acquire_many(crate::artifacts::UPLOADS_MAX).unwrap();
    platform.push("default", &component(0)).await.refuses(503, "unavailable", &["16 artifacts", "try again"]);
    drop(places);
    platform.push("default", &component(0)).await.is(201);
}

#[tokio::test]
async fn components_and_archives_of_images_do_not_wait_for_each_other() {
    let platform = Platform::start().await;
    let mut header = tar::Header::new_ustar();
    header.set_path("manifest.json").unwrap();
    header.set_size(4);
    header.set_cksum();
    let mut archive = tar::Builder::new(Vec::new());
    archive.append(&header, &b"[{}]"[..]).unwrap();
    let archive = archive.into_inner().unwrap();
    let component_turn = platform.context.inspections.clone().acquire_owned().await.unwrap();
    platform.push("default", &archive).await.is(201);
    drop(component_turn);
    let turns = u32::try_from(ARCHIVE_INSPECTIONS_MAX).unwrap();
    let _turns = platform.context.archive_inspections.clone().acquire_many_owned(turns).await.unwrap();
    platform.push("default", &component(0)).await.is(201);
}

#[tokio::test]
async fn an_artifact_whose_file_was_lost_is_taken_in_again() {
    let platform = Platform::start().await;
    platform.push("default", &component(0)).await.is(201);
    platform.push("default", &component(0)).await.is(200);
    platform.context.artifacts.remove(Digest::of(&component(0))).await.unwrap();
    let path = format!("/v1/namespaces/default/artifacts/{}", Digest::of(&component(0)));
    platform.call(Method::GET, &path, Value::Null).await.refuses(404, "not_found", &["push it first"]);
    platform.push("default", &component(0)).await.is(201);
    platform.get(&path).await;
}

#[tokio::test]
async fn two_hundred_megabytes_of_zeros_are_refused_at_the_first_ones() {
    let platform = Platform::start().await;
    let chunk = bytes::Bytes::from_static(&[0; 1 << 16]);
    let zeros = futures::stream::iter((0..3200).map(move |_| Ok::<_, std::io::Error>(chunk.clone())));
    let path = format!("/v1/namespaces/default/artifacts/{}", Digest::of(b"zeros"));
    let request = request(&platform.admin, Method::PUT, &path).header("content-length", 3200_u64 << 16);
    let request = request.body(Body::from_stream(zeros)).unwrap();
    platform.send(request).await.refuses(422, "invalid_artifact", &["00 00 00 00"]);
}

#[tokio::test]
async fn an_upload_that_does_not_say_its_length_is_refused() {
    let platform = Platform::start().await;
    for kind in ["artifacts", "files"] {
        let path = format!("/v1/namespaces/default/{kind}/{}", Digest::of(&component(0)));
        let request = request(&platform.admin, Method::PUT, &path);
        let reply = platform.send(request.body(Body::from(component(0))).unwrap()).await;
        reply.refuses(400, "invalid_request", &["`Content-Length`"]);
    }
    assert!(platform.context.artifacts.open(Digest::of(&component(0))).await.unwrap().is_none());
}

#[tokio::test]
async fn an_announced_size_beyond_the_limit_is_refused_before_the_body() {
    let platform = Platform::start().await;
    let path = format!("/v1/namespaces/default/artifacts/{}", Digest::of(b"huge"));
    let request = request(&platform.admin, Method::PUT, &path)
        .header("content-length", (2_u64 << 30).to_string())
        .body(Body::empty())
        .unwrap();
    platform.send(request).await.refuses(413, "too_large", &["1024 MiB"]);
}

#[tokio::test]
async fn a_known_artifact_is_taken_at_once_and_only_its_namespace_knows_it() {
    let platform = Platform::start().await;
    let created = platform.push("default", &component(1)).await.is(201);
    assert_eq!(
        (&created["world"], &created["imports"][0]),
        (&json!("http-proxy"), &json!("wasi:keyvalue/store@0.2.0-draft"))
    );
    let digest = Digest::of(&component(1)).to_string();
    let endless = futures::stream::pending::<Result<bytes::Bytes, std::io::Error>>();
    let path = format!("/v1/namespaces/default/artifacts/{digest}");
    let again = request(&platform.admin, Method::PUT, &path).body(Body::from_stream(endless)).unwrap();
    assert_eq!(platform.send(again).await.is(200), created);

    platform.call(Method::POST, "/v1/namespaces", json!({"name": "other"})).await.is(201);
    let elsewhere = format!("/v1/namespaces/other/artifacts/{digest}");
    platform.call(Method::GET, &elsewhere, Value::Null).await.refuses(404, "not_found", &[]);
    let body = json!({"artifact": digest});
    let release = platform.call(Method::POST, "/v1/namespaces/other/apps/hello/releases", body).await;
    release.refuses(404, "not_found", &["`other` has no artifact"]);
}

#[tokio::test]
async fn bad_names_bodies_and_addresses_are_named() {
    let platform = Platform::start().await;
    let reply = platform.call(Method::GET, "/v1/namespaces/default/apps/a%2Fb", Value::Null).await;
    reply.refuses(400, "invalid_request", &["`a/b` is not a valid app name", "lower-case"]);
    let reply = platform.call(Method::POST, "/v1/namespaces", json!({"name": "A B"})).await;
    reply.refuses(400, "invalid_request", &["name", "`A B`"]);
    let releases = "/v1/namespaces/default/apps/hello/releases";
    let body = json!({"artifact": Digest::of(b""), "spec": {"scale": {"replica": 2}}});
    platform.call(Method::POST, releases, body).await.refuses(
        400,
        "invalid_request",
        &["spec.scale", "`replica`"],
    );
    let not_json = request(&platform.admin, Method::POST, releases).body(Body::from("{")).unwrap();
    platform.send(not_json).await.refuses(400, "invalid_request", &[]);
    let large =
        request(&platform.admin, Method::POST, releases).body(Body::from(vec![b' '; 2 << 20])).unwrap();
    platform.send(large).await.refuses(413, "too_large", &[]);
    platform.call(Method::GET, "/v1/nothing", Value::Null).await.refuses(404, "not_found", &["/v1/nothing"]);
    platform.call(Method::PUT, "/v1/whoami", Value::Null).await.refuses(405, "method_not_allowed", &["PUT"]);
    let reply = platform.call(Method::GET, "/v1/namespaces/default/apps/none", Value::Null).await;
    reply.refuses(404, "not_found", &["no app `none`"]);
    let reply = platform.call(Method::DELETE, "/v1/tokens/xyz", Value::Null).await;
    reply.refuses(400, "invalid_request", &[]);
}

#[tokio::test]
async fn a_query_parameter_that_nobody_looks_at_is_refused() {
    let platform = Platform::start().await;
    platform.deploy("hello", &component(0), quick()).await.is(201);
    for (path, words) in [
        ("/v1/namespaces/default/apps?page=2", ["`page`", "`cursor`"]),
        ("/v1/namespaces/default/apps/hello/logs?tial=5", ["`tial`", "`tail`"]),
        ("/v1/namespaces/default/apps/hello?wait=1s", ["`wait`", "takes none"]),
    ] {
        let reply = platform.call(Method::GET, path, Value::Null).await;
        reply.refuses(400, "invalid_request", &words);
    }
    for path in [
        "apps?cursor=A%20B",
        "apps?cursor=zzz",
        "apps?cursor=after:",
        "schedules?cursor=zzz",
        "jobs?cursor=zzz",
        "builds?cursor=zzz",
        "events?cursor=x",
        "apps/hello/releases?cursor=zzz",
        "apps/hello/events?cursor=-1",
    ] {
        let path = format!("/v1/namespaces/default/{path}");
        let reply = platform.call(Method::GET, &path, Value::Null).await;
        reply.refuses(400, "invalid_request", &["cursor", "next_cursor"]);
    }
    let reply = platform.call(Method::GET, "/v1/audit?cursor=zzz", Value::Null).await;
    reply.refuses(400, "invalid_request", &["cursor", "next_cursor"]);
    let resumed = request(&platform.admin, Method::GET, "/v1/namespaces/default/events")
        .header("accept", "text/event-stream")
        .header("last-event-id", "x");
    let reply = platform.send(resumed.body(Body::empty()).unwrap()).await;
    reply.refuses(400, "invalid_request", &["Last-Event-ID"]);
}

#[tokio::test]
async fn settings_that_cannot_be_are_refused_by_field() {
    let platform = Platform::start().await;
    let reply = platform.deploy("hello", &component(0), json!({"scale": {"replicas": 1001}})).await;
    reply.refuses(422, "invalid_spec", &["scale.replicas"]);
    let reply = platform.deploy("hello", &component(0), json!({"http": {"routes": ["a b"]}})).await;
    reply.refuses(422, "invalid_spec", &["http.routes"]);
    let many: Vec<String> = (0..101).map(|number| format!("a{number}.example.com")).collect();
    let reply = platform.deploy("hello", &component(0), json!({"http": {"routes": many}})).await;
    reply.refuses(422, "invalid_spec", &["http.routes", "101 routes", "100"]);
    // The component is one of WASI 0.2.
    let reply = platform.deploy("hello", &component(0), json!({"reuse": {"mode": "concurrent"}})).await;
    reply.refuses(422, "invalid_spec", &["reuse.mode", "WASI 0.3"]);
    let reply = platform.call(Method::GET, "/v1/namespaces/default/apps/hello", Value::Null).await;
    reply.refuses(404, "not_found", &[]);
    platform.deploy("hello", &component(0), quick()).await.is(201);
    let scale = "/v1/namespaces/default/apps/hello/scale";
    platform.call(Method::PUT, scale, json!({"replicas": 5000})).await.refuses(
        422,
        "invalid_spec",
        &["replicas"],
    );
}

#[tokio::test]
async fn a_route_that_somebody_else_owns_is_refused() {
    let platform = Platform::start().await;
    platform.call(Method::POST, "/v1/namespaces", json!({"name": "other"})).await.is(201);
    let routes = |route: &str| json!({"http": {"routes": [route]}});
    platform.deploy("hello", &component(0), routes("shop.example.com/")).await.is(201);
    let same = platform.deploy("second", &component(0), routes("shop.example.com")).await;
    same.refuses(409, "route_taken", &["`shop.example.com/`", "app `hello`"]);
    // Another path on it is for the namespace to give.
    platform.deploy("second", &component(0), routes("shop.example.com/api")).await.is(201);

    platform.push("other", &component(0)).await.is(201);
    for route in ["shop.example.com/", "shop.example.com/other", "third.default.localhost/"] {
        let body = json!({"artifact": Digest::of(&component(0)), "spec": routes(route)});
        let reply = platform.call(Method::POST, "/v1/namespaces/other/apps/thief/releases", body).await;
        reply.refuses(409, "route_taken", &["somebody else"]);
        assert!(!reply.json.to_string().contains("hello"), "whose it is stays unknown: {}", reply.json);
    }
}

#[tokio::test]
async fn a_port_that_somebody_else_has_is_refused_until_it_is_given_up() {
    let platform = Platform::start().await;
    let _worker = Worker::join(&platform).await;
    platform.call(Method::POST, "/v1/namespaces", json!({"name": "other"})).await.is(201);
    let ports = |ports: &[u16]| json!({"tcp": {"ports": ports}, "update": {"monitor": "20ms"}});
    let deployed = platform.deploy("echo", &command(), ports(&[7000, 7001])).await.is(201);
    assert_eq!(deployed["urls"], json!(["tcp://127.0.0.1:7000", "tcp://127.0.0.1:7001"]));
    assert_eq!(platform.rollout("echo", &deployed).await["state"], "monitoring");
    let same = platform.deploy("second", &command(), ports(&[7002, 7001])).await;
    same.refuses(409, "port_taken", &["7001", "app `echo`", "`tcp.ports`"]);

    platform.push("other", &command()).await.is(201);
    let body = json!({"artifact": Digest::of(&command()), "spec": ports(&[7000])});
    let path = "/v1/namespaces/other/apps/thief/releases";
    let reply = platform.call(Method::POST, path, body.clone()).await;
    reply.refuses(409, "port_taken", &["port 7000 is taken"]);
    assert!(!reply.json.to_string().contains("echo"), "whose it is stays unknown: {}", reply.json);

    // What the refused releases asked for beside it has stayed free.
    let deployed = platform.deploy("echo", &command(), ports(&[7001, 7002])).await.is(201);
    assert_ne!(platform.rollout("echo", &deployed).await["state"], "failed");
    // The port is given up when the release that had it cannot come back by itself any more.
    eventually("the port is free", async || {
        let reply = platform.call(Method::POST, path, body.clone()).await;
        (reply.status == 201).then_some(())
    })
    .await;
    let back = json!({"release": 1});
    let reply = platform.call(Method::POST, "/v1/namespaces/default/apps/echo/rollback", back).await;
    reply.refuses(409, "port_taken", &["7000"]);
}

#[tokio::test]
async fn a_port_that_no_app_can_have_is_refused() {
    let platform = Platform::start().await;
    for (port, words) in [(22, "below 1024"), (8080, "the platform itself listens at port 8080")] {
        let spec = json!({"tcp": {"ports": [port]}});
        platform.deploy("echo", &command(), spec).await.refuses(422, "invalid_spec", &["tcp.ports", words]);
    }
    let spec = json!({"tcp": {"ports": [7000]}});
    let http = platform.deploy("hello", &component(0), spec).await;
    http.refuses(422, "invalid_spec", &["tcp.ports", "an HTTP app cannot listen"]);
}

/// A command that imports nothing.
fn command() -> Vec<u8> {
    let text = r#"(component (instance $run) (export "wasi:cli/run@0.2.0" (instance $run)))"#;
    wat::parse_str(text).unwrap()
}

#[tokio::test]
async fn files_that_no_worker_would_unpack_are_refused() {
    let platform = Platform::start().await;
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_path("evil").unwrap();
    header.set_link_name("/etc/passwd").unwrap();
    header.set_size(0);
    header.set_cksum();
    let mut archive = tar::Builder::new(Vec::new());
    archive.append(&header, std::io::empty()).unwrap();
    let archive = archive.into_inner().unwrap();
    platform.push_files(&archive).await.refuses(422, "invalid_artifact", &["`evil`", "a symbolic link"]);
    platform.push_files(&[b'x'; 4096]).await.refuses(422, "invalid_artifact", &["not a tar archive"]);
    let path = format!("/v1/namespaces/default/files/{}", Digest::of(&archive));
    let unknown = platform.call(Method::GET, &path, Value::Null).await;
    unknown.refuses(404, "not_found", &["push them first"]);
    let stored = platform.context.artifacts.open(Digest::of(&archive)).await.unwrap();
    assert!(stored.is_none(), "the bytes were kept");

    let spec = |digest: Digest, mount: &str| json!({"files": {"digest": digest, "mount": mount}});
    let refused = platform.deploy("site", &component(0), spec(Digest::of(&archive), "/")).await;
    refused.refuses(404, "not_found", &["has no files", "push them first"]);
    let refused = platform.deploy("site", &component(0), spec(Digest::of(b""), "public")).await;
    refused.refuses(422, "invalid_spec", &["files.mount", "`public`"]);
}

#[tokio::test]
async fn files_are_pushed_once_and_seen_by_their_namespace_only() {
    let platform = Platform::start().await;
    platform.call(Method::POST, "/v1/namespaces", json!({"name": "other"})).await.is(201);
    let mut writer = wharf_types::archive::Writer::new(Vec::new());
    writer.append("a.txt", 5, &b"hello"[..]).unwrap();
    let (archive, _) = writer.finish().unwrap();
    let digest = Digest::of(&archive);
    let pushed = platform.push_files(&archive).await.is(201);
    assert_eq!(pushed, json!({"digest": digest, "bytes": archive.len(), "files": 1}));
    assert_eq!(platform.push_files(&archive).await.is(200), pushed);
    let of = |namespace: &str| format!("/v1/namespaces/{namespace}/files/{digest}");
    assert_eq!(platform.get(&of("default")).await, pushed);
    platform.call(Method::GET, &of("other"), Value::Null).await.refuses(404, "not_found", &["push them"]);
    platform.push("other", &component(0)).await.is(201);
    let body = json!({"artifact": Digest::of(&component(0)), "spec": {"files": {"digest": digest}}});
    let refused = platform.call(Method::POST, "/v1/namespaces/other/apps/thief/releases", body).await;
    refused.refuses(404, "not_found", &["`other` has no files"]);
}
