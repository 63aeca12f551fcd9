//! Starts, serves and stops the control plane.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use wharf_types::api::Role;
use wharf_types::protocol::Versions;
use wharf_types::{NamespaceName, Timestamp, TokenId};

use crate::artifacts::{self, ArtifactsAt};
use crate::authority::{Authorities, AuthorityError, Lost};
use crate::context::{Context, Joining, hash_secret, new_secret};
use crate::data_dir::{DataDir, OpenError, read_secret, write_secret};
use crate::git::{Deployer, Git};
use crate::images::ImageResolver;
use crate::logs::Logs;
use crate::reconcile::chain;
use crate::secrets::{SecretKeySource, SecretKeys, Source};
use crate::store::{self, Conn, Database, OpenStoreError, Store, StoreError};
use crate::{api, leader, listener, operations};

/// How long open requests may finish after the shutdown began.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);
/// How often a server says that it is there.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(2);

#[derive(Clone, Debug)]
pub struct Config {
    /// Everything that lasts: database (unless it is elsewhere), artifacts, logs, the first token.
    pub data_dir: PathBuf,
    pub database: Database,
    /// Where the bytes of artifacts are.
    pub artifacts: ArtifactsAt,
    /// Where other servers on the same database reach this one. Empty where there are none.
    pub address: String,
    /// What the default hostnames of apps end in, such as `localhost`.
    pub domain: String,
    /// Where the ingress answers, such as `http://127.0.0.1:8080`.
    pub http_url: String,
    /// Ports that the platform itself listens at, which no app can have.
    pub platform_ports: Vec<u16>,
    /// Where the keys for secrets come from.
    pub secret_keys: SecretKeySource,
    /// Versions of the node protocol: [`wharf_types::protocol::SPOKEN`], but for tests.
    pub speaks: Versions,
    /// The largest archive of an image that may be pushed, up to 16 GiB.
    pub image_archive_max_bytes: u64,
}

