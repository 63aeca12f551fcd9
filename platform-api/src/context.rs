//! What every part of the control plane shares: the store, the nodes, and the ways to nudge each other.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore, broadcast, watch};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use wharf_types::copy::CopyOrder;
use wharf_types::exec::ExecOrder;
use wharf_types::seldom::Seldom;
use wharf_types::transfer::TransferOrder;
use wharf_types::{AppId, JobId, ProcessId, Timestamp};

use crate::admission::Admissions;
use crate::api::Refusals;
use crate::artifacts::{ArtifactStore, UPLOADS_MAX};
use crate::authority::Authorities;
use crate::clock;
use crate::control_plane::Config;
use crate::execs::Execs;
use crate::forward::WayToLeader;
use crate::git::Git;
use crate::images::ImageResolver;
use crate::intake::Intake;
use crate::known::Known;
use crate::ledger::Ledger;
use crate::logs::Logs;
use crate::nodes::{Nodes, Refusal, Start};
use crate::operations::Turns;
use crate::pace::Pace;
use crate::plan::Unplaced;
use crate::reconcile::chain;
use crate::secrets::SecretKeys;
use crate::store::lease::Candidate;
use crate::store::server::About;
use crate::store::{self, News, Store, StoreError, Tx};
use crate::view::{Recent, Releases};

/// Changes that a slow watcher may lag behind; one that lags further looks at the store again, and misses nothing.
const CHANGES_KEPT: usize = 1024;

/// Each may take some hundred megabytes while it lasts.
const LARGE_PLANS_MAX: usize = 2;

/// How long a process of a worker has to be refused until the log says so: whoever was only killed and started again is taken by then.
const RIVAL_AFTER: Duration = Duration::from_secs(5);
/// How often it says that again of the same process.
const RIVAL_EVERY: Duration = Duration::from_secs(60 * 60);

/// Each takes a thread and the disk while it lasts.
pub(crate) const ARCHIVE_INSPECTIONS_MAX: usize = 4;

pub(crate) struct Context {
    pub(crate) config: Config,
    pub(crate) store: Store,
    pub(crate) artifacts: Arc<dyn ArtifactStore>,
    /// Held by each upload until its artifact has a row; held whole, there is no upload.
    pub(crate) uploads: Arc<Semaphore>,
    /// Held while an artifact is in memory.
    pub(crate) inspections: Arc<Semaphore>,
    /// Held while the archive of an image is read through.
    pub(crate) archive_inspections: Arc<Semaphore>,
    /// Held while a plan or an apply with a large body is in memory.
    pub(crate) large_plans: Semaphore,
    /// Of plans and applies of many resources.
    pub(crate) turns: Turns,
    pub(crate) logs: Logs,
    pub(crate) git: Git,
    pub(crate) nodes: Nodes,
    /// Commands that people run in containers.
    pub(crate) execs: Arc<Execs<ExecOrder>>,
    /// What volumes hold, on its way to and from archives.
    pub(crate) transfers: Arc<Execs<TransferOrder>>,
    /// Files on their way out of containers and into them.
    pub(crate) copies: Arc<Execs<CopyOrder>>,
    /// Who says which image a name means. Nothing: nobody here can.
    pub(crate) images: OnceLock<Arc<dyn ImageResolver>>,
    /// What workers have reported, on its way into the store.
    pub(crate) intake: Intake,
    /// How hosts join. Nothing: this process takes no workers of other hosts.
    pub(crate) joining: OnceLock<Joining>,
    pub(crate) secret_keys: SecretKeys,
    pub(crate) releases: Releases,
    pub(crate) recent: Recent,
    /// Apps that the reconciler has to look at.
    pub(crate) dirty: Dirty,
    /// Whether other volumes are to be removed than the reconciler knows.
    volumes_changed: AtomicBool,
    /// Whether namespaces may have other requests a second than the reconciler knows.
    rates_changed: AtomicBool,
    /// Whether schedules were set or removed since the reconciler looked.
    schedules_changed: AtomicBool,
    /// Whether other nodes may have been removed than the reconciler knows.
    removed_changed: AtomicBool,
    /// What the newest plan of an app, or of a job, could not place.
    pub(crate) unplaced: Mutex<HashMap<AppId, Vec<Unplaced>>>,
    pub(crate) ledger: Ledger,
    /// Tells this server from others on the same database; empty where there can be no others.
    pub(crate) server: String,
    /// Tells this process from others with the same id, which run in copies of its data directory.
    home: String,
    pub(crate) started_at: Timestamp,
    pub(crate) way_to_leader: WayToLeader,
    /// Of workers that begin a session.
    pub(crate) admissions: Admissions,
    /// The epoch that this process leads in. None: it does not.
    leads: watch::Sender<Option<u64>>,
    /// By [`clock`]. None: the lease has no end.
    lease_until: Mutex<Option<Instant>>,
    pub(crate) node_secret: String,
    pub(crate) node_secret_hash: String,
    /// Ends the streams that would never end by themselves.
    pub(crate) shutdown: CancellationToken,
    changes: broadcast::Sender<Option<AppId>>,
    /// Counts what took something from somebody: a token, a membership, a user.
    access: watch::Sender<u64>,
    pub(crate) known: Known,
    /// Refusals that the audit log has taken in this minute.
    pub(crate) refusals: Refusals,
    /// Of changes that users ask for.
    pub(crate) pace: Pace,
    /// Processes of workers that may not speak for their node, as far as the log has said so.
    pub(crate) rivals: Seldom<(ProcessId, Refusal)>,
}

