//! The client commands: each is one question to the platform, or one wish.

pub mod deploy;

pub mod apps;
pub mod releases;
pub mod scale;

pub mod env;
pub mod events;
pub mod logs;
pub mod top;

pub mod login;
pub mod namespace;
pub mod node;
pub mod token;

pub mod completion;
pub mod componentize;
pub mod doctor;

use crate::exit::Failure;
use crate::output;

/// Before something is lost: at a terminal the name has to be typed, elsewhere `--yes` has to be given.
fn confirm(what: &str, name: &str, yes: bool) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    if !output::is_interactive() {
        return Err(Failure::usage(format!(
            "deleting {what} `{name}` needs --yes where nobody can be asked"
        ))
        .into());
    }
    output::note(format!("This deletes {what} `{name}` for good. Type its name to go on:"));
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if answer.trim() == name {
        return Ok(());
    }
    Err(Failure::usage("that is not its name: nothing was deleted").into())
}
