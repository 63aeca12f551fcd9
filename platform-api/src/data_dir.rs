//! The data directory: who may use it, and the secrets that stand in it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::artifacts::{BucketError, PlaceError};
use crate::control_plane::open_error;
use crate::secrets::OpenKeysError;
use crate::store::{Database, OpenStoreError, PostgresUrl, is_full};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Why the control plane cannot start. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot write to the data directory {}: give this user the right to, or choose another with --data", dir.display())]
    NotWritable {
        dir: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "the data directory {} is in use by another wharf (process {pid}): stop it first, or choose another with --data",
        dir.display()
    )]
    Locked { dir: PathBuf, pid: String },
    #[error(
        "the data directory {} was written by a newer wharf: its database has migration {has}, and this wharf {} has those up to \
         {knows}; use that version or another --data",
        dir.display(),
        VERSION
    )]
    NewerVersion { dir: PathBuf, has: i64, knows: i64 },
    #[error(
        "the state of the data directory {} has moved to PostgreSQL: give its address with `--database`, or in WHARF_DATABASE_URL. To begin \
         anew, or to bring back a backup without PostgreSQL, choose another directory with --data",
        dir.display()
    )]
    Moved { dir: PathBuf },
    #[error("the disk of the data directory {} is full: make room and start again", dir.display())]
    Full {
        dir: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the database {} is damaged: restore it from a backup, or choose another directory with --data", file.display())]
    Corrupt {
        file: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// The text says where, and what to do.
    #[error("{0}")]
    ArtifactsElsewhere(String),
    /// The source says which, where and what to do.
    #[error("cannot use the keys for secrets")]
    SecretKeys {
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("cannot open the database {}", file.display())]
    Database {
        file: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error(
        "the database {url} does not answer: see that it runs and can be reached from here, then start again"
    )]
    DatabaseAway {
        url: PostgresUrl,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the database {url} cannot be used: {why}")]
    DatabaseUnfit { url: PostgresUrl, why: String },
    #[error(
        "the database {url} was written by a newer wharf: it has migration {has}, and this wharf {} has those up to {knows}; use \
         that version or another database",
        VERSION
    )]
    DatabaseNewer { url: PostgresUrl, has: i64, knows: i64 },
    #[error(
        "cannot open the database {url}: see that its name, user and password are right, and that the user may make tables"
    )]
    DatabaseRefused {
        url: PostgresUrl,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The database, where it is in the directory.
const DATABASE: &str = "wharf.db";
/// What it is called when its rows have gone to PostgreSQL.
const MIGRATED: &str = "wharf.db.migrated";
/// Which server this is, where several can share a database.
const SERVER_ID: &str = "server.id";

/// How long a lock may outlive its holder: a process that it is just starting has it as well, until that runs a program of its own.
const LET_GO: Duration = Duration::from_millis(500);
const TRY_AGAIN: Duration = Duration::from_millis(10);

/// The directory, held by this process alone until it is dropped.
pub(crate) struct DataDir {
    path: PathBuf,
    /// Where the database is, unless it is in here.
    postgres: Option<PostgresUrl>,
    home: String,
    /// The kernel gives up the lock when the process ends, however it ends.
    _lock: File,
}

impl DataDir {
    /// Makes the directory if needed and takes its lock, for which it may wait a moment.
    pub(crate) fn open(path: &Path, database: &Database) -> Result<Self, OpenError> {
        let not_writable = |source: io::Error| match source.kind() {
            io::ErrorKind::StorageFull => OpenError::Full { dir: path.to_owned(), source },
            _ => OpenError::NotWritable { dir: path.to_owned(), source },
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(not_writable)?;
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join("lock"))
            .map_err(not_writable)?;
        let deadline = Instant::now() + LET_GO;
        let taken = loop {
            match lock.try_lock() {
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(TRY_AGAIN),
                taken => break taken,
            }
        };
        match taken {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let _ = lock.take(20).read_to_string(&mut pid);
                let pid = if pid.trim().is_empty() { "unknown".to_owned() } else { pid.trim().to_owned() };
                return Err(OpenError::Locked { dir: path.to_owned(), pid });
            }
            Err(TryLockError::Error(source)) => return Err(not_writable(source)),
        }
        let say_who = |lock: &mut File| {
            lock.set_len(0)?;
            lock.seek(SeekFrom::Start(0))?;
            lock.write_all(std::process::id().to_string().as_bytes())
        };
        say_who(&mut lock).map_err(not_writable)?;
        // An empty database in its place would know none of the artifacts, and its collector would remove them all.
        if *database == Database::DataDir && has_moved(path) {
            return Err(OpenError::Moved { dir: path.to_owned() });
        }
        let postgres = match database {
            Database::DataDir => None,
            Database::Postgres(url) => Some(url.clone()),
        };
        let home = home_of(&lock).map_err(not_writable)?;
        Ok(Self { path: path.to_owned(), postgres, home, _lock: lock })
    }

    /// Which directory on which running machine this is. While it is held, no other process is of the same home; one of a copy is of another.
    pub(crate) fn home(&self) -> &str {
        &self.home
    }

    pub(crate) fn database_file(&self) -> PathBuf {
        database_file(&self.path)
    }

    /// Gives the database, which nobody has open, another name: a start without PostgreSQL must not go on with what was there before its
    /// rows have moved. An error names the file that is still there.
    pub(crate) fn put_database_aside(&self) -> Result<(), (PathBuf, io::Error)> {
        let aside = self.path.join(MIGRATED);
        for part in ["", "-wal", "-shm"] {
            let with_part = |file: &Path| {
                let mut name = file.as_os_str().to_owned();
                name.push(part);
                PathBuf::from(name)
            };
            let from = with_part(&self.database_file());
            match fs::rename(&from, with_part(&aside)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err((from, error)),
                _ => {}
            }
        }
        sync_dir(&aside).map_err(|error| (self.database_file(), error))
    }

    pub(crate) fn admin_token_file(&self) -> PathBuf {
        self.path.join("admin.token")
    }

    /// Tells this server from others on the same database; empty where there can be no others. It is this directory's for good, so that a
    /// server that is started again is the same one. A copy of the directory has it, too.
    pub(crate) fn server(&self) -> io::Result<String> {
        if self.postgres.is_none() {
            return Ok(String::new());
        }
        let file = self.path.join(SERVER_ID);
        if let Some(id) = read_secret(&file)? {
            return Ok(id);
        }
        let id = uuid::Uuid::now_v7().to_string();
        write_secret(&file, &id)?;
        Ok(id)
    }

    pub(crate) fn secret_key_file(&self) -> PathBuf {
        self.path.join("secret.key")
    }

    pub(crate) fn logs_dir(&self) -> PathBuf {
        self.path.join("logs")
    }

    pub(crate) fn error_of(&self, error: OpenStoreError) -> OpenError {
        if let Some(url) = &self.postgres {
            return postgres_error(url.clone(), error);
        }
        let file = self.database_file();
        match error {
            OpenStoreError::Newer { has, knows } => {
                OpenError::NewerVersion { dir: self.path.clone(), has, knows }
            }
            OpenStoreError::Damaged(source) => OpenError::Corrupt { file, source: source.into() },
            OpenStoreError::Open(source) if is_full(&source) => {
                OpenError::Full { dir: self.path.clone(), source: io::Error::other(source) }
            }
            OpenStoreError::Open(source) if is_read_only(&source) => {
                OpenError::NotWritable { dir: self.path.clone(), source: io::Error::other(source) }
            }
            OpenStoreError::Open(source) | OpenStoreError::Away(source) => {
                OpenError::Database { file, source: source.into() }
            }
            OpenStoreError::Unfit(why) => OpenError::Database { file, source: why.into() },
            OpenStoreError::Thread(source) => self.error_of_io(source),
            OpenStoreError::Migrate(source) => OpenError::Database { file, source: source.into() },
        }
    }

    pub(crate) fn error_of_keys(&self, error: OpenKeysError) -> OpenError {
        match error {
            OpenKeysError::Source(source) => OpenError::SecretKeys { source: source.into() },
            OpenKeysError::Store(error) => self.error_of(open_error(error)),
            OpenKeysError::Write { source, .. } => self.error_of_io(source),
        }
    }

    pub(crate) fn error_of_artifacts(&self, error: PlaceError) -> OpenError {
        match error {
            PlaceError::Disk(error) => self.error_of_io(error),
            PlaceError::Bucket(error) => OpenError::Bucket(error),
            PlaceError::Store(error) => self.error_of(open_error(error)),
            error @ (PlaceError::Folder(_) | PlaceError::Elsewhere { .. } | PlaceError::OthersRun { .. }) => {
                OpenError::ArtifactsElsewhere(error.to_string())
            }
        }
    }

    pub(crate) fn error_of_io(&self, source: io::Error) -> OpenError {
        match source.kind() {
            io::ErrorKind::StorageFull => OpenError::Full { dir: self.path.clone(), source },
            _ => OpenError::NotWritable { dir: self.path.clone(), source },
        }
    }
}

