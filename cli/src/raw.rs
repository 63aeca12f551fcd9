//! The terminal of a command that runs elsewhere: what is typed goes there as it is.

use anyhow::Context as _;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use wharf_types::exec::WindowSize;

/// While it lives, the terminal on stdin changes nothing of what is typed, and acts on none of it.
pub struct Raw {
    before: Termios,
}

impl Raw {
    pub fn begin() -> anyhow::Result<Self> {
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin).context("could not ask the terminal for its settings")?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&stdin, SetArg::TCSAFLUSH, &raw).context("could not hand the terminal over")?;
        Ok(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // There is nobody left to tell; the shell restores its own settings.
        let _ = tcsetattr(std::io::stdin(), SetArg::TCSAFLUSH, &self.before);
    }
}

/// Of the terminal on stdout. None: it is none.
pub fn window_size() -> Option<WindowSize> {
    console::Term::stdout().size_checked().map(|(rows, columns)| WindowSize { columns, rows })
}
