//! What the silence of a node means: whether it is there, may be given more, is given up, or has ended what there is to be only one of.
//!
//! Spans are measured from when something of the node came, or from when this process began to listen, and never by comparing clocks.

use std::time::{Duration, Instant};

use wharf_types::node::SINGLETON_LEASE;
use wharf_types::{NodeId, Timestamp};

use super::{Known, Node, NodeStatus, Nodes};

/// A node that has not reported for this long is not ready: nothing new is placed on it. Workers report every 500 ms, and
/// a connection alone proves nothing: that of a worker that hangs, or of a host without power, stays open for minutes.
const LEASE: Duration = Duration::from_millis(2000);
/// A node that has not reported for this long is given up, with all that ran on it, whoever is left. With others that can take over, the end
/// of its lease is enough; alone, giving up a worker that was only busy would stop apps that serve. Where most nodes are silent at once, the
/// fault is more likely on this side.
const GIVEN_UP: Duration = Duration::from_secs(10);
/// The same where no node at all is heard of: whatever was given up could run nowhere, and each goes on with what it has.
const ALL_SILENT: Duration = Duration::from_secs(30);
/// How long whoever follows a leader waits for a node to come over, where others have. A worker notices within two seconds that its server has
/// gone, and by then tries again every two: it is here a second before this, as nobody led for two and a half.
const COMES_OVER: Duration = Duration::from_secs(3);
/// How long nothing is placed while nodes of before have yet to speak, so that the first of them does not get everything.
const GATHERED: Duration = Duration::from_secs(1);
/// By then a silent node has ended what there is to be only one of, because its worker counts [`SINGLETON_LEASE`] from when it sent what was
/// heard of it last. In between it stops these, however slow it is.
pub(super) const RELEASED: Duration = GIVEN_UP;
const _: () = assert!(SINGLETON_LEASE.as_millis() + 2000 <= RELEASED.as_millis());
/// The reconciler looks at the nodes several times a second. If nobody looked for longer than this, the whole process stood
/// still, and could not have heard of anybody.
const STOOD_STILL: Duration = Duration::from_secs(1);

/// How a process has come to lead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// Nobody led for a while, or it is not known: workers come back as slowly as they have tried last.
    #[default]
    Anew,
    /// Another has led until a moment ago, and who lives was heard of there.
    Succeeds,
}

/// What is made of a node's silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// Whoever led before has given it up, and it has not spoken since.
    Gone,
    /// It was there when another led, or another process, and has not spoken since.
    Awaited,
    /// It is here, or on its way, and may take its time: it has registered, was told to come later, or was silent together with all others.
    Returning,
    /// It reports.
    Reports,
}

/// What is the same for all nodes at one time.
#[derive(Clone, Copy)]
pub(super) struct Moment {
    now: Instant,
    /// How long a node that reports may be silent before it is given up.
    patience: Duration,
    start: Start,
    /// Whether others have yet to speak before anything is placed.
    gathers: bool,
}

/// That a node was given up, or is back, and the database does not say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unwritten {
    pub node: NodeId,
    pub given_up: bool,
    pub seen_at: Timestamp,
}

impl Start {
    fn patience(self) -> Duration {
        match self {
            Self::Anew => GIVEN_UP,
            Self::Succeeds => COMES_OVER,
        }
    }
}

impl Nodes {
    /// What whoever leads next would not know. [`Self::wrote`] takes note that it was written.
    pub fn unwritten_at(&self, now: Instant) -> Vec<Unwritten> {
        let mut known = self.lock();
        let moment = known.look(now);
        let lacking = |(id, node): (&NodeId, &Node)| {
            let given_up = node.is_given_up(moment);
            let lacks = given_up != node.is_written_off;
            lacks.then_some(Unwritten { node: *id, given_up, seen_at: node.seen_at })
        };
        known.nodes.iter().filter_map(lacking).collect()
    }

    pub fn wrote(&self, unwritten: &Unwritten) {
        if let Some(node) = self.lock().nodes.get_mut(&unwritten.node) {
            node.is_written_off = unwritten.given_up;
        }
    }

    /// Whether all that were not given up are heard of at this time, and some of them are on other hosts.
    pub(super) fn are_all_heard(&self, now: Instant) -> bool {
        let mut known = self.lock();
        let moment = known.look(now);
        let alive: Vec<&Node> = known.nodes.values().filter(|node| !node.is_given_up(moment)).collect();
        alive.iter().any(|node| node.registration.address.is_some())
            && alive.iter().all(|node| node.has_spoken && node.is_seen_within(LEASE, now))
    }
}

