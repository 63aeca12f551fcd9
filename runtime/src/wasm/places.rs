//! The places of a node's guests: who has how many of them, and who gets the next one.
//!
//! A store has a place, or a few where it is large, until it is gone. Whoever holds many leaves more to others than one who holds few: an app gets no more
//! than is left free beside it, so that one alone has half of all places, a second one half of the rest, and there is always something for the next.
//! A few places nobody gets for requests: those are for looks at whether a guest works, and for commands that start.

use std::sync::Arc;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use wharf_types::figures::Share;

use super::admission::QUEUE_TIMEOUT;
use super::allowance::{Line, Purpose};
use super::meter::Meter;
use super::pool::JOINED_MAX;

/// An app holds no more than this many times what it leaves free.
const OF_APP: u64 = 1;
/// All apps of a namespace together: where there is one namespace only, seven eighths are its own.
const OF_NAMESPACE: u64 = 7;

/// Places that requests leave alone, unless there are few in all.
const RESERVE_MAX: usize = 32;

/// How often an app that holds its share looks at whether others have let go of something.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Whether who holds so much may have `more` of what is free. The first that one asks for one gets as long as there is any.
fn is_fair(held: u64, more: u64, free: u64, times: u64) -> bool {
    held == 0 || held.saturating_add(more) <= free.saturating_sub(more).saturating_mul(times)
}

/// Counts `more` as held, if that is fair. Nobody sees more held than is: whoever waits would miss it.
fn take_share(held: &AtomicU64, more: u64, free: u64, times: u64) -> bool {
    let with = |held: u64| is_fair(held, more, free, times).then(|| held.saturating_add(more));
    held.fetch_update(SeqCst, SeqCst, with).is_ok()
}

/// What an app or a namespace holds of what all guests share.
#[derive(Debug, Default)]
pub(super) struct Holding {
    places: AtomicU64,
    /// Of the places that requests do not get.
    reserved: AtomicU64,
    /// Requests in stores that were another's first.
    joined: AtomicU64,
    /// Stores that wait because the app has its share.
    line: Line,
    /// The app has let go of a place.
    freed: Notify,
}

impl Holding {
    fn give_back(&self, places: u64) {
        // In this order, which is the other one for who gets in line and then looks.
        self.places.fetch_sub(places, SeqCst);
        if !self.line.is_empty() {
            self.freed.notify_one();
        }
    }
}

/// All places of a node.
pub(super) struct Places {
    max: usize,
    common: Arc<Semaphore>,
    reserve_max: usize,
    reserve: Arc<Semaphore>,
    joined: Arc<AtomicU64>,
}

/// A place, or several, until it is dropped.
pub(super) struct Place {
    // In this order: whoever is told of a free place finds it.
    _permit: OwnedSemaphorePermit,
    _claim: Claim,
}

impl Places {
    pub(super) fn new(max: usize) -> Self {
        let reserve_max = RESERVE_MAX.min(max / 8);
        Self {
            max,
            common: Arc::new(Semaphore::new(max - reserve_max)),
            reserve_max,
            reserve: Arc::new(Semaphore::new(reserve_max)),
            joined: Arc::default(),
        }
    }

    /// All places, and how many of them are taken.
    pub(super) fn share(&self) -> Share {
        let free = self.common.available_permits() + self.reserve.available_permits();
        Share { used: self.max.saturating_sub(free) as u64, max: self.max as u64 }
    }

    /// Places for a store of the app that the meter is of. Where there are none, `make_room` gives up something that its owner can do without, and says
    /// whether there was any. None: nothing became free in time.
    pub(super) async fn take(
        &self,
        meter: &Arc<Meter>,
        places: u32,
        purpose: Purpose,
        make_room: impl Fn() -> bool,
    ) -> Option<Place> {
        // Those who wait already come first; a look at an app waits for no request of it.
        if purpose != Purpose::Request || meter.holding().line.is_empty() {
            loop {
                if let Some(place) = self.try_take(meter, places) {
                    return Some(place);
                }
                if !make_room() {
                    break;
                }
            }
        }
        if let Some(place) = self.try_take_reserved(meter, places, purpose) {
            return Some(place);
        }
        let waited = async {
            let claim = self.wait_for_share(meter, places, &make_room).await?;
            let permit = self.common.clone().acquire_many_owned(places).await.ok()?;
            Some(Place { _permit: permit, _claim: claim })
        };
        tokio::time::timeout(QUEUE_TIMEOUT, waited).await.ok().flatten()
    }

    fn try_take(&self, meter: &Arc<Meter>, places: u32) -> Option<Place> {
        let claim = self.claim(meter, places)?;
        let permit = self.common.clone().try_acquire_many_owned(places).ok()?;
        Some(Place { _permit: permit, _claim: claim })
    }

