//! A PostgreSQL that goes away and comes back: nobody is told that it is our fault, and nothing has to be started again.

use axum::http::Method;
use serde_json::{Value, json};

use super::database::{PostgresServer, is_postgres};
use super::fixture::{Platform, component, config, eventually, quick};
use crate::store::{self, StoreError};
use crate::{Config, Database};

/// A platform with a server of its own.
async fn platform() -> Option<(Platform, PostgresServer)> {
    is_postgres().then_some(())?;
    let server = PostgresServer::start();
    server.run("CREATE DATABASE wharf").await;
    let dir = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let database: Database = server.database("wharf");
    let platform = Platform::start_with(Config { database, ..config(&dir).await }, dir).await;
    platform.leads().await;
    Some((platform, server))
}

#[tokio::test]
async fn while_the_database_is_away_requests_are_put_off_and_then_all_goes_on() {
    let Some((platform, server)) = platform().await else { return };
    platform.deploy("hello", &component(0), quick()).await.is(201);
    let epoch = platform.leads().await;
    server.tell("kill");
    let read = platform.call(Method::GET, "/v1/namespaces", Value::Null).await;
    read.refuses(503, "unavailable", &["does not answer", "try again"]);
    assert_eq!(read.headers["retry-after"], "2");
    eventually("it leads no more", async || platform.context.epoch().is_err().then_some(())).await;
    server.tell("start");
    let other = json!({"name": "other"});
    eventually("the database is back", async || {
        let reply = platform.call(Method::POST, "/v1/namespaces", other.clone()).await;
        assert!([201, 503].contains(&reply.status), "{}", reply.json);
        (reply.status == 201).then_some(())
    })
    .await;
    assert!(platform.leads().await > epoch);
    let worker = super::worker::Worker::join(&platform).await;
    platform.serve(1, quick()).await;
    drop(worker);
}

#[tokio::test]
async fn a_connection_that_breaks_costs_its_own_transaction_and_no_other() {
    let Some((platform, server)) = platform().await else { return };
    let end_all = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'wharf'";
    let mut tx = platform.context.store.write().await.unwrap();
    let (name, now) = ("never".parse().unwrap(), wharf_types::Timestamp::now());
    store::namespace::create(&mut tx, &name, now).await.unwrap();
    server.run(end_all).await;
    let error = tx.commit().await.unwrap_err();
    assert!(matches!(error, StoreError::InDoubt(_)), "{error:?}");
    // The next one finds connections that are none any more, and takes others.
    let mut tx = platform.context.store.write().await.unwrap();
    assert_eq!(store::namespace::find_id(&mut tx, &name).await.unwrap(), None);
    drop(tx);
    platform.context.store.read().await.unwrap();
}
