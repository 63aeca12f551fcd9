//! The `wharf` command, run as a user on a machine of their own would.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use wharf_types::protocol::VARIABLE;

use crate::{Clock, within, workspace};

/// No command of a test takes longer, not even one that compiles a large guest on a busy machine.
const LIMIT: Duration = Duration::from_secs(300);

/// A user: a home folder with its configuration, and no other environment that `wharf` reads.
#[derive(Clone, Debug)]
pub struct Wharf {
    home: PathBuf,
    folder: PathBuf,
    env: Vec<(String, String)>,
    /// A command that runs the binary, with its first arguments.
    wrapper: Vec<String>,
    /// None: the one under test.
    binary: Option<PathBuf>,
}

/// How a command ended.
#[derive(Clone, Debug)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Wharf {
    /// A user whose home is this folder; commands run in it.
    pub fn at_home(home: &Path) -> Self {
        let (home, folder) = (home.to_owned(), home.to_owned());
        Self { home, folder, env: Vec::new(), wrapper: Vec::new(), binary: None }
    }

    /// The same user in another folder.
    #[must_use]
    pub fn in_folder(mut self, folder: &Path) -> Self {
        self.folder = folder.to_owned();
        self
    }

    /// The same user with one more environment variable.
    #[must_use]
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.push((key.to_owned(), value.to_owned()));
        self
    }

    /// The same user, whose commands are run by another one, which gets the binary and its arguments as its last arguments.
    #[must_use]
    pub fn wrapped_in(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(|&argument| argument.to_owned()).collect();
        self
    }

    /// The same user with another version of the binary.
    #[must_use]
    pub fn with_binary(mut self, binary: PathBuf) -> Self {
        self.binary = Some(binary);
        self
    }

    /// The same user, whose processes see another time of day.
    #[must_use]
    pub fn with_clock(self, clock: &Clock) -> Self {
        clock.environment().iter().fold(self, |user, (key, value)| user.env(key, value))
    }

    /// The command, not yet started. It ends with the test.
    pub fn command(&self, args: &[&str]) -> Command {
        let binary = self.binary.clone().unwrap_or_else(workspace::wharf_binary);
        let mut line = self.wrapper.iter().map(AsRef::as_ref).chain([binary.as_os_str()]);
        let mut command = Command::new(line.next().expect("the binary at least"));
        command
            .args(line)
            .args(args)
            .current_dir(&self.folder)
            .env("HOME", &self.home)
            .env("XDG_CONFIG_HOME", self.home.join("config"))
            .env("XDG_CACHE_HOME", self.home.join("cache"))
            .env("XDG_DATA_HOME", self.home.join("share"))
            .envs(self.env.iter().map(|(key, value)| (key, value)))
            .kill_on_drop(true);
        for variable in [
            "WHARF_API",
            "WHARF_TOKEN",
            "WHARF_NAMESPACE",
            "WHARF_SECRET_KEY",
            "WHARF_SECRET_KEY_FILE",
            VARIABLE,
            "RUST_LOG",
            "RUST_BACKTRACE",
        ] {
            if !self.env.iter().any(|(key, _)| key == variable) {
                command.env_remove(variable);
            }
        }
        command
    }

    /// Runs the command to its end, whatever its code.
    pub async fn run(&self, args: &[&str]) -> Ran {
        self.run_with_input(args, "").await
    }

    /// The same with text on its stdin.
    pub async fn run_with_input(&self, args: &[&str], input: &str) -> Ran {
        let mut command = self.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // A command that does not read its input closes it, which is its right. One that copies it must be read meanwhile.
        let feed = async move {
            let _ = stdin.write_all(input.as_bytes()).await;
        };
        let what = format!("the end of `wharf {}`", args.join(" "));
        let ended = futures::future::join(feed, child.wait_with_output());
        let output = within(LIMIT, &what, ended).await.1.unwrap();
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Ran {
    /// What it printed, after it worked.
    ///
    /// # Panics
    ///
    /// When it did not work.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self.stdout
    }

    /// The one JSON object that it printed, after it worked.
    ///
    /// # Panics
    ///
    /// When it did not work, or printed something else.
    #[track_caller]
    pub fn json<T: DeserializeOwned>(self) -> T {
        let text = self.ok();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Checks that it failed with this code and one sentence that holds these words.
    ///
    /// # Panics
    ///
    /// When it did not.
    #[track_caller]
    pub fn fails(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        assert!(self.stderr.contains("error: "), "no error was told: {}", self.stderr);
        assert!(!self.stderr.contains("panicked at cli"), "the command panicked: {}", self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "`{word}` is not told: {}", self.stderr);
        }
    }
}