    /// Of what requests do not get. A command stays, so it gets one only where its app has none of these, and leaves half of them to those that do not.
    fn try_take_reserved(&self, meter: &Arc<Meter>, places: u32, purpose: Purpose) -> Option<Place> {
        let (held, free) = (&meter.holding().reserved, self.reserve.available_permits() as u64);
        let is_for_it = match purpose {
            Purpose::Request => false,
            Purpose::Check => true,
            Purpose::Command => {
                held.load(Relaxed) == 0 && free >= u64::from(places) + self.reserve_max as u64 / 2
            }
        };
        if !is_for_it || !take_share(held, places.into(), free, OF_APP) {
            return None;
        }
        let claim = Claim { meter: meter.clone(), places: places.into(), is_reserved: true };
        let permit = self.reserve.clone().try_acquire_many_owned(places).ok()?;
        Some(Place { _permit: permit, _claim: claim })
    }

    fn claim(&self, meter: &Arc<Meter>, places: u32) -> Option<Claim> {
        Claim::try_new(meter, places.into(), self.common.available_permits() as u64)
    }

    /// Waits behind others of the app until that may have so many places.
    async fn wait_for_share(
        &self,
        meter: &Arc<Meter>,
        places: u32,
        make_room: &impl Fn() -> bool,
    ) -> Option<Claim> {
        let holding = meter.holding();
        let mut claim = None;
        let turn = async {
            loop {
                claim = self.claim(meter, places);
                if claim.is_some() {
                    break;
                }
                if !make_room() {
                    // Others tell only their own of what they let go of.
                    let _ = tokio::time::timeout(LOOK_AGAIN, holding.freed.notified()).await;
                }
            }
        };
        holding.line.wait(turn).await;
        claim
    }

    /// Counts a request that goes into a store where another one is. None: these are too many for the app, which has to make another store.
    pub(super) fn try_join(&self, meter: &Arc<Meter>) -> Option<Joined> {
        let held = &meter.holding().joined;
        let free = JOINED_MAX.saturating_sub(self.joined.load(Relaxed));
        if free == 0 || !take_share(held, 1, free, OF_APP) {
            return None;
        }
        self.joined.fetch_add(1, Relaxed);
        Some(Joined { meter: meter.clone(), all: self.joined.clone() })
    }
}

/// What an app and its namespace hold of the places, until this is dropped.
struct Claim {
    meter: Arc<Meter>,
    places: u64,
    is_reserved: bool,
}

impl Claim {
    fn try_new(meter: &Arc<Meter>, places: u64, free: u64) -> Option<Self> {
        if !take_share(&meter.holding().places, places, free, OF_APP) {
            return None;
        }
        if let Some(allowance) = meter.allowance()
            && !take_share(&allowance.holding().places, places, free, OF_NAMESPACE)
        {
            // Nobody is told: who waits would look, take this and find the same, without an end.
            meter.holding().places.fetch_sub(places, SeqCst);
            return None;
        }
        Some(Self { meter: meter.clone(), places, is_reserved: false })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.is_reserved {
            self.meter.holding().reserved.fetch_sub(self.places, SeqCst);
            return;
        }
        if let Some(allowance) = self.meter.allowance() {
            allowance.holding().places.fetch_sub(self.places, SeqCst);
        }
        self.meter.holding().give_back(self.places);
    }
}

/// A request in a store where another one was before it, until dropped. It may need a stack of its own in the pool.
pub(super) struct Joined {
    meter: Arc<Meter>,
    all: Arc<AtomicU64>,
}