/// Tells the file that is locked from all others, also of other machines, for as long as this machine runs.
fn home_of(lock: &File) -> io::Result<String> {
    let about = lock.metadata()?;
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    Ok(format!("{}:{}:{}", boot.trim(), about.dev(), about.ino()))
}

/// Where the database of a data directory is, unless it is PostgreSQL.
pub(crate) fn database_file(dir: &Path) -> PathBuf {
    dir.join(DATABASE)
}

/// Whether a data directory has no database because its server uses PostgreSQL.
pub(crate) fn has_moved(dir: &Path) -> bool {
    !database_file(dir).exists() && [MIGRATED, SERVER_ID].iter().any(|file| dir.join(file).exists())
}

pub(crate) fn postgres_error(url: PostgresUrl, error: OpenStoreError) -> OpenError {
    match error {
        OpenStoreError::Newer { has, knows } => OpenError::DatabaseNewer { url, has, knows },
        OpenStoreError::Away(source) => OpenError::DatabaseAway { url, source: said_once(source) },
        OpenStoreError::Unfit(why) => OpenError::DatabaseUnfit { url, why },
        OpenStoreError::Open(source) | OpenStoreError::Damaged(source) => {
            OpenError::DatabaseRefused { url, source: said_once(source) }
        }
        OpenStoreError::Thread(source) => OpenError::DatabaseRefused { url, source: source.into() },
        OpenStoreError::Migrate(source) => OpenError::DatabaseRefused { url, source: source.into() },
    }
}

