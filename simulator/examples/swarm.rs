//! Many workers in one process, for measuring a control plane: each joins, keeps a session over a connection of its own and supervises what it is
//! assigned, all with the real code; only its guests do nothing. There are no front doors.
//!
//! ```text
//! swarm COUNT TOKEN@ADDR
//! ```
//!
//! Prints a line of JSON when all have joined, and one each second with what they were assigned and run. Ends with standard input.

use std::collections::{BTreeMap, HashMap};
use std::io::Read as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use async_trait::async_trait;
use tokio::sync::{Semaphore, oneshot, watch};
use wharf_pki::{Identity, JoinToken, NodeKey, Role, Roots, client_config, joining_config};
use wharf_runtime::backend::{Backend, Ended, Failure, Run};
use wharf_runtime::control::{ControlClient, join};
use wharf_runtime::session::{Figures, Session, Takers};
use wharf_runtime::space::Space;
use wharf_runtime::supervisor::Supervisor;
use wharf_types::incarnation::Incarnation;
use wharf_types::node::NodeRegistration;
use wharf_types::route::RouteTable;
use wharf_types::state::{Health, InstanceState};
use wharf_types::{InstanceId, ProcessId};

/// That of the worker.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Workers that join at once: each makes a key and waits for a certificate.
const JOINING_MAX: usize = 16;

/// Guests that do nothing, well.
#[derive(Default)]
struct Idle {
    /// Whoever waits for the end of a guest.
    ends: Mutex<HashMap<InstanceId, oneshot::Sender<()>>>,
}

#[async_trait]
impl Backend for Idle {
    async fn prepare(&self, _: &Run) -> Result<(), Failure> {
        Ok(())
    }

    async fn start(&self, _: &Run) -> Result<(), Failure> {
        Ok(())
    }

    async fn wait(&self, id: InstanceId) -> Ended {
        let (end, ended) = oneshot::channel();
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).insert(id, end);
        let _ = ended.await;
        Ended::Success
    }

    async fn probe(&self, _: InstanceId, _: &str, _: Duration) -> Result<u16, Failure> {
        Ok(200)
    }

    async fn accepts(&self, _: InstanceId, _: Duration) -> Result<(), Failure> {
        Ok(())
    }

    async fn stop(&self, _: InstanceId, _: Duration) {}

    async fn remove(&self, id: InstanceId) {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }
}

struct Worker {
    supervisor: Supervisor,
    _session: Session,
}

async fn start(number: usize, servers: &[String], token: &JoinToken) -> anyhow::Result<Worker> {
    let key = NodeKey::generate()?;
    let issued = join(servers, joining_config(token.pin)?, &token.secret, &key.request()?).await?;
    let (identity, roots) =
        (Identity::load(&issued.certificate, &key.to_pem(), "")?, Roots::load(&issued.authorities)?);
    let tls = client_config(&identity, &roots, &[Role::Server])?;
    let control = ControlClient::over_tls(servers, tls, issued.node)?;
    let supervisor = Supervisor::spawn(Arc::new(Idle::default()), number as u64);
    let (routes, mut taken) = watch::channel(Arc::new(RouteTable::default()));
    let (applied, watched) = watch::channel(0);
    tokio::spawn(async move {
        while taken.changed().await.is_ok() {
            let generation = taken.borrow_and_update().generation;
            applied.send_replace(generation);
        }
    });
    let registration = NodeRegistration {
        hostname: format!("swarm-{number}"),
        memory_bytes: 64 << 30,
        cpus: 16,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        labels: BTreeMap::from([("rack".to_owned(), (number / 40).to_string())]),
        os: "linux".to_owned(),
        arch: "x86_64".to_owned(),
        role: "worker".to_owned(),
        incarnation: Incarnation { number: 1, process: ProcessId::new(), home: number.to_string() },
        ..NodeRegistration::default()
    };
    let takers = Takers {
        supervisor: supervisor.handle(),
        secrets: Arc::default(),
        space: Space::new(std::env::temp_dir(), None),
        routes,
        removed_volumes: watch::Sender::default(),
        kept: None,
    };
    // Nobody calls.
    let (_, calls) = watch::channel(0);
    let figures = Arc::new(Figures::default);
    let session = Session::spawn(control, registration, takers, (watched, calls), figures);
    Ok(Worker { supervisor, _session: session })
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [count, at] = &args[..] else { bail!("usage: swarm COUNT TOKEN@ADDR") };
    let count: usize = count.parse().context("COUNT is a number")?;
    let (token, servers) = at.rsplit_once('@').context("write TOKEN@ADDR")?;
    let token: Arc<JoinToken> = Arc::new(token.parse()?);
    let servers: Arc<Vec<String>> =
        Arc::new(servers.split(',').map(|server| format!("https://{server}")).collect());
    // An error says that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();

    let began = Instant::now();
    let at_once = Arc::new(Semaphore::new(JOINING_MAX));
    let mut joining = tokio::task::JoinSet::new();
    for number in 0..count {
        let (at_once, servers, token) = (at_once.clone(), servers.clone(), token.clone());
        joining.spawn(async move {
            let _turn = at_once.acquire_owned().await?;
            start(number, &servers, &token).await
        });
    }
    let workers: Vec<Worker> = joining.join_all().await.into_iter().collect::<anyhow::Result<_>>()?;
    println!("{}", serde_json::json!({"joined": workers.len(), "seconds": began.elapsed().as_secs_f64()}));

    let (ended, mut is_ended) = oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let _ = ended.send(());
    });
    loop {
        tokio::select! {
            _ = &mut is_ended => return Ok(()),
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
        let (mut assigned, mut running) = (0, 0);
        for worker in &workers {
            let reports = worker.supervisor.reports();
            let reports = reports.borrow();
            assigned += reports.len();
            let runs = reports.iter().filter(|it| it.state == InstanceState::Running);
            running += runs.filter(|it| it.health == Health::Healthy).count();
        }
        println!("{}", serde_json::json!({"assigned": assigned, "running": running}));
    }
}
