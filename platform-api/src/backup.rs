//! The whole state in one file, and out of it; and from SQLite to PostgreSQL.
//!
//! A backup is a tar archive: `backup.json` says what is in it, `state.jsonl` has every row as it was at one moment, `artifacts/` the
//! bytes of artifacts and archives of files, and, if it was asked for, the key for secrets and the CA of the cluster. It does not depend on the kind of
//! database. Logs and volumes are not in it.

mod content;
mod restore;

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use wharf_types::{Digest, Timestamp};

use self::content::{Source, place_error};
pub use self::restore::restore;
use crate::artifacts::{self, ArtifactsAt, BucketError, BucketUrl};
use crate::data_dir::{DataDir, OpenError, database_file, has_moved};
use crate::store::platform::Platform;
use crate::store::transfer::{self, Table};
use crate::store::{self, Conn, Database, OpenStoreError, PostgresUrl, Store, StoreError};

const FORMAT: u32 = 1;
/// Rows that are put in at once.
const BATCH: usize = 500;
const ABOUT: &str = "backup.json";
const STATE: &str = "state.jsonl";
/// The key for secrets, and the CA of the cluster.
const KEYS: [&str; 3] = ["secret.key", "authority.key", "authority.pem"];
const ARTIFACTS: &str = "artifacts/";

/// Why nothing was moved, backed up or restored. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("there is no database in {}: name the data directory of a platform with --data", dir.display())]
    NoSource { dir: PathBuf },
    #[error(
        "the state of {} is in PostgreSQL already: start `wharf server` with `--database`; there is nothing to move",
        dir.display()
    )]
    AlreadyMoved { dir: PathBuf },
    #[error("the state has moved, but {} is still there: remove it before the next start", file.display())]
    StillThere {
        file: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{target} is in use already: name an empty database, or an empty data directory")]
    NotEmpty { target: String },
    /// No row was written.
    #[error(
        "a database failed; no row was kept, though there may be empty tables now, so try again when its cause is gone"
    )]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error(
        "the table `{table}` has {found} rows where {expected} were put in; nothing was kept, so try again, and report it if that does not help"
    )]
    Count { table: String, expected: u64, found: u64 },
    #[error("cannot use the file {}: see that it is there, that this user may use it, and that its disk has room", file.display())]
    File {
        file: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is not a whole backup ({why}): take another one", file.display())]
    NotABackup { file: PathBuf, why: String },
    #[error(
        "{} is there already, and is another key than that of the backup: move it away if nothing needs it, or name an empty data directory",
        file.display()
    )]
    OtherKey { file: PathBuf },
    #[error("{} was made by a newer wharf: restore it with that version", file.display())]
    Newer { file: PathBuf },
    #[error(transparent)]
    Bucket(#[from] BucketError),
    #[error(
        "{url} does not have {digest}, which the database speaks of: push the same file again, then back up"
    )]
    Missing { url: BucketUrl, digest: Digest },
}

impl From<StoreError> for BackupError {
    fn from(error: StoreError) -> Self {
        Self::Store(error.into())
    }
}

/// Whether a backup holds the key for secrets and the CA. Whoever has it can read every secret, and be any node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    Included,
    LeftOut,
}

/// More than a control plane starts, or leaders change, between a backup and the day when it is needed.
const EPOCHS_SKIPPED: i64 = 10_000;

/// What has just been done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress<'a> {
    Table {
        name: &'a str,
        rows: u64,
    },
    Artifact {
        digest: Digest,
        bytes: u64,
    },
    /// It is not Wharf's, and stays where it is.
    Foreign {
        table: &'a str,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub tables: u64,
    pub rows: u64,
    pub artifacts: u64,
}

#[derive(Serialize, Deserialize)]
struct About {
    format: u32,
    /// The newest change of the tables that the database had.
    schema: i64,
    made_at: Timestamp,
    tables: Vec<Taken>,
}

#[derive(Serialize, Deserialize)]
struct Taken {
    #[serde(flatten)]
    table: Table,
    rows: u64,
}

