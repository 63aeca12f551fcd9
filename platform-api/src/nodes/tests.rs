use wharf_types::incarnation::Incarnation;

use super::*;

fn registration() -> NodeRegistration {
    NodeRegistration { hostname: "a".into(), memory_bytes: 1, cpus: 1, ..NodeRegistration::default() }
}

fn report(instances: Vec<InstanceReport>, usage: Vec<AppUsage>) -> NodeReport {
    let figures = NodeFigures::default();
    let process = ProcessId::default();
    NodeReport { process, assignment_generation: 1, routes_generation: 1, instances, usage, figures }
}

/// Whether the only node is ready, and whether it is given up, to somebody who looks as often as the reconciler.
fn seen(nodes: &Nodes, from: Instant, span: Duration) -> (bool, bool) {
    let mut now = from;
    while now < from + span {
        nodes.list_at(now);
        now += Duration::from_millis(250);
    }
    let status = nodes.list_at(from + span).remove(0);
    (status.ready, status.given_up)
}

#[test]
fn a_silent_node_is_first_not_ready_and_then_given_up_also_with_its_session_open() {
    let nodes = Nodes::default();
    let id = NodeId::new();
    nodes.register(id, registration(), None).unwrap();
    let _session = nodes.follow(id, ProcessId::default()).unwrap();
    let now = Instant::now();
    assert_eq!(seen(&nodes, now, Duration::ZERO), (true, false));
    assert_eq!(seen(&nodes, now, Duration::from_millis(1900)), (true, false));
    assert_eq!(seen(&nodes, now, Duration::from_secs(3)), (false, false));
    assert_eq!(seen(&nodes, now, Duration::from_secs(29)), (false, false));
    assert_eq!(seen(&nodes, now, Duration::from_secs(31)), (false, true));
    let report = report(vec![], vec![]);
    nodes.report(id, &report).unwrap();
    assert_eq!(seen(&nodes, Instant::now(), Duration::ZERO), (true, false));
}

#[test]
fn a_silent_node_is_given_up_with_its_lease_where_others_can_take_over() {
    let (dead, ids): (NodeId, Vec<NodeId>) = (NodeId::new(), (0..2).map(|_| NodeId::new()).collect());
    let begin = Instant::now();
    let given_up_of = |silent: &[NodeId], unheard: &[NodeId], span: Duration| {
        let nodes = Nodes::default();
        let all: Vec<NodeId> = ids.iter().chain([&dead]).copied().collect();
        all.iter().for_each(|id| nodes.register_at(begin, *id, registration()).unwrap());
        let report = report(vec![], vec![]);
        let known = all.iter().filter(|id| !unheard.contains(id));
        known.for_each(|id| drop(nodes.report_at(begin, *id, &report).unwrap()));
        let mut now = begin;
        while now < begin + span {
            now += Duration::from_millis(250);
            let speaks = all.iter().filter(|id| !silent.contains(id));
            speaks.for_each(|id| drop(nodes.report_at(now, *id, &report).unwrap()));
            nodes.list_at(now);
        }
        nodes.list_at(now).into_iter().filter(|node| node.given_up).map(|node| node.id).collect::<Vec<_>>()
    };
    let given_up = |silent: &[NodeId], span: Duration| given_up_of(silent, &[], span);
    let seconds = Duration::from_secs;
    assert_eq!(given_up(&[dead], Duration::from_millis(1750)), []);
    assert_eq!(given_up(&[dead], seconds(3)), [dead]);
    let most = [ids[0], dead];
    assert_eq!(given_up(&most, seconds(5)), [], "so many at once are more likely cut off");
    assert_eq!(given_up(&most, seconds(11)).len(), 2);
    assert_eq!(given_up_of(&[dead], &[dead], seconds(5)), [], "after a start it may be on its way back");
    assert_eq!(given_up_of(&[dead], &[dead], seconds(11)), [dead]);
}

#[test]
fn a_node_that_was_silent_before_this_process_stood_still_is_silent_afterwards() {
    let nodes = Nodes::default();
    let (speaks, silent) = (NodeId::new(), NodeId::new());
    let mut now = Instant::now();
    let report = report(vec![], vec![]);
    for id in [speaks, silent] {
        nodes.register_at(now, id, registration()).unwrap();
        nodes.report_at(now, id, &report).unwrap();
    }
    for _ in 0..20 {
        now += Duration::from_millis(250);
        nodes.report_at(now, speaks, &report).unwrap();
        nodes.list_at(now);
    }
    // Nobody is heard while it stands still.
    now += Duration::from_secs(5);
    nodes.report_at(now, speaks, &report).unwrap();
    let ready: Vec<NodeId> =
        nodes.list_at(now).into_iter().filter(|node| node.ready).map(|node| node.id).collect();
    assert_eq!(ready, [speaks]);
}

