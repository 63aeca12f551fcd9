//! Opens the ports that apps have, and closes those that none has any more.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::splice::serve;
use super::{TcpError, TcpProblem};
use crate::accept::accept;
use crate::connection::Connections;
use crate::proxy::Shared;
use crate::stats::add_one;

/// The wait before a port that could not be opened is tried again: another program has it, and may end.
const RETRY: Duration = Duration::from_secs(1);

/// What a listener needs to start a connection.
#[derive(Clone)]
pub(crate) struct Front {
    pub(crate) shared: Arc<Shared>,
    pub(crate) connections: Arc<Connections>,
    pub(crate) acceptors: TaskTracker,
    pub(crate) serving: TaskTracker,
    /// Ends all listeners.
    pub(crate) stop: CancellationToken,
}

/// The open ports.
pub(crate) struct Ports {
    front: Front,
    open: BTreeMap<u16, OpenPort>,
    /// Those that could not be opened, and why.
    missing: BTreeMap<u16, String>,
}

struct OpenPort {
    stop: DropGuard,
    task: JoinHandle<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Close(u16),
    Open(u16),
}

/// What leads from the open ports to the wanted ones.
fn steps(open: &BTreeSet<u16>, wanted: &BTreeSet<u16>) -> Vec<Step> {
    let close = open.difference(wanted).map(|port| Step::Close(*port));
    close.chain(wanted.difference(open).map(|port| Step::Open(*port))).collect()
}

impl Ports {
    pub(crate) fn new(front: Front) -> Self {
        Self { front, open: BTreeMap::new(), missing: BTreeMap::new() }
    }

    /// Makes the open ports those of the table in use, as far as they are to be had.
    pub(crate) async fn adjust(&mut self) {
        let wanted: BTreeSet<u16> = self.front.shared.table.load().tcp_ports().collect();
        let open = self.open.keys().copied().collect();
        self.missing.retain(|port, _| wanted.contains(port));
        for step in steps(&open, &wanted) {
            match step {
                Step::Close(port) => self.close(port).await,
                Step::Open(port) => self.open(port).await,
            }
        }
    }

    /// Waits until it is time to try again. For ever, where nothing is missing.
    pub(crate) async fn retry_is_due(&self) {
        if self.missing.is_empty() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(RETRY).await;
    }

    async fn open(&mut self, port: u16) {
        let address = SocketAddr::new(self.front.shared.config.tcp.host, port);
        match TcpListener::bind(address).await {
            Ok(listener) => {
                self.missing.remove(&port);
                let stop = self.front.stop.child_token();
                let task = self.front.acceptors.spawn(run(self.front.clone(), port, listener, stop.clone()));
                self.open.insert(port, OpenPort { stop: stop.drop_guard(), task });
            }
            Err(error) => {
                let why = error.to_string();
                // Said once, and not at every try.
                if self.missing.insert(port, why.clone()).is_none_or(|before| before != why) {
                    tracing::warn!("could not open the port {port} of an app: {why}");
                    self.front.report(port, None, TcpProblem::CannotOpen(why));
                }
            }
        }
    }

    /// Returns when the port is free.
    async fn close(&mut self, port: u16) {
        if let Some(OpenPort { stop, task }) = self.open.remove(&port) {
            drop(stop);
            let _ = task.await;
        }
    }
}

impl Front {
    /// Tells the app that has the port.
    fn report(&self, port: u16, remote: Option<SocketAddr>, problem: TcpProblem) {
        let error = self.shared.table.load().tcp(port).map(|route| TcpError {
            namespace: route.namespace.clone(),
            app: route.app.clone(),
            instance: None,
            port,
            remote,
            problem,
        });
        if let Some(error) = error {
            (self.shared.config.tcp.on_error)(&error);
        }
    }
}

/// Takes connections until it is stopped.
async fn run(front: Front, port: u16, listener: TcpListener, stop: CancellationToken) {
    let stats = front.shared.stats.clone();
    loop {
        let (client, remote) = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = accept(&listener, &stats) => accepted,
        };
        add_one(&stats.accepted);
        let limit = front.shared.config.tcp.max_connections;
        let Some(registered) = front.connections.register_tcp(remote, Instant::now(), limit) else {
            add_one(&stats.over_limit);
            let _ = client.set_zero_linger();
            front.report(port, Some(remote), TcpProblem::NodeFull);
            continue;
        };
        front.serving.spawn(serve(front.shared.clone(), port, client, registered));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_opened_and_closed_and_those_that_stay_are_left_alone() {
        let steps = |open: &[u16], wanted: &[u16]| {
            let set = |ports: &[u16]| ports.iter().copied().collect();
            super::steps(&set(open), &set(wanted))
        };
        assert_eq!(steps(&[], &[]), []);
        assert_eq!(steps(&[7000], &[7000]), []);
        assert_eq!(steps(&[], &[7001, 7000]), [Step::Open(7000), Step::Open(7001)]);
        // A port is given up before another is taken, so that a number of open files is never exceeded by a change.
        assert_eq!(steps(&[7000, 7001], &[7001, 6000]), [Step::Close(7000), Step::Open(6000)]);
    }
}
