//! What the store makes of a report is what `plan/observed.rs` says, on which the simulator runs.

use axum::body::Body;
use axum::http::Method;
use tower::ServiceExt;
use wharf_types::node::{InstanceReport, Reason, ReasonKind};
use wharf_types::state::{Health, InstanceState, Wanted};
use wharf_types::{InstanceId, NodeId, Timestamp};

use super::fixture::{LIMIT, Platform, component, eventually, quick, request};
use super::worker::Worker;
use crate::operations::report::{Said, observe};
use crate::store::instance::{Instance, NewInstance};
use crate::store::{self, Conn};

/// An instance that serves, and its node.
async fn served(platform: &Platform) -> (InstanceId, NodeId) {
    let worker = Worker::join(platform).await;
    let deployed = platform.deploy("hello", &component(0), quick()).await.is(201);
    platform.arrives(&deployed).await;
    let assignment = eventually("an assignment came", async || worker.newest()).await;
    (assignment.instances[0].id, worker.node)
}

fn report(id: InstanceId, state: InstanceState) -> InstanceReport {
    InstanceReport {
        id,
        replaces: None,
        state,
        health: Health::Unknown,
        reason: None,
        restarts: 0,
        exit_code: None,
    }
}

#[tokio::test]
async fn who_asks_for_a_rollout_leaves_the_connections_to_those_who_count_its_requests() {
    let platform = Platform::start().await;
    let worker = Worker::join(&platform).await;
    let deployed = platform.deploy("hello", &component(0), quick()).await.is(201);
    platform.arrives(&deployed).await;
    let path =
        format!("/v1/namespaces/default/apps/hello/rollouts/{}", deployed["rollout"].as_str().unwrap());
    let counting = platform.context.ledger.hold().await;
    let asked = (0..16).map(|_| {
        let request = request(&platform.admin, Method::GET, &path).body(Body::empty()).unwrap();
        tokio::spawn(platform.router.clone().oneshot(request))
    });
    let asked: Vec<_> = asked.collect();
    // Enough for all of them to have come where they wait.
    for _ in 0..50 {
        let reading = tokio::time::timeout(LIMIT, platform.context.store.read()).await;
        drop(reading.expect("there is a connection").unwrap());
        tokio::task::yield_now().await;
    }
    drop(counting);
    for answer in futures::future::join_all(asked).await {
        assert_eq!(answer.unwrap().unwrap().status(), 200);
    }
    drop(worker);
}

/// Another one like it, which has come so far.
async fn put(conn: &mut Conn, like: &Instance, state: InstanceState, now: Timestamp) -> Instance {
    let new = NewInstance {
        id: InstanceId::new(),
        app: like.app,
        release: like.view.release,
        slot: like.view.slot,
        node: like.view.node.unwrap(),
        wanted: Wanted::Run,
    };
    store::instance::create(conn, &new, now).await.unwrap();
    store::instance::observe(conn, &report(new.id, state), now).await.unwrap();
    get(conn, new.id).await
}

async fn get(conn: &mut Conn, id: InstanceId) -> Instance {
    store::instance::get(conn, id).await.unwrap().unwrap()
}

#[tokio::test]
async fn the_store_merges_a_report_as_the_view_does() {
    let platform = Platform::start().await;
    let (id, _) = served(&platform).await;
    let mut tx = platform.context.store.write().await.unwrap();
    let like = get(&mut tx, id).await;
    let now = Timestamp::from_microsecond(Timestamp::now().as_microsecond()).unwrap();
    let reason = Reason { kind: ReasonKind::Probe, message: "it answers 500".to_owned() };
    for state in &InstanceState::ALL[1..] {
        for reported in InstanceState::ALL {
            for (health, reason) in
                [(Health::Unknown, None), (Health::Healthy, None), (Health::Unknown, Some(&reason))]
            {
                let before = put(&mut tx, &like, *state, now).await;
                let id = before.view.id;
                let report = InstanceReport { health, reason: reason.cloned(), ..report(id, reported) };
                let mut expected = before.view.clone();
                let is_news = expected.observe(&report, now);
                let applied = store::instance::observe(&mut tx, &report, now).await.unwrap();
                assert_eq!(
                    (applied, get(&mut tx, id).await.view),
                    (is_news, expected),
                    "{before:?} {report:?}"
                );

                let mut expected = before.view.clone();
                let before = put(&mut tx, &like, *state, now).await;
                expected.id = before.view.id;
                expected.be_replaced(reason, now);
                store::instance::mark_replaced(&mut tx, before.view.id, reason, now).await.unwrap();
                assert_eq!(get(&mut tx, before.view.id).await.view, expected, "{before:?}");
            }
        }
    }
}

