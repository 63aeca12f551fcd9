//! Of several control planes one leads, and another follows it when it is gone. On SQLite there is only one.

use axum::http::Method;
use serde_json::json;
use wharf_types::NodeId;

use super::fixture::{Platform, eventually, quick};
use super::worker::Worker;
use crate::Config;
use crate::store::lease::Taking;
use crate::store::{self, StoreError};

async fn two() -> Option<(Platform, Platform)> {
    let first = Platform::start().await;
    let second = first.start_beside().await?;
    Some((first, second))
}

#[tokio::test]
async fn one_leads_and_the_other_knows_where_it_is_and_sends_workers_there() {
    let Some((first, second)) = two().await else { return };
    let epoch = first.context.epoch().unwrap();
    let leader = second.context.store.leader().await.unwrap().unwrap();
    assert_eq!((leader.epoch, leader.address.as_str()), (epoch, "http://127.0.0.1:7070"));
    let path = format!("/v1/nodes/{}", NodeId::new());
    let node = json!({"hostname": "a", "memory_bytes": 1 << 30, "cpus": 2, "version": "0"});
    let refused = second.call_as(&second.node_token, Method::PUT, &path, node).await;
    refused.refuses(503, "unavailable", &["does not lead"]);
    assert!(refused.headers.contains_key("retry-after"));
}

#[tokio::test]
async fn when_the_leader_is_gone_another_goes_on_with_what_runs() {
    let Some((first, second)) = two().await else { return };
    let worker = Worker::join(&first).await;
    first.serve(0, quick()).await;
    let (node, before, epoch) = (worker.node, worker.newest().unwrap(), first.leads().await);
    drop(worker);
    first.crash();
    assert!(second.leads().await > epoch);
    let worker = Worker::join_as(&second, node).await;
    let after = eventually("an assignment came", async || worker.newest()).await;
    assert!(after.generation > before.generation && after.routes.generation > before.routes.generation);
    assert_eq!(after.instances[0].id, before.instances[0].id);
    second.serve(1, quick()).await;
}

#[tokio::test]
async fn a_copy_of_a_data_folder_waits_for_the_lease_and_a_folder_that_is_started_again_does_not() {
    let first = Platform::start().await;
    let config = Config { data_dir: first.dir.path().join("copy"), ..first.context.config.clone() };
    if config.database == crate::Database::DataDir {
        return;
    }
    let epoch = first.leads().await;
    std::fs::create_dir(&config.data_dir).unwrap();
    for file in ["server.id", "secret.key", "admin.token", "lock"] {
        let from = first.context.config.data_dir.join(file);
        if from.exists() {
            std::fs::copy(from, config.data_dir.join(file)).unwrap();
        }
    }
    let copy = Platform::start_with(config, first.dir.clone()).await;
    assert_eq!(copy.context.server, first.context.server);
    let leases = copy.context.store.leases(copy.context.candidate()).unwrap();
    let now = wharf_types::Timestamp::now;
    let Taking::Refused(Some(twin)) = leases.take(now()).await.unwrap() else { panic!("it was taken") };
    assert_eq!(twin.address, "http://127.0.0.1:7070");
    assert_eq!(twin.started_at.as_microsecond(), first.context.started_at.as_microsecond());
    leases.release().await.unwrap();
    assert_eq!(first.context.store.leader().await.unwrap().unwrap().epoch, epoch, "it was not the copy's");
    // What a process of the same folder does that comes after one that was killed.
    let again = first.context.store.leases(first.context.candidate()).unwrap();
    assert!(matches!(again.take(now()).await.unwrap(), Taking::Taken(taken) if taken > epoch));
}

#[tokio::test]
async fn a_leader_that_stood_still_in_a_transaction_keeps_nobody_from_writing_and_writes_nothing_itself() {
    let Some((first, second)) = two().await else { return };
    let epoch = first.leads().await;
    let mut stuck = first.context.write_as_leader().await.unwrap();
    let name = "never".parse().unwrap();
    store::namespace::create(&mut stuck, &name, wharf_types::Timestamp::now()).await.unwrap();
    // What a lease that was not renewed in time looks like.
    let mut conn = second.context.store.look().await.unwrap();
    store::query("UPDATE lease SET epoch = 0, holder = '', expires_at = 0").execute(&mut conn).await.unwrap();
    drop(conn);
    assert!(second.leads().await > epoch);
    stuck.commit().await.unwrap_err();
    let late = first.context.store.write_as(epoch).await;
    assert!(matches!(late, Err(StoreError::Deposed)));
    second.call(Method::GET, "/v1/namespaces/never", serde_json::Value::Null).await.is(404);
    eventually("the first one knows that it leads no more", async || {
        first.context.epoch().is_err().then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_stream_of_a_worker_ends_when_its_server_leads_no_more() {
    let Some((first, second)) = two().await else { return };
    let worker = Worker::join(&first).await;
    eventually("an assignment came", async || worker.newest()).await;
    first.context.follow_others();
    eventually("the stream has ended", async || worker.has_ended().then_some(())).await;
    drop(second);
}
