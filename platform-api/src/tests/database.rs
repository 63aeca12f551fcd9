//! Databases for tests: files, or, with `WHARF_TEST_DATABASE=postgres`, databases of a server that lives as long as the process.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::LazyLock;

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tempfile::TempDir;

use crate::Database;
use crate::store::Store;

/// Whether this run is about PostgreSQL.
pub(crate) fn is_postgres() -> bool {
    match std::env::var("WHARF_TEST_DATABASE") {
        Ok(name) if name == "postgres" => true,
        Ok(name) if name != "sqlite" => panic!("WHARF_TEST_DATABASE is sqlite or postgres, not {name}"),
        _ => false,
    }
}

/// The database that belongs to a test's folder.
pub(crate) async fn of_dir(dir: &Path) -> Database {
    if !is_postgres() {
        return Database::DataDir;
    }
    static SERVER: LazyLock<PostgresServer> = LazyLock::new(PostgresServer::start);
    static MADE: tokio::sync::Mutex<Option<HashSet<PathBuf>>> = tokio::sync::Mutex::const_new(None);
    let mut made = MADE.lock().await;
    if made.is_none() {
        // Made once with all tables, and copied for each test.
        SERVER.run("CREATE DATABASE template").await;
        open(&SERVER.database("template")).await.close().await;
    }
    let made = made.get_or_insert_default();
    if made.insert(dir.to_owned()) {
        let ended: Vec<PathBuf> = made.iter().filter(|dir| !dir.exists()).cloned().collect();
        for dir in ended {
            SERVER.run(&format!("DROP DATABASE {} WITH (FORCE)", name(&dir))).await;
            made.remove(&dir);
        }
        SERVER.run(&format!("CREATE DATABASE {} TEMPLATE template", name(dir))).await;
    }
    SERVER.database(&name(dir))
}

/// An open store in a folder of its own.
pub(crate) async fn store() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let database = of_dir(dir.path()).await;
    let store = Store::open(database.location(&dir.path().join("wharf.db"))).await.unwrap();
    (dir, store)
}

async fn open(database: &Database) -> Store {
    Store::open(database.location(Path::new(""))).await.unwrap()
}

/// Folders of tests have names that are unlike each other in letters and digits.
fn name(dir: &Path) -> String {
    let name = dir.file_name().unwrap().to_string_lossy();
    let name: String = name.bytes().map(|octet| format!("{octet:02x}")).collect();
    format!("test_{name}")
}

/// Runs a server, and does what it is told, until its input ends.
const KEEPER: &str = include_str!("../../../scripts/postgres.sh");

pub(crate) struct PostgresServer {
    dir: PathBuf,
    commands: std::sync::Mutex<(ChildStdin, BufReader<ChildStdout>)>,
    _keeper: Child,
}

impl PostgresServer {
    pub(crate) fn start() -> Self {
        // It refuses to run as root.
        let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
        let mut command = if is_root {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "sh"]);
            command
        } else {
            Command::new("sh")
        };
        command.args(["-c", KEEPER]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut keeper = command.spawn().unwrap();
        let mut output = BufReader::new(keeper.stdout.take().unwrap());
        let mut dir = String::new();
        output.read_line(&mut dir).unwrap();
        assert!(dir.starts_with('/'), "initdb failed");
        let commands = std::sync::Mutex::new((keeper.stdin.take().unwrap(), output));
        let server = Self { dir: dir.trim().into(), commands, _keeper: keeper };
        server.tell("start");
        server
    }

    /// `start`, `stop` (open connections end), or `kill` (as a crash does). Returns when that is done.
    pub(crate) fn tell(&self, command: &str) {
        let mut commands = self.commands.lock().unwrap();
        let (input, output) = &mut *commands;
        writeln!(input, "{command}").unwrap();
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "done\n", "the server failed to {command}; see {}/log", self.dir.display());
    }

    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://wharf@localhost/{database}?host={}", self.dir.display())
    }

    pub(crate) fn database(&self, name: &str) -> Database {
        Database::Postgres(self.url(name).parse().unwrap())
    }

    /// Runs a statement in the database that is always there.
    pub(crate) async fn run(&self, statement: &str) {
        let mut conn = PgConnection::connect(&self.url("postgres")).await.unwrap();
        conn.execute(AssertSqlSafe(statement)).await.unwrap();
        conn.close().await.unwrap();
    }
}

mod tests {
    use super::*;
    use crate::OpenError;
    use crate::reconcile::chain;
    use crate::tests::fixture::config;
    use crate::{Config, ControlPlane};

    /// A server of the test's own, where the run is about PostgreSQL.
    fn server() -> Option<PostgresServer> {
        is_postgres().then(PostgresServer::start)
    }

    async fn refusal(database: Database) -> OpenError {
        let dir = tempfile::tempdir().unwrap();
        match ControlPlane::open(Config { database, ..config(&dir).await }).await {
            Err(error) => error,
            Ok(_) => panic!("it opened"),
        }
    }

    #[tokio::test]
    async fn a_database_that_sorts_otherwise_is_refused_with_the_statement_that_makes_a_right_one() {
        let Some(server) = server() else { return };
        server.run("CREATE DATABASE other TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'").await;
        let error = refusal(server.database("other")).await;
        assert!(matches!(error, OpenError::DatabaseUnfit { .. }), "{error:?}");
        assert!(error.to_string().contains("LC_COLLATE 'C'"), "{error}");
    }

    #[tokio::test]
    async fn what_keeps_a_database_from_being_opened_is_told_apart() {
        let Some(server) = server() else { return };
        let error = refusal(server.database("missing")).await;
        assert!(matches!(error, OpenError::DatabaseRefused { .. }), "{error:?}");
        let text = chain(&error);
        assert_eq!(text.matches("database \"missing\" does not exist").count(), 1, "{text}");
        assert!(!text.contains("at line"), "{text}");
        server.tell("kill");
        let error = refusal(server.database("postgres")).await;
        assert!(matches!(error, OpenError::DatabaseAway { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn a_port_that_nobody_listens_at_is_said_to_refuse() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("postgres://wharf@{}/wharf", listener.local_addr().unwrap());
        drop(listener);
        let error = refusal(Database::Postgres(url.parse().unwrap())).await;
        assert!(matches!(error, OpenError::DatabaseAway { .. }), "{error:?}");
        let text = chain(&error);
        assert_eq!(text.matches("Connection refused").count(), 1, "{text}");
    }
}
