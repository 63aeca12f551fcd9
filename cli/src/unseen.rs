//! Questions at a terminal whose answers are not shown.

use std::io::{BufRead as _, IsTerminal as _};

use anyhow::Context as _;
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};

/// Reads a line of stdin, unseen where it is typed at a terminal.
pub fn read_line(what: &str, at_terminal: bool) -> anyhow::Result<String> {
    let mut line = String::new();
    let stdin = std::io::stdin();
    let unseen = if at_terminal { Some(Unseen::begin()?) } else { None };
    stdin.lock().read_line(&mut line).with_context(|| format!("could not read {what} from stdin"))?;
    drop(unseen);
    Ok(line)
}

/// While it lives, the terminal does not show what is typed.
struct Unseen {
    before: Termios,
}

impl Unseen {
    fn begin() -> anyhow::Result<Self> {
        let stdin = std::io::stdin();
        debug_assert!(stdin.is_terminal());
        let before = tcgetattr(&stdin).context("could not ask the terminal for its settings")?;
        let mut quiet = before.clone();
        quiet.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(&stdin, SetArg::TCSAFLUSH, &quiet).context("could not turn the terminal's echo off")?;
        Ok(Self { before })
    }
}

impl Drop for Unseen {
    fn drop(&mut self) {
        // There is nobody left to tell; the shell restores its own settings.
        let _ = tcsetattr(std::io::stdin(), SetArg::TCSAFLUSH, &self.before);
    }
}
