//! Requests that a client sends again because it saw no reply.

use axum::http::Method;

use super::fixture::{Platform, eventually, quick};
use super::worker::Worker;

const HELLO: &str = "/v1/namespaces/default/apps/hello";

#[tokio::test]
async fn what_is_sent_twice_with_one_key_takes_effect_once() {
    let platform = Platform::start().await;
    let _worker = Worker::join(&platform).await;
    for number in 0..3 {
        platform.serve(number, quick()).await;
    }
    let send = async |key: &str, method: Method, path: &str, body: &str| {
        let request = super::fixture::request(&platform.admin, method, &format!("{HELLO}{path}"))
            .header("idempotency-key", key)
            .body(body.to_owned().into())
            .unwrap();
        platform.send(request).await
    };
    for (method, path, body) in [
        (Method::POST, "/rollback", "{}"),
        (Method::POST, "/restart", ""),
        (Method::PATCH, "/env", r#"{"set": {"A": "b"}}"#),
    ] {
        let first = send(path, method.clone(), path, body).await.is(201);
        // The end of the rollout is an event, too.
        let rollout = format!("{HELLO}/rollouts/{}", first["rollout"].as_str().unwrap());
        eventually("the rollout has ended", async || {
            (platform.get(&rollout).await["state"] == "succeeded").then_some(())
        })
        .await;
        let events = platform.get(&format!("{HELLO}/events")).await;
        assert_eq!(send(path, method, path, body).await.is(201), first);
        assert_eq!(platform.get(&format!("{HELLO}/events")).await["items"].as_array().unwrap().len(), {
            events["items"].as_array().unwrap().len()
        });
        assert_eq!(platform.app("hello").await["release"], first["release"], "{path}");
    }
    send("/restart", Method::POST, "/rollback", "").await.refuses(409, "conflict", &["`/restart`"]);
}
