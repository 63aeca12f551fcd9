//! The keys that this process has, and their rotation.
//!
//! A rotation of the platform's own key can be broken off at any point: the file has both keys before anything is sealed with the
//! new one, all is sealed anew in one transaction, and only then the old key leaves the file. A start that finds both finishes it.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use serde_json::{Value, json};
use tracing::{error, info, warn};
use wharf_types::SecretVersionId;
use wharf_types::secret::SecretValue;
use zeroize::Zeroizing;

use super::seal::{Key, OpenSecretError, Sealed, SecretOf};
use super::source::{KeySourceError, Source, write_own};
use crate::audit;
use crate::store::authority;
use crate::store::secret::{self, SealedVersion};
use crate::store::{Conn, Store, StoreError};

/// Keys, the one that seals first. Without any, nothing can be sealed or opened.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keyring {
    keys: Vec<Key>,
}

impl Keyring {
    /// With a key of its own.
    #[cfg(test)]
    pub(crate) fn made() -> Self {
        Self { keys: vec![Key::generate()] }
    }

    /// None: there is no key.
    pub(crate) fn seal(&self, of: SecretOf, value: &SecretValue) -> Option<Sealed> {
        self.keys.first().map(|key| key.seal(of, value))
    }

    pub(crate) fn open(&self, row: &SealedVersion) -> Result<SecretValue, OpenSecretError> {
        self.key_of(&row.sealed)?.open(row.of(), &row.sealed.octets)
    }

    /// The same for the key of a CA. None: there is no key.
    pub(crate) fn seal_authority(&self, id: &str, key: &str) -> Option<Sealed> {
        self.keys.first().map(|by| by.seal_authority(id, key))
    }

    pub(crate) fn open_authority(
        &self,
        id: &str,
        sealed: &Sealed,
    ) -> Result<Zeroizing<String>, OpenSecretError> {
        self.key_of(sealed)?.open_authority(id, &sealed.octets)
    }

    fn key_of(&self, Sealed { key_id, octets: _ }: &Sealed) -> Result<&Key, OpenSecretError> {
        let key = self.keys.iter().find(|key| key.id() == key_id);
        key.ok_or_else(|| OpenSecretError::MissingKey { key_id: key_id.clone() })
    }
}

/// The process's keyring and where it came from.
pub(crate) struct SecretKeys {
    source: Source,
    keyring: RwLock<Arc<Keyring>>,
    /// Held by a rotation: two at once could each drop the other's key.
    rotation: tokio::sync::Mutex<()>,
}

