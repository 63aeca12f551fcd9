//! What holds for every course of events.

use std::collections::BTreeSet;

use proptest::prelude::*;

use wharf_types::quantity::Span;
use wharf_types::spec::{CanarySpec, OnFailure, Portion, Ratio, RollbackSpec, UpdateOrder, UpdateSpec};

use super::{Quality, REPLICAS_MAX, Simulation, Step};
use crate::plan::{Places, routes};

fn any_quality() -> impl Strategy<Value = Quality> {
    proptest::sample::select(vec![Quality::Good, Quality::CannotStart, Quality::FailsInService])
}

fn any_portion() -> impl Strategy<Value = Portion> {
    prop_oneof![
        (1..=REPLICAS_MAX).prop_map(Portion::Count),
        proptest::sample::select(vec![1, 25, 50, 100]).prop_map(Portion::Percent),
    ]
}

fn any_order() -> impl Strategy<Value = UpdateOrder> {
    proptest::sample::select(vec![UpdateOrder::StartFirst, UpdateOrder::StopFirst])
}

fn any_delay() -> impl Strategy<Value = Span> {
    proptest::sample::select(vec![0, 0, 1, 7]).prop_map(Span::from_secs)
}

fn any_ratio() -> impl Strategy<Value = Ratio> {
    proptest::sample::select(vec![0, 0, 30, 50, 100]).prop_map(Ratio::percent)
}

fn any_policy() -> impl Strategy<Value = OnFailure> {
    use OnFailure::{Continue, Pause, Rollback};
    proptest::sample::select(vec![Rollback, Rollback, Pause, Continue])
}

fn any_canary() -> impl Strategy<Value = Option<CanarySpec>> {
    let canary = (1..=100_u32).prop_map(|share| CanarySpec {
        share: Ratio::percent(share),
        duration: Span::from_secs(3),
        min_requests: 20,
        ..CanarySpec::default()
    });
    proptest::option::weighted(0.3, canary)
}

fn any_rollback() -> impl Strategy<Value = RollbackSpec> {
    use proptest::option::of;
    (of(any_portion()), of(any_order()), of(any_delay()), of(any_ratio())).prop_map(
        |(parallelism, order, delay, max_failure_ratio)| RollbackSpec {
            parallelism,
            order,
            delay,
            max_failure_ratio,
            monitor: None,
        },
    )
}

fn any_update() -> impl Strategy<Value = Box<UpdateSpec>> {
    let dials = (any_portion(), any_order(), any_delay(), any_ratio(), any_policy());
    (dials, any_canary(), any_rollback()).prop_map(
        |((parallelism, order, delay, max_failure_ratio, on_failure), canary, rollback)| {
            Box::new(UpdateSpec {
                parallelism,
                order,
                delay,
                max_failure_ratio,
                on_failure,
                canary,
                rollback,
                ..UpdateSpec::default()
            })
        },
    )
}

