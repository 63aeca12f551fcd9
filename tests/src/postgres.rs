//! A real PostgreSQL server for a test, from the machine's binaries.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Ends with the test, and takes its folder along.
#[derive(Debug)]
pub struct Postgres {
    dir: PathBuf,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    _keeper: Child,
}

impl Postgres {
    /// Starts a server.
    ///
    /// # Panics
    ///
    /// When PostgreSQL is not installed.
    pub fn start() -> Self {
        // It refuses to run as root.
        let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
        let mut command = Command::new(if is_root { "setpriv" } else { "sh" });
        if is_root {
            command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "sh"]);
        }
        let keeper = include_str!("../../scripts/postgres.sh");
        let mut keeper =
            command.args(["-c", keeper]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(keeper.stdout.take().unwrap());
        let mut dir = String::new();
        output.read_line(&mut dir).unwrap();
        assert!(dir.starts_with('/'), "PostgreSQL could not be set up");
        let input = keeper.stdin.take().unwrap();
        let mut server = Self { dir: dir.trim().into(), input, output, _keeper: keeper };
        server.tell("start");
        server
    }

    /// `start`, `stop` (open connections end), or `kill` (as a crash does). Returns when that is done.
    pub fn tell(&mut self, command: &str) {
        writeln!(self.input, "{command}").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert_eq!(line, "done\n", "the server failed to {command}; see {}/log", self.dir.display());
    }

    /// Of the database that is always there.
    pub fn url(&self) -> String {
        format!("postgres://wharf@localhost/postgres?host={}", self.dir.display())
    }
}
