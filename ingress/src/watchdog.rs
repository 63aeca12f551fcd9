//! When a slow client loses its connection.
//!
//! One task looks at all connections every now and then, instead of each request setting and clearing timers: hyper's own
//! header timer costs an allocation and two trips to the timer wheel a request, and cannot tell a connection between two
//! requests from one that sends a head octet by octet. The price is that a limit is kept to within one look.

use std::time::{Duration, Instant};

#[derive(Clone, Debug)]
pub(crate) struct Limits {
    pub(crate) header_timeout: Duration,
    pub(crate) idle: Duration,
}

impl Limits {
    /// How long to wait between two looks.
    pub(crate) fn period(&self) -> Duration {
        (self.header_timeout.min(self.idle) / 8).clamp(Duration::from_millis(5), Duration::from_secs(1))
    }
}

/// A connection at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Requests so far.
    pub(crate) begun: u64,
    pub(crate) open: usize,
    /// Responses that wait for the client to take something.
    pub(crate) owed: usize,
    pub(crate) written_bytes: u64,
    /// Request bodies of which a guest waits for more.
    pub(crate) awaited: usize,
    /// Pieces of bodies so far, in both directions. Octets of the connection would say less: HTTP/2 asks whether the
    /// other side is alive, and is answered, while nothing moves.
    pub(crate) frames: u64,
    /// Whether anything came after the last request.
    pub(crate) head_begun: bool,
    /// HTTP/2: what comes between requests is seldom a request's head.
    pub(crate) multiplexed: bool,
}

/// What HTTP/2 may write within an idle time although no response moves: it asks whether the client is alive, and says so itself.
const UPKEEP_MAX_BYTES: u64 = 1024;

