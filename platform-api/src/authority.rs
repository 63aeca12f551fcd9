//! The cluster's CA, and this control plane's own certificate.
//!
//! The CAs that are believed are in the database, one of which signs, with their keys sealed by the key for secrets; so servers that
//! share the database share them. [`rotation`] replaces the one that signs. What earlier versions kept in `authority.pem` and
//! `authority.key` is taken from there once.

pub(crate) mod rotation;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use rustls::{ClientConfig, ServerConfig};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use wharf_pki::{
    Authority, Identity, NodeKey, Peer, Pin, PkiError, Role, Roots, bundle_tag, client_config, renew_at,
    server_config,
};
use wharf_types::{Digest, NodeId, Timestamp};
use zeroize::Zeroizing;

use crate::context::Context;
use crate::data_dir::read_secret;
use crate::reconcile::chain;
use crate::secrets::Keyring;
use crate::store::authority::{self as table, Row, Stage};
use crate::store::{Store, StoreError};

/// The domain of what is derived for artifacts.
const ARTIFACT_KEYS: &str = "wharf artifact keys between workers";
/// How often the database is asked, should what another server has said be missed.
const LOOK: Duration = Duration::from_secs(30);

/// Why there is no CA.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("cannot use {}", file.display())]
    File {
        file: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} and {} do not go together, or one is missing: restore both from a backup, or remove both; every worker has to join again then", certificate.display(), key.display())]
    Torn { certificate: PathBuf, key: PathBuf },
    #[error(
        "the key of the cluster's CA {0}; where servers share a database, `secret.key` has to be the same for all: copy it from \
         another. If it is lost, start once with --new-ca: every worker has to join again then"
    )]
    Sealed(String),
    #[error("this control plane has no key for secrets, with which the key of the CA is sealed: {0}")]
    NoKey(String),
    #[error("the cluster's CA cannot be used")]
    Pki(#[from] PkiError),
    #[error("the cluster's CA cannot be read from the database")]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<StoreError> for AuthorityError {
    fn from(error: StoreError) -> Self {
        Self::Store(error.into())
    }
}

/// What to do where the CA of the database does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    Fail,
    /// Another one is made; every worker has to join again.
    MakeAnother,
}

/// The CAs as they are, and what nodes have taken up of them.
pub(crate) struct Authorities {
    own: Peer,
    current: RwLock<Arc<Current>>,
    /// The tag of what each node has said that it believes.
    held: Mutex<BTreeMap<NodeId, String>>,
    changed: Notify,
}

pub(crate) struct Current {
    signing: Authority,
    /// All that are believed, in PEM, the one that signs first.
    pub(crate) believed: String,
    /// Tells this state of them from others.
    pub(crate) tag: String,
    /// In the same order.
    pub(crate) known: Vec<Known>,
    server: Arc<ServerConfig>,
    /// For connections to other servers.
    client: Arc<ClientConfig>,
    renew_at: Timestamp,
    /// Of this control plane's own certificate.
    valid_until: Timestamp,
}

/// A CA, without its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) id: String,
    pub(crate) stage: Stage,
    pub(crate) forced: bool,
    pub(crate) created_at: Timestamp,
    pub(crate) changed_at: Timestamp,
}

impl Authorities {
    /// Those of the database. Without any, that of the files of earlier versions, or a new one.
    pub(crate) async fn open(
        store: &Store,
        keys: &Keyring,
        dir: &Path,
        lost: Lost,
        now: Timestamp,
    ) -> Result<Self, AuthorityError> {
        let rows = table::list(&mut *store.read().await?).await?;
        let is_readable = || signing(&rows).map(|row| open_key(keys, row));
        let rows = match is_readable() {
            Some(Ok(_)) => rows,
            Some(Err(error)) if lost == Lost::Fail => return Err(error),
            Some(Err(_)) | None => first(store, keys, dir, now, &rows).await?,
        };
        let own = Peer { node: NodeId::new(), role: Role::Server };
        let current = RwLock::new(Arc::new(Current::of(&rows, keys, own, now)?));
        Ok(Self { own, current, held: Mutex::default(), changed: Notify::new() })
    }

    /// A CA that is in no database.
    #[cfg(test)]
    pub(crate) fn made() -> Self {
        let (keys, now) = (Keyring::made(), Timestamp::now());
        let made = Authority::generate(now).unwrap();
        let own = Peer { node: NodeId::new(), role: Role::Server };
        let rows = [row_of(&made, &keys, Stage::Signs, now).unwrap()];
        let current = RwLock::new(Arc::new(Current::of(&rows, &keys, own, now).unwrap()));
        Self { own, current, held: Mutex::default(), changed: Notify::new() }
    }

    pub(crate) fn current(&self) -> Arc<Current> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn pin(&self) -> Pin {
        self.current().signing.pin()
    }

    /// What a worker gives an artifact for. Nobody makes it out of the digest, or of keys of other artifacts; with another CA that signs there are
    /// other keys, and what workers then refuse each other comes from the control plane.
    pub(crate) fn artifact_key(&self, digest: Digest) -> String {
        let current = self.current();
        let key = current.signing.key();
        let secret = Zeroizing::new(blake3::derive_key(ARTIFACT_KEYS, key.trim().as_bytes()));
        blake3::keyed_hash(&secret, digest.to_string().as_bytes()).to_hex().to_string()
    }