/// Puts everything that stands in the database of a data directory into a PostgreSQL database that nobody has used, as a whole or not at
/// all. The directory is to be used with that database from then on, and the one in it gets another name: artifacts, logs and keys stay there.
pub async fn migrate_store(
    data_dir: &Path,
    url: &PostgresUrl,
    mut progress: impl FnMut(Progress<'_>),
) -> Result<Summary, BackupError> {
    let database = Database::DataDir;
    if has_moved(data_dir) {
        return Err(BackupError::AlreadyMoved { dir: data_dir.to_owned() });
    }
    if !database_file(data_dir).exists() {
        return Err(BackupError::NoSource { dir: data_dir.to_owned() });
    }
    let source = DataDir::open(data_dir, &database)?;
    let file = source.database_file();
    // It may be of an earlier version.
    let opened = Store::open(database.location(&file)).await.map_err(|error| source.error_of(error))?;
    let target = Database::Postgres(url.clone());
    let refused = |error: OpenStoreError| crate::data_dir::postgres_error(url.clone(), error);
    let store = Store::open(target.location(&file)).await.map_err(refused)?;
    let mut from = opened.read().await?;
    let mut to = store.write().await?;
    if !transfer::is_unused(&mut to).await? {
        return Err(BackupError::NotEmpty { target: format!("the database {url}") });
    }
    tell_foreign(&mut from, &mut progress).await?;
    let tables = transfer::tables(&mut from).await?;
    transfer::clear(&mut to, &tables).await?;
    let mut summary = Summary::default();
    for table in &tables {
        let mut rows = transfer::rows(&mut from, table).try_chunks(BATCH);
        let mut taken = 0;
        while let Some(rows) = rows.try_next().await.map_err(|error| error.1)? {
            taken += rows.len() as u64;
            transfer::put(&mut to, table, &rows).await?;
        }
        check(&mut to, table, taken).await?;
        summary.add(table, taken, &mut progress);
    }
    transfer::finish(to).await?;
    drop(from);
    store.close().await;
    opened.close().await;
    source.put_database_aside().map_err(|(file, source)| BackupError::StillThere { file, source })?;
    Ok(summary)
}

/// Writes everything into one file, which is whole or absent. The platform may run meanwhile. Artifacts are in the file wherever they are kept.
pub async fn backup(
    data_dir: &Path,
    database: &Database,
    artifacts: &ArtifactsAt,
    archive: &Path,
    keys: Keys,
    mut progress: impl FnMut(Progress<'_>),
) -> Result<Summary, BackupError> {
    let file = database_file(data_dir);
    if *database == Database::DataDir && has_moved(data_dir) {
        return Err(OpenError::Moved { dir: data_dir.to_owned() }.into());
    }
    if *database == Database::DataDir && !file.exists() {
        return Err(BackupError::NoSource { dir: data_dir.to_owned() });
    }
    let failed = |source: io::Error| BackupError::File { file: archive.to_owned(), source };
    let source = Source::open(data_dir, artifacts, archive)?;
    let refused = |error: OpenStoreError| opening(data_dir, database, error);
    let mut conn = Store::snapshot(database.location(&file)).await.map_err(refused)?;
    if let Some(platform) = platform(&mut conn).await? {
        artifacts::check_same(&platform, artifacts).map_err(place_error(data_dir))?;
    }
    let rows_file = archive.with_extension("rows.new");
    let (about, summary) = take_rows(&mut conn, &rows_file, &mut progress).await?;
    let artifacts = needed(&mut conn, &about.tables).await?;
    drop(conn);
    let temporary = archive.with_extension("new");
    let write = async {
        let mut tar = begin_archive(&temporary, &rows_file, &about).map_err(failed)?;
        let kept = KEYS.iter().filter(|key| keys == Keys::Included && data_dir.join(key).exists());
        for key in kept {
            tar.append_path_with_name(data_dir.join(key), key).map_err(failed)?;
        }
        for digest in &artifacts {
            let mut file = source.file(*digest).await?;
            let bytes = file.metadata().map_err(failed)?.len();
            tar.append_file(format!("{ARTIFACTS}{digest}"), &mut file).map_err(failed)?;
            progress(Progress::Artifact { digest: *digest, bytes });
        }
        end_archive(tar).and_then(|()| fs::rename(&temporary, archive)).map_err(failed)
    };
    let written = write.await;
    let _ = fs::remove_file(&rows_file);
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written?;
    crate::data_dir::sync_dir(archive).map_err(failed)?;
    Ok(Summary { artifacts: artifacts.len() as u64, ..summary })
}

impl Summary {
    fn add(&mut self, table: &Table, rows: u64, progress: &mut impl FnMut(Progress<'_>)) {
        self.tables += 1;
        self.rows += rows;
        progress(Progress::Table { name: &table.name, rows });
    }
}

async fn check(conn: &mut Conn, table: &Table, expected: u64) -> Result<(), BackupError> {
    let found = transfer::count(conn, table).await?;
    if found == expected {
        return Ok(());
    }
    Err(BackupError::Count { table: table.name.clone(), expected, found })
}

/// Says which tables are left out.
async fn tell_foreign(conn: &mut Conn, progress: &mut impl FnMut(Progress<'_>)) -> Result<(), BackupError> {
    for table in transfer::foreign(conn).await? {
        progress(Progress::Foreign { table: &table });
    }
    Ok(())
}

/// The rows of all tables, each table after the other, one row a line.
async fn take_rows(
    conn: &mut Conn,
    file: &Path,
    progress: &mut impl FnMut(Progress<'_>),
) -> Result<(About, Summary), BackupError> {
    let failed = |source: io::Error| BackupError::File { file: file.to_owned(), source };
    let out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(file);
    let mut out = BufWriter::new(out.map_err(failed)?);
    let schema = transfer::version(conn).await?;
    let mut about = About { format: FORMAT, schema, made_at: Timestamp::now(), tables: Vec::new() };
    let mut summary = Summary::default();
    tell_foreign(conn, progress).await?;
    for table in transfer::tables(conn).await? {
        let mut taken = 0;
        let mut rows = transfer::rows(conn, &table);
        while let Some(row) = rows.try_next().await? {
            taken += 1;
            out.write_all(row.as_bytes()).and_then(|()| out.write_all(b"\n")).map_err(failed)?;
        }
        drop(rows);
        summary.add(&table, taken, progress);
        about.tables.push(Taken { table, rows: taken });
    }
    out.flush().map_err(failed)?;
    Ok((about, summary))
}

/// None: the tables are of a version that did not know.
async fn platform(conn: &mut Conn) -> Result<Option<Platform>, BackupError> {
    let tables = transfer::tables(conn).await?;
    match tables.iter().any(|table| table.name == "platform") {
        true => Ok(store::platform::get(conn).await?),
        false => Ok(None),
    }
}

/// The artifacts and archives that rows speak of.
async fn needed(conn: &mut Conn, tables: &[Taken]) -> Result<Vec<Digest>, BackupError> {
    let mut digests = Vec::new();
    if tables.iter().any(|taken| taken.table.name == "artifact") {
        digests.extend(crate::store::artifact::digests(conn).await?);
    }
    if tables.iter().any(|taken| taken.table.name == "archive") {
        digests.extend(crate::store::archive::digests(conn).await?);
    }
    digests.sort_unstable();
    digests.dedup();
    Ok(digests)
}

fn begin_archive(file: &Path, rows: &Path, about: &About) -> io::Result<tar::Builder<BufWriter<File>>> {
    let out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(file)?;
    let mut tar = tar::Builder::new(BufWriter::new(out));
    let about = serde_json::to_vec(about)?;
    let mut header = tar::Header::new_gnu();
    header.set_size(about.len() as u64);
    header.set_mode(0o600);
    tar.append_data(&mut header, ABOUT, about.as_slice())?;
    tar.append_path_with_name(rows, STATE)?;
    Ok(tar)
}

fn end_archive(tar: tar::Builder<BufWriter<File>>) -> io::Result<()> {
    tar.into_inner()?.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}

fn opening(data_dir: &Path, database: &Database, error: OpenStoreError) -> BackupError {
    match database {
        Database::Postgres(url) => crate::data_dir::postgres_error(url.clone(), error).into(),
        Database::DataDir => {
            let file = database_file(data_dir);
            OpenError::Database { file, source: error.into() }.into()
        }
    }
}
