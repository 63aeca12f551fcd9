//! Handlers are dropped when their clients go away: what they had done by then is known to everybody, or was not done.

use std::future::Future;
use std::pin::pin;
use std::task::Poll;

use super::fixture::{LIMIT, Platform, component, eventually, quick};
use crate::{operations, store};

/// Polls a future once, and drops it as soon as it could go on.
async fn dropped_when_woken<F: Future>(future: F) {
    let mut future = pin!(future);
    let mut is_new = true;
    std::future::poll_fn(|cx| {
        if std::mem::take(&mut is_new) && future.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        Poll::Ready(())
    })
    .await;
}

#[tokio::test]
async fn a_change_whose_handler_was_dropped_while_it_committed_is_told_all_the_same() {
    let platform = Platform::start().await;
    platform.deploy("hello", &component(0), quick()).await.is(201);
    eventually("the reconciler has nothing more to tell", async || {
        (platform.app("hello").await["rollout"]["state"] == "running").then_some(())
    })
    .await;
    let context = &platform.context;
    let (namespace, name) = ("default".parse().unwrap(), "hello".parse().unwrap());
    let mut tx = context.store.write().await.unwrap();
    let app = store::app::find(&mut tx, &namespace, &name).await.unwrap().unwrap();
    store::app::set_scale(&mut tx, app.id, Some(7)).await.unwrap();
    let mut watcher = context.watch();
    dropped_when_woken(operations::commit(context, tx, [app.id])).await;

    let mut tx = context.store.write().await.unwrap();
    let committed = store::app::get(&mut tx, app.id).await.unwrap().unwrap();
    assert_eq!(committed.scaled_to, Some(7), "what was begun was carried to its end");
    let told = tokio::time::timeout(LIMIT, watcher.changed(|id| id == app.id)).await;
    assert_eq!(told, Ok(true));
}
