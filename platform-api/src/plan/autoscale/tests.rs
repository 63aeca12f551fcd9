//! Apps under load in virtual time.

use proptest::prelude::*;

use super::*;

const REPORT: Duration = Duration::from_millis(500);
/// From the wish to the instance in the routes: a guest that is compiled takes a tenth of it.
const START: Duration = Duration::from_millis(1000);

fn range(min: u32, max: u32, concurrency: u32) -> ReplicaRange {
    ReplicaRange { min, max, concurrency, window: Span::from_secs(60), sleep_after: None }
}

/// An app whose front door reports twice a second.
struct World {
    range: ReplicaRange,
    now: Timestamp,
    history: History,
    replicas: u32,
    /// When each of the instances that were asked for is there.
    starting: Vec<(Timestamp, u32)>,
    ready: u32,
    requests: u64,
    changes: Vec<(Timestamp, Scaling)>,
}

impl World {
    fn new(range: ReplicaRange, replicas: u32) -> Self {
        let now = after(Timestamp::UNIX_EPOCH, Duration::from_secs(1_000_000));
        let history = History::begin(now, Demand::default());
        let (starting, changes) = (Vec::new(), Vec::new());
        Self { range, now, history, replicas, starting, ready: replicas, requests: 0, changes }
    }

    /// Half a second with so many requests open; while nothing is ready they wait.
    fn step(&mut self, open: u64) {
        self.now = after(self.now, REPORT);
        let now = self.now;
        if let Some((_, to)) = self.starting.iter().rfind(|(at, _)| *at <= now) {
            self.ready = self.ready.max(*to).min(self.replicas);
        }
        self.starting.retain(|(at, _)| *at > now);
        self.requests += open;
        let demand = match self.ready {
            0 => Demand { open: 0.0, waiting: open, requests: self.requests },
            _ => Demand { open: open as f64, waiting: 0, requests: self.requests },
        };
        self.history.observe(now, &self.range, demand);
        if let Some(scaling) = decide(now, &self.range, self.replicas, &self.history, false) {
            assert_eq!(scaling.from, self.replicas);
            assert_ne!(scaling.to, self.replicas, "a change changes something");
            self.replicas = scaling.to;
            self.ready = self.ready.min(scaling.to);
            self.starting.push((after(now, START), scaling.to));
            self.changes.push((now, scaling));
        }
    }

    fn go_on(&mut self, seconds: u64, open: u64) {
        (0..seconds * 2).for_each(|_| self.step(open));
    }
}

#[test]
fn ten_times_the_load_has_its_instances_within_five_seconds() {
    let mut world = World::new(range(1, 100, 50), 2);
    world.go_on(120, 95);
    assert_eq!((world.replicas, world.changes.len()), (2, 0), "{:?}", world.changes);
    let began = world.now;
    while world.ready < 19 {
        world.step(950);
        assert!(elapsed(began, world.now).unwrap() <= Duration::from_secs(5), "{} are ready", world.ready);
    }
    assert_eq!(world.changes.last().unwrap().1.to_string(), "scaled 15 -> 19: 950 open requests, 50 each");
    world.go_on(600, 950);
    assert_eq!(world.replicas, 19, "a load that stays moves nothing");
}

#[test]
fn a_square_wave_of_ten_minutes_does_not_flap() {
    // However fast the wave is, it moves nothing once the number is up. A slow one moves it at each edge, by at most as many steps as
    // there are reports in the mean.
    let steps = 4;
    for (half, edges) in [(5, 1), (20, 1), (50, 1), (75, 8), (150, 4)] {
        let mut world = World::new(range(1, 100, 50), 2);
        for second in 0..600 {
            world.go_on(1, if second / half % 2 == 0 { 950 } else { 95 });
        }
        let count = world.changes.len();
        assert!(count <= steps * edges, "{half} s: {count} changes, {:?}", world.changes);
        let is_up = |scaling: &Scaling| scaling.to > scaling.from;
        let turns = world.changes.windows(2).filter(|pair| is_up(&pair[0].1) != is_up(&pair[1].1)).count();
        assert!(turns < edges, "{half} s: it turned {turns} times");
    }
}

#[test]
fn a_burst_of_a_moment_starts_few_and_none_that_are_gone_again_at_once() {
    let mut world = World::new(range(1, 100, 50), 2);
    world.go_on(120, 95);
    world.step(1000);
    world.go_on(30, 95);
    assert!(world.replicas <= 8, "{:?}", world.changes);
    world.go_on(60, 95);
    assert_eq!(world.replicas, 3, "down once the window has passed, with a tenth of room");
}

