//! The trial of a new release with a part of the requests: whether there is one, and what follows from its figures.

use std::fmt::Write as _;
use std::ops::Range;
use std::time::Duration;

use wharf_types::Timestamp;
use wharf_types::requests::{ReleaseRequests, RequestCounts};
use wharf_types::spec::CanarySpec;

use crate::plan::view::after;
use crate::plan::{AppView, ReleaseView, RolloutView, Trial};

/// How often the figures are looked at.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// Of 100 answers this many are as fast as the percentile that is compared, or faster.
const TAIL_PERCENT: u64 = 95;

/// With fewer answers, the slowest of them are too few to compare.
const TAIL_MIN: u64 = 200;

/// Whether a rollout begins with a trial: there must be something to compare with that it can run beside, and going back is no time
/// for trials.
pub(super) fn is_wanted(app: &AppView, rollout: &RolloutView, target: &ReleaseView) -> bool {
    let comparable = |stable: &ReleaseView| {
        stable.id != target.id
            && stable.world.is_http()
            && app.replicas_of(stable) > 0
            && !target.spec.excludes(&stable.spec)
    };
    target.spec.update.canary.is_some()
        && target.world.is_http()
        && app.replicas() > 0
        && !rollout.backwards
        && !rollout.renews
        && app.stable.as_ref().is_some_and(|stable| comparable(stable))
}

/// What became of the requests to both releases during the trial.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Comparison {
    pub(super) old: ReleaseFigures,
    pub(super) new: ReleaseFigures,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ReleaseFigures {
    pub(super) number: u64,
    pub(super) counts: RequestCounts,
}

impl ReleaseFigures {
    /// Where the 95th percentile of the times is, in microseconds. None: too few answers were timed. Ingresses of before time none; the
    /// others sent their requests to both releases alike.
    fn tail(&self) -> Option<Range<u64>> {
        let times = &self.counts.times;
        (times.count() >= TAIL_MIN).then(|| times.percentile(TAIL_PERCENT)).flatten()
    }
}

pub(super) fn comparison(
    app: &AppView,
    rollout: &RolloutView,
    trial: &Trial,
    target: &ReleaseView,
) -> Comparison {
    let of = |number: u64| {
        let find = |requests: &[ReleaseRequests]| {
            requests
                .iter()
                .find(|known| known.release == number)
                .map(|known| known.counts.clone())
                .unwrap_or_default()
        };
        ReleaseFigures { number, counts: find(&rollout.requests).since(&find(&trial.before)) }
    };
    Comparison { old: of(app.stable.as_ref().map_or(0, |stable| stable.number)), new: of(target.number) }
}

/// What is to happen with the trial. The texts have the figures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// At this time there is more to say.
    Wait(Timestamp),
    GoOn(String),
    Bad(String),
}

pub(super) fn verdict(now: Timestamp, spec: &CanarySpec, since: Timestamp, figures: &Comparison) -> Verdict {
    let duration = spec.duration.as_duration();
    let (end, last_end) = (after(since, duration), after(after(since, duration), duration));
    let (old, new) = (&figures.old, &figures.new);
    if new.counts.total() < spec.min_requests {
        return match now < last_end {
            true => Verdict::Wait(if now < end { end } else { last_end }),
            false => Verdict::GoOn(format!(
                "release {} was on trial for {} and got {} requests, fewer than {}, so that nothing can be said of it; it goes on",
                new.number,
                wharf_types::quantity::Span::from(duration + duration),
                new.counts.total(),
                spec.min_requests
            )),
        };
    }
    let excess = new.counts.error_share() - old.counts.error_share();
    if excess > spec.max_error_ratio.as_f64() {
        return Verdict::Bad(format!("{}; at most {} more may", errors(figures), spec.max_error_ratio));
    }
    if now < end {
        return Verdict::Wait(end);
    }
    if let Some(most) = spec.max_latency_ratio.map(|ratio| ratio.as_f64())
        && let Some(figures) = too_slow(figures, most)
    {
        return Verdict::Bad(format!("{figures}; at most {most} times may"));
    }
    Verdict::GoOn(format!("{}; it goes on", told(figures)))
}

/// The figures by which the new release takes more than `most` times as long as the old one. None: it does not, as far as is known.
fn too_slow(figures: &Comparison, most: f64) -> Option<String> {
    if times_slower(figures).is_some_and(|slow| slow > most) {
        return Some(latencies(figures));
    }
    let (old, new) = (figures.old.tail()?, figures.new.tail()?);
    // They are known to within a bucket, and what that leaves open is not held against the new one.
    (new.start as f64 > old.end as f64 * most).then(|| tails(figures)).flatten()
}