impl Seen {
    /// Whether the client has taken something of a response since `written_bytes`.
    fn has_taken(&self, written_bytes: u64) -> bool {
        let upkeep = if self.multiplexed { UPKEEP_MAX_BYTES } else { 0 };
        self.written_bytes - written_bytes > upkeep
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Keep,
    Close,
    Cut,
}

/// What was noticed about a connection in earlier looks.
#[derive(Debug)]
pub(crate) struct Observed {
    begun: u64,
    /// When the client last took something.
    written_bytes: u64,
    /// Since when it has had no request.
    quiet_since: Instant,
    head_since: Option<Instant>,
    /// Since when the client has taken nothing of what waits for it.
    stalled_since: Option<Instant>,
    frames: u64,
    /// Since when a guest has waited for the client, and no body has moved.
    awaited_since: Option<Instant>,
}

impl Observed {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            begun: 0,
            written_bytes: 0,
            quiet_since: now,
            head_since: Some(now),
            stalled_since: None,
            frames: 0,
            awaited_since: None,
        }
    }

    pub(crate) fn observe(&mut self, now: Instant, limits: &Limits, seen: &Seen) -> Verdict {
        if seen.open > 0 || seen.begun != self.begun {
            self.begun = seen.begun;
            self.quiet_since = now;
            self.head_since = None;
        }
        if seen.owed == 0 || seen.has_taken(self.written_bytes) {
            self.stalled_since = None;
            self.written_bytes = seen.written_bytes;
        }
        if seen.owed > 0 && now - *self.stalled_since.get_or_insert(now) >= limits.idle {
            return Verdict::Cut;
        }
        // Where a response goes on meanwhile, such as in a conversation over two streams, the client may be silent.
        if seen.awaited == 0 || seen.frames != self.frames {
            self.awaited_since = None;
        }
        self.frames = seen.frames;
        if seen.awaited > 0 && now - *self.awaited_since.get_or_insert(now) >= limits.idle {
            return Verdict::Cut;
        }
        if seen.open > 0 {
            return Verdict::Keep;
        }
        // A client that connects and says nothing is as slow as one that stops in the middle.
        if !seen.multiplexed && (seen.begun == 0 || seen.head_begun) {
            if now - *self.head_since.get_or_insert(now) >= limits.header_timeout {
                return Verdict::Cut;
            }
        } else {
            self.head_since = None;
        }
        match now - self.quiet_since {
            quiet if quiet >= limits.idle + limits.header_timeout => Verdict::Cut,
            quiet if quiet >= limits.idle => Verdict::Close,
            _ => Verdict::Keep,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { header_timeout: Duration::from_secs(10), idle: Duration::from_secs(60) };

    /// Looks once a second at a connection that stays as it is; the first other verdict and when it fell.
    fn verdict_on(seen: &Seen, secs_max: u64) -> Option<(u64, Verdict)> {
        let start = Instant::now();
        let mut observed = Observed::new(start);
        (0..=secs_max)
            .map(|secs| (secs, observed.observe(start + Duration::from_secs(secs), &LIMITS, seen)))
            .find(|(_, verdict)| *verdict != Verdict::Keep)
    }

    #[test]
    fn a_client_that_sends_no_head_is_cut_after_the_header_timeout() {
        assert_eq!(verdict_on(&Seen::default(), 100), Some((10, Verdict::Cut)));
        let half = Seen { begun: 3, head_begun: true, ..Seen::default() };
        assert_eq!(verdict_on(&half, 100), Some((10, Verdict::Cut)));
    }

    #[test]
    fn a_connection_between_two_requests_may_idle_longer() {
        let between = Seen { begun: 3, ..Seen::default() };
        assert_eq!(verdict_on(&between, 100), Some((60, Verdict::Close)));
    }

    #[test]
    fn frames_between_two_requests_do_not_count_as_a_slow_head() {
        let seen = Seen { begun: 1, head_begun: true, multiplexed: true, ..Seen::default() };
        assert_eq!(verdict_on(&seen, 100), Some((60, Verdict::Close)));
    }

    #[test]
    fn a_slow_guest_is_not_the_clients_fault() {
        let waiting = Seen { begun: 1, open: 1, ..Seen::default() };
        assert_eq!(verdict_on(&waiting, 1000), None);
    }

    #[test]
    fn a_client_that_reads_nothing_is_cut_after_the_idle_time() {
        let stalled = Seen { begun: 1, open: 1, owed: 1, written_bytes: 9, ..Seen::default() };
        assert_eq!(verdict_on(&stalled, 100), Some((60, Verdict::Cut)));
    }

    #[test]
    fn a_client_that_reads_slowly_is_kept() {
        let start = Instant::now();
        let mut observed = Observed::new(start);
        for secs in 0..600 {
            let seen = Seen { begun: 1, open: 1, owed: 1, written_bytes: secs / 30, ..Seen::default() };
            assert_eq!(
                observed.observe(start + Duration::from_secs(secs), &LIMITS, &seen),
                Verdict::Keep,
                "{secs}"
            );
        }
    }

    #[test]
    fn a_client_that_only_answers_pings_is_cut_after_the_idle_time() {
        let start = Instant::now();
        let mut observed = Observed::new(start);
        let mut verdicts = (0..100).map(|secs| {
            let written_bytes = 5000 + secs / 20 * 17;
            let seen =
                Seen { begun: 1, open: 1, owed: 1, written_bytes, multiplexed: true, ..Seen::default() };
            (secs, observed.observe(start + Duration::from_secs(secs), &LIMITS, &seen))
        });
        let first = verdicts.find(|(_, verdict)| *verdict != Verdict::Keep);
        assert_eq!(first, Some((60, Verdict::Cut)));
    }

    #[test]
    fn a_client_that_stalls_its_upload_is_cut_after_the_idle_time() {
        let stalled = Seen { begun: 1, open: 1, awaited: 1, frames: 3, ..Seen::default() };
        assert_eq!(verdict_on(&stalled, 100), Some((60, Verdict::Cut)));
    }

    #[test]
    fn a_client_that_uploads_slowly_or_listens_meanwhile_is_kept() {
        let start = Instant::now();
        let mut observed = Observed::new(start);
        for secs in 0..600 {
            let seen = Seen { begun: 1, open: 1, awaited: 1, frames: secs / 30, ..Seen::default() };
            let verdict = observed.observe(start + Duration::from_secs(secs), &LIMITS, &seen);
            assert_eq!(verdict, Verdict::Keep, "{secs}");
        }
    }

    #[test]
    fn time_in_which_nobody_awaits_the_upload_does_not_count() {
        let start = Instant::now();
        let mut observed = Observed::new(start);
        for secs in 0..600 {
            let awaited = usize::from(secs % 50 != 0);
            let seen = Seen { begun: 1, open: 1, awaited, ..Seen::default() };
            let verdict = observed.observe(start + Duration::from_secs(secs), &LIMITS, &seen);
            assert_eq!(verdict, Verdict::Keep, "{secs}");
        }
    }

    #[test]
    fn a_closing_connection_that_does_not_end_is_cut() {
        let start = Instant::now();
        let mut observed = Observed::new(start);
        let seen = Seen { begun: 1, ..Seen::default() };
        observed.observe(start, &LIMITS, &seen);
        assert_eq!(observed.observe(start + Duration::from_secs(69), &LIMITS, &seen), Verdict::Close);
        assert_eq!(observed.observe(start + Duration::from_secs(70), &LIMITS, &seen), Verdict::Cut);
    }
}