/// What a host needs to become a node.
pub(crate) struct Joining {
    pub(crate) authorities: Arc<Authorities>,
    /// Where workers are taken, such as `10.0.0.1:7071`.
    pub(crate) address: String,
}

impl Context {
    pub(crate) fn new(
        config: Config,
        store: Store,
        artifacts: Arc<dyn ArtifactStore>,
        (logs, git): (Logs, Git),
        secret_keys: SecretKeys,
        (server, home): (String, String),
        leads: Option<u64>,
    ) -> Self {
        let node_secret = new_secret();
        Self {
            releases: Releases::new(config.domain.clone()),
            recent: Recent::default(),
            config,
            store,
            artifacts,
            uploads: Arc::new(Semaphore::new(UPLOADS_MAX as usize)),
            inspections: Arc::new(Semaphore::new(1)),
            archive_inspections: Arc::new(Semaphore::new(ARCHIVE_INSPECTIONS_MAX)),
            large_plans: Semaphore::new(LARGE_PLANS_MAX),
            turns: Turns::default(),
            logs,
            git,
            nodes: Nodes::default(),
            execs: Arc::default(),
            transfers: Arc::default(),
            copies: Arc::default(),
            images: OnceLock::new(),
            intake: Intake::default(),
            joining: OnceLock::new(),
            secret_keys,
            dirty: Dirty::default(),
            volumes_changed: AtomicBool::new(true),
            rates_changed: AtomicBool::new(true),
            schedules_changed: AtomicBool::new(true),
            removed_changed: AtomicBool::new(true),
            unplaced: Mutex::default(),
            ledger: Ledger::default(),
            server,
            home,
            started_at: Timestamp::now(),
            way_to_leader: WayToLeader::default(),
            admissions: Admissions::default(),
            leads: watch::Sender::new(leads),
            lease_until: Mutex::default(),
            node_secret_hash: hash_secret(&node_secret),
            node_secret,
            shutdown: CancellationToken::new(),
            changes: broadcast::Sender::new(CHANGES_KEPT),
            access: watch::Sender::new(0),
            known: Known::default(),
            refusals: Refusals::default(),
            pace: Pace::default(),
            rivals: Seldom::new(RIVAL_EVERY).after(RIVAL_AFTER),
        }
    }

    /// Fills in the nodes of earlier processes, so that what runs on them is not given up before they can come back.
    pub(crate) async fn load_nodes(&self) -> store::Result<()> {
        let mut tx = self.store.read().await?;
        store::node::list(&mut tx).await?.into_iter().for_each(|node| self.nodes.know(node));
        Ok(())
    }

    /// What this server says of itself to others.
    pub(crate) fn about(&self) -> About {
        let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        About {
            id: self.server.clone(),
            hostname: hostname.trim().to_owned(),
            address: self.config.address.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: self.started_at,
        }
    }

    /// What this process says of itself when it wants to lead.
    pub(crate) fn candidate(&self) -> Candidate {
        Candidate {
            server: self.server.clone(),
            home: self.home.clone(),
            address: self.config.address.clone(),
            started_at: self.started_at,
        }
    }

    /// The epoch that this process leads in.
    pub(crate) fn epoch(&self) -> store::Result<u64> {
        self.leads.borrow().ok_or(StoreError::Deposed)
    }

    /// Whether this process's own clock says that it still leads: unlike [`Self::epoch`], also just after it stood still, or the machine
    /// slept.
    pub(crate) fn holds_lease(&self) -> bool {
        let until = *self.lease_until.lock().unwrap_or_else(PoisonError::into_inner);
        self.leads.borrow().is_some() && until.is_none_or(|until| clock::now() < until)
    }

    /// Until when this process leads for certain, by [`clock`]. Never called where nobody else could.
    pub(crate) fn set_lease_until(&self, until: Instant) {
        *self.lease_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }

