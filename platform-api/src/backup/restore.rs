//! What stands in a backup, on its way into an empty data directory and an empty database.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use wharf_types::Digest;
use zeroize::Zeroizing;

use super::content::Target;
use super::{
    ABOUT, ARTIFACTS, About, BATCH, BackupError, EPOCHS_SKIPPED, FORMAT, KEYS, Progress, STATE, Summary,
    Taken, check, needed, platform,
};
use crate::artifacts::ArtifactsAt;
use crate::data_dir::{DataDir, read_secret, write_secret};
use crate::store::change;
use crate::store::transfer::{self, Table};
use crate::store::{self, Database, OpenStoreError, Store, StoreError, Tx};

/// Puts what stands in a backup into an empty data directory and an empty database. The rows come in as a whole or not at all, and where they
/// do not, no artifact and no key stays in the directory that was not there before.
pub async fn restore(
    archive: &Path,
    data_dir: &Path,
    database: &Database,
    artifacts: &ArtifactsAt,
    mut progress: impl FnMut(Progress<'_>),
) -> Result<Summary, BackupError> {
    let file =
        File::open(archive).map_err(|source| BackupError::File { file: archive.to_owned(), source })?;
    let mut tar = tar::Archive::new(BufReader::new(file));
    let mut entries =
        tar.entries().map_err(|source| BackupError::File { file: archive.to_owned(), source })?;
    let about = about(entries.next(), archive)?;
    let dir = DataDir::open(data_dir, database)?;
    let file = dir.database_file();
    // The tables as they were. The next start brings them up to date.
    let store = match Store::open_at(database.location(&file), about.schema).await {
        Ok(store) => store,
        Err(OpenStoreError::Newer { .. }) => return Err(BackupError::Newer { file: archive.to_owned() }),
        Err(error) => return Err(dir.error_of(error).into()),
    };
    let mut tx = store.write().await?;
    if !transfer::is_unused(&mut tx).await? {
        return Err(BackupError::NotEmpty {
            target: match database {
                Database::DataDir => format!("the data directory {}", data_dir.display()),
                Database::Postgres(url) => format!("the database {url}"),
            },
        });
    }
    let mut made = Made::default();
    let restoring = Restoring { archive, about, artifacts, target: Target::open(data_dir, artifacts)? };
    let taken_in = restoring.take_in(&mut tx, entries, &mut made, &mut progress).await?;
    // Workers may have been told newer things than the backup knows: what they are told from now on has to be newer than those.
    change::skip(&mut tx, "starts", EPOCHS_SKIPPED).await?;
    // Only now is it known that the backup is whole. The key of a damaged one would be taken for that of the next.
    write_keys(data_dir, &taken_in.keys, &mut made)?;
    let finished = transfer::finish(tx).await;
    // What may have been kept all the same keeps what belongs to it.
    if matches!(finished, Ok(()) | Err(StoreError::InDoubt(_) | StoreError::NotKept(_))) {
        made.keep();
    }
    finished?;
    store.close().await;
    Ok(taken_in.summary)
}

/// What a backup says of itself, in its first entry.
fn about(first: Option<io::Result<tar::Entry<'_, impl Read>>>, archive: &Path) -> Result<About, BackupError> {
    let not_whole = |why: &str| BackupError::NotABackup { file: archive.to_owned(), why: why.to_owned() };
    let about = match first {
        Some(Ok(entry)) if entry.path().is_ok_and(|path| path == Path::new(ABOUT)) => {
            serde_json::from_reader::<_, About>(entry).map_err(|error| not_whole(&error.to_string()))?
        }
        _ => return Err(not_whole("it does not begin with `backup.json`")),
    };
    if about.format > FORMAT {
        return Err(BackupError::Newer { file: archive.to_owned() });
    }
    Ok(about)
}

struct Restoring<'a> {
    archive: &'a Path,
    about: About,
    artifacts: &'a ArtifactsAt,
    target: Target,
}

/// What a whole backup had, but for its keys in its place.
struct TakenIn {
    summary: Summary,
    /// The names of their files, and what these hold.
    keys: Vec<(String, Zeroizing<String>)>,
}

