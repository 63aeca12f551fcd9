//! A steady load on one app, which counts what went wrong.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::{Client, within};

/// Between two requests.
const PAUSE: Duration = Duration::from_millis(3);
/// However long a test takes, the load ends.
const REQUESTS_MAX: u64 = 20_000;

/// However slow a busy machine is, so many requests as a test waits for take no longer.
const LIMIT: Duration = Duration::from_secs(60);

/// One request after the other until it is told to stop.
#[derive(Debug)]
pub struct Load {
    stop: watch::Sender<bool>,
    sent: watch::Receiver<u64>,
    task: JoinHandle<Served>,
}

/// What became of the requests.
#[derive(Debug, Default)]
pub struct Served {
    pub requests: u64,
    /// Everything but a 200, in words.
    pub failures: Vec<String>,
    pub slowest: Duration,
}

impl Load {
    pub fn spawn(client: Client, hostname: String, path: &'static str) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (sending, sent) = watch::channel(0);
        let task = tokio::spawn(async move {
            let mut served = Served::default();
            while !*stopped.borrow() && served.requests < REQUESTS_MAX {
                let since = Instant::now();
                match client.get(&hostname, path).await {
                    Ok(reply) if reply.status == 200 => {}
                    Ok(reply) => served.failures.push(format!("{}: {}", reply.status, reply.text())),
                    Err(error) => served.failures.push(format!("{error:#}")),
                }
                served.slowest = served.slowest.max(since.elapsed());
                served.requests += 1;
                sending.send_replace(served.requests);
                tokio::time::sleep(PAUSE).await;
            }
            served
        });
        Self { stop, sent, task }
    }

    /// Waits until this many more requests were answered.
    ///
    /// # Panics
    ///
    /// When that takes too long, or the load has come to its own end.
    pub async fn go_on_for(&mut self, requests: u64) {
        let until = *self.sent.borrow() + requests;
        let what = format!("{requests} more requests are answered");
        within(LIMIT, &what, self.sent.wait_for(|sent| *sent >= until)).await.expect("the load goes on");
    }

    pub async fn stop(self) -> Served {
        self.stop.send_replace(true);
        self.task.await.unwrap()
    }
}