/// How many times the old release's mean the new one's is. None: one of them has answered nothing.
fn times_slower(figures: &Comparison) -> Option<f64> {
    let (old, new) = (figures.old.counts.mean_micros()?, figures.new.counts.mean_micros()?);
    (old > 0.0).then(|| new / old)
}

/// Such as `release 7 failed 12 % of 431 requests, release 6 0.1 %`.
fn errors(figures: &Comparison) -> String {
    let Comparison { old, new } = figures;
    let mut text = format!(
        "release {} failed {} of {} requests",
        new.number,
        percent(new.counts.error_share()),
        new.counts.total()
    );
    if old.counts.total() > 0 {
        let _ = write!(text, ", release {} {}", old.number, percent(old.counts.error_share()));
    }
    text
}

/// Such as `95 % of the answers of release 7 within 12.3 ms, of release 6 within 10.2 ms`. None: too few answers were timed.
fn tails(figures: &Comparison) -> Option<String> {
    let Comparison { old, new } = figures;
    let millis = |within: Range<u64>| within.end as f64 / 1000.0;
    Some(format!(
        "{TAIL_PERCENT} % of the answers of release {} within {:.1} ms, of release {} within {:.1} ms",
        new.number,
        millis(new.tail()?),
        old.number,
        millis(old.tail()?)
    ))
}

/// What is known of both.
pub(super) fn told(figures: &Comparison) -> String {
    match tails(figures) {
        Some(tails) => format!("{}; {tails}", errors(figures)),
        None => errors(figures),
    }
}

fn latencies(figures: &Comparison) -> String {
    let millis = |counts: &RequestCounts| counts.mean_micros().unwrap_or_default() / 1000.0;
    let Comparison { old, new } = figures;
    format!(
        "release {} took {:.1} ms to answer in the mean, release {} {:.1} ms",
        new.number,
        millis(&new.counts),
        old.number,
        millis(&old.counts)
    )
}