    /// A certificate for a worker, and the CAs that it is to believe.
    pub(crate) fn issue(
        &self,
        request: &str,
        node: NodeId,
        now: Timestamp,
    ) -> Result<(String, String), PkiError> {
        let current = self.current();
        let certificate = current.signing.issue(request, &Peer { node, role: Role::Worker }, now)?;
        Ok((certificate, current.believed.clone()))
    }

    /// For the next connection.
    pub(crate) fn tls(&self) -> Arc<ServerConfig> {
        self.current().server.clone()
    }

    /// For the next connection to another server.
    pub(crate) fn client_tls(&self) -> Arc<ClientConfig> {
        self.current().client.clone()
    }

    /// A node says what it believes.
    pub(crate) fn hear(&self, node: NodeId, tag: &str) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.get(&node).is_none_or(|known| known != tag) {
            held.insert(node, tag.to_owned());
        }
    }

    /// Whether a node believes what is to be believed now, and nothing else.
    pub(crate) fn holds(&self, node: NodeId) -> bool {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.get(&node).is_some_and(|tag| *tag == self.current().tag)
    }

    /// Call after a commit that changed them, here or elsewhere.
    pub(crate) fn changed(&self) {
        self.changed.notify_one();
    }

    /// Keeps up with the database, and renews this control plane's certificate, until `shutdown`.
    pub(crate) async fn keep(self: Arc<Self>, context: Arc<Context>, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.changed.notified() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
            if let Err(error) = self.look(&context, Timestamp::now()).await {
                error!(
                    "the control plane cannot take up the newest CA, or renew its certificate: {}",
                    chain(&error)
                );
            }
        }
    }

    pub(crate) async fn look(&self, context: &Context, now: Timestamp) -> Result<(), AuthorityError> {
        let rows = table::list(&mut context.store.look().await?).await?;
        let before = self.current();
        let known: Vec<Known> = rows.iter().map(Known::of).collect();
        if known == before.known && now < before.renew_at {
            return Ok(());
        }
        let current = Current::of(&rows, &context.secret_keys.keyring(), self.own, now)?;
        if current.tag != before.tag {
            info!("the CAs of the cluster are others now: {} are believed", known.len());
        }
        let until = current.valid_until;
        info!("this control plane has renewed its certificate, which is valid until {until} now");
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(current);
        Ok(())
    }
}

impl Known {
    fn of(row: &Row) -> Self {
        Self {
            id: row.id.clone(),
            stage: row.stage,
            forced: row.forced,
            created_at: row.created_at,
            changed_at: row.changed_at,
        }
    }
}

impl Current {
    fn of(rows: &[Row], keys: &Keyring, own: Peer, now: Timestamp) -> Result<Self, AuthorityError> {
        let row = signing(rows)
            .ok_or_else(|| AuthorityError::Store("none of the CAs in the database signs".into()))?;
        let signing = open_key(keys, row)?;
        let believed: String = rows.iter().map(|row| format!("{}\n", row.certificate.trim_end())).collect();
        let key = NodeKey::generate()?;
        let certificate = signing.issue(&key.request()?, &own, now)?;
        // The CA goes along: a host that joins knows it by its digest only.
        let identity = Identity::load(&certificate, &key.to_pem(), signing.certificate())?;
        let roots = Roots::load(&believed)?;
        let mut server = server_config(&identity, &roots, false)?;
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let mut client = client_config(&identity, &roots, &[Role::Server])?;
        client.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self {
            tag: bundle_tag(&believed)?,
            known: rows.iter().map(Known::of).collect(),
            signing,
            believed,
            server: Arc::new(server),
            client: Arc::new(client),
            renew_at: renew_at(now, identity.valid_until, chance()),
            valid_until: identity.valid_until,
        })
    }
}

fn signing(rows: &[Row]) -> Option<&Row> {
    rows.iter().find(|row| row.stage == Stage::Signs)
}

fn open_key(keys: &Keyring, row: &Row) -> Result<Authority, AuthorityError> {
    let key =
        keys.open_authority(&row.id, &row.key).map_err(|error| AuthorityError::Sealed(error.to_string()))?;
    Ok(Authority::load(&row.certificate, &key)?)
}

/// A CA for the database.
pub(crate) fn row_of(made: &Authority, keys: &Keyring, stage: Stage, now: Timestamp) -> Option<Row> {
    let id = made.pin().to_string();
    let key = keys.seal_authority(&id, &made.key())?;
    let certificate = made.certificate().to_owned();
    Some(Row { id, certificate, key, stage, forced: false, created_at: now, changed_at: now })
}