    /// What changes when this process begins to lead, or leads no more.
    pub(crate) fn leadership(&self) -> watch::Receiver<Option<u64>> {
        self.leads.subscribe()
    }

    /// A transaction for what only the leader writes.
    pub(crate) async fn write_as_leader(&self) -> store::Result<Tx> {
        self.store.write_as(self.epoch()?).await
    }

    /// Begins to lead, with nothing in mind of an earlier time as the leader: nodes were told something else since.
    pub(crate) async fn lead(&self, epoch: u64, start: Start) -> store::Result<()> {
        self.nodes.begin(start);
        self.ledger.forget_all().await;
        self.unplaced().clear();
        self.load_nodes().await?;
        self.schedules_changed();
        self.volumes_changed();
        self.rates_changed();
        self.leads.send_replace(Some(epoch));
        Ok(())
    }

    /// Leads no more.
    pub(crate) fn follow_others(&self) {
        self.leads.send_if_modified(|leads| leads.take().is_some());
    }

    /// Call after a commit that changed what is wanted or observed of an app: the reconciler looks at it, watchers see it.
    pub(crate) fn changed(&self, app: AppId) {
        self.dirty.mark([app]);
        self.announce(app);
    }

    /// The same for jobs.
    pub(crate) fn jobs_changed(&self, jobs: impl IntoIterator<Item = JobId>) {
        for job in jobs {
            self.dirty.mark_job(job);
            self.announce(job.as_owner());
        }
    }

    /// The same for whatever an instance belongs to: an app, or a job.
    pub(crate) fn owner_changed(&self, owner: AppId) {
        self.changed(owner);
        self.dirty.mark_job(JobId::from_uuid(owner.as_uuid()));
    }

    /// Call after a commit that changed, made or removed a schedule.
    pub(crate) fn schedules_changed(&self) {
        self.schedules_changed.store(true, Relaxed);
        self.dirty.nudge();
    }

    /// What was taken up could not be carried out, and is to be tried again with the next pass, which a timer brings.
    pub(crate) fn schedules_unread(&self) {
        self.schedules_changed.store(true, Relaxed);
    }

    /// Whether that happened since this was asked last; true at the start.
    pub(crate) fn take_schedules_changed(&self) -> bool {
        self.schedules_changed.swap(false, Relaxed)
    }

    /// Call after a commit that changed which volumes are to be removed.
    pub(crate) fn volumes_changed(&self) {
        self.volumes_changed.store(true, Relaxed);
        self.dirty.nudge();
    }

    /// What was taken up could not be carried out, and is to be tried again with the next pass, which a timer brings.
    pub(crate) fn volumes_unread(&self) {
        self.volumes_changed.store(true, Relaxed);
    }

    /// Whether that happened since this was asked last; true at the start.
    pub(crate) fn take_volumes_changed(&self) -> bool {
        self.volumes_changed.swap(false, Relaxed)
    }

    /// Call after a commit that changed how many requests a namespace may have.
    pub(crate) fn rates_changed(&self) {
        self.rates_changed.store(true, Relaxed);
        self.dirty.nudge();
    }

    /// They could not be read, and are to be with the next pass, which a timer brings.
    pub(crate) fn rates_unread(&self) {
        self.rates_changed.store(true, Relaxed);
    }

    /// Whether that happened since this was asked last; true at the start.
    pub(crate) fn take_rates_changed(&self) -> bool {
        self.rates_changed.swap(false, Relaxed)
    }

    /// Call after a commit that removed a node, or when one may have lost its last certificate.
    pub(crate) fn removed_changed(&self) {
        self.removed_changed.store(true, Relaxed);
        self.dirty.nudge();
    }

    /// They could not be read, and are to be with the next pass, which a timer brings.
    pub(crate) fn removed_unread(&self) {
        self.removed_changed.store(true, Relaxed);
    }

    /// Whether that happened since this was asked last; true at the start.
    pub(crate) fn take_removed_changed(&self) -> bool {
        self.removed_changed.swap(false, Relaxed)
    }

    /// Call after a commit that may have taken something from somebody: answers that are under way are looked at again.
    pub(crate) fn access_changed(&self) {
        self.access.send_modify(|count| *count = count.wrapping_add(1));
    }

    pub(crate) fn access_changes(&self) -> watch::Receiver<u64> {
        self.access.subscribe()
    }

    /// How many answers under way would see it.
    #[cfg(test)]
    pub(crate) fn access_watchers(&self) -> usize {
        self.access.receiver_count()
    }

    /// Tells watchers only.
    pub(crate) fn announce(&self, app: AppId) {
        // An error means that nobody watches.
        let _ = self.changes.send(Some(app));
    }