#[test]
fn a_quiet_app_falls_to_its_least_and_sleeps_after_its_time_only() {
    let mut world = World::new(range(1, 20, 50), 10);
    world.go_on(59, 0);
    assert_eq!(world.replicas, 10);
    world.go_on(10, 0);
    assert_eq!(world.replicas, 1);
    world.go_on(3600, 0);
    assert_eq!(world.replicas, 1);

    let mut world = World::new(range(0, 20, 50), 10);
    world.go_on(299, 0);
    assert_eq!(world.replicas, 1);
    world.go_on(2, 0);
    assert_eq!(world.replicas, 0);
    assert_eq!(world.changes.last().unwrap().1.to_string(), "asleep after 5m without requests");
    world.go_on(600, 0);
    assert_eq!(world.replicas, 0);
    world.step(1);
    assert_eq!(world.replicas, 1);
    assert_eq!(world.changes.last().unwrap().1.to_string(), "woken by a request: 1 instance");
}

#[test]
fn many_who_wait_wake_as_many_as_they_need() {
    let mut world = World::new(range(0, 4, 10), 0);
    world.step(25);
    assert_eq!(world.replicas, 3);
    assert_eq!(world.changes[0].1.to_string(), "woken by 25 requests: 3 instances");
    world.go_on(60, 1000);
    assert_eq!(world.replicas, 4, "and never more than may");
}

#[test]
fn requests_too_short_to_be_seen_keep_an_app_awake() {
    let mut world = World::new(range(0, 4, 10), 1);
    for _ in 0..1000 {
        world.requests += 1;
        world.go_on(1, 0);
    }
    assert_eq!(world.replicas, 1);
}

#[test]
fn a_rollout_takes_nothing_away() {
    let mut world = World::new(range(0, 20, 50), 10);
    world.go_on(58, 0);
    for _ in 0..1000 {
        world.now = after(world.now, REPORT);
        world.history.observe(world.now, &world.range, Demand::default());
        assert_eq!(decide(world.now, &world.range, 10, &world.history, true), None);
    }
    world.history.is_busy(world.now);
    let down = decide(world.now, &world.range, 10, &world.history, false).unwrap();
    assert_eq!(down.to, 1, "afterwards it does not fall asleep at once");
}

#[test]
fn a_clock_that_jumps_leads_to_a_wait_and_to_nothing_else() {
    let hour = Duration::from_secs(3600);
    for ahead in [true, false] {
        let mut world = World::new(range(0, 20, 50), 10);
        world.go_on(30, 450);
        world.now = if ahead { after(world.now, hour) } else { world.now.checked_sub(hour).unwrap() };
        assert_eq!(
            decide(world.now, &world.range, 10, &world.history, false).map(|it| it.to),
            ahead.then_some(0)
        );
        world.go_on(59, 0);
        assert_eq!((world.replicas, world.changes.len()), (10, 0), "ahead: {ahead}");
    }
}

#[test]
fn a_window_without_end_keeps_a_bounded_history() {
    let mut world = World::new(ReplicaRange { window: Span::from_secs(3600), ..range(1, 20, 50) }, 10);
    world.go_on(8000, 30);
    assert!(world.history.largest.len() <= 62 && world.history.recent.len() <= 5);
    assert_eq!(world.replicas, 1);
}

proptest! {
    #[test]
    fn it_is_never_outside_the_range_and_sleeps_only_when_quiet(
        min in 0..5_u32,
        more in 0..20_u32,
        concurrency in 1..100_u32,
        loads in proptest::collection::vec((0..3000_u64, 1..90_u64), 1..30),
    ) {
        let range = range(min, (min + more).max(1), concurrency);
        let start = range.clamp(1);
        let mut world = World::new(range.clone(), start);
        let mut quiet = 0;
        for (open, seconds) in loads {
            for _ in 0..seconds {
                // A third of the time nobody asks for anything.
                let open = open.saturating_sub(1000);
                world.go_on(1, open);
                quiet = if open == 0 { quiet + 1 } else { 0 };
                prop_assert!(world.replicas <= range.max);
                prop_assert!(world.replicas >= range.min);
                prop_assert!(world.replicas > 0 || (min == 0 && (quiet == 0 || quiet >= 299)));
                if open > 0 {
                    prop_assert!(world.replicas > 0, "somebody waits");
                }
            }
        }
    }

    #[test]
    fn a_load_that_stays_is_settled_on_and_what_is_kept_suffices(open in 1..3000_u64, start in 1..100_u32) {
        let mut world = World::new(range(1, 100, 50), start);
        world.go_on(70, open);
        let settled = world.replicas;
        world.changes.clear();
        world.go_on(600, open);
        prop_assert_eq!((world.replicas, world.changes.len()), (settled, 0));
        prop_assert!(u64::from(settled) * 50 >= open.min(5000));
        prop_assert!(u64::from(settled) <= open / 45 + 1 || settled == start);
    }
}