#[test]
fn a_node_that_was_told_to_wait_is_not_silent_until_then() {
    let nodes = Nodes::default();
    let id = NodeId::new();
    nodes.register(id, registration(), None).unwrap();
    let now = Instant::now();
    nodes.told_to_wait_at(now, id, Duration::from_secs(12));
    assert_eq!(seen(&nodes, now, Duration::from_millis(13_900)), (true, false));
    assert_eq!(seen(&nodes, now, Duration::from_secs(15)), (false, false));
}

#[test]
fn when_all_were_silent_at_once_those_that_come_back_later_than_the_first_are_waited_for() {
    let (first, other, begin) = (NodeId::new(), NodeId::new(), Instant::now());
    let nodes = Nodes::default();
    let report = report(vec![], vec![]);
    for id in [first, other] {
        nodes.register_at(begin, id, registration()).unwrap();
        nodes.report_at(begin, id, &report).unwrap();
    }
    let given_up = |millis: u64| {
        let list = nodes.list_at(begin + Duration::from_millis(millis));
        list.into_iter().filter(|node| node.given_up).map(|node| node.id).collect::<Vec<_>>()
    };
    for millis in (0..20_000).step_by(250) {
        assert_eq!(given_up(millis), [], "after {millis} ms nobody could take over");
    }
    for millis in (20_000..27_000).step_by(250) {
        nodes.report_at(begin + Duration::from_millis(millis), first, &report).unwrap();
        assert_eq!(given_up(millis), [], "after {millis} ms");
    }
    for millis in (27_000..28_000).step_by(250) {
        nodes.report_at(begin + Duration::from_millis(millis), first, &report).unwrap();
        given_up(millis);
    }
    assert_eq!(given_up(28_000), [other], "it does not come");
}

#[test]
fn a_node_that_nobody_could_listen_to_is_not_given_up() {
    let nodes = Nodes::default();
    nodes.register(NodeId::new(), registration(), None).unwrap();
    let now = Instant::now();
    assert_eq!(seen(&nodes, now, Duration::from_secs(1)), (true, false));
    let later = now + Duration::from_secs(3600);
    assert_eq!(seen(&nodes, later, Duration::ZERO), (true, false));
    assert_eq!(seen(&nodes, later, Duration::from_secs(3)), (false, false));
}

#[test]
fn a_release_that_runs_on_two_nodes_has_used_what_it_used_on_both() {
    let nodes = Nodes::default();
    let usage = |app: &str, release, sent_bytes| AppUsage {
        sent_bytes,
        ..AppUsage::new("default".parse().unwrap(), app.parse().unwrap(), release)
    };
    for usage in [vec![usage("hello", 1, 3), usage("crash", 2, 50)], vec![usage("hello", 1, 4)]] {
        let id = NodeId::new();
        nodes.register(id, registration(), None).unwrap();
        nodes.report(id, &report(vec![], usage)).unwrap();
    }
    let namespace = "default".parse().unwrap();
    assert_eq!(nodes.usage(&namespace), [usage("crash", 2, 50), usage("hello", 1, 7)]);
    let of = |app: &str, release| nodes.usage_of(&namespace, &app.parse().unwrap(), release);
    assert_eq!(of("hello", 1), Some(usage("hello", 1, 7)));
    assert_eq!(of("crash", 2), Some(usage("crash", 2, 50)));
    assert_eq!(of("crash", 1), None);
    assert!(nodes.usage(&"other".parse().unwrap()).is_empty());
}

#[test]
fn a_repeated_report_is_no_news_until_the_worker_starts_anew() {
    let nodes = Nodes::default();
    let id = NodeId::new();
    let registration = registration();
    let instance = InstanceReport {
        id: InstanceId::new(),
        replaces: None,
        state: wharf_types::state::InstanceState::Running,
        health: wharf_types::state::Health::Healthy,
        reason: None,
        restarts: 0,
        exit_code: None,
    };
    let report = report(vec![instance], vec![]);
    assert_eq!(nodes.report(id, &report).err(), Some(Refusal::Unregistered(id)));
    nodes.register(id, registration.clone(), None).unwrap();
    assert_eq!(nodes.report(id, &report).unwrap().instances.len(), 1);
    assert_eq!(nodes.report(id, &report).unwrap().instances.len(), 1, "it was not written yet");
    nodes.reported(id, report.clone());
    assert!(nodes.report(id, &report).unwrap().instances.is_empty());
    nodes.register(id, registration.clone(), None).unwrap();
    assert_eq!(nodes.report(id, &report).unwrap().instances.len(), 1);

    let hash = blake3::hash(b"the report");
    assert!(nodes.repeated(id, hash).is_none());
    nodes.reported_as(id, hash, Arc::new(report));
    assert!(nodes.repeated(id, blake3::hash(b"another")).is_none());
    let known = nodes.repeated(id, hash).unwrap();
    assert!(nodes.report(id, &known).unwrap().instances.is_empty());
    nodes.register(id, registration, None).unwrap();
    assert!(nodes.repeated(id, hash).is_none());
    assert_eq!(nodes.report(id, &known).unwrap().instances.len(), 1);
}