/// The database did not say who leads. The same may succeed later.
#[derive(Debug, thiserror::Error)]
#[error("the database does not say which server leads; try again")]
pub struct LeaderUnknown(#[source] Box<dyn std::error::Error + Send + Sync>);

/// The control plane, opened and ready to serve.
pub struct ControlPlane {
    pub(crate) context: Arc<Context>,
    admin_token_file: PathBuf,
    // Dropped last: while anything can still write, nobody else may open the directory.
    _data_dir: DataDir,
}

impl ControlPlane {
    /// Opens the data directory, which is made if there is none, and brings the database up to date.
    pub async fn open(config: Config) -> Result<Self, OpenError> {
        let data_dir = DataDir::open(&config.data_dir, &config.database)?;
        let file = data_dir.database_file();
        let store = Store::open(config.database.location(&file)).await;
        let store = store.map_err(|error| data_dir.error_of(error))?;
        let server = data_dir.server().map_err(|error| data_dir.error_of_io(error))?;
        let image_max = config.image_archive_max_bytes;
        let artifacts =
            artifacts::open(&store, &server, &config.data_dir, &config.artifacts, image_max).await;
        let artifacts = artifacts.map_err(|error| data_dir.error_of_artifacts(error))?;
        let leads = bootstrap(&store, &data_dir, &server).await?;
        let logs = Logs::open(data_dir.logs_dir()).map_err(|error| data_dir.error_of_io(error))?;
        let git = Git::open(&config.data_dir)
            .map_err(|error| data_dir.error_of_io(std::io::Error::other(error)))?;
        let source = Source::of(&config.secret_keys, data_dir.secret_key_file());
        let keys = SecretKeys::open(source, &store).await.map_err(|error| data_dir.error_of_keys(error))?;
        let admin_token_file = data_dir.admin_token_file();
        let process = (server, data_dir.home().to_owned());
        let context = Context::new(config, store, artifacts, (logs, git), keys, process, leads);
        let context = Arc::new(context);
        context.load_nodes().await.map_err(|error| data_dir.error_of(open_error(error)))?;
        Ok(Self { context, admin_token_file, _data_dir: data_dir })
    }

    /// The file that holds the secret of the first token, which may do everything.
    pub fn admin_token_file(&self) -> &Path {
        &self.admin_token_file
    }

    /// The bearer secret for the worker of this process. It is new at every start and stands nowhere.
    pub fn node_token(&self) -> &str {
        &self.context.node_secret
    }

    /// Takes workers of other hosts at this listener, over TLS, until `shutdown`. `address` is how they reach it, such as `10.0.0.1:7071`.
    pub async fn serve_workers(
        &self,
        listener: tokio::net::TcpListener,
        address: String,
        lost: Lost,
        shutdown: CancellationToken,
    ) -> Result<JoinHandle<()>, AuthorityError> {
        let context = self.context.clone();
        let (keys, dir) = (context.secret_keys.keyring(), &context.config.data_dir);
        let authorities = Authorities::open(&context.store, &keys, dir, lost, Timestamp::now()).await?;
        let authorities = Arc::new(authorities);
        // A second listener would be of the same cluster; the first one's address is told.
        let _ = self.context.joining.set(Joining { authorities: authorities.clone(), address });
        let router = self.router();
        Ok(tokio::spawn(async move {
            let keeping = authorities.clone().keep(context, shutdown.clone());
            let serving = listener::serve_workers(listener, router, authorities, shutdown);
            tokio::join!(keeping, serving);
        }))
    }

    /// Says who builds and deploys what is pushed with git. Without that, pushes are refused.
    pub fn deploy_pushes(&self, deployer: Arc<dyn Deployer>) {
        self.context.git.set_deployer(deployer);
    }

    /// Says who knows which image a name means. Without that, only digests do.
    pub fn resolve_images(&self, resolver: Arc<dyn ImageResolver>) {
        // The first one stays: there is one engine.
        let _ = self.context.images.set(resolver);
    }

    /// Lets the first namespace run containers, unless an admin has said whether it may.
    pub async fn allow_containers(&self) -> Result<(), OpenError> {
        let name = NamespaceName::default_namespace();
        let allowed = operations::containers::allow_unless_said(&self.context, &name).await;
        allowed.map_err(|error| OpenError::Database {
            file: self.context.config.data_dir.clone(),
            source: Box::new(error),
        })
    }

    /// The API without a socket. Nothing is reconciled unless [`Self::spawn_leader`] is called, too.
    pub fn router(&self) -> axum::Router {
        api::router(self.context.clone())
    }

    /// Where the server that leads is reached, of several on one database. None: nobody leads for now, or there is only one.
    pub async fn leader_address(&self) -> Result<Option<String>, LeaderUnknown> {
        let leader = self.context.store.leader().await.map_err(|error| LeaderUnknown(error.into()))?;
        Ok(leader.map(|leader| leader.address))
    }

    /// Carries out what is wanted whenever this process leads, until `shutdown`.
    pub fn spawn_leader(&self, shutdown: CancellationToken) -> JoinHandle<()> {
        tokio::spawn(leader::run(self.context.clone(), shutdown))
    }

    /// Hears what other processes change on the same database, until `shutdown`.
    pub(crate) fn spawn_follower(&self, shutdown: CancellationToken) -> JoinHandle<()> {
        let context = self.context.clone();
        tokio::spawn(async move {
            tokio::join!(follow(context.clone(), shutdown.clone()), announce(context, shutdown));
        })
    }

    /// Serves the API and reconciles until `shutdown`; then open requests may finish for a few seconds. An error: it ended
    /// before that, because it could not do its work any more.
    pub async fn serve(
        self,
        listener: tokio::net::TcpListener,
        shutdown: CancellationToken,
    ) -> std::io::Result<()> {
        let leader = self.spawn_leader(shutdown.clone());
        self.serve_beside(leader, listener, shutdown).await
    }

    pub(crate) async fn serve_beside(
        self,
        reconciler: JoinHandle<()>,
        listener: tokio::net::TcpListener,
        shutdown: CancellationToken,
    ) -> std::io::Result<()> {
        let reconciler = reconciler.map(|ended| ended.is_ok()).shared();
        let follower = self.spawn_follower(shutdown.clone());
        let server = listener::serve(listener, self.router(), shutdown.clone());
        let forced = async {
            shutdown.cancelled().await;
            // Streams of events, logs and assignments never end by themselves.
            self.context.shutdown.cancel();
            tokio::time::sleep(SHUTDOWN_GRACE).await;
        };
        // An API that takes wishes which nobody carries out would look healthy.
        let idle = async {
            reconciler.clone().await;
            if shutdown.is_cancelled() {
                std::future::pending::<()>().await;
            }
        };
        let outcome = tokio::select! {
            () = server => Ok(()),
            () = forced => {
                warn!("some API requests did not finish within {SHUTDOWN_GRACE:?}");
                Ok(())
            }
            () = idle => Err(std::io::Error::other("the reconciler ended, so nothing would be carried out any more")),
        };
        shutdown.cancel();
        self.context.shutdown.cancel();
        if !reconciler.await {
            warn!("the reconciler ended by a panic");
        }
        if follower.await.is_err() {
            warn!("following other control planes ended by a panic");
        }
        self.context.store.close().await;
        info!("the control plane has stopped");
        outcome
    }
}

/// Says to other servers that this one is there, and looks which others are, until `shutdown`.
async fn announce(context: Arc<Context>, shutdown: CancellationToken) {
    if context.server.is_empty() {
        return;
    }
    let about = context.about();
    let mut timer = tokio::time::interval(ANNOUNCE_EVERY);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            _ = timer.tick() => {}
        }
        let told = async {
            context.store.announce(&about).await?;
            context.store.servers().await
        };
        match told.await {
            Ok(servers) => context.known.servers.are(servers.unwrap_or_default(), &about.id),
            Err(error) => {
                debug!("cannot say to other control planes that this one is there: {}", chain(&error));
            }
        }
    }
    if !matches!(tokio::time::timeout(ANNOUNCE_EVERY, context.store.leave(&about.id)).await, Ok(Ok(()))) {
        debug!("other control planes list this one for a day");
    }
}