/// What a database, or the way to it, has said: without the line of PostgreSQL's source, and without what sqlx says of its own cause again.
fn said_once(error: sqlx::Error) -> Box<dyn std::error::Error + Send + Sync> {
    match error {
        sqlx::Error::Database(said) => said.message().into(),
        sqlx::Error::Io(error) => error.into(),
        error => error.into(),
    }
}

/// Writes a secret that only this user may read. The file is whole or absent, whenever the machine stops.
pub(crate) fn write_secret(file: &Path, secret: &str) -> io::Result<()> {
    let temporary = file.with_extension("new");
    // A left-over of a crash may have other permissions.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    out.write_all(secret.as_bytes())?;
    out.write_all(b"\n")?;
    out.sync_all()?;
    fs::rename(&temporary, file)?;
    sync_dir(file)
}

/// What [`write_secret`] wrote. None: there is no such file.
pub(crate) fn read_secret(file: &Path) -> io::Result<Option<String>> {
    match fs::read(file) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes the renaming of a file in this one's directory last.
pub(crate) fn sync_dir(file: &Path) -> io::Result<()> {
    File::open(dir_of(file))?.sync_all()
}

/// A name alone is one of the working directory, though it has no directory in it.
fn dir_of(file: &Path) -> &Path {
    match file.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        Some(_) => Path::new("."),
        None => file,
    }
}