    /// The same of what is no app's.
    pub(crate) fn announce_nodes(&self) {
        let _ = self.changes.send(None);
    }

    /// Takes in what another process has changed.
    pub(crate) async fn hear(&self, news: News) {
        match news {
            News::App(app) => self.changed(app),
            News::Job(job) => self.jobs_changed([job]),
            News::Schedules => self.schedules_changed(),
            News::Volumes => self.volumes_changed(),
            News::Rates => self.rates_changed(),
            News::Access => self.access_changed(),
            News::Nodes => self.hear_of_nodes().await,
            News::Authorities => self.authorities_changed(),
            News::Everything => {
                self.authorities_changed();
                self.access_changed();
                self.schedules_changed();
                self.volumes_changed();
                self.rates_changed();
                self.hear_of_nodes().await;
                self.dirty.mark_everything();
                let _ = self.changes.send(None);
            }
        }
    }

    /// Call after a commit that changed which CAs are believed.
    pub(crate) fn authorities_changed(&self) {
        if let Some(joining) = self.joining.get() {
            joining.authorities.changed();
        }
    }

    /// Nodes that have registered elsewhere, or were removed, or are to be emptied.
    async fn hear_of_nodes(&self) {
        // Each of them has its row by now, unless it was removed.
        let mut gone = self.nodes.ids();
        let nodes = async {
            let mut tx = self.store.read().await?;
            store::node::list(&mut tx).await
        };
        match nodes.await {
            Ok(nodes) => {
                for node in nodes {
                    gone.remove(&node.id);
                    self.nodes.know(node);
                }
                gone.into_iter().for_each(|id| self.nodes.remove(id));
            }
            Err(error) => warn!("cannot read the nodes that other control planes know: {}", chain(&error)),
        }
        self.removed_changed();
    }

    pub(crate) fn watch(&self) -> Watcher {
        Watcher(self.changes.subscribe())
    }

    pub(crate) fn unplaced(&self) -> MutexGuard<'_, HashMap<AppId, Vec<Unplaced>>> {
        self.unplaced.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sees that apps change. Look at the store only after making one, so that no change falls in between.
pub(crate) struct Watcher(broadcast::Receiver<Option<AppId>>);

impl Watcher {
    /// Waits until something changed that `concerns` accepts, or until changes were missed. False: there will be no more.
    pub(crate) async fn changed(&mut self, concerns: impl Fn(AppId) -> bool) -> bool {
        loop {
            match self.0.recv().await {
                Ok(None) => return true,
                Ok(Some(app)) if concerns(app) => return true,
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(_)) => return true,
                Err(broadcast::error::RecvError::Closed) => return false,
            }
        }
    }
}

/// A set of apps, one of jobs, and a nudge when something was put in.
#[derive(Default)]
pub(crate) struct Dirty {
    apps: Mutex<BTreeSet<AppId>>,
    jobs: Mutex<BTreeSet<JobId>>,
    everything: AtomicBool,
    nudge: Notify,
}

impl Dirty {
    pub(crate) fn mark(&self, apps: impl IntoIterator<Item = AppId>) {
        self.apps.lock().unwrap_or_else(PoisonError::into_inner).extend(apps);
        self.nudge.notify_one();
    }

    pub(crate) fn mark_job(&self, job: JobId) {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).insert(job);
        self.nudge.notify_one();
    }

    pub(crate) fn take_jobs(&self) -> BTreeSet<JobId> {
        std::mem::take(&mut *self.jobs.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Nobody knows what was changed.
    pub(crate) fn mark_everything(&self) {
        self.everything.store(true, Relaxed);
        self.nudge.notify_one();
    }

    /// Whether that happened since this was asked last.
    pub(crate) fn take_everything(&self) -> bool {
        self.everything.swap(false, Relaxed)
    }

    /// Wakes the reconciler although no app changed: a node did.
    pub(crate) fn nudge(&self) {
        self.nudge.notify_one();
    }

    pub(crate) async fn nudged(&self) {
        self.nudge.notified().await;
    }

    pub(crate) fn take(&self) -> BTreeSet<AppId> {
        std::mem::take(&mut *self.apps.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A new bearer secret: `wharf_` and 256 random bits.
pub(crate) fn new_secret() -> String {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the kernel has random numbers");
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("wharf_{hex}")
}

/// What is stored of a secret. Looking the hash up instead of comparing secrets leaks nothing by its timing: whoever can
/// choose a secret cannot choose the bits of its hash.
pub(crate) fn hash_secret(secret: &str) -> String {
    blake3::hash(secret.as_bytes()).to_hex().to_string()
}
