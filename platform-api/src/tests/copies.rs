//! Files that are copied out of containers and into them: who may, and what the worker is told.

use axum::body::Body;
use axum::http::{Method, Request};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tower::ServiceExt;
use wharf_types::NodeId;
use wharf_types::copy::{CopyOrder, CopyWay};
use wharf_types::exec::{Frame, MEDIA_TYPE};

use super::execs::{all, saying};
use super::fixture::{Platform, component, quick, request};

const NS: &str = "/v1/namespaces/default";

impl Platform {
    /// The worker of this node follows its orders from now on, and of each copy it says this.
    pub(super) async fn copies(&self, node: NodeId, says: Vec<Frame>) -> mpsc::UnboundedReceiver<CopyOrder> {
        self.follows(node, "copies", says).await
    }

    pub(super) fn copy_request(&self, token: &str, app: &str, spec: &Value) -> Request<Body> {
        let start = Frame::Start(spec.to_string().into_bytes());
        let request = request(token, Method::POST, &format!("{NS}/apps/{app}/copy"));
        request.header("content-type", MEDIA_TYPE).body(saying(vec![start])).unwrap()
    }
}

#[tokio::test]
async fn files_are_copied_by_developers_with_a_record_and_by_nobody_else() {
    let platform = Platform::start().await;
    let node = platform.runs_container("box").await;
    let said = vec![Frame::Stdout(b"tar".to_vec()), Frame::Exit(0)];
    let mut orders = platform.copies(node, said.clone()).await;
    let instance = platform.app("box").await["instances"][0]["id"].clone();
    let alice = platform.member("alice", "default", "developer").await;
    for (way, word) in [(CopyWay::Out, "out"), (CopyWay::In, "in")] {
        let spec = json!({"way": word, "path": "/srv/a"});
        let answer =
            platform.router.clone().oneshot(platform.copy_request(&alice, "box", &spec)).await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(all(answer.into_body()).await, said);
        let order = orders.recv().await.unwrap();
        assert_eq!((json!(order.instance), order.way, &order.path[..]), (instance.clone(), way, "/srv/a"));
        let after = json!({"way": word, "path": "/srv/a", "instance": instance, "slot": 1});
        let records = platform.audit("actor=alice&object=apps/box").await;
        let record = records.iter().find(|record| record["after"] == after).expect("a record");
        assert_eq!(record["action"], "post_namespace_app_copy");
        assert_eq!(record["outcome"], "done");

        let victor = platform.member(&format!("victor-{word}"), "default", "viewer").await;
        let refused = platform.send(platform.copy_request(&victor, "box", &spec)).await;
        refused.refuses(403, "forbidden", &["role `developer`"]);
    }
}

#[tokio::test]
async fn what_cannot_be_copied_is_refused_with_what_to_do_and_leaves_no_record() {
    let platform = Platform::start().await;
    let spec = json!({"way": "out", "path": "/srv"});
    let tries = async |app: &str, spec: &Value| {
        platform.send(platform.copy_request(&platform.admin, app, spec)).await
    };
    platform.deploy("wasm", &component(0), quick()).await.is(201);
    tries("wasm", &spec).await.refuses(400, "invalid_request", &["WebAssembly", "wharf volume backup"]);
    tries("none", &spec).await.refuses(404, "not_found", &["no app `none`"]);
    let node = platform.runs_container("box").await;
    tries("box", &spec).await.refuses(503, "unavailable", &["copies nothing now"]);
    let orders = platform.copies(node, vec![Frame::Exit(0)]).await;
    let from = platform.audit("cursor=0").await.len();
    for (spec, words) in [
        (json!({}), "way"),
        (json!({"way": "up", "path": "/a"}), "up"),
        (json!({"way": "out", "path": "a"}), "begin with `/`"),
        (json!({"way": "in", "path": "/a/../b"}), "without `.` and `..`"),
        (json!({"way": "in", "path": "/a", "slot": 0}), "counted from 1"),
    ] {
        tries("box", &spec).await.refuses(400, "invalid_request", &[words]);
    }
    let spec = json!({"way": "in", "path": "/a", "slot": 7});
    tries("box", &spec).await.refuses(404, "not_found", &["no slot 7"]);
    let plain = platform.call(Method::POST, &format!("{NS}/apps/box/copy"), spec).await;
    plain.refuses(400, "invalid_request", &["Upgrade: wharf-exec/1", "wharf cp"]);
    assert_eq!(platform.audit("cursor=0").await.len(), from);
    drop(orders);
}
