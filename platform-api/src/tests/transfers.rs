//! Backups and restores of volumes: who may, when, and what the worker of their node is told.

use axum::body::Body;
use axum::http::{Method, Request};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tower::ServiceExt;
use wharf_types::NodeId;
use wharf_types::exec::{Frame, MEDIA_TYPE};
use wharf_types::transfer::{Owners, Transfer, TransferOrder};

use super::execs::{all, saying};
use super::fixture::{Platform, component, eventually, request};
use super::worker::Worker;

const NS: &str = "/v1/namespaces/default";

impl Platform {
    /// The worker of this node follows its orders from now on, and of each transfer it says this.
    pub(super) async fn transfers(
        &self,
        node: NodeId,
        says: Vec<Frame>,
    ) -> mpsc::UnboundedReceiver<TransferOrder> {
        self.follows(node, "transfers", says).await
    }

    pub(super) fn transfer_request(&self, token: &str, volume: &str, way: &str) -> Request<Body> {
        let request = request(token, Method::POST, &format!("{NS}/volumes/{volume}/{way}"));
        request.header("content-type", MEDIA_TYPE).body(saying(vec![Frame::Start(Vec::new())])).unwrap()
    }

    /// All that comes back of a transfer.
    async fn transfer(&self, volume: &str, way: &str) -> Vec<Frame> {
        let request = self.transfer_request(&self.admin, volume, way);
        let answer = self.router.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.status(), 200);
        all(answer.into_body()).await
    }

    async fn volume(&self, app: &str) -> Value {
        let volumes = self.get(&format!("{NS}/volumes")).await;
        volumes["items"].as_array().unwrap().iter().find(|volume| volume["app"] == app).unwrap().clone()
    }

    /// An app with a volume that has a folder on a node.
    async fn keeps(&self, app: &str) -> (String, NodeId) {
        Worker::join(self).await.until_the_end();
        let volumes = json!({"volumes": [{"name": "data", "path": "/data", "size": "1MiB"}], "update": {"monitor": "20ms"}});
        let deployed = self.deploy(app, &component(0), volumes).await.is(201);
        self.rollout(app, &deployed).await;
        let volume = self.volume(app).await;
        (volume["id"].as_str().unwrap().to_owned(), volume["node"].as_str().unwrap().parse().unwrap())
    }

    /// The same of an app that is gone.
    pub(super) async fn kept_volume(&self, app: &str) -> (String, NodeId) {
        let kept = self.keeps(app).await;
        self.call(Method::DELETE, &format!("{NS}/apps/{app}"), Value::Null).await;
        eventually("the volume is nobody's", async || {
            (self.volume(app).await["state"] == "kept").then_some(())
        })
        .await;
        kept
    }
}

#[tokio::test]
async fn a_volume_is_read_by_developers_with_a_record_and_by_nobody_else() {
    let platform = Platform::start().await;
    let (id, node) = platform.keeps("notes").await;
    let said = vec![Frame::Stdout(b"tar".to_vec()), Frame::Stderr(b"left out".to_vec()), Frame::Exit(0)];
    let mut orders = platform.transfers(node, said.clone()).await;
    let frames = platform.transfer(&id, "backup").await;
    let Frame::Stderr(notice) = &frames[0] else { panic!("{frames:?}") };
    assert!(String::from_utf8_lossy(notice).contains("`notes` may write to the volume meanwhile"));
    assert_eq!(frames[1..], said);
    let order = orders.recv().await.unwrap();
    assert_eq!((order.volume.to_string(), order.transfer), (id.clone(), Transfer::Backup));
    let record = &platform.audit(&format!("object=volumes/{id}")).await[0];
    assert_eq!(record["before"], json!({"app": "notes", "name": "data", "size_bytes": 1 << 20}));

    for way in ["backup", "restore"] {
        let victor = platform.member(&format!("victor-{way}"), "default", "viewer").await;
        let refused = platform.send(platform.transfer_request(&victor, &id, way)).await;
        refused.refuses(403, "forbidden", &["role `developer`"]);
        let plain = platform.call(Method::POST, &format!("{NS}/volumes/{id}/{way}"), Value::Null).await;
        plain.refuses(400, "invalid_request", &["Upgrade: wharf-exec/1", &format!("wharf volume {way}")]);
    }
}

#[tokio::test]
async fn a_volume_is_replaced_only_while_its_app_does_not_run() {
    let platform = Platform::start().await;
    let (id, node) = platform.keeps("notes").await;
    let mut orders = platform.transfers(node, vec![Frame::Exit(0)]).await;
    let restore = async || platform.send(platform.transfer_request(&platform.admin, &id, "restore")).await;
    restore().await.refuses(409, "conflict", &["the app `notes` has the volume `data`", "wharf stop notes"]);
    platform.call(Method::POST, &format!("{NS}/apps/notes/stop"), Value::Null).await.is(200);
    eventually("its instances have ended", async || (restore().await.status == 200).then_some(())).await;
    let transfer = Transfer::Restore { size_bytes: 1 << 20, owners: Owners::Worker };
    assert_eq!(orders.recv().await.unwrap().transfer, transfer);
    assert_eq!(platform.transfer(&id, "backup").await, [Frame::Exit(0)], "nobody writes to it");

    let (kept, node) = platform.kept_volume("gone").await;
    let mut orders = platform.transfers(node, vec![Frame::Exit(0)]).await;
    // Where no container may run, nobody has use for other owners.
    assert_eq!(platform.transfer(&kept, "restore").await, [Frame::Exit(0)]);
    assert_eq!(orders.recv().await.unwrap().transfer, transfer);
    platform.call(Method::PUT, &format!("{NS}/quota"), json!({"containers": "isolated"})).await.is(200);
    assert_eq!(platform.transfer(&kept, "restore").await, [Frame::Exit(0)]);
    let transfer = Transfer::Restore { size_bytes: 1 << 20, owners: Owners::Kept };
    assert_eq!(orders.recv().await.unwrap().transfer, transfer);
}

#[tokio::test]
async fn a_volume_without_a_folder_or_a_worker_says_so() {
    let platform = Platform::start().await;
    let tries =
        async |id: &str, way: &str| platform.send(platform.transfer_request(&platform.admin, id, way)).await;
    let missing = wharf_types::VolumeId::new().to_string();
    tries(&missing, "backup").await.refuses(404, "not_found", &[&missing]);
    // Nobody is there who could make a folder.
    let volumes = json!({"volumes": [{"name": "data", "path": "/data", "size": "1MiB"}]});
    platform.deploy("notes", &component(0), volumes).await.is(201);
    let id = platform.volume("notes").await["id"].as_str().unwrap().to_owned();
    tries(&id, "backup").await.refuses(409, "conflict", &["is on no node yet", "`notes`"]);

    let (id, node) = platform.kept_volume("gone").await;
    tries(&id, "backup").await.refuses(503, "unavailable", &["takes no backups and restores now"]);
    platform.context.nodes.remove(node);
    let away = tries(&id, "restore").await;
    away.refuses(503, "unavailable", &[&format!("is on node {node}")]);
}

#[tokio::test]
async fn a_volume_that_is_being_removed_has_no_backup() {
    let platform = Platform::start().await;
    let (id, node) = platform.kept_volume("gone").await;
    platform.transfers(node, vec![Frame::Exit(0)]).await;
    platform.call(Method::DELETE, &format!("{NS}/volumes/{id}"), Value::Null).await.is(202);
    let refused = platform.send(platform.transfer_request(&platform.admin, &id, "backup")).await;
    refused.refuses(409, "conflict", &["are being removed"]);
}