impl Drop for Joined {
    fn drop(&mut self) {
        self.all.fetch_sub(1, Relaxed);
        self.meter.holding().joined.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures::FutureExt;
    use proptest::prelude::*;

    use super::super::allowance::Allowance;
    use super::*;

    fn app() -> Arc<Meter> {
        Arc::default()
    }

    fn app_of(namespace: &Arc<Allowance>) -> Arc<Meter> {
        Arc::new(Meter::paid_by(namespace.clone()))
    }

    /// Takes places one by one, until there are none for the app.
    fn take_all(places: &Places, app: &Arc<Meter>) -> Vec<Place> {
        std::iter::from_fn(|| places.try_take(app, 1)).collect()
    }

    fn nothing() -> bool {
        false
    }

    #[test]
    fn an_app_alone_gets_half_and_each_further_one_half_of_the_rest() {
        let places = Places::new(1000);
        let apps = [app(), app(), app()];
        let taken: Vec<_> = apps.iter().map(|app| take_all(&places, app)).collect();
        assert_eq!(taken.iter().map(Vec::len).collect::<Vec<_>>(), [484, 242, 121]);
        assert_eq!(places.share(), Share { used: 847, max: 1000 });
        drop(taken);
        assert_eq!(places.share(), Share { used: 0, max: 1000 });
        assert_eq!(take_all(&places, &apps[0]).len(), 484);
    }

    #[test]
    fn the_apps_of_a_namespace_leave_an_eighth_to_others() {
        let places = Places::new(1000);
        let (greedy, modest) = (Arc::<Allowance>::default(), Arc::<Allowance>::default());
        let taken: Vec<_> = (0..100).map(|_| take_all(&places, &app_of(&greedy))).collect();
        assert_eq!(taken.iter().map(Vec::len).sum::<usize>(), 847);
        assert_eq!(take_all(&places, &app_of(&modest)).len(), 60);
    }

    #[test]
    fn a_large_store_is_one_of_few() {
        let places = Places::new(1000);
        let app = app();
        let taken: Vec<_> = std::iter::from_fn(|| places.try_take(&app, 25)).collect();
        assert_eq!(taken.len(), 19);
        assert!(Places::new(40).try_take(&app, 1).is_none(), "it holds too much for so few");
        assert!(Places::new(8).try_take(&self::app(), 7).is_some(), "the first fits in any case");
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_its_share_waits_for_its_own_and_is_turned_away_in_the_end() {
        let places = Places::new(16);
        let app = app();
        let mut taken = take_all(&places, &app);
        assert_eq!(taken.len(), 7);
        assert!(places.take(&app, 1, Purpose::Request, nothing).await.is_none());
        let mut waits = Box::pin(places.take(&app, 1, Purpose::Request, nothing));
        assert!(waits.as_mut().now_or_never().is_none());
        drop(taken.pop());
        assert!(waits.await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_others_of_its_namespace_looks_once_in_a_while() {
        let places = Places::new(16);
        let namespace = Arc::<Allowance>::default();
        let _taken: Vec<_> = (0..3).map(|_| take_all(&places, &app_of(&namespace))).collect();
        let late = app_of(&namespace);
        let looks = Cell::new(0);
        let make_room = || {
            looks.set(looks.get() + 1);
            false
        };
        assert!(places.take(&late, 1, Purpose::Request, make_room).await.is_none());
        assert!(looks.get() <= 20, "{looks:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_its_share_gets_what_others_let_go_of() {
        let places = Places::new(16);
        let (greedy, other) = (app(), app());
        let held = take_all(&places, &other);
        let _taken = take_all(&places, &greedy);
        let mut waits = Box::pin(places.take(&greedy, 1, Purpose::Request, nothing));
        assert!(waits.as_mut().now_or_never().is_none());
        drop(held);
        assert!(waits.await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn what_can_be_done_without_goes_first() {
        let places = Places::new(16);
        let (app, other) = (app(), app());
        let warm = Cell::new(take_all(&places, &other));
        let make_room = || {
            let mut left = warm.take();
            let had_some = left.pop().is_some();
            warm.set(left);
            had_some
        };
        let _taken = take_all(&places, &app);
        assert!(places.take(&app, 1, Purpose::Request, make_room).now_or_never().flatten().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_at_an_app_finds_a_place_when_every_other_one_is_taken() {
        let places = Places::new(1000);
        let _taken: Vec<_> = (0..100).map(|_| take_all(&places, &app())).collect();
        assert_eq!(places.common.available_permits(), 0);
        assert!(places.take(&app(), 1, Purpose::Request, nothing).await.is_none());
        let looks: Vec<_> =
            (0..32).filter_map(|_| places.take(&app(), 1, Purpose::Check, nothing).now_or_never()?).collect();
        assert_eq!(looks.len(), 32);
        drop(looks);
        let greedy = app();
        let looks: Vec<_> =
            std::iter::from_fn(|| places.try_take_reserved(&greedy, 1, Purpose::Check)).collect();
        assert_eq!(looks.len(), 16, "one app leaves half of these, too");
    }

    #[test]
    fn commands_that_start_leave_half_of_what_is_kept_for_looks() {
        let places = Places::new(1000);
        let one = app();
        let first = places.try_take_reserved(&one, 1, Purpose::Command);
        assert!(first.is_some() && places.try_take_reserved(&one, 1, Purpose::Command).is_none());
        let others: Vec<_> =
            (0..100).filter_map(|_| places.try_take_reserved(&app(), 1, Purpose::Command)).collect();
        assert_eq!(others.len(), 15);
        assert!(places.try_take_reserved(&app(), 1, Purpose::Check).is_some());
    }

    #[test]
    fn few_places_have_a_small_reserve() {
        assert_eq!([4, 16, 100, 1000].map(|max| Places::new(max).reserve_max), [0, 2, 12, 32]);
    }

    #[test]
    fn an_app_joins_its_own_stores_up_to_half_of_the_stacks() {
        let places = Places::new(1000);
        let (greedy, other) = (app(), app());
        let joined: Vec<_> = std::iter::from_fn(|| places.try_join(&greedy)).collect();
        assert_eq!(joined.len() as u64, JOINED_MAX / 2);
        assert!(places.try_join(&other).is_some());
        drop(joined);
        assert!(places.try_join(&greedy).is_some());
        assert_eq!(places.joined.load(Relaxed), 0);
    }

    proptest! {
        #[test]
        fn however_many_are_greedy_something_is_left_for_the_next(
            max in 64..2000_usize, apps in 1..6_usize
        ) {
            let places = Places::new(max);
            let taken: Vec<_> = (0..apps).map(|_| take_all(&places, &app())).collect();
            prop_assert!(places.try_take(&app(), 1).is_some());
            drop(taken);
            prop_assert_eq!(places.share().used, 0);
        }
    }
}
