//! The cluster's CA, and this control plane's own certificate.
//!
//! `authority.pem` holds the CAs that are believed, the one that signs first, and `authority.key` its key. Both are made when workers are taken for
//! the first time. Control planes that share a database share these files, as they share the key for secrets.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::{ClientConfig, ServerConfig};
use tokio_util::sync::CancellationToken;
use tracing::error;
use wharf_pki::{
    Authority, Identity, NodeKey, Peer, Pin, PkiError, Role, Roots, client_config, renew_at, server_config,
};
use wharf_types::{NodeId, Timestamp};

use crate::data_dir::{read_secret, write_secret};

/// How long to wait when a certificate could not be renewed.
const RETRY: Duration = Duration::from_secs(60);

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
    #[error("the cluster's CA cannot be used")]
    Pki(#[from] PkiError),
}

pub(crate) struct Authorities {
    signing: Authority,
    /// All that are believed, in PEM.
    believed: String,
    own: Peer,
    tls: RwLock<Own>,
}

/// This control plane's certificate.
struct Own {
    config: Arc<ServerConfig>,
    /// For connections to other servers.
    client: Arc<ClientConfig>,
    valid_until: Timestamp,
}

impl Authorities {
    pub(crate) fn open(dir: &Path, now: Timestamp) -> Result<Self, AuthorityError> {
        let (certificate_file, key_file) = (dir.join("authority.pem"), dir.join("authority.key"));
        let failed = |file: &Path| {
            let file = file.to_owned();
            |source| AuthorityError::File { file, source }
        };
        let certificates = match fs::read_to_string(&certificate_file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            read => Some(read.map_err(failed(&certificate_file))?),
        };
        let key = read_secret(&key_file).map_err(failed(&key_file))?;
        let (signing, believed) = match (certificates, key) {
            (Some(certificates), Some(key)) => (Authority::load(&certificates, &key)?, certificates),
            (None, None) => {
                let made = Authority::generate(now)?;
                write_secret(&key_file, made.key().trim_end()).map_err(failed(&key_file))?;
                write_secret(&certificate_file, made.certificate().trim_end())
                    .map_err(failed(&certificate_file))?;
                let certificates = made.certificate().to_owned();
                (made, certificates)
            }
            // Also where a first start was cut off between the two: a key that may have signed something is not given up silently.
            (Some(_), None) | (None, Some(_)) => {
                return Err(AuthorityError::Torn { certificate: certificate_file, key: key_file });
            }
        };
        let own = Peer { node: NodeId::new(), role: Role::Server };
        let tls = RwLock::new(issue_own(&signing, &believed, own, now).map_err(|error| match error {
            PkiError::Tls(_) => AuthorityError::Torn { certificate: certificate_file, key: key_file },
            error => error.into(),
        })?);
        Ok(Self { signing, believed, own, tls })
    }

    pub(crate) fn pin(&self) -> Pin {
        self.signing.pin()
    }

    pub(crate) fn believed(&self) -> &str {
        &self.believed
    }

    pub(crate) fn issue(&self, request: &str, node: NodeId, now: Timestamp) -> Result<String, PkiError> {
        self.signing.issue(request, &Peer { node, role: Role::Worker }, now)
    }

    /// For the next connection.
    pub(crate) fn tls(&self) -> Arc<ServerConfig> {
        self.tls.read().unwrap_or_else(PoisonError::into_inner).config.clone()
    }

    /// For the next connection to another server.
    pub(crate) fn client_tls(&self) -> Arc<ClientConfig> {
        self.tls.read().unwrap_or_else(PoisonError::into_inner).client.clone()
    }

    /// Renews this control plane's certificate whenever it is time, until `shutdown`.
    pub(crate) async fn renew(self: Arc<Self>, shutdown: CancellationToken) {
        loop {
            let valid_until = self.tls.read().unwrap_or_else(PoisonError::into_inner).valid_until;
            let now = Timestamp::now();
            let at = renew_at(now, valid_until, chance());
            let wait = Duration::try_from(at.duration_since(now)).unwrap_or_default().max(RETRY);
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            match issue_own(&self.signing, &self.believed, self.own, Timestamp::now()) {
                Ok(own) => *self.tls.write().unwrap_or_else(PoisonError::into_inner) = own,
                Err(error) => error!("the control plane's certificate cannot be renewed: {error}"),
            }
        }
    }
}

/// From 0 to 1.
fn chance() -> f64 {
    f64::from(getrandom::u32().expect("the kernel has random numbers")) / f64::from(u32::MAX)
}

fn issue_own(signing: &Authority, believed: &str, own: Peer, now: Timestamp) -> Result<Own, PkiError> {
    let key = NodeKey::generate()?;
    let certificate = signing.issue(&key.request()?, &own, now)?;
    let identity = Identity::load(&certificate, &key.to_pem(), signing.certificate())?;
    let roots = Roots::load(believed)?;
    let mut config = server_config(&identity, &roots, false)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let mut client = client_config(&identity, &roots, &[Role::Server])?;
    client.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Own { config: Arc::new(config), client: Arc::new(client), valid_until: identity.valid_until })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ca_is_the_same_after_a_restart_and_not_made_anew_where_a_part_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let now = Timestamp::now();
        let pin = Authorities::open(dir.path(), now).unwrap().pin();
        assert_eq!(Authorities::open(dir.path(), now).unwrap().pin(), pin);
        let other = tempfile::tempdir().unwrap();
        Authorities::open(other.path(), now).unwrap();
        fs::copy(other.path().join("authority.key"), dir.path().join("authority.key")).unwrap();
        fs::remove_file(other.path().join("authority.key")).unwrap();
        let torn = Authorities::open(other.path(), now).err();
        assert!(matches!(torn, Some(AuthorityError::Torn { .. })), "{torn:?}");
        fs::remove_file(dir.path().join("authority.pem")).unwrap();
        let torn = Authorities::open(dir.path(), now).err();
        assert!(matches!(torn, Some(AuthorityError::Torn { .. })), "{torn:?}");
    }
}
