//! Another CA takes the place of the one that signs, as nodes take it up.

use axum::body::Body;
use axum::http::Method;
use serde_json::{Value, json};
use wharf_pki::{JoinToken, NodeKey, bundle_tag, pins};
use wharf_types::NodeId;
use wharf_types::api::AUTHORITIES_HEADER;

use super::fixture::{Platform, eventually, request};
use crate::api::PeerNode;

const PATH: &str = "/v1/authorities";

impl Platform {
    /// A node that has joined and registered, and renews its certificate as often as it is asked to.
    async fn node_of_cluster(&self) -> NodeId {
        let token = self.token_to_join().await;
        let request = json!({"request": NodeKey::generate().unwrap().request().unwrap()});
        let joined = self.call_as(&token.secret, Method::POST, "/v1/join", request).await.is(201);
        let node: NodeId = joined["node"].as_str().unwrap().parse().unwrap();
        let registration = json!({"hostname": "b", "memory_bytes": 1u64 << 32, "cpus": 2, "version": "0", "address": "10.0.0.9:7072"});
        self.says(node, "", Method::PUT, "", registration).await.is(204);
        node
    }

    async fn token_to_join(&self) -> JoinToken {
        let made = self.call(Method::POST, "/v1/join-tokens", json!({})).await.is(201);
        made["token"].as_str().unwrap().parse().unwrap()
    }

    /// A node with CAs of this tag asks for something.
    async fn says(
        &self,
        node: NodeId,
        tag: &str,
        method: Method,
        rest: &str,
        body: Value,
    ) -> super::fixture::Reply {
        let request = request("none", method, &format!("/v1/nodes/{node}{rest}"));
        let mut request = request.header(AUTHORITIES_HEADER, tag).body(Body::from(body.to_string())).unwrap();
        request.extensions_mut().insert(PeerNode(node));
        self.send(request).await
    }

    /// Renews, and says what it has taken up by renewing once more. Returns the CAs.
    async fn renews(&self, node: NodeId) -> String {
        let mut bundle = String::new();
        for _ in 0..2 {
            let tag = if bundle.is_empty() { String::new() } else { bundle_tag(&bundle).unwrap() };
            let asked = json!({"request": NodeKey::generate().unwrap().request().unwrap()});
            let renewed = self.says(node, &tag, Method::POST, "/certificate", asked).await;
            let said = renewed.headers[AUTHORITIES_HEADER].clone();
            bundle = renewed.is(200)["authorities"].as_str().unwrap().to_owned();
            assert_eq!(said, bundle_tag(&bundle).unwrap(), "what it is told is what it gets");
        }
        bundle
    }

    /// States of the CAs, and how many nodes are waited for.
    async fn cas(&self) -> Vec<(String, usize)> {
        let items = self.get(PATH).await["items"].clone();
        let ca = |ca: &Value| {
            (ca["state"].as_str().unwrap().to_owned(), ca["waits_for"].as_array().unwrap().len())
        };
        items.as_array().unwrap().iter().map(ca).collect()
    }
}

fn state(name: &str, waits_for: usize) -> (String, usize) {
    (name.to_owned(), waits_for)
}

#[tokio::test]
async fn another_ca_comes_in_step_by_step_as_nodes_take_it_up() {
    let platform = Platform::start().await;
    platform.takes_workers().await;
    let before = platform.token_to_join().await.pin;
    let node = platform.node_of_cluster().await;
    assert_eq!(platform.cas().await, [state("signs", 0)]);
    platform.call(Method::POST, PATH, json!({})).await.is(201);
    assert_eq!(platform.cas().await, [state("signs", 0), state("next", 1)]);
    platform.call(Method::POST, PATH, json!({})).await.refuses(409, "conflict", &["already"]);
    assert_eq!(platform.token_to_join().await.pin, before, "it signs nothing yet");
    assert_eq!(pins(&platform.renews(node).await).unwrap().len(), 2);
    eventually("it signs", async || {
        (platform.cas().await == [state("signs", 0), state("old", 1)]).then_some(())
    })
    .await;
    let after = platform.token_to_join().await.pin;
    assert_ne!(after, before);
    assert_eq!(pins(&platform.renews(node).await).unwrap(), [after, before]);
    eventually("the one before is gone", async || {
        (platform.cas().await == [state("signs", 0)]).then_some(())
    })
    .await;
    assert_eq!(pins(&platform.renews(node).await).unwrap(), [after]);
    // What is sealed with the key for secrets goes along when that is replaced.
    platform.call(Method::POST, "/v1/secret-keys", Value::Null).await.is(201);
    assert_eq!(platform.authorities().await.pin(), after);
}

#[tokio::test]
async fn without_nodes_that_have_to_take_anything_up_it_takes_moments() {
    let platform = Platform::start().await;
    platform.takes_workers().await;
    let before = platform.token_to_join().await.pin;
    platform.call(Method::POST, PATH, json!({"force": true})).await.is(201);
    eventually("it is done", async || {
        (platform.cas().await.len() == 1 && platform.token_to_join().await.pin != before).then_some(())
    })
    .await;
}
