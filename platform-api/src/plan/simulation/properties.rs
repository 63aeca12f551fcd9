//! What holds for every course of events.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{Quality, REPLICAS_MAX, Simulation, Step};
use crate::plan::routes;

fn any_quality() -> impl Strategy<Value = Quality> {
    proptest::sample::select(vec![Quality::Good, Quality::CannotStart, Quality::FailsInService])
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (any_quality(), 0..=REPLICAS_MAX).prop_map(|(quality, replicas)| Step::Deploy(quality, replicas)),
        1 => (1..6u64).prop_map(Step::RollBack),
        1 => Just(Step::Restart),
        1 => proptest::option::of(0..=REPLICAS_MAX).prop_map(Step::Scale),
        12 => any::<usize>().prop_map(Step::Advance),
        4 => Just(Step::AdvanceAll),
        1 => any::<usize>().prop_map(Step::Crash),
        1 => any::<usize>().prop_map(Step::PlatformFailure),
        1 => any::<usize>().prop_map(Step::Unhealthy),
        5 => any::<usize>().prop_map(Step::Acknowledge),
        1 => (0..2usize).prop_map(Step::NodeGoes),
        1 => (0..2usize).prop_map(Step::LeaseExpires),
        2 => Just(Step::NodesReturn),
        3 => (1..20u32).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_invariants_hold_and_the_app_arrives(
        steps in proptest::collection::vec(any_step(), 0..80),
    ) {
        let mut simulation = Simulation::new();
        for step in &steps {
            simulation.step(step);
            simulation.plan();
        }
        simulation.settle();

        let app = &simulation.fixture.app;
        let live: Vec<_> = app.instances.iter().filter(|instance| instance.is_live()).collect();
        match &app.target {
            Some(target) => {
                prop_assert!(!simulation.bad.contains(&target.number), "it settled on a bad release");
                prop_assert!(live.iter().all(|instance| instance.is_ready_for(target)), "between two releases");
                let slots: BTreeSet<_> = live.iter().map(|instance| instance.slot).collect();
                prop_assert_eq!(slots, (0..app.replicas()).collect());
                prop_assert_eq!(live.len(), app.replicas() as usize);
            }
            None => prop_assert!(live.is_empty()),
        }
    }

    #[test]
    fn whatever_happens_a_volume_that_is_not_shared_has_one_writer(
        steps in proptest::collection::vec(any_step(), 0..80),
    ) {
        let mut simulation = Simulation::new();
        simulation.fixture.ask_for_volume(false);
        for step in &steps {
            // The API refuses more.
            let step = match step {
                Step::Deploy(quality, replicas) => Step::Deploy(*quality, (*replicas).min(1)),
                Step::Scale(replicas) => Step::Scale(replicas.map(|replicas| replicas.min(1))),
                other => other.clone(),
            };
            simulation.step(&step);
            simulation.plan();
        }
        simulation.settle();
        let app = &simulation.fixture.app;
        let live = app.instances.iter().filter(|instance| instance.is_live()).count();
        prop_assert_eq!(live, app.target.as_ref().map_or(0, |_| app.replicas() as usize));
    }

    #[test]
    fn a_deploy_of_a_good_release_never_leaves_a_slot_unserved(
        replicas in 1..=REPLICAS_MAX,
        steps in proptest::collection::vec(prop_oneof![
            any::<usize>().prop_map(Step::Advance),
            any::<usize>().prop_map(Step::Acknowledge),
        ], 0..120),
    ) {
        let mut simulation = Simulation::new();
        simulation.step(&Step::Deploy(Quality::Good, replicas));
        simulation.settle();
        simulation.step(&Step::Deploy(Quality::Good, replicas));
        for step in &steps {
            simulation.step(step);
            simulation.plan();
            let table = routes::build(1, std::slice::from_ref(&simulation.fixture.app));
            let slots: BTreeSet<_> = table.routes[0].endpoints.iter().map(|endpoint| endpoint.instance).collect();
            prop_assert!(slots.len() >= replicas as usize, "{} endpoints", slots.len());
        }
        simulation.settle();
        prop_assert_eq!(simulation.fixture.app.stable.as_ref().map(|stable| stable.number), Some(2));
    }

    #[test]
    fn a_restart_never_leaves_a_slot_unserved_and_replaces_all(
        replicas in 1..=REPLICAS_MAX,
        steps in proptest::collection::vec(prop_oneof![
            any::<usize>().prop_map(Step::Advance),
            any::<usize>().prop_map(Step::Acknowledge),
        ], 0..120),
    ) {
        let mut simulation = Simulation::new();
        simulation.step(&Step::Deploy(Quality::Good, replicas));
        simulation.settle();
        let before: BTreeSet<_> = simulation.fixture.app.instances.iter().map(|instance| instance.id).collect();
        simulation.step(&Step::Wait(1));
        simulation.step(&Step::Restart);
        for step in &steps {
            simulation.step(step);
            simulation.plan();
            let table = routes::build(1, std::slice::from_ref(&simulation.fixture.app));
            prop_assert!(table.routes[0].endpoints.len() >= replicas as usize);
        }
        simulation.settle();
        let wanted = simulation.fixture.app.instances.iter().filter(|instance| instance.is_wanted());
        prop_assert!(wanted.clone().all(|instance| !before.contains(&instance.id)));
        prop_assert_eq!(wanted.count(), replicas as usize);
    }

    #[test]
    fn a_bad_release_never_takes_over(
        replicas in 1..=REPLICAS_MAX,
        asked in 1..=REPLICAS_MAX,
        steps in proptest::collection::vec(any::<usize>().prop_map(Step::Advance), 0..60),
    ) {
        let mut simulation = Simulation::new();
        simulation.step(&Step::Deploy(Quality::Good, replicas));
        simulation.settle();
        simulation.step(&Step::Deploy(Quality::CannotStart, asked));
        for step in &steps {
            simulation.step(step);
            simulation.plan();
            let serving = simulation.fixture.instances(1).filter(|instance| instance.is_healthy()).count();
            prop_assert_eq!(serving, replicas as usize, "not one of the old instances was touched");
        }
        simulation.settle();
        prop_assert_eq!(simulation.fixture.app.target.as_ref().map(|target| target.number), Some(1));
        prop_assert_eq!(simulation.fixture.wanted(1), replicas as usize);
    }
}