#[test]
fn what_a_process_says_after_its_successor_has_registered_is_refused() {
    let nodes = Nodes::default();
    let id = NodeId::new();
    let process = |number, home: &str| NodeRegistration {
        incarnation: Incarnation { number, process: ProcessId::new(), home: home.into() },
        ..registration()
    };
    let says =
        |from: &NodeRegistration| NodeReport { process: from.incarnation.process, ..report(vec![], vec![]) };
    let (first, second, copy) = (process(1, "a"), process(2, "a"), process(3, "b"));
    nodes.register(id, first.clone(), None).unwrap();
    let mut followed = nodes.follow(id, first.incarnation.process).unwrap();
    followed.borrow_and_update();
    nodes.register(id, second.clone(), None).unwrap();
    let replaced = Some(Refusal::Replaced(id));
    assert_eq!(nodes.report(id, &says(&first)).err(), replaced);
    assert_eq!(nodes.follow(id, first.incarnation.process).err(), replaced);
    assert_eq!(
        nodes.register(id, first, None).err(),
        Some(Refusal::Superseded(id)),
        "it was on its way for long"
    );
    assert!(followed.has_changed().is_err(), "the stream of the first has ended");
    nodes.report(id, &says(&second)).unwrap();
    assert_eq!(nodes.admits(id, &copy), Err(Refusal::Elsewhere(id)));
    nodes.report(id, &says(&second)).unwrap();
    nodes.register_at(Instant::now() + RELEASED, id, copy).unwrap();
    assert_eq!(nodes.report(id, &says(&second)).err(), replaced);
}

#[test]
fn a_node_that_begins_drained_is_never_seen_otherwise_and_also_where_its_process_is_refused() {
    let drained = NodeSettings { draining: true, ..NodeSettings::default() };
    let is_drained = |nodes: &Nodes| nodes.list_at(Instant::now()).remove(0).draining;
    let (nodes, id) = (Nodes::default(), NodeId::new());
    nodes.register(id, registration(), Some(drained.clone())).unwrap();
    assert!(is_drained(&nodes));
    nodes.register(id, registration(), None).unwrap();
    assert!(is_drained(&nodes), "it stays as it was");

    let process = |number| NodeRegistration {
        incarnation: Incarnation { number, process: ProcessId::new(), home: "a".into() },
        ..registration()
    };
    let nodes = Nodes::default();
    nodes.register(id, process(2), None).unwrap();
    let refused = nodes.register(id, process(1), Some(drained)).err();
    assert_eq!((refused, is_drained(&nodes)), (Some(Refusal::Superseded(id)), true));
}

#[test]
fn a_node_holds_its_singletons_until_it_may_have_let_go_and_not_again() {
    let (nodes, id) = (Nodes::default(), NodeId::new());
    let (only, other) = (InstanceId::new(), InstanceId::new());
    let begin = Instant::now();
    nodes.register_at(begin, id, registration()).unwrap();
    let report = report(vec![], vec![]);
    let told = |instances: &[(InstanceId, bool)]| {
        let instances: Vec<_> = instances.iter().map(|(id, singleton)| assigned(*id, *singleton)).collect();
        let whole = Arc::new(crate::reconcile::Whole::of(id, 1, &instances));
        vec![Next { whole, delta: None, is_news: true }]
    };
    let holds = |seconds| nodes.report_at(begin + Duration::from_secs(seconds), id, &report).unwrap().holds;
    assert!(holds(0).is_empty());
    nodes.publish(told(&[(only, true), (other, false)]));
    assert_eq!(holds(0), [only]);
    let look = |seconds| nodes.list_at(begin + Duration::from_secs(seconds)).remove(0);
    (0..=9).for_each(|seconds| assert!(!look(seconds).released, "after {seconds} s"));
    assert_eq!(holds(9), [only], "it was heard in time");
    (9..19).for_each(|seconds| assert!(!look(seconds).released, "after {seconds} s"));
    assert!(look(19).released);
    assert!(holds(20).is_empty(), "it was not, and others may run by now");
    nodes.publish(told(&[(other, true)]));
    assert_eq!(holds(21), [other]);
    nodes.publish(told(&[]));
    assert!(holds(22).is_empty());
}

