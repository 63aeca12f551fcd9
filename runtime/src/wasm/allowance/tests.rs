use futures::FutureExt;
use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;

fn limited(memory_bytes: Option<u64>, cpu_millis: Option<u64>) -> Arc<Allowance> {
    let allowance = Arc::<Allowance>::default();
    let limit = RateLimit { memory_bytes, cpu_millis, ..RateLimit::of("blue".parse().unwrap()) };
    allowance.set(Some(&limit));
    allowance
}

async fn room(allowance: &Arc<Allowance>, expected: u64) -> Result<Room, InvokeError> {
    allowance.room(expected, Purpose::Request, || false).await
}

fn used(allowance: &Allowance) -> u64 {
    allowance.memory.used.load(SeqCst)
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_waits_in_line_and_is_turned_away_in_the_end() {
    let allowance = limited(Some(10 * MIB), None);
    let first = room(&allowance, 6 * MIB).await.unwrap();
    let error = room(&allowance, 6 * MIB).await.unwrap_err();
    assert!(error.to_string().contains("memory: ") && error.to_string().contains("10MiB"), "{error}");

    let mut second = Box::pin(room(&allowance, 6 * MIB));
    assert!(second.as_mut().now_or_never().is_none());
    let mut third = Box::pin(room(&allowance, MIB));
    assert!(third.as_mut().now_or_never().is_none(), "it fits, and comes after the second");
    drop(first);
    let second = second.await.unwrap();
    let third = third.await.unwrap();
    assert_eq!(used(&allowance), 7 * MIB);
    drop((second, third));
    assert_eq!(used(&allowance), 0);
}

#[tokio::test(start_paused = true)]
async fn whoever_goes_away_leaves_the_line() {
    let allowance = limited(Some(10 * MIB), None);
    let first = room(&allowance, 10 * MIB).await.unwrap();
    assert!(room(&allowance, MIB).now_or_never().is_none());
    assert!(allowance.memory.line.is_empty());
    drop(first);
    assert!(room(&allowance, MIB).now_or_never().unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_the_namespace_can_do_without_goes_first() {
    let allowance = limited(Some(10 * MIB), None);
    let warm =
        Mutex::new(vec![room(&allowance, 5 * MIB).await.unwrap(), room(&allowance, 5 * MIB).await.unwrap()]);
    let make_room = || warm.lock().unwrap().pop().is_some();
    assert!(allowance.room(7 * MIB, Purpose::Request, make_room).await.is_ok());
    assert!(warm.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_store_takes_more_than_was_set_aside_only_where_there_is_more() {
    let allowance = limited(Some(10 * MIB), None);
    let mut first = room(&allowance, 4 * MIB).await.unwrap();
    let mut second = Room::of(Some(&allowance));
    assert_eq!(first.cover(3 * MIB), Ok(()));
    assert_eq!(used(&allowance), 4 * MIB, "it was set aside");
    assert_eq!(second.cover(5 * MIB), Ok(()));
    let max_bytes = 10 * MIB;
    assert_eq!(first.cover(6 * MIB), Err(Denied::Namespace { max_bytes, alone: false }));
    assert_eq!(first.cover(11 * MIB), Err(Denied::Namespace { max_bytes, alone: true }));
    drop(second);
    assert_eq!(first.cover(6 * MIB), Ok(()));
    drop(first);
    assert_eq!(used(&allowance), 0);
}

#[tokio::test]
async fn a_check_gets_its_memory_and_is_counted() {
    let allowance = limited(Some(10 * MIB), None);
    let _all = room(&allowance, 10 * MIB).await.unwrap();
    let mut check = allowance.room(0, Purpose::Check, || false).await.unwrap();
    assert_eq!(check.cover(CHECK_BYTES), Ok(()));
    assert_eq!(used(&allowance), 10 * MIB + CHECK_BYTES);
    assert!(check.cover(CHECK_BYTES + 1).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_owes_time_lets_requests_wait_and_then_turns_them_away() {
    let allowance = limited(None, Some(1000));
    assert_eq!(allowance.time().now_or_never(), Some(Ok(())));
    // Of this clock hardly any time passes: that of the test stands still.
    allowance.charge(Duration::from_secs(30));
    let error = allowance.time().await.unwrap_err();
    assert!(error.to_string().contains("cpu: "), "{error}");
    allowance.set(None);
    assert_eq!(allowance.time().now_or_never(), Some(Ok(())), "there is no limit any more");
}

#[test]
fn limits_hold_for_what_runs_and_for_what_comes() {
    let (allowances, blue): (Allowances, NamespaceName) = (Allowances::default(), "blue".parse().unwrap());
    let before = allowances.of(&blue);
    let limit = RateLimit { memory_bytes: Some(MIB), ..RateLimit::of(blue.clone()) };
    allowances.go_by(&[limit]);
    assert!(!before.memory.try_take(2 * MIB));
    assert!(Arc::ptr_eq(&before, &allowances.of(&blue)));
    drop(before);
    allowances.go_by(&[]);
    assert!(allowances.known.lock().unwrap().allowances.is_empty());
    assert!(allowances.of(&blue).memory.try_take(2 * MIB));
}

#[test]
fn a_second_worth_of_time_is_used_at_once_and_then_it_comes_back_at_the_rate() {
    let budget = Budget::new(500);
    budget.charge(|| 0, Duration::from_millis(500));
    assert_eq!(budget.owed(|| 0), None);
    budget.charge(|| 0, Duration::from_millis(100));
    assert_eq!(budget.owed(|| 0), Some(Duration::from_millis(200)));
    assert_eq!(budget.owed(|| SECOND / 5), None);
    budget.charge(|| 0, Duration::from_secs(3600));
    assert_eq!(budget.owed(|| DEBT_MAX), None, "an hour is forgiven within a minute");
    budget.set_rate(1000, || 0);
    assert_eq!(budget.owed(|| 0), None, "and at another rate at once");
    budget.set_rate(0, || 0);
    assert!(budget.owed(|| u64::MAX).is_some());
    budget.set_rate(UNLIMITED, || 0);
    assert_eq!(budget.owed(|| 0), None);
}

proptest! {
    #[test]
    fn guests_that_wait_for_what_they_owe_keep_to_the_rate(
        millis in 100..8000_u64, turns in prop::collection::vec(1..20_u64, 1..100)
    ) {
        let budget = Budget::new(millis);
        let (mut now, mut computed) = (0, Duration::ZERO);
        for turn in turns {
            while let Some(owed) = budget.owed(|| now) {
                now += owed.as_nanos() as u64;
            }
            // What is computed at this moment was allowed by what had been computed before.
            let allowed = u128::from(millis) * u128::from(now + SECOND) / 1000 + 1000;
            prop_assert!(computed.as_nanos() <= allowed, "{computed:?} of {allowed} ns by {now}");
            let spent = Duration::from_millis(turn);
            budget.charge(|| now, spent);
            computed += spent;
        }
    }

    #[test]
    fn what_stores_hold_together_is_never_beyond_the_limit(
        max in 0..64_u64, steps in prop::collection::vec((0..4_usize, 0..32_u64, any::<bool>()), 1..60)
    ) {
        let allowance = limited(Some(max), None);
        let mut rooms: Vec<(Room, u64)> = (0..4).map(|_| (Room::of(Some(&allowance)), 0)).collect();
        for (which, bytes, ends) in steps {
            let (room, holds) = &mut rooms[which];
            if ends {
                (*room, *holds) = (Room::of(Some(&allowance)), 0);
            } else if room.cover(bytes).is_ok() {
                *holds = (*holds).max(bytes);
            }
            let together: u64 = rooms.iter().map(|(_, holds)| holds).sum();
            prop_assert_eq!(used(&allowance), together);
            prop_assert!(together <= max);
        }
    }
}
