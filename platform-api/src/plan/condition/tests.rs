use std::sync::Arc;

use wharf_types::spec::RestartCondition;
use wharf_types::world::World;

use super::*;
use crate::plan::fixture::Fixture;

fn word(fixture: &Fixture) -> AppCondition {
    condition(&fixture.app).0
}

fn because(fixture: &Fixture) -> String {
    explain(&fixture.app, &[], &BTreeMap::new(), None).0.join(" ")
}

#[test]
fn the_word_follows_the_slots() {
    let mut fixture = Fixture::serving(1, 2);
    assert_eq!(condition(&fixture.app), (AppCondition::Running, None));
    assert_eq!(because(&fixture), "2 of 2 slots serve release 1.");
    fixture.fail(0, ReasonKind::Limit, "out of memory");
    let (degraded, reason) = condition(&fixture.app);
    assert_eq!((degraded, reason.unwrap().message.as_str()), (AppCondition::Degraded, "out of memory"));
    fixture.fail(1, ReasonKind::Limit, "out of memory");
    assert_eq!(word(&fixture), AppCondition::Down);
    assert_eq!(
        because(&fixture),
        "0 of 2 slots are ready. out of memory. The slots 1, 2 are not tried again."
    );
    fixture.app.scaled_to = Some(0);
    assert_eq!(word(&fixture), AppCondition::Stopped);
    assert_eq!(
        explain(&fixture.app, &[], &BTreeMap::new(), None).1,
        ["`wharf scale 1 --app hello` starts it."]
    );
}

#[test]
fn an_app_that_sleeps_says_so_and_is_nothing_to_worry_about() {
    let mut fixture = Fixture::empty(0);
    fixture.ask_for_range(0, 5);
    fixture.deploy(1);
    fixture.plan();
    assert_eq!(fixture.wanted(1), 1, "a release that nobody asks for is proved all the same");
    fixture.make_all_ready(1);
    fixture.plan();
    fixture.wait(10);
    fixture.plan();
    fixture.app.autoscaled_to = Some(5);
    assert!(because(&fixture).contains("0 to 5: 10 each, and it has as many as it may"));
    fixture.app.autoscaled_to = Some(0);
    assert_eq!(condition(&fixture.app), (AppCondition::Asleep, None));
    let (because, advice) = explain(&fixture.app, &[], &BTreeMap::new(), None);
    assert_eq!(because[0], "It is asleep, because nobody asks for it; the next request wakes release 1.");
    assert!(advice.is_empty(), "{advice:?}");
    fixture.app.scaled_to = Some(0);
    assert_eq!(word(&fixture), AppCondition::Stopped, "a number of a user's is a number");
    assert!(!fixture.app.wakes());
}

#[test]
fn an_app_whose_instance_fails_on_its_way_lets_nobody_wait() {
    let mut fixture = Fixture::empty(0);
    fixture.ask_for_range(0, 5);
    fixture.deploy(1);
    fixture.plan();
    assert!(fixture.app.wakes());
    fixture.app.instances[0].restarts = 1;
    assert!(!fixture.app.wakes());
}

#[test]
fn a_rollout_is_deploying_until_every_slot_serves() {
    let mut fixture = Fixture::serving(1, 1);
    fixture.deploy(2);
    fixture.plan();
    assert_eq!(word(&fixture), AppCondition::Deploying);
    assert_eq!(
        because(&fixture),
        "It is moving to release 2: 0 of 1 slots are ready on it. The instance in slot 1 is waiting for its worker to take it up."
    );
    fixture.make_all_ready(2);
    fixture.plan();
    assert_eq!(word(&fixture), AppCondition::Running);
}

#[test]
fn a_slot_that_fails_again_and_again_is_crash_looping() {
    let mut fixture = Fixture::serving(1, 1);
    fixture.fail(0, ReasonKind::Trap, "panicked at src/lib.rs:7");
    fixture.app.instances[0].replaced = true;
    let successor = fixture.add(1, 0);
    fixture.app.instances[successor].restarts = 5;
    let (word, reason) = condition(&fixture.app);
    assert_eq!(word, AppCondition::CrashLooping);
    assert_eq!(reason.unwrap().message, "panicked at src/lib.rs:7", "the reason is that of the one before");
    let (because, advice) = explain(&fixture.app, &[], &BTreeMap::new(), None);
    assert_eq!(
        because,
        [
            "An instance of release 1 fails again and again (5 restarts); 0 of 1 slots are ready.",
            "panicked at src/lib.rs:7."
        ]
    );
    assert_eq!(advice, ["`wharf logs --app hello` shows what the guest printed before it failed."]);
}

#[test]
fn one_that_is_ready_between_its_failures_is_crash_looping_until_its_worker_counts_anew() {
    let mut fixture = Fixture::serving(1, 1);
    fixture.fail(0, ReasonKind::Probe, "GET /live was not answered within 1s");
    fixture.app.instances[0].replaced = true;
    let successor = fixture.add(1, 0);
    fixture.make_ready(successor);
    fixture.app.instances[successor].restarts = 1;
    assert_eq!(word(&fixture), AppCondition::Running, "once is no habit");
    fixture.app.instances[successor].restarts = 2;
    assert_eq!(word(&fixture), AppCondition::CrashLooping);
    assert_eq!(
        because(&fixture),
        "An instance of release 1 fails again and again (2 restarts), and is ready in between; 1 of 1 slots are ready. \
         GET /live was not answered within 1s."
    );
    fixture.app.instances[successor].restarts = 0;
    assert_eq!(word(&fixture), AppCondition::Running);
}

