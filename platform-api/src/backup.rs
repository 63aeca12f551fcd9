//! The whole state in one file, and out of it; and from SQLite to PostgreSQL.
//!
//! A backup is a tar archive: `backup.json` says what is in it, `state.jsonl` has every row as it was at one moment, `artifacts/` the
//! bytes of artifacts and archives of files, and, if it was asked for, the key for secrets and the CA of the cluster. It does not depend on the kind of
//! database. Logs and volumes are not in it.

mod content;

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use wharf_types::{Digest, Timestamp};

use self::content::{Source, Target, place_error};
use crate::artifacts::{self, ArtifactsAt, BucketError, BucketUrl};
use crate::data_dir::{DataDir, OpenError, database_file, has_moved, write_secret};
use crate::store::change;
use crate::store::platform::Platform;
use crate::store::transfer::{self, Table};
use crate::store::{self, Conn, Database, OpenStoreError, PostgresUrl, Store, StoreError, Tx};

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
    /// Nothing was written.
    #[error("a database failed; nothing was changed, so try again when its cause is gone")]
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
    Table { name: &'a str, rows: u64 },
    Artifact { digest: Digest, bytes: u64 },
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

/// Puts what stands in a backup into an empty data directory and an empty database. The rows come in as a whole or not at all.
pub async fn restore(
    archive: &Path,
    data_dir: &Path,
    database: &Database,
    artifacts: &ArtifactsAt,
    mut progress: impl FnMut(Progress<'_>),
) -> Result<Summary, BackupError> {
    let failed = |source: io::Error| BackupError::File { file: archive.to_owned(), source };
    let not_whole = |why: &str| BackupError::NotABackup { file: archive.to_owned(), why: why.to_owned() };
    let mut tar = tar::Archive::new(BufReader::new(File::open(archive).map_err(failed)?));
    let mut entries = tar.entries().map_err(failed)?;
    let about = match entries.next() {
        Some(Ok(entry)) if entry.path().is_ok_and(|path| path == Path::new(ABOUT)) => {
            serde_json::from_reader::<_, About>(entry).map_err(|error| not_whole(&error.to_string()))?
        }
        _ => return Err(not_whole("it does not begin with `backup.json`")),
    };
    if about.format > FORMAT {
        return Err(BackupError::Newer { file: archive.to_owned() });
    }
    let dir = DataDir::open(data_dir, database)?;
    let target = Target::open(data_dir, artifacts)?;
    let file = dir.database_file();
    let in_use = || BackupError::NotEmpty {
        target: match database {
            Database::DataDir => format!("the data directory {}", data_dir.display()),
            Database::Postgres(url) => format!("the database {url}"),
        },
    };
    // The tables as they were. The next start brings them up to date.
    let store = match Store::open_at(database.location(&file), about.schema).await {
        Ok(store) => store,
        Err(OpenStoreError::Newer { .. }) => return Err(BackupError::Newer { file: archive.to_owned() }),
        Err(error) => return Err(dir.error_of(error).into()),
    };
    let mut tx = store.write().await?;
    if !transfer::is_unused(&mut tx).await? {
        return Err(in_use());
    }
    let mut summary = Summary::default();
    let mut has_rows = false;
    for entry in entries {
        let mut entry = entry.map_err(failed)?;
        let path = entry.path().map_err(failed)?.to_string_lossy().into_owned();
        if path == STATE {
            summary = put_rows(&mut tx, &about, &mut entry, archive, &mut progress).await?;
            if let Some(platform) = platform(&mut tx).await? {
                target.claim(&platform.id, platform.moves + 1).await?;
                store::platform::move_artifacts(&mut tx, artifacts.bucket()).await?;
            }
            has_rows = true;
        } else if KEYS.contains(&path.as_str()) {
            let mut text = String::new();
            entry.read_to_string(&mut text).map_err(failed)?;
            write_secret(&data_dir.join(&path), text.trim_end()).map_err(failed)?;
        } else if let Some(digest) = path.strip_prefix(ARTIFACTS) {
            let digest: Digest = digest.parse().map_err(|_| not_whole("an artifact has no digest"))?;
            let mut octets = Vec::new();
            entry.read_to_end(&mut octets).map_err(failed)?;
            if Digest::of(&octets) != digest {
                return Err(not_whole(&format!("the artifact {digest} is damaged")));
            }
            target.put(digest, &octets).await?;
            summary.artifacts += 1;
            progress(Progress::Artifact { digest, bytes: octets.len() as u64 });
        }
    }
    if !has_rows {
        return Err(not_whole("it has no rows"));
    }
    // Workers may have been told newer things than the backup knows: what they are told from now on has to be newer than those.
    change::skip(&mut tx, "starts", EPOCHS_SKIPPED).await?;
    transfer::finish(tx).await?;
    store.close().await;
    Ok(summary)
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

async fn put_rows(
    tx: &mut Tx,
    about: &About,
    from: &mut impl Read,
    archive: &Path,
    progress: &mut impl FnMut(Progress<'_>),
) -> Result<Summary, BackupError> {
    let failed = |source: io::Error| BackupError::File { file: archive.to_owned(), source };
    let tables: Vec<Table> = about.tables.iter().map(|taken| taken.table.clone()).collect();
    // A name that is not a table's would stand in a statement.
    let known = transfer::tables(tx).await?;
    if let Some(other) = tables.iter().find(|table| !known.contains(table)) {
        let why = format!("this version has no such table as its `{}`", other.name);
        return Err(BackupError::NotABackup { file: archive.to_owned(), why });
    }
    transfer::clear(tx, &tables).await?;
    let mut lines = BufReader::new(from).lines();
    let mut summary = Summary::default();
    for Taken { table, rows } in &about.tables {
        let mut left = usize::try_from(*rows).unwrap_or(usize::MAX);
        while left > 0 {
            let batch: Vec<String> =
                lines.by_ref().take(left.min(BATCH)).collect::<io::Result<_>>().map_err(failed)?;
            if batch.is_empty() {
                let why = format!("rows of the table `{}` are missing", table.name);
                return Err(BackupError::NotABackup { file: archive.to_owned(), why });
            }
            transfer::put(tx, table, &batch).await?;
            left -= batch.len();
        }
        check(tx, table, *rows).await?;
        summary.add(table, *rows, progress);
    }
    Ok(summary)
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