/// Makes the first CA, or takes up that of the files, in place of what there is; unless another server was faster.
async fn first(
    store: &Store,
    keys: &Keyring,
    dir: &Path,
    now: Timestamp,
    instead_of: &[Row],
) -> Result<Vec<Row>, AuthorityError> {
    let files = read_files(dir)?;
    let made = match &files {
        Some((certificate, key)) => Authority::load(certificate, key)?,
        None => Authority::generate(now)?,
    };
    let no_key = || AuthorityError::NoKey("put `secret.key` back, or give one with --secret-key-file".into());
    let row = row_of(&made, keys, Stage::Signs, now).ok_or_else(no_key)?;
    let mut tx = store.write().await?;
    let there = table::list(&mut tx).await?;
    if there.iter().any(|row| instead_of.iter().all(|old| old.id != row.id)) {
        return Ok(there);
    }
    for old in &there {
        warn!("the CA {} is given up: nobody can open its key, and every worker has to join again", old.id);
        table::delete(&mut tx, &old.id).await?;
    }
    table::create(&mut tx, &row).await?;
    tx.commit().await?;
    if files.is_some() {
        put_aside(dir);
    }
    Ok(vec![row])
}

/// What earlier versions kept: the certificates and the key.
fn read_files(dir: &Path) -> Result<Option<(String, String)>, AuthorityError> {
    let (certificate, key) = (dir.join("authority.pem"), dir.join("authority.key"));
    let failed = |file: &Path| {
        let file = file.to_owned();
        |source| AuthorityError::File { file, source }
    };
    let certificates = match fs::read_to_string(&certificate) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        read => Some(read.map_err(failed(&certificate))?),
    };
    match (certificates, read_secret(&key).map_err(failed(&key))?) {
        (None, None) => Ok(None),
        (Some(certificates), Some(secret)) => {
            if let Err(PkiError::OtherKey) = Authority::load(&certificates, &secret) {
                return Err(AuthorityError::Torn { certificate, key });
            }
            Ok(Some((certificates, secret.to_string())))
        }
        // Also where a first start was cut off between the two: a key that may have signed something is not given up silently.
        (Some(_), None) | (None, Some(_)) => Err(AuthorityError::Torn { certificate, key }),
    }
}

/// They are in the database from now on, and another CA may follow them there.
fn put_aside(dir: &Path) {
    for name in ["authority.key", "authority.pem"] {
        let (from, to) = (dir.join(name), dir.join(format!("{name}.moved")));
        match fs::rename(&from, to) {
            Ok(()) => info!("{name} is in the database from now on, sealed with the key for secrets"),
            Err(error) => warn!("cannot rename {}, which is of no use any more: {error}", from.display()),
        }
    }
}

/// From 0 to 1.
fn chance() -> f64 {
    f64::from(getrandom::u32().expect("the kernel has random numbers")) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::fixture::Platform;

    #[tokio::test]
    async fn servers_with_the_same_ca_make_the_same_keys_and_each_artifact_has_another() {
        let platform = Platform::start().await;
        let [first, second] = [platform.authorities().await, platform.authorities().await];
        let other = Authorities::made();
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        assert_eq!(first.artifact_key(a), second.artifact_key(a));
        assert_ne!(first.artifact_key(a), first.artifact_key(b));
        assert_ne!(first.artifact_key(a), other.artifact_key(a));
    }

    #[tokio::test]
    async fn the_ca_is_the_same_after_a_restart_and_does_not_open_with_another_key() {
        let platform = Platform::start().await;
        let pin = platform.authorities().await.pin();
        assert_eq!(platform.authorities().await.pin(), pin);
        let (store, dir) = (&platform.context.store, &platform.context.config.data_dir);
        let open = async |lost| Authorities::open(store, &Keyring::made(), dir, lost, Timestamp::now()).await;
        let sealed = open(Lost::Fail).await.err();
        assert!(matches!(sealed, Some(AuthorityError::Sealed(_))), "{sealed:?}");
        assert_ne!(open(Lost::MakeAnother).await.unwrap().pin(), pin);
    }

    #[tokio::test]
    async fn what_an_earlier_version_kept_in_files_is_taken_up_once_and_not_made_anew_where_a_part_is_lost() {
        let platform = Platform::start().await;
        let dir = &platform.context.config.data_dir;
        let made = Authority::generate(Timestamp::now()).unwrap();
        fs::write(dir.join("authority.pem"), made.certificate()).unwrap();
        let opens = async || {
            let keys = platform.context.secret_keys.keyring();
            Authorities::open(&platform.context.store, &keys, dir, Lost::Fail, Timestamp::now()).await
        };
        let torn = opens().await.err();
        assert!(matches!(torn, Some(AuthorityError::Torn { .. })), "{torn:?}");
        let other = Authority::generate(Timestamp::now()).unwrap();
        fs::write(dir.join("authority.key"), other.key().as_bytes()).unwrap();
        let torn = opens().await.err();
        assert!(matches!(torn, Some(AuthorityError::Torn { .. })), "{torn:?}");
        fs::write(dir.join("authority.key"), made.key().as_bytes()).unwrap();
        assert_eq!(opens().await.unwrap().pin(), made.pin());
        assert!(!dir.join("authority.key").exists());
        assert_eq!(opens().await.unwrap().pin(), made.pin(), "it is in the database");
    }
}
