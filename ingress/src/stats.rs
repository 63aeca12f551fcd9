//! Counters since the start.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use wharf_types::figures::{AppLoad, FrontDoorFigures, PeerFigures};
use wharf_types::requests::RequestTotals;

use crate::error::ErrorCode;
use crate::load::Loads;
use crate::meter::Meters;
use crate::peers::PeerStats;

#[derive(Debug)]
pub(crate) struct Stats {
    /// Tells this run of the ingress from others.
    run: String,
    pub(crate) meters: Arc<Meters>,
    pub(crate) loads: Arc<Loads>,
    pub(crate) peers: Arc<PeerStats>,
    pub(crate) accepted: AtomicU64,
    pub(crate) over_limit: AtomicU64,
    pub(crate) accept_errors: AtomicU64,
    pub(crate) cut: AtomicU64,
    pub(crate) client_gone: AtomicU64,
    /// Requests of connections that have ended.
    pub(crate) requests_ended: AtomicU64,
    errors: [AtomicU64; ErrorCode::ALL.len()],
}

/// Numbers at one moment; each only grows, except for what is open now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatsSnapshot {
    pub connections_open: usize,
    pub requests_open: usize,
    pub connections_accepted: u64,
    /// Closed at once, because as many as allowed were open.
    pub connections_over_limit: u64,
    /// Closed because the client was too slow.
    pub connections_cut: u64,
    pub accept_errors: u64,
    pub requests: u64,
    /// Requests whose client left before the answer, as far as the guest noticed.
    pub client_gone: u64,
    /// The ingress's own errors by code.
    pub errors: Vec<(ErrorCode, u64)>,
    /// Tells the run of the ingress whose numbers these are from others.
    pub run: String,
    /// What became of the requests to each release.
    pub releases: Vec<RequestTotals>,
    /// What is asked of apps that scale by it.
    pub loads: Vec<AppLoad>,
    /// What was sent to ingresses of other nodes, and came from them.
    pub peers: PeerFigures,
}

pub(crate) fn add_one(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl From<StatsSnapshot> for FrontDoorFigures {
    fn from(snapshot: StatsSnapshot) -> Self {
        Self {
            open_connections: snapshot.connections_open as u64,
            open_requests: snapshot.requests_open as u64,
            connections: snapshot.connections_accepted,
            connections_refused: snapshot.connections_over_limit,
            connections_cut: snapshot.connections_cut,
            accept_errors: snapshot.accept_errors,
            requests: snapshot.requests,
            clients_gone: snapshot.client_gone,
            errors: snapshot
                .errors
                .into_iter()
                .map(|(code, count)| (code.as_str().to_owned(), count))
                .collect(),
            run: snapshot.run,
            releases: snapshot.releases,
            loads: snapshot.loads,
            peers: snapshot.peers,
        }
    }
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            run: format!("{:032x}", rand::random::<u128>()),
            meters: Arc::default(),
            loads: Arc::default(),
            peers: Arc::default(),
            accepted: AtomicU64::default(),
            over_limit: AtomicU64::default(),
            accept_errors: AtomicU64::default(),
            cut: AtomicU64::default(),
            client_gone: AtomicU64::default(),
            requests_ended: AtomicU64::default(),
            errors: Default::default(),
        }
    }
}

impl Stats {
    pub(crate) fn run(&self) -> &str {
        &self.run
    }

    pub(crate) fn count_error(&self, code: ErrorCode) {
        add_one(&self.errors[code as usize]);
    }

    pub(crate) fn errors(&self) -> Vec<(ErrorCode, u64)> {
        ErrorCode::ALL
            .iter()
            .map(|code| (*code, self.errors[*code as usize].load(Ordering::Relaxed)))
            .collect()
    }
}