#[tokio::test]
async fn what_is_said_of_many_changes_each_that_it_says_something_new_of() {
    let platform = Platform::start().await;
    let (id, node) = served(&platform).await;
    let mut tx = platform.context.store.write().await.unwrap();
    let like = get(&mut tx, id).await;
    let now = Timestamp::now();
    let new = |_| NewInstance {
        id: InstanceId::new(),
        app: like.app,
        release: like.view.release,
        slot: like.view.slot,
        node,
        wanted: Wanted::Run,
    };
    let all: Vec<NewInstance> = (0..300).map(new).collect();
    store::instance::create_all(&mut tx, &all, now).await.unwrap();
    let mut ids: Vec<InstanceId> = all.iter().map(|new| new.id).collect();
    let (ahead, ended, unknown) = (ids[7], ids[200], InstanceId::new());
    store::instance::observe(&mut tx, &report(ahead, InstanceState::Running), now).await.unwrap();
    store::instance::observe(&mut tx, &report(ended, InstanceState::Failed), now).await.unwrap();
    ids.push(unknown);
    let owners = store::instance::owners(&mut tx, &ids).await.unwrap();
    assert_eq!(owners.len(), 300);
    assert!(!owners.contains_key(&unknown) && owners.values().all(|owner| *owner == (like.app, Some(node))));
    let said = report(ids[0], InstanceState::Running);
    let mut changed = store::instance::observe_all(&mut tx, &ids, &said, now).await.unwrap();
    let mut expected = ids;
    expected.retain(|id| ![ahead, ended, unknown].contains(id));
    changed.sort();
    expected.sort();
    assert_eq!(changed, expected);
    for id in [expected[0], ahead] {
        assert_eq!(get(&mut tx, id).await.view.state, InstanceState::Running);
    }
    assert_eq!(get(&mut tx, ended).await.view.state, InstanceState::Failed);
    assert!(store::instance::observe_all(&mut tx, &expected, &said, now).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_a_node_says_of_instances_that_it_never_had_changes_nothing() {
    let platform = Platform::start().await;
    let (id, _) = served(&platform).await;
    let now = Timestamp::now();
    let before = get(&mut platform.context.store.read().await.unwrap(), id).await;
    let successor_of =
        |old, state| InstanceReport { replaces: Some(old), ..report(InstanceId::new(), state) };
    let claims = [
        InstanceReport { health: Health::Unhealthy, ..report(id, InstanceState::Running) },
        report(id, InstanceState::Failed),
        successor_of(id, InstanceState::Running),
        report(InstanceId::new(), InstanceState::Running),
        successor_of(InstanceId::new(), InstanceState::Failed),
    ];
    let claimed: Vec<InstanceId> = claims.iter().map(|claim| claim.id).collect();
    for claim in claims {
        let said = Said { node: NodeId::new(), reports: vec![claim], now };
        observe(&platform.context, &[said]).await.unwrap();
    }
    let mut tx = platform.context.store.read().await.unwrap();
    assert_eq!(get(&mut tx, id).await.view, before.view);
    for other in claimed.into_iter().filter(|claimed| *claimed != id) {
        assert!(store::instance::get(&mut tx, other).await.unwrap().is_none(), "{other}");
    }
}

#[tokio::test]
async fn what_a_worker_made_of_an_instance_that_was_given_up_is_not_taken_in() {
    let platform = Platform::start().await;
    let (old, node) = served(&platform).await;
    let now = Timestamp::now();
    let reason = Reason { kind: ReasonKind::Platform, message: "the node is gone".to_owned() };
    let mut tx = platform.context.store.write().await.unwrap();
    store::instance::end(&mut tx, old, InstanceState::Lost, &reason, now).await.unwrap();
    tx.commit().await.unwrap();
    let successor =
        InstanceReport { replaces: Some(old), ..report(InstanceId::new(), InstanceState::Running) };
    let said = Said { node, reports: vec![successor.clone()], now };
    observe(&platform.context, &[said]).await.unwrap();
    let mut tx = platform.context.store.read().await.unwrap();
    assert!(store::instance::get(&mut tx, successor.id).await.unwrap().is_none());
}

#[tokio::test]
async fn a_successor_is_taken_in_also_after_the_clock_was_put_back() {
    let platform = Platform::start().await;
    let (old, node) = served(&platform).await;
    let now = Timestamp::now();
    let mut tx = platform.context.store.write().await.unwrap();
    let like = get(&mut tx, old).await;
    for minute in 0..8 {
        let ahead = now + std::time::Duration::from_secs(3600 + 60 * minute);
        put(&mut tx, &like, InstanceState::Failed, ahead).await;
    }
    tx.commit().await.unwrap();
    let successor =
        InstanceReport { replaces: Some(old), ..report(InstanceId::new(), InstanceState::Running) };
    let reports = vec![report(old, InstanceState::Failed), successor.clone()];
    observe(&platform.context, &[Said { node, reports, now }]).await.unwrap();
    let mut tx = platform.context.store.read().await.unwrap();
    assert!(store::instance::get(&mut tx, successor.id).await.unwrap().is_some());
}