fn assigned(id: InstanceId, singleton: bool) -> wharf_types::node::AssignedInstance {
    let mut spec = wharf_types::spec::AppSpec::default();
    spec.scale.singleton = singleton;
    wharf_types::node::AssignedInstance {
        id,
        wanted: wharf_types::state::Wanted::Run,
        observed: wharf_types::state::InstanceState::Assigned,
        namespace: "default".parse().unwrap(),
        app: "hello".parse().unwrap(),
        release: 1,
        slot: 0,
        artifact: Digest::of(b"hello"),
        world: wharf_types::world::World::HttpProxy,
        spec: Arc::new(spec),
        secrets: Arc::default(),
        volumes: Vec::new(),
        job: None,
    }
}

/// A process that begins to lead, where these nodes were there under whoever led before.
fn begun(start: Start, now: Instant, ids: &[NodeId]) -> Nodes {
    let nodes = Nodes::default();
    nodes.begin(start);
    ids.iter().for_each(|id| nodes.know_at(now, stored(*id, false)));
    nodes
}

fn stored(id: NodeId, given_up: bool) -> StoredNode {
    let (registration, settings) = (registration(), NodeSettings::default());
    StoredNode { id, registration, settings, given_up, seen_at: Timestamp::UNIX_EPOCH }
}

fn set<const N: usize>(ids: [NodeId; N]) -> BTreeSet<NodeId> {
    ids.into()
}

fn three() -> [NodeId; 3] {
    [NodeId::new(), NodeId::new(), NodeId::new()]
}

fn of(nodes: &Nodes, now: Instant, is: impl Fn(&NodeStatus) -> bool) -> BTreeSet<NodeId> {
    nodes.list_at(now).into_iter().filter(is).map(|node| node.id).collect()
}

#[test]
fn nothing_is_placed_on_a_node_of_before_until_it_has_spoken_and_on_none_before_the_others_had_a_second() {
    let (ids, begin) = (three(), Instant::now());
    let [first, second, dead] = ids;
    let nodes = begun(Start::Anew, begin, &ids);
    let takes = |millis: u64, reporting: &[NodeId]| {
        let now = begin + Duration::from_millis(millis);
        let report = report(vec![], vec![]);
        reporting.iter().for_each(|id| drop(nodes.report_at(now, *id, &report).unwrap()));
        of(&nodes, now, |node| node.takes_more)
    };
    assert_eq!(takes(0, &[]), set([]));
    assert_eq!(takes(200, &[first]), set([]), "it would get everything");
    assert_eq!(takes(400, &[first, second]), set([]));
    assert_eq!(takes(1000, &[first, second]), set([first, second]));
    let status = nodes.list_at(begin + Duration::from_millis(1000)).into_iter().find(|node| node.id == dead);
    let status = status.unwrap();
    assert!(status.ready && status.awaited && !status.is_there() && !status.given_up, "{status:?}");
    assert_eq!(status.seen_at, Timestamp::UNIX_EPOCH, "nobody has seen it since");
    assert_eq!(takes(1200, &[first, second, dead]), set(ids));
    let nodes = begun(Start::Anew, begin, &ids);
    ids.iter().for_each(|id| nodes.register_at(begin, *id, registration()).unwrap());
    assert_eq!(of(&nodes, begin, |node| node.takes_more), set(ids), "nobody is missing");
}

/// Who is given up this long after the beginning, where these of three nodes report from some time on.
fn missing(
    start: Start,
    reporting: std::ops::RangeTo<usize>,
    from: Duration,
    span: Duration,
) -> (usize, usize) {
    let (ids, begin) = (three(), Instant::now());
    let nodes = begun(start, begin, &ids);
    let mut after = Duration::ZERO;
    while after < span {
        after += Duration::from_millis(250);
        if after >= from {
            let report = report(vec![], vec![]);
            for id in &ids[reporting] {
                nodes.report_at(begin + after, *id, &report).unwrap();
            }
        }
        nodes.list_at(begin + after);
    }
    let now = begin + span;
    (of(&nodes, now, |node| node.given_up).len(), of(&nodes, now, |node| node.released).len())
}