/// With a digit after the point where that says more.
fn percent(share: f64) -> String {
    let percent = share * 100.0;
    let rounded = (percent * 10.0).round() / 10.0;
    if rounded == 0.0 && share > 0.0 { "less than 0.1 %".to_owned() } else { format!("{rounded} %") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use wharf_types::quantity::Span;
    use wharf_types::requests::AnswerTimes;
    use wharf_types::spec::Ratio;

    const START: Timestamp = Timestamp::UNIX_EPOCH;

    fn at(seconds: u64) -> Timestamp {
        after(START, Duration::from_secs(seconds))
    }

    fn counts(ok: u64, errors: u64, mean_millis: u64) -> RequestCounts {
        let answer_micros = (ok + errors) * mean_millis * 1000;
        RequestCounts { ok, server_errors: errors, answer_micros, ..RequestCounts::default() }
    }

    fn figures(old: RequestCounts, new: RequestCounts) -> Comparison {
        let of = |number, counts| ReleaseFigures { number, counts };
        Comparison { old: of(6, old), new: of(7, new) }
    }

    fn spec() -> CanarySpec {
        CanarySpec { max_latency_ratio: Some(Ratio::percent(150)), ..CanarySpec::default() }
    }

    fn says(seconds: u64, old: RequestCounts, new: RequestCounts) -> Verdict {
        verdict(at(seconds), &spec(), START, &figures(old, new))
    }

    /// At the end of the trial.
    fn verdict_of(spec: &CanarySpec, old: RequestCounts, new: RequestCounts) -> Verdict {
        verdict(at(60), spec, START, &figures(old, new))
    }

    #[test]
    fn a_release_that_fails_more_is_stopped_before_the_time_is_up() {
        let verdict = says(3, counts(3996, 4, 5), counts(379, 52, 5));
        let Verdict::Bad(message) = verdict else { panic!("{verdict:?}") };
        assert_eq!(message, "release 7 failed 12.1 % of 431 requests, release 6 0.1 %; at most 1% more may");
    }

    #[test]
    fn what_both_fail_is_not_held_against_the_new_one() {
        assert_eq!(says(3, counts(900, 100, 5), counts(90, 10, 5)), Verdict::Wait(at(60)));
        assert!(matches!(says(60, counts(900, 100, 5), counts(90, 10, 5)), Verdict::GoOn(_)));
    }

    #[test]
    fn a_slow_release_is_told_at_the_end() {
        assert_eq!(says(59, counts(1000, 0, 10), counts(100, 0, 16)), Verdict::Wait(at(60)));
        let verdict = says(60, counts(1000, 0, 10), counts(100, 0, 16));
        let Verdict::Bad(message) = verdict else { panic!("{verdict:?}") };
        assert_eq!(
            message,
            "release 7 took 16.0 ms to answer in the mean, release 6 10.0 ms; at most 1.5 times may"
        );
        assert!(matches!(says(60, counts(1000, 0, 10), counts(100, 0, 15)), Verdict::GoOn(_)));
    }

    /// `all` answers, of which a tenth took longer.
    fn timed(all: u64, usual_millis: u64, slow_millis: u64) -> RequestCounts {
        let at = |millis: u64, count| (AnswerTimes::bucket(millis * 1000), count);
        let times = [at(usual_millis, all - all / 10), at(slow_millis, all / 10)].into_iter().collect();
        RequestCounts { times, ..counts(all, 0, 10) }
    }

    #[test]
    fn a_release_whose_slow_answers_are_slower_is_told_at_the_end_though_its_mean_is_none_the_worse() {
        let (old, new) = (timed(1000, 10, 40), timed(200, 5, 90));
        assert_eq!(says(59, old.clone(), new.clone()), Verdict::Wait(at(60)));
        let verdict = says(60, old.clone(), new.clone());
        let Verdict::Bad(message) = verdict else { panic!("{verdict:?}") };
        assert_eq!(
            message,
            "95 % of the answers of release 7 within 90.1 ms, of release 6 within 41.0 ms; at most 1.5 times may"
        );
        let verdict = verdict_of(&CanarySpec::default(), old.clone(), new);
        let Verdict::GoOn(message) = verdict else { panic!("{verdict:?}") };
        assert_eq!(
            message,
            "release 7 failed 0 % of 200 requests, release 6 0 %; 95 % of the answers of release 7 within 90.1 ms, of \
             release 6 within 41.0 ms; it goes on"
        );
        assert!(matches!(says(60, old.clone(), timed(200, 10, 60)), Verdict::GoOn(_)), "as slow as may be");
        assert!(matches!(says(60, old, timed(190, 5, 90)), Verdict::GoOn(_)), "too few are slow");
    }

    #[test]
    fn ingresses_that_time_nothing_fail_no_trial() {
        assert!(matches!(says(60, counts(1000, 0, 10), timed(1000, 5, 90)), Verdict::GoOn(_)));
        assert!(matches!(says(60, timed(1000, 5, 10), counts(1000, 0, 10)), Verdict::GoOn(_)));
    }

    #[test]
    fn too_few_requests_are_waited_for_once_more_and_then_it_goes_on_with_a_note() {
        let few = || counts(99, 0, 1);
        assert_eq!(says(10, counts(0, 0, 0), few()), Verdict::Wait(at(60)));
        assert_eq!(says(60, counts(0, 0, 0), few()), Verdict::Wait(at(120)));
        let verdict = says(120, counts(0, 0, 0), few());
        let Verdict::GoOn(message) = verdict else { panic!("{verdict:?}") };
        assert!(message.contains("2m and got 99 requests, fewer than 100"), "{message}");
        assert!(matches!(says(61, counts(0, 0, 0), counts(100, 0, 1)), Verdict::GoOn(_)));
    }

    #[test]
    fn requests_before_the_trial_do_not_count() {
        assert_eq!(percent(0.0004), "less than 0.1 %");
        assert_eq!(percent(0.12), "12 %");
        assert_eq!(spec().duration, Span::from_secs(60));
    }

    proptest! {
        #[test]
        fn every_trial_ends_after_twice_its_duration(
            seconds in 0..1000_u64, old in (0..1000_u64, 0..1000_u64), new in (0..1000_u64, 0..1000_u64),
        ) {
            let verdict = says(seconds, counts(old.0, old.1, 3), counts(new.0, new.1, 7));
            match verdict {
                Verdict::Wait(until) => prop_assert!(at(seconds) < until && until <= at(120)),
                Verdict::Bad(_) => prop_assert!(new.0 + new.1 >= 100, "nothing is concluded from too little"),
                Verdict::GoOn(_) => prop_assert!(seconds >= 60),
            }
        }
    }
}