#[test]
fn what_cannot_leave_a_node_that_is_drained_says_why_although_everything_serves() {
    let mut fixture = Fixture::serving(1, 2);
    fixture.nodes[0].ready = false;
    fixture.app.instances.iter_mut().for_each(|instance| instance.moves = true);
    let unplaced = fixture.plan().unplaced;
    fixture.app.instances.iter_mut().for_each(|instance| instance.moves = false);
    let draining = BTreeMap::from([(fixture.nodes[0].id, "n1".to_owned())]);
    let (because, advice) = explain(&fixture.app, &unplaced, &draining, None);
    assert_eq!(word(&fixture), AppCondition::Running);
    assert_eq!(because[0], "2 of 2 slots serve release 1.");
    let words = "What is in slots 1, 2 is to leave n1, which is being drained, and goes on where it is until there is room elsewhere: 0 of 1 nodes fit: ";
    assert!(because[1].starts_with(words), "{because:?}");
    assert_eq!(advice.len(), 1, "{advice:?}");
}

#[test]
fn what_has_volumes_on_a_node_that_is_drained_says_that_it_stays() {
    let mut fixture = Fixture::empty(1);
    fixture.ask_for_volume(false);
    fixture.deploy(1);
    fixture.plan();
    fixture.make_all_ready(1);
    fixture.plan();
    let draining = BTreeMap::from([(fixture.nodes[0].id, "n1".to_owned())]);
    let (because, advice) = explain(&fixture.app, &[], &draining, None);
    let words = "What is in slot 1 stays on n1, which is being drained, because its volumes are there.";
    assert!(because.contains(&words.to_owned()), "{because:?}");
    assert!(advice[0].contains("wharf node resume n1"), "{advice:?}");
}

#[test]
fn what_waits_for_a_node_says_so_in_the_schedulers_words() {
    let mut fixture = Fixture::empty(2);
    fixture.nodes[0].memory_free_bytes = 1 << 19;
    fixture.deploy(1);
    let unplaced = fixture.plan().unplaced;
    let (because, advice) = explain(&fixture.app, &unplaced, &BTreeMap::new(), None);
    assert_eq!(
        because[1],
        "2 of its slots wait for a node: 0 of 1 nodes fit: 1 has too little free memory (needs 1MiB, 512KiB free on n1)."
    );
    assert_eq!(advice, ["Lower `reserve.memory` from 1MiB to 512KiB, or add a larger node."]);
}

#[test]
fn a_release_that_was_taken_back_is_named_with_its_reason() {
    let fixture = Fixture::serving(1, 1);
    let reason = Reason { kind: ReasonKind::Probe, message: "GET /healthz answered 500".into() };
    let (because, advice) = explain(&fixture.app, &[], &BTreeMap::new(), Some((2, reason)));
    assert_eq!(because[1], "The rollout to release 2 failed: GET /healthz answered 500.");
    assert!(advice[0].contains("status below 500"), "{advice:?}");
    assert_eq!(word(&fixture), AppCondition::Running);
}

#[test]
fn an_app_whose_first_release_failed_is_down() {
    let mut fixture = Fixture::empty(1);
    fixture.deploy(1);
    fixture.plan();
    fixture.fail(0, ReasonKind::Artifact, "no known world is exported");
    fixture.plan();
    let (word, reason) = condition(&fixture.app);
    assert_eq!((word, reason.unwrap().kind), (AppCondition::Down, ReasonKind::Artifact));
    assert!(because(&fixture).starts_with("No release of it is in service"));
}

#[test]
fn a_command_that_is_done_is_stopped() {
    let mut fixture = Fixture::empty(1);
    fixture.deploy_with(1, |release| {
        let mut spec = (*release.spec).clone();
        spec.restart.condition = RestartCondition::Never;
        release.spec = Arc::new(spec);
        release.world = World::CommandP2;
    });
    fixture.plan();
    fixture.app.instances[0].state = InstanceState::Stopped;
    fixture.plan();
    assert_eq!(word(&fixture), AppCondition::Stopped);
    assert!(because(&fixture).starts_with("Its command has ended with success"));
}

#[test]
fn what_is_advised_for_a_container_is_about_its_own_check() {
    use wharf_types::spec::ContainerHealthSpec;
    let mut spec = AppSpec::default();
    assert!(probe(Some((&spec, false))).contains("answer `/`"));
    assert!(probe(Some((&spec, true))).contains("the image brings with it"));
    spec.container.http_port = Some(80);
    assert!(probe(Some((&spec, true))).contains("answer `/`"), "the image may have none");
    let command = vec!["pg_isready".to_owned(), "-q".to_owned()];
    spec.container.health = Some(ContainerHealthSpec { command, ..ContainerHealthSpec::default() });
    assert!(probe(Some((&spec, true))).contains("`pg_isready -q` end with 0 within"));
    spec.container.health = Some(ContainerHealthSpec { disable: true, ..ContainerHealthSpec::default() });
    assert!(probe(Some((&spec, true))).contains("answer `/`"));
}