/// SQLITE_READONLY and SQLITE_CANTOPEN, with their extended codes.
fn is_read_only(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(database) = error else { return false };
    let code = database.code().and_then(|code| code.parse::<u32>().ok());
    code.is_some_and(|code| matches!(code & 0xff, 8 | 14))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_second_holder_is_told_who_holds_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::open(dir.path(), &Database::DataDir).unwrap();
        let Err(OpenError::Locked { pid, .. }) = DataDir::open(dir.path(), &Database::DataDir) else {
            panic!("opened twice")
        };
        assert_eq!(pid, std::process::id().to_string());
        drop(first);
        assert!(DataDir::open(dir.path(), &Database::DataDir).is_ok());
    }

    #[test]
    fn a_directory_is_one_home_for_all_its_processes_and_a_copy_is_another() {
        let (dir, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let home = |dir: &Path| DataDir::open(dir, &Database::DataDir).unwrap().home().to_owned();
        let first = home(dir.path());
        assert_eq!(home(dir.path()), first);
        fs::copy(dir.path().join("lock"), copy.path().join("lock")).unwrap();
        assert_ne!(home(copy.path()), first);
    }

    #[test]
    fn a_lock_that_a_child_had_when_its_parent_ended_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::open(dir.path(), &Database::DataDir).unwrap();
        // The same open file, as a child has it between its start and its program.
        let of_child = first._lock.try_clone().unwrap();
        drop(first);
        let child = std::thread::spawn(move || {
            std::thread::sleep(TRY_AGAIN * 3);
            drop(of_child);
        });
        assert!(DataDir::open(dir.path(), &Database::DataDir).is_ok());
        child.join().unwrap();
    }

    #[test]
    fn a_directory_whose_state_is_in_postgres_is_refused_without_it_and_left_as_it_was() {
        for left in [MIGRATED, SERVER_ID] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(left), "x").unwrap();
            let Err(error) = DataDir::open(dir.path(), &Database::DataDir) else { panic!("it opened") };
            assert!(matches!(error, OpenError::Moved { .. }), "{error}");
            assert!(error.to_string().contains("`--database`"), "{error}");
            assert!(!database_file(dir.path()).exists());
            let postgres = Database::Postgres("postgres://db/wharf".parse().unwrap());
            assert!(DataDir::open(dir.path(), &postgres).is_ok(), "{left}");
            fs::write(database_file(dir.path()), "x").unwrap();
            assert!(DataDir::open(dir.path(), &Database::DataDir).is_ok(), "{left}");
        }
    }

    #[test]
    fn a_database_that_has_moved_gets_another_name_with_all_its_files() {
        let dir = tempfile::tempdir().unwrap();
        for part in ["", "-wal"] {
            fs::write(dir.path().join(format!("wharf.db{part}")), part).unwrap();
        }
        let opened = DataDir::open(dir.path(), &Database::DataDir).unwrap();
        opened.put_database_aside().unwrap();
        opened.put_database_aside().unwrap();
        drop(opened);
        for part in ["", "-wal"] {
            let file = dir.path().join(format!("wharf.db.migrated{part}"));
            assert_eq!(fs::read_to_string(file).unwrap(), part);
        }
        assert!(has_moved(dir.path()));
    }

    #[test]
    fn what_a_connection_came_up_against_is_said_once() {
        let refused = sqlx::Error::Io(io::ErrorKind::ConnectionRefused.into());
        let url = "postgres://wharf@db/wharf".parse().unwrap();
        let error = postgres_error(url, OpenStoreError::Away(refused));
        let text = crate::reconcile::chain(&error);
        assert!(text.contains("does not answer"), "{text}");
        assert_eq!(text.matches("connection refused").count(), 1, "{text}");
    }

    #[test]
    fn a_name_alone_is_one_of_the_working_directory() {
        for (file, dir) in [("one.tar", "."), ("a/one.tar", "a"), ("/one.tar", "/"), ("/", "/")] {
            assert_eq!(dir_of(Path::new(file)), Path::new(dir), "{file}");
        }
        sync_dir(Path::new("one.tar")).unwrap();
    }

    #[test]
    fn secrets_are_for_this_user_only() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret");
        write_secret(&file, "one").unwrap();
        write_secret(&file, "two").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "two\n");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