impl Known {
    /// Whoever looks has to do it several times a second.
    pub(super) fn look(&mut self, now: Instant) -> Moment {
        self.forgive_standstill(now);
        let is_early = self.began.is_some_and(|began| now.saturating_duration_since(began) < GATHERED);
        let mut nodes = self.nodes.values();
        let gathers = is_early && nodes.any(|node| node.presence == Presence::Awaited);
        Moment { now, patience: self.patience(now), start: self.start, gathers }
    }

    /// Holds against no node that it was silent while this process stood still.
    pub(super) fn forgive_standstill(&mut self, now: Instant) {
        let before = self.looked.replace(now).unwrap_or(now);
        let gap = now.saturating_duration_since(before);
        if gap > STOOD_STILL {
            // One that was told to wait is seen in the time to come.
            let forgiven = |since: Instant| since.max(now.min(since + gap));
            for node in self.nodes.values_mut() {
                node.seen = forgiven(node.seen);
            }
            self.began = self.began.map(forgiven);
        }
    }

    /// Whether nobody is heard of any more. As long as the lease of those that are awaited would last, they count as heard.
    fn is_silent(&self, now: Instant) -> bool {
        !self.nodes.values().any(|node| node.is_within_lease(now))
    }

    /// When the first is heard of after all were silent, the others are on their way back, too: the fault was on this side, or in between.
    pub(super) fn forgive_silence(&mut self, now: Instant) {
        if !self.is_silent(now) {
            return;
        }
        let forgiven =
            |node: &&mut Node| node.presence != Presence::Gone && node.is_seen_within(ALL_SILENT, now);
        for node in self.nodes.values_mut().filter(forgiven) {
            node.seen = node.seen.max(now.checked_sub(LEASE).unwrap_or(node.seen));
            node.presence = Presence::Returning;
        }
    }

    /// How long a node may be silent before it is given up.
    fn patience(&self, now: Instant) -> Duration {
        if self.is_silent(now) {
            return ALL_SILENT;
        }
        // One that was given up long ago says nothing about the network of now.
        let is_lately = |node: &&Node| node.presence != Presence::Gone && node.is_seen_within(GIVEN_UP, now);
        let is_there = |node: &Node| node.presence != Presence::Awaited && node.is_seen_within(LEASE, now);
        let (there, silent) = self.nodes.values().filter(is_lately).fold((0, 0), |(there, silent), node| {
            if is_there(node) { (there + 1, silent) } else { (there, silent + 1) }
        });
        if there > 0 && silent <= there { LEASE } else { GIVEN_UP }
    }
}

impl Node {
    /// Something has come of it.
    pub(super) fn hear(&mut self, now: Instant) {
        self.seen = now;
        self.seen_at = Timestamp::now();
        self.has_spoken = true;
        if matches!(self.presence, Presence::Gone | Presence::Awaited) {
            self.presence = Presence::Returning;
        }
    }

    pub(super) fn status(&self, id: NodeId, moment: Moment) -> NodeStatus {
        let mut registration = self.registration.clone();
        self.settings.label(&mut registration);
        let ready = self.is_within_lease(moment.now);
        NodeStatus {
            id,
            registration,
            ready,
            awaited: !self.has_spoken,
            takes_more: ready && self.has_spoken && !moment.gathers,
            draining: self.settings.draining || self.leaving,
            given_up: self.is_given_up(moment),
            released: !self.is_seen_within(RELEASED, moment.now),
            seen_at: self.seen_at,
            routes_generation: self.routes_generation,
        }
    }

    fn is_given_up(&self, moment: Moment) -> bool {
        let patience = match self.presence {
            Presence::Gone => return true,
            Presence::Awaited => moment.patience.max(moment.start.patience()),
            Presence::Returning => moment.patience.max(GIVEN_UP),
            Presence::Reports => moment.patience,
        };
        !self.is_seen_within(patience, moment.now)
    }

    pub(super) fn is_within_lease(&self, now: Instant) -> bool {
        self.presence != Presence::Gone && self.is_seen_within(LEASE, now)
    }

    /// Whether it has reported to this process, and in time.
    pub(super) fn reports_at(&self, now: Instant) -> bool {
        self.presence == Presence::Reports && self.is_seen_within(LEASE, now)
    }

    pub(super) fn is_seen_within(&self, span: Duration, now: Instant) -> bool {
        now.saturating_duration_since(self.seen) < span
    }
}