#[test]
fn who_does_not_come_over_to_the_next_leader_is_given_up_soon_where_most_others_have_but_not_released() {
    let (at_once, millis) = (Duration::ZERO, Duration::from_millis);
    let succeeds =
        |reporting, span| missing(Start::Succeeds, reporting, at_once, Duration::from_millis(span));
    assert_eq!(succeeds(..2, 2750), (0, 0));
    assert_eq!(succeeds(..2, 3000), (1, 0));
    assert_eq!(succeeds(..2, 9750), (1, 0), "what it has only one of it may still run");
    assert_eq!(succeeds(..2, 10_000), (1, 1));
    assert_eq!(succeeds(..1, 9750), (0, 0), "so many at once are more likely cut off");
    assert_eq!(succeeds(..1, 10_000), (2, 2));
    assert_eq!(succeeds(..0, 29_750).0, 0, "nobody could take over");
    // After a while without a leader workers try less often.
    assert_eq!(missing(Start::Anew, ..2, at_once, millis(9750)), (0, 0));
    assert_eq!(missing(Start::Anew, ..2, at_once, millis(10_000)), (1, 1));
    // Nobody could come, so whoever comes later than the first is waited for.
    let late = |span| missing(Start::Succeeds, ..2, millis(4000), millis(span)).0;
    assert_eq!((late(11_750), late(12_000)), (0, 1));
}

#[test]
fn a_node_that_was_told_to_wait_by_the_next_leader_lives_and_is_given_nothing_yet() {
    let (ids, begin) = (three(), Instant::now());
    let nodes = begun(Start::Succeeds, begin, &ids);
    nodes.told_to_wait_at(begin + Duration::from_secs(1), ids[2], Duration::from_secs(12));
    for seconds in 1..13 {
        let (now, report) = (begin + Duration::from_secs(seconds), report(vec![], vec![]));
        ids[..2].iter().for_each(|id| drop(nodes.report_at(now, *id, &report).unwrap()));
        assert_eq!(of(&nodes, now, |node| node.given_up), set([]), "after {seconds} s");
        assert_eq!(of(&nodes, now, |node| node.takes_more), set([ids[0], ids[1]]), "after {seconds} s");
    }
}

#[test]
fn who_was_given_up_stays_so_under_the_next_leader_until_it_speaks() {
    let (there, gone, begin) = (NodeId::new(), NodeId::new(), Instant::now());
    let nodes = Nodes::default();
    nodes.begin(Start::Anew);
    nodes.know_at(begin, stored(there, false));
    nodes.know_at(begin, stored(gone, true));
    nodes.register_at(begin, there, registration()).unwrap();
    let given_up = |now| of(&nodes, now, |node| node.given_up);
    assert_eq!(given_up(begin), set([gone]));
    assert_eq!(of(&nodes, begin, |node| node.ready), set([there]), "nobody waits for it");
    assert_eq!(of(&nodes, begin, |node| node.takes_more), set([there]));
    assert_eq!(
        of(&nodes, begin, |node| node.released),
        set([]),
        "it may still run what there is only one of"
    );
    assert_eq!(nodes.unwritten_at(begin), []);
    nodes.report_at(begin, gone, &report(vec![], vec![])).unwrap();
    assert_eq!(given_up(begin), set([]));
    let unwritten = nodes.unwritten_at(begin);
    assert_eq!(unwritten.iter().map(|it| (it.node, it.given_up)).collect::<Vec<_>>(), [(gone, false)]);
    unwritten.iter().for_each(|it| nodes.wrote(it));
    assert_eq!(nodes.unwritten_at(begin), []);
}

#[test]
fn that_a_node_was_given_up_is_to_be_written_until_it_was_or_the_node_registers() {
    let ([alive, dead, other], begin) = (three(), Instant::now());
    let nodes = Nodes::default();
    for id in [alive, dead, other] {
        nodes.register_at(begin, id, registration()).unwrap();
        nodes.report_at(begin, id, &report(vec![], vec![])).unwrap();
    }
    let unwritten = |from: u64, to: u64| {
        let mut found = Vec::new();
        for millis in (from..=to).step_by(250) {
            let (now, report) = (begin + Duration::from_millis(millis), report(vec![], vec![]));
            [alive, other].iter().for_each(|id| drop(nodes.report_at(now, *id, &report).unwrap()));
            found = nodes.unwritten_at(now);
        }
        found
    };
    assert_eq!(unwritten(0, 1750), []);
    let lost = unwritten(2000, 3000);
    assert_eq!(lost.iter().map(|it| (it.node, it.given_up)).collect::<Vec<_>>(), [(dead, true)]);
    nodes.wrote(&lost[0]);
    assert_eq!(unwritten(3250, 3250), []);
    nodes.register_at(begin + Duration::from_millis(3500), dead, registration()).unwrap();
    assert_eq!(unwritten(3500, 3500), [], "its registration says so");
}
