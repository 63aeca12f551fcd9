//! How many instances an app needs for what is asked of it.
//!
//! Up at once, down slowly. The load is the mean of the open requests over two seconds, which a burst of a moment does not move. As many
//! instances are needed as the load asks for now; as many are kept as the largest load within `window` asks for. So a load that comes
//! and goes faster than the window changes nothing, and one that comes and goes more slowly moves the number once each way.
//!
//! A [`History`] is in memory only. One that has just begun takes nothing away before it covers what it is asked about, so that a new
//! process, a worker that was silent and a clock that jumps all lead to a wait and to nothing else.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use wharf_types::Timestamp;
use wharf_types::quantity::Span;
use wharf_types::spec::ReplicaRange;

use super::view::after;

/// What the load is the mean of.
const LOAD_OVER: Duration = Duration::from_secs(2);
/// Workers report twice a second. After a gap as long as this, in either direction, nobody knows what was in between.
const GAP: Duration = Duration::from_secs(5);
/// Into how many parts a window is cut; of each only the largest load is kept.
const PARTS: u128 = 60;
/// Instances are taken away when the load leaves so much room in those that stay, so that a load at the border of two numbers does not
/// go to and fro between them.
const ROOM: f64 = 0.9;

/// What the front doors have counted since they were asked last.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Demand {
    /// Open requests, and connections to ports, on the mean.
    pub open: f64,
    /// Requests that wait for a first instance.
    pub waiting: u64,
    /// Total of requests; any other number than before says that there were some.
    pub requests: u64,
}

/// What was asked of an app, as far back as it matters.
#[derive(Clone, Debug)]
pub struct History {
    /// Since when it has no gap.
    since: Timestamp,
    last: Timestamp,
    newest: Demand,
    /// The samples that the load is the mean of: when each ended, how long it is, and what it found.
    recent: VecDeque<(Timestamp, Duration, f64)>,
    /// The largest load in each part of the window, by the number of the part.
    largest: VecDeque<(u128, f64)>,
    /// Since when nobody has asked for anything.
    quiet_since: Timestamp,
}

/// Another number of instances.
#[derive(Clone, Debug, PartialEq)]
pub struct Scaling {
    pub from: u32,
    pub to: u32,
    pub why: Why,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Why {
    Load { open: f64, each: u32 },
    Woken { waiting: u64 },
    Quiet { span: Span },
}

impl History {
    pub fn begin(now: Timestamp, demand: Demand) -> Self {
        Self {
            since: now,
            last: now,
            newest: demand,
            recent: VecDeque::from([(now, Duration::ZERO, demand.load())]),
            largest: VecDeque::new(),
            quiet_since: now,
        }
    }

    /// Takes in a sample that ends now.
    pub fn observe(&mut self, now: Timestamp, range: &ReplicaRange, demand: Demand) {
        let Some(span) = elapsed(self.last, now).filter(|span| *span <= GAP) else {
            *self = Self::begin(now, demand);
            return;
        };
        if demand.load() > 0.0 || demand.requests != self.newest.requests {
            self.quiet_since = now;
        }
        (self.last, self.newest) = (now, demand);
        self.recent.push_back((now, span, demand.load()));
        self.recent.retain(|(at, ..)| elapsed(*at, now).is_some_and(|ago| ago < LOAD_OVER));
        let part = part_of(range, now);
        let load = self.load();
        match self.largest.back_mut() {
            Some((newest, largest)) if *newest == part => *largest = largest.max(load),
            _ => self.largest.push_back((part, load)),
        }
        self.largest.retain(|(at, _)| (part.saturating_sub(PARTS)..=part).contains(at));
    }

    /// What happens for other reasons, such as a rollout, is no time to fall asleep after.
    pub fn is_busy(&mut self, now: Timestamp) {
        self.quiet_since = now;
    }

    /// The mean over what is recent.
    pub(crate) fn load(&self) -> f64 {
        let whole: f64 = self.recent.iter().map(|(_, span, _)| span.as_secs_f64()).sum();
        if whole == 0.0 {
            return self.newest.load();
        }
        self.recent.iter().map(|(_, span, load)| load * span.as_secs_f64()).sum::<f64>() / whole
    }

    fn largest(&self) -> f64 {
        self.largest.iter().map(|(_, load)| *load).fold(self.load(), f64::max)
    }
}

impl Demand {
    fn load(&self) -> f64 {
        self.open + self.waiting as f64
    }
}

/// The number that the app should have instead of `current`. None: it has it. While it only grows, because a rollout is under way,
/// nothing is taken away.
pub fn decide(
    now: Timestamp,
    range: &ReplicaRange,
    current: u32,
    history: &History,
    only_grows: bool,
) -> Option<Scaling> {
    let waiting = history.newest.waiting;
    let scaling = |to, why| Some(Scaling { from: current, to, why });
    if current == 0 {
        let to = awake(range, needed(history.newest.load(), f64::from(range.concurrency)));
        return if waiting > 0 { scaling(to, Why::Woken { waiting }) } else { None };
    }
    let each = range.concurrency;
    let up = awake(range, needed(history.load(), f64::from(each)));
    if up > current {
        return scaling(up, Why::Load { open: history.load(), each });
    }
    if only_grows || now < history.last {
        return None;
    }
    if let Some(span) = range.sleep_after()
        && is_past(history.quiet_since, span, now)
    {
        return scaling(0, Why::Quiet { span });
    }
    if !is_past(history.since, range.window, now) {
        return None;
    }
    let down = awake(range, needed(history.largest(), f64::from(each) * ROOM));
    if down < current { scaling(down, Why::Load { open: history.largest(), each }) } else { None }
}

/// Within the range, and not asleep.
fn awake(range: &ReplicaRange, replicas: u32) -> u32 {
    range.clamp(replicas.max(1))
}

fn needed(load: f64, each: f64) -> u32 {
    // A sum of means is rarely a whole number where it should be one.
    let instances = (load / each - 1e-6).ceil();
    // Out of bounds it is the nearest number there is.
    instances as u32
}

fn is_past(since: Timestamp, span: Span, now: Timestamp) -> bool {
    after(since, span.as_duration()) <= now
}

/// None: the clock went back.
fn elapsed(from: Timestamp, to: Timestamp) -> Option<Duration> {
    Duration::try_from(to.duration_since(from)).ok()
}

fn part_of(range: &ReplicaRange, at: Timestamp) -> u128 {
    let since_epoch = elapsed(Timestamp::UNIX_EPOCH, at).unwrap_or_default();
    since_epoch.as_micros() / (range.window.as_duration().as_micros() / PARTS).max(1)
}

impl fmt::Display for Scaling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to, why } = self;
        match why {
            Why::Load { open, each } => {
                write!(f, "scaled {from} -> {to}: {} open requests, {each} each", open.round())
            }
            Why::Woken { waiting: 1 } => write!(f, "woken by a request: {}", instances(*to)),
            Why::Woken { waiting } => write!(f, "woken by {waiting} requests: {}", instances(*to)),
            Why::Quiet { span } => write!(f, "asleep after {span} without requests"),
        }
    }
}

fn instances(count: u32) -> String {
    if count == 1 { "1 instance".to_owned() } else { format!("{count} instances") }
}

#[cfg(test)]
mod tests;