async fn follow(context: Arc<Context>, shutdown: CancellationToken) {
    let Some(mut follower) = context.store.follow() else { return };
    let mut was_heard = true;
    loop {
        let heard = tokio::select! {
            () = shutdown.cancelled() => return,
            heard = follower.next() => heard,
        };
        match heard {
            Ok(news) => {
                for news in news {
                    context.hear(news).await;
                }
                was_heard = true;
            }
            Err(error) if store::news::is_closed(&error) => return,
            Err(error) => {
                if std::mem::take(&mut was_heard) {
                    warn!("cannot hear what other control planes change, trying again: {}", chain(&error));
                }
            }
        }
    }
}

/// What the very first start makes, and later ones repair. Returns the epoch that this process leads in, where it leads from its start.
async fn bootstrap(store: &Store, data_dir: &DataDir, server: &str) -> Result<Option<u64>, OpenError> {
    let now = Timestamp::now();
    let failed = |error: StoreError| data_dir.error_of(open_error(error));
    let secret_file = data_dir.admin_token_file();
    let kept = read_secret(&secret_file).map_err(|error| data_dir.error_of_io(error))?;
    let had_token = kept.is_some();
    let secret = new_secret();
    let started = async {
        let mut tx = store.write().await?;
        let before = store::change::starts(&mut tx).await?;
        // A server without others leads from its start.
        let leads = if server.is_empty() {
            store::rollout::restart_deadlines(&mut tx, now).await?;
            u64::try_from(store::change::count(&mut tx, "starts").await?).ok()
        } else {
            None
        };
        let name = NamespaceName::default_namespace();
        if before == 0 && store::namespace::find(&mut tx, &name).await?.is_none() {
            store::namespace::create(&mut tx, &name, now).await?;
        }
        let valid = match kept {
            Some(kept) => opens_everything(&mut tx, &kept, now).await?,
            None => false,
        };
        if !valid {
            store::token::delete_first(&mut tx, server).await?;
            let token = store::token::NewToken {
                id: TokenId::new(),
                name: "admin",
                secret_hash: &hash_secret(&secret),
                owner: None,
                role: Role::Admin,
                namespace: None,
                verbs: &[],
                first_of: Some(server),
                expires_at: None,
            };
            store::token::create(&mut tx, token, now).await?;
        }
        tx.commit().await?;
        Ok((leads, valid))
    };
    let (leads, valid) = started.await.map_err(failed)?;
    // After the commit: a file always holds a token that exists, and a crash in between only means another one.
    if !valid {
        if had_token {
            warn!(
                "the token in {} is not one of this platform that may do everything, and is replaced by another one",
                secret_file.display()
            );
        }
        write_secret(&secret_file, &secret).map_err(|error| data_dir.error_of_io(error))?;
    }
    Ok(leads)
}

/// Whether a secret still is what the file of the first token promises.
async fn opens_everything(conn: &mut Conn, secret: &str, now: Timestamp) -> store::Result<bool> {
    let token = store::token::find_by_hash(conn, &hash_secret(secret)).await?;
    Ok(token.map(|token| token.info).is_some_and(|token| {
        token.role == Role::Admin
            && token.user.is_none()
            && token.namespace.is_none()
            && token.verbs.is_empty()
            && token.expires_at.is_none_or(|expires_at| expires_at > now)
    }))
}

pub(crate) fn open_error(error: StoreError) -> OpenStoreError {
    match error {
        StoreError::Database(error) => OpenStoreError::Open(error),
        StoreError::Away(error) | StoreError::InDoubt(error) => OpenStoreError::Away(error),
        error => OpenStoreError::Open(sqlx::Error::Protocol(error.to_string())),
    }
}