/// A deploy as it is when nothing is asked for.
fn plain(quality: Quality, replicas: u32) -> Step {
    Step::Deploy(quality, replicas, Box::default())
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (any_quality(), 0..=REPLICAS_MAX, any_update())
            .prop_map(|(quality, replicas, update)| Step::Deploy(quality, replicas, update)),
        1 => Just(Step::Pause),
        1 => Just(Step::Resume),
        1 => Just(Step::Abort),
        1 => Just(Step::Stop),
        2 => Just(Step::Start),
        1 => Just(Step::ControlPlaneRestarts),
        2 => (1..50_u64, any::<bool>()).prop_map(|(count, bad)| Step::Requests(count, bad)),
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
    fn whatever_happens_a_global_app_arrives_with_one_instance_on_every_node(
        steps in proptest::collection::vec((any_step(), any::<bool>()), 0..80),
        is_mixed in any::<bool>(),
    ) {
        let mut simulation = Simulation::new();
        simulation.fixture.ask_for_every_node(true);
        for (step, is_global) in &steps {
            // Where there is no node at all, nobody can tell a bad release.
            if matches!(step, Step::NodeGoes(0) | Step::Scale(_)) {
                continue;
            }
            if is_mixed && matches!(step, Step::Deploy(..)) {
                simulation.fixture.ask_for_every_node(*is_global);
            }
            simulation.step(step);
            simulation.plan();
            simulation.check_one_on_each_node();
        }
        simulation.settle();
        simulation.check_one_on_each_node();
        let app = &simulation.fixture.app;
        let live: Vec<_> = app.instances.iter().filter(|instance| instance.is_live()).collect();
        let Some(target) = &app.target else {
            prop_assert!(live.is_empty());
            return Ok(());
        };
        prop_assert!(!simulation.bad.contains(&target.number), "it settled on a bad release");
        prop_assert!(live.iter().all(|instance| instance.is_ready_for(target)), "between two releases");
        prop_assert_eq!(live.len(), app.replicas() as usize);
        if target.spec.is_global() {
            let nodes: BTreeSet<_> = live.iter().filter_map(|instance| instance.node).collect();
            prop_assert_eq!((nodes.len(), live.len()), (2, 2));
        } else {
            prop_assert_eq!(&app.places, &Places::default());
        }
    }

    #[test]
    fn whatever_happens_an_app_that_sleeps_and_wakes_arrives(
        steps in proptest::collection::vec(prop_oneof![
            4 => any_step(),
            1 => (0..=REPLICAS_MAX).prop_map(Step::Autoscale),
        ], 0..80),
        last in 0..=REPLICAS_MAX,
    ) {
        let mut simulation = Simulation::new();
        simulation.fixture.ask_for_range(0, REPLICAS_MAX);
        for step in steps.iter().filter(|step| !matches!(step, Step::Scale(_))) {
            simulation.step(step);
            simulation.plan();
        }
        simulation.step(&Step::Autoscale(last));
        simulation.settle();
        let app = &simulation.fixture.app;
        let live = app.instances.iter().filter(|instance| instance.is_live());
        prop_assert_eq!(live.clone().count(), app.target.as_ref().map_or(0, |_| last as usize));
        if let Some(target) = &app.target {
            prop_assert!(!simulation.bad.contains(&target.number), "a bad release was proved by nothing");
            prop_assert!(live.clone().all(|instance| instance.is_ready_for(target)), "between two releases");
            prop_assert_eq!(app.is_asleep(), last == 0);
            let table = routes::build(1, std::slice::from_ref(app));
            prop_assert!(table.routes.iter().all(|route| route.wakes && route.counted));
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
                Step::Deploy(quality, replicas, update) => {
                    let update = UpdateSpec { canary: None, ..UpdateSpec::clone(update) };
                    Step::Deploy(*quality, (*replicas).min(1), Box::new(update))
                }
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
        simulation.step(&plain(Quality::Good, replicas));
        simulation.settle();
        simulation.step(&plain(Quality::Good, replicas));
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
        simulation.step(&plain(Quality::Good, replicas));
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
        simulation.step(&plain(Quality::Good, replicas));
        simulation.settle();
        simulation.step(&plain(Quality::CannotStart, asked));
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
    #[test]
    fn an_abort_always_ends_in_the_release_before(
        replicas in 1..=REPLICAS_MAX,
        update in any_update(),
        quality in any_quality(),
        steps in proptest::collection::vec(prop_oneof![
            8 => any::<usize>().prop_map(Step::Advance),
            4 => any::<usize>().prop_map(Step::Acknowledge),
            1 => Just(Step::Pause),
            1 => Just(Step::Resume),
            1 => Just(Step::ControlPlaneRestarts),
            1 => (1..8u32).prop_map(Step::Wait),
            1 => (1..50_u64, any::<bool>()).prop_map(|(count, bad)| Step::Requests(count, bad)),
        ], 0..80),
    ) {
        let mut simulation = Simulation::new();
        simulation.step(&plain(Quality::Good, replicas));
        simulation.settle();
        simulation.step(&Step::Wait(1));
        simulation.step(&Step::Deploy(quality, replicas, update));
        for step in &steps {
            simulation.step(step);
            simulation.plan();
        }
        let is_under_way = simulation.fixture.app.rollout.as_ref().is_some_and(|rollout| !rollout.automatic);
        simulation.step(&Step::Abort);
        simulation.plan();
        simulation.settle();
        let target = simulation.fixture.app.target.as_ref().map(|target| target.number);
        if is_under_way {
            prop_assert_eq!(target, Some(1));
        }
        let number = target.unwrap();
        prop_assert_eq!(simulation.fixture.wanted(number), replicas as usize);
    }

    #[test]
    fn a_good_release_comes_through_whatever_the_dials_are(
        replicas in 1..=REPLICAS_MAX,
        update in any_update(),
        restarts in proptest::collection::vec(any::<bool>(), 0..20),
    ) {
        let mut simulation = Simulation::new();
        simulation.step(&plain(Quality::Good, replicas));
        simulation.settle();
        simulation.step(&Step::Deploy(Quality::Good, replicas, update));
        for restart in restarts {
            simulation.plan();
            simulation.step(&Step::AdvanceAll);
            if restart {
                simulation.step(&Step::ControlPlaneRestarts);
            }
            simulation.step(&Step::Wait(1));
        }
        simulation.settle();
        let app = &simulation.fixture.app;
        prop_assert_eq!(app.stable.as_ref().map(|stable| stable.number), Some(2));
        prop_assert_eq!(simulation.fixture.wanted(2), replicas as usize);
    }
}
