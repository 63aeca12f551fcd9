//! Starts, serves and stops the control plane.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::serve::ListenerExt;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use wharf_types::api::Role;
use wharf_types::{NamespaceName, Timestamp, TokenId};

use crate::artifacts::LocalArtifacts;
use crate::context::Context;
use crate::data_dir::{DataDir, OpenError, write_secret};
use crate::logs::Logs;
use crate::store::{self, OpenStoreError, Store, StoreError};
use crate::{api, reconcile};

/// How long open requests may finish after the shutdown began.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
pub struct Config {
    /// Everything that lasts: database, artifacts, logs, the first token.
    pub data_dir: PathBuf,
    /// What the default hostnames of apps end in, such as `localhost`.
    pub domain: String,
    /// Where the ingress answers, such as `http://127.0.0.1:8080`.
    pub http_url: String,
}

/// The control plane, opened and ready to serve.
pub struct ControlPlane {
    pub(crate) context: Arc<Context>,
    admin_token_file: PathBuf,
    // Dropped last: while anything can still write, nobody else may open the directory.
    _data_dir: DataDir,
}

impl ControlPlane {
    /// Opens the data directory, which is made if there is none, and brings its database up to date.
    pub async fn open(config: Config) -> Result<Self, OpenError> {
        let data_dir = DataDir::open(&config.data_dir)?;
        let store = Store::open(&data_dir.database_file()).await.map_err(|error| data_dir.error_of(error))?;
        let starts = bootstrap(&store, &data_dir).await?;
        let artifacts =
            LocalArtifacts::open(data_dir.artifacts_dir()).map_err(|error| data_dir.error_of_io(error))?;
        let logs = Logs::open(data_dir.logs_dir()).map_err(|error| data_dir.error_of_io(error))?;
        let admin_token_file = data_dir.admin_token_file();
        let context = Context::new(config, store, Arc::new(artifacts), logs, starts);
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

    /// The API without a socket. Nothing is reconciled unless [`Self::spawn_reconciler`] is called, too.
    pub fn router(&self) -> axum::Router {
        api::router(self.context.clone())
    }

    /// Carries out what is wanted, until `shutdown`.
    pub fn spawn_reconciler(&self, shutdown: CancellationToken) -> JoinHandle<()> {
        tokio::spawn(reconcile::run(self.context.clone(), shutdown))
    }

    /// Serves the API and reconciles until `shutdown`; then open requests may finish for a few seconds.
    pub async fn serve(
        self,
        listener: tokio::net::TcpListener,
        shutdown: CancellationToken,
    ) -> std::io::Result<()> {
        let reconciler = self.spawn_reconciler(shutdown.clone());
        let listener = listener.tap_io(|stream| {
            if let Err(error) = stream.set_nodelay(true) {
                warn!("cannot turn off Nagle's algorithm for an API connection: {error}");
            }
        });
        let streams = self.context.shutdown.clone();
        let begun = shutdown.clone();
        let server = axum::serve(listener, self.router()).with_graceful_shutdown(async move {
            begun.cancelled().await;
            // Streams of events, logs and assignments never end by themselves.
            streams.cancel();
        });
        let server = server.into_future();
        let forced = async {
            shutdown.cancelled().await;
            tokio::time::sleep(SHUTDOWN_GRACE).await;
        };
        let outcome = tokio::select! {
            outcome = server => outcome,
            () = forced => {
                warn!("some API requests did not finish within {SHUTDOWN_GRACE:?}");
                Ok(())
            }
        };
        shutdown.cancel();
        if reconciler.await.is_err() {
            warn!("the reconciler ended by a panic");
        }
        self.context.store.close().await;
        info!("the control plane has stopped");
        outcome
    }
}

/// What the very first start makes, and later ones repair. Returns how many starts there were.
async fn bootstrap(store: &Store, data_dir: &DataDir) -> Result<u64, OpenError> {
    let now = Timestamp::now();
    let failed = |error: StoreError| data_dir.error_of(open_error(error));
    let secret_file = data_dir.admin_token_file();
    let token_missing = !secret_file.try_exists().map_err(|error| data_dir.error_of_io(error))?;
    let secret = crate::context::new_secret();
    let starts = async {
        let mut tx = store.write().await?;
        let starts = store::change::count(&mut tx, "starts").await?;
        let name = NamespaceName::default_namespace();
        if starts == 1 && store::namespace::find(&mut tx, &name).await?.is_none() {
            store::namespace::create(&mut tx, &name, now).await?;
        }
        store::rollout::restart_deadlines(&mut tx, now).await?;
        if token_missing {
            store::token::delete_bootstrap(&mut tx).await?;
            let token = store::token::NewToken {
                id: TokenId::new(),
                name: "admin",
                secret_hash: &crate::context::hash_secret(&secret),
                role: Role::Admin,
                namespace: None,
                bootstrap: true,
                expires_at: None,
            };
            store::token::create(&mut tx, token, now).await?;
        }
        tx.commit().await?;
        Ok(starts)
    };
    let starts = starts.await.map_err(failed)?;
    // After the commit: a file always holds a token that exists, and a crash in between only means another one.
    if token_missing {
        write_secret(&secret_file, &secret).map_err(|error| data_dir.error_of_io(error))?;
    }
    Ok(u64::try_from(starts).unwrap_or(0))
}

fn open_error(error: StoreError) -> OpenStoreError {
    match error {
        StoreError::Database(error) => OpenStoreError::Open(error),
        error => OpenStoreError::Open(sqlx::Error::Protocol(error.to_string())),
    }
}