impl Restoring<'_> {
    async fn take_in<R: Read>(
        &self,
        tx: &mut Tx,
        entries: tar::Entries<'_, R>,
        made: &mut Made,
        progress: &mut impl FnMut(Progress<'_>),
    ) -> Result<TakenIn, BackupError> {
        let archive = self.archive;
        let failed = |source: io::Error| BackupError::File { file: archive.to_owned(), source };
        let mut taken_in = TakenIn { summary: Summary::default(), keys: Vec::new() };
        let (mut has_rows, mut brought) = (false, BTreeSet::new());
        for entry in entries {
            let mut entry = entry.map_err(failed)?;
            let path = entry.path().map_err(failed)?.to_string_lossy().into_owned();
            if path == STATE {
                taken_in.summary = self.put_rows(tx, &mut entry, progress).await?;
                if let Some(platform) = platform(tx).await? {
                    self.target.claim(&platform.id, platform.moves + 1).await?;
                    store::platform::move_artifacts(tx, self.artifacts.bucket()).await?;
                }
                has_rows = true;
            } else if KEYS.contains(&path.as_str()) {
                let mut text = Zeroizing::new(String::new());
                entry.read_to_string(&mut text).map_err(failed)?;
                taken_in.keys.push((path, text));
            } else if let Some(digest) = path.strip_prefix(ARTIFACTS) {
                let digest: Digest =
                    digest.parse().map_err(|_| self.not_whole("an artifact has no digest".to_owned()))?;
                let put = self.target.put(digest, &mut entry, archive, made).await?;
                let Some(bytes) = put else {
                    return Err(self.not_whole(format!("the artifact {digest} is damaged")));
                };
                brought.insert(digest);
                progress(Progress::Artifact { digest, bytes });
            }
        }
        if !has_rows {
            return Err(self.not_whole("it has no rows".to_owned()));
        }
        let needed = needed(tx, &self.about.tables).await?;
        if let Some(missing) = needed.iter().find(|digest| !brought.contains(digest)) {
            return Err(self.not_whole(format!("the artifact {missing} is missing")));
        }
        taken_in.summary.artifacts = brought.len() as u64;
        Ok(taken_in)
    }

    async fn put_rows(
        &self,
        tx: &mut Tx,
        from: &mut impl Read,
        progress: &mut impl FnMut(Progress<'_>),
    ) -> Result<Summary, BackupError> {
        let failed = |source: io::Error| BackupError::File { file: self.archive.to_owned(), source };
        let tables: Vec<Table> = self.about.tables.iter().map(|taken| taken.table.clone()).collect();
        // A name that is not a table's would stand in a statement.
        let known = transfer::tables(tx).await?;
        if let Some(other) = tables.iter().find(|table| !known.contains(table)) {
            return Err(self.not_whole(format!("this version has no such table as its `{}`", other.name)));
        }
        transfer::clear(tx, &tables).await?;
        let mut lines = BufReader::new(from).lines();
        let mut summary = Summary::default();
        for Taken { table, rows } in &self.about.tables {
            let mut left = usize::try_from(*rows).unwrap_or(usize::MAX);
            while left > 0 {
                let batch: Vec<String> =
                    lines.by_ref().take(left.min(BATCH)).collect::<io::Result<_>>().map_err(failed)?;
                if batch.is_empty() {
                    return Err(self.not_whole(format!("rows of the table `{}` are missing", table.name)));
                }
                transfer::put(tx, table, &batch).await?;
                left -= batch.len();
            }
            check(tx, table, *rows).await?;
            summary.add(table, *rows, progress);
        }
        Ok(summary)
    }

    fn not_whole(&self, why: String) -> BackupError {
        BackupError::NotABackup { file: self.archive.to_owned(), why }
    }
}

/// Puts keys into their places, unless there is another one that somebody may need.
fn write_keys(
    data_dir: &Path,
    keys: &[(String, Zeroizing<String>)],
    made: &mut Made,
) -> Result<(), BackupError> {
    for (name, text) in keys {
        let file = data_dir.join(name);
        let failed = |source: io::Error| BackupError::File { file: file.clone(), source };
        match read_secret(&file).map_err(failed)?.map(Zeroizing::new) {
            Some(there) if there.as_str() == text.trim() => {}
            Some(_) => return Err(BackupError::OtherKey { file }),
            None => {
                made.add(file.clone());
                write_secret(&file, text.trim_end()).map_err(failed)?;
            }
        }
    }
    Ok(())
}

/// Files that were not there before. They go again, unless they are kept.
#[derive(Default)]
pub(super) struct Made(Vec<PathBuf>);

impl Made {
    /// To be called before the file is made.
    pub(super) fn add(&mut self, file: PathBuf) {
        self.0.push(file);
    }

    fn keep(&mut self) {
        self.0.clear();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for file in &self.0 {
            let _ = fs::remove_file(file);
        }
    }
}