/// Why the keys cannot be had at the start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenKeysError {
    #[error(transparent)]
    Source(#[from] KeySourceError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot write the key file {}", file.display())]
    Write {
        file: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// Why a rotation did not take place. Nothing was changed, or what was done goes on at the next try.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RotateError {
    /// For the user, as it is.
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot write the key file {}", file.display())]
    Write {
        file: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

impl SecretKeys {
    /// Reads the keys, makes the platform's own if nothing was ever sealed, and finishes a rotation that was broken off. Keys that
    /// are missing do not keep the platform from its work: what needs none of them runs.
    pub(crate) async fn open(source: Source, store: &Store) -> Result<Self, OpenKeysError> {
        let keys = match source.read()? {
            Some(keys) => keys,
            None => first_key(&source, store).await?,
        };
        let opened = Self {
            source,
            keyring: RwLock::new(Arc::new(Keyring { keys })),
            rotation: tokio::sync::Mutex::new(()),
        };
        opened.finish_rotation(store).await?;
        let mut tx = store.read().await?;
        for (key_id, versions) in secret::keys_in_use(&mut tx).await? {
            if !opened.keyring().keys.iter().any(|key| key.id() == key_id) {
                error!(
                    "{versions} versions of secrets were sealed with the key {key_id}, which {} does not hold: apps that use them \
                     cannot start until the platform is started with that key",
                    opened.source.describe()
                );
            }
        }
        Ok(opened)
    }

    pub(crate) fn keyring(&self) -> Arc<Keyring> {
        self.keyring.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why nothing can be sealed.
    pub(crate) fn no_key(&self) -> String {
        format!(
            "this platform has no key for secrets: {} is not there; put it back, or start the platform with the key in \
             WHARF_SECRET_KEY_FILE or WHARF_SECRET_KEY",
            self.source.describe()
        )
    }

    fn set(&self, keys: Vec<Key>) {
        *self.keyring.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Keyring { keys });
    }

    async fn finish_rotation(&self, store: &Store) -> Result<(), OpenKeysError> {
        let keyring = self.keyring();
        let (Source::Own(file), [newest, _, ..]) = (&self.source, &keyring.keys[..]) else { return Ok(()) };
        match reseal(store, self).await {
            Ok(resealed) => {
                let write = |source| OpenKeysError::Write { file: file.clone(), source };
                write_own(file, std::slice::from_ref(newest)).map_err(write)?;
                info!(
                    "finished the rotation to the key {}: {resealed} versions of secrets were sealed anew",
                    newest.id()
                );
            }
            Err(RotateError::Store(error)) => return Err(error.into()),
            Err(error) => warn!("the rotation of the key for secrets is not finished: {error}"),
        }
        Ok(())
    }
}

/// The first key of the platform's own file. Where something is sealed already the file must have been lost, and a new key would
/// only hide that.
async fn first_key(source: &Source, store: &Store) -> Result<Vec<Key>, OpenKeysError> {
    let mut tx = store.read().await?;
    let is_new = secret::keys_in_use(&mut tx).await?.is_empty() && authority::list(&mut tx).await?.is_empty();
    match source {
        Source::Own(file) if is_new => {
            let keys = vec![Key::generate()];
            write_own(file, &keys).map_err(|source| OpenKeysError::Write { file: file.clone(), source })?;
            Ok(keys)
        }
        _ => {
            error!("the keys for secrets are missing: {} is not there", source.describe());
            Ok(Vec::new())
        }
    }
}

/// Seals everything with a new key, or, where the keys are somebody else's, with the first of them. Returns that key's id, and how
/// many versions were sealed anew.
pub(crate) async fn rotate(keys: &SecretKeys, store: &Store) -> Result<(String, u64), RotateError> {
    let _alone = keys.rotation.lock().await;
    let present = keys.keyring().keys.clone();
    let Some(first) = present.first() else { return Err(RotateError::Refused(keys.no_key())) };
    let Source::Own(file) = &keys.source else {
        let id = first.id().to_owned();
        let resealed = reseal(store, keys).await?;
        if resealed == 0 && present.len() == 1 {
            let detail = format!(
                "the key comes from {}, which the platform does not write: put a new one in front of the old one there, start the \
                 platform again, and repeat this; afterwards the old one can go",
                keys.source.describe()
            );
            return Err(RotateError::Refused(detail));
        }
        return Ok((id, resealed));
    };
    check_all_open(store, &keys.keyring()).await?;
    let write = |source| RotateError::Write { file: file.clone(), source };
    let new = Key::generate();
    let id = new.id().to_owned();
    let both: Vec<Key> = std::iter::once(new.clone()).chain(present.iter().cloned()).collect();
    write_own(file, &both).map_err(write)?;
    keys.set(both);
    match reseal(store, keys).await {
        Ok(resealed) => {
            // The old key stays in memory: somebody may just have read what it sealed.
            write_own(file, &[new]).map_err(write)?;
            Ok((id, resealed))
        }
        Err(error) => {
            // Nothing was committed with the new key, unless a secret was set meanwhile; so it stays behind the others.
            let back: Vec<Key> = present.into_iter().chain([new]).collect();
            write_own(file, &back).map_err(write)?;
            keys.set(back);
            Err(error)
        }
    }
}

/// Seals with the first key what others have sealed, all in one transaction. Whoever seals does so while nobody else can write, with
/// the keyring of that moment, so nothing is left out.
async fn reseal(store: &Store, keys: &SecretKeys) -> Result<u64, RotateError> {
    let mut tx = store.write().await?;
    let resealed = reseal_in(&mut tx, &keys.keyring()).await?;
    audit::change(Value::Null, json!({"resealed": resealed}));
    audit::commit(tx).await?;
    Ok(resealed)
}

async fn reseal_in(conn: &mut Conn, keyring: &Keyring) -> Result<u64, RotateError> {
    let Some(newest) = keyring.keys.first() else { return Ok(0) };
    let mut resealed = 0;
    // One at a time: all together may be more than fits into memory.
    for id in secret::not_sealed_by(conn, newest.id()).await? {
        let Some((row, value)) = open_row(conn, keyring, id).await? else { continue };
        let sealed = newest.seal(row.of(), &value);
        secret::reseal(conn, id, &sealed).await?;
        resealed += 1;
    }
    for row in authority::list(conn).await?.into_iter().filter(|row| row.key.key_id != newest.id()) {
        let key = open_authority(keyring, &row)?;
        authority::reseal(conn, &row.id, &newest.seal_authority(&row.id, &key)).await?;
    }
    Ok(resealed)
}

/// Refuses while nothing is written yet, where a value could not be sealed anew.
async fn check_all_open(store: &Store, keyring: &Keyring) -> Result<(), RotateError> {
    let mut tx = store.read().await?;
    for id in secret::ids(&mut tx).await? {
        open_row(&mut tx, keyring, id).await?;
    }
    for row in authority::list(&mut tx).await? {
        open_authority(keyring, &row)?;
    }
    Ok(())
}

fn open_authority(keyring: &Keyring, row: &authority::Row) -> Result<Zeroizing<String>, RotateError> {
    let opened = keyring.open_authority(&row.id, &row.key);
    opened.map_err(|error| RotateError::Refused(format!("the key of the cluster's CA {error}")))
}

/// None: it is no longer there.
async fn open_row(
    conn: &mut Conn,
    keyring: &Keyring,
    id: SecretVersionId,
) -> Result<Option<(SealedVersion, SecretValue)>, RotateError> {
    let Some(row) = secret::get(conn, id).await? else { return Ok(None) };
    match keyring.open(&row) {
        Ok(value) => Ok(Some((row, value))),
        Err(error) => {
            let detail = format!("the secret `{}` (version {}) {error}", row.name, row.version);
            Err(RotateError::Refused(detail))
        }
    }
}
