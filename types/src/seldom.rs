//! Which lines of a log are worth saying, of those that one cause could bring again and again.
//!
//! What everybody may cause, or a process that nobody ends, would otherwise fill the log and hide what else is in it. What is left out is
//! counted, and the next line says how many there were.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Causes that are told apart. With more of them at once, such as a flood from everywhere, the others share one.
const CAUSES_MAX: usize = 256;

/// Lets one line in a span through for each cause.
#[derive(Debug)]
pub struct Seldom<K> {
    every: Duration,
    after: Duration,
    causes: Mutex<HashMap<Option<K>, Cause>>,
}

#[derive(Clone, Copy, Debug)]
struct Cause {
    /// When it began to come again and again.
    since: Instant,
    last: Instant,
    said: Option<Instant>,
    left_out: u64,
}

/// How many lines were left out since the last one. It reads as the end of a sentence, or as nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeftOut(pub u64);

impl<K: Eq + Hash> Seldom<K> {
    /// The first of each cause is said at once, and then one in `every`.
    pub fn new(every: Duration) -> Self {
        Self { every, after: Duration::ZERO, causes: Mutex::default() }
    }

    /// The same, but a cause is said only if it has gone on for that long: many end by themselves.
    pub fn after(self, after: Duration) -> Self {
        Self { after, ..self }
    }

    /// Whether to say it now. None: it is left out.
    pub fn say(&self, cause: K) -> Option<LeftOut> {
        self.say_at(Instant::now(), cause)
    }

    pub fn say_at(&self, now: Instant, cause: K) -> Option<LeftOut> {
        let mut causes = self.causes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut cause = Some(cause);
        if causes.len() >= CAUSES_MAX && !causes.contains_key(&cause) {
            causes.retain(|_, known| now.saturating_duration_since(known.last) < self.every);
            if causes.len() >= CAUSES_MAX {
                cause = None;
            }
        }
        let fresh = Cause { since: now, last: now, said: None, left_out: 0 };
        let known = causes.entry(cause).or_insert(fresh);
        if now.saturating_duration_since(known.last) >= self.every {
            // It had ended meanwhile.
            *known = Cause { left_out: known.left_out, ..fresh };
        }
        known.last = now;
        let goes_on = now.saturating_duration_since(known.since) >= self.after;
        let is_due = known.said.is_none_or(|said| now.saturating_duration_since(said) >= self.every);
        if goes_on && is_due {
            known.said = Some(now);
            return Some(LeftOut(std::mem::take(&mut known.left_out)));
        }
        known.left_out += 1;
        None
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            1 => f.write_str(" (and once more since this was said last)"),
            count => write!(f, " (and {count} times more since this was said last)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// At which seconds something that comes every second is said, and how many were left out before.
    fn said(seldom: &Seldom<&str>, seconds: std::ops::Range<u64>) -> Vec<(u64, u64)> {
        static BEGIN: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
        let says = |second| Some((second, seldom.say_at(*BEGIN + Duration::from_secs(second), "it")?.0));
        seconds.filter_map(says).collect()
    }

    #[test]
    fn what_goes_on_is_said_at_once_and_then_once_a_minute_with_what_was_left_out() {
        let seldom = Seldom::new(MINUTE);
        assert_eq!(said(&seldom, 0..130), [(0, 0), (60, 59), (120, 59)]);
        let now = Instant::now();
        assert_eq!(seldom.say_at(now, "another"), Some(LeftOut(0)), "it is nobody's fault but its own");
    }

    #[test]
    fn what_ends_by_itself_is_never_said() {
        let seldom = Seldom::new(MINUTE).after(Duration::from_secs(5));
        assert_eq!(said(&seldom, 0..4), []);
        assert_eq!(said(&seldom, 100..104), [], "that it came before was another time");
        assert_eq!(said(&seldom, 200..210), [(205, 13)]);
    }

    #[test]
    fn a_flood_from_everywhere_is_one_cause() {
        let (seldom, now) = (Seldom::new(MINUTE), Instant::now());
        let said = (0..10_000).filter(|from: &u32| seldom.say_at(now, *from).is_some()).count();
        assert_eq!(said, CAUSES_MAX + 1);
        assert!(seldom.causes.lock().unwrap().len() <= CAUSES_MAX + 1);
        let later = now + MINUTE;
        assert_eq!(seldom.say_at(later, 1), Some(LeftOut(0)), "those of before are forgotten or due");
    }

    #[test]
    fn what_was_left_out_ends_the_sentence() {
        let line = |count| format!("it was refused{}", LeftOut(count));
        assert_eq!(line(0), "it was refused");
        assert_eq!(line(1), "it was refused (and once more since this was said last)");
        assert_eq!(line(7), "it was refused (and 7 times more since this was said last)");
    }
}
