//! The process that compiles: it limits and confines itself, reads an artifact from its stdin and writes machine code to its
//! stdout, which is a file.

mod confine;
mod limits;
mod unroll;

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;

use wasmtime::Engine;

use self::confine::{Reach, confine_self};
pub use self::limits::CompileLimits;
#[cfg(any(test, fuzzing))]
pub(super) use self::unroll::unroll;
use super::compiled::{Compiled, is_core_module};
use super::engine::{Profile, Purpose, config};
use super::failure::chain;
use super::surface;

/// First argument of this process, after the program's own name; its limits follow.
pub const ARGUMENT: &str = "__compile";

/// Largest artifact in octets.
pub const ARTIFACT_MAX_BYTES: u64 = 256 << 20;

/// Exit code for an artifact that is refused; stderr says why. After success stderr has the name of the profile for which it was compiled, and then what the
/// process could reach although it should not.
pub(super) const REFUSED: u8 = 10;
/// Exit code where the disk has no room for the result.
pub(super) const FULL: u8 = 11;

/// `… __compile` with a profile and limits, artifact on stdin, a file as stdout. Must be called before any thread is started.
pub fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(2).map(|arg| arg.to_string_lossy().into_owned());
    let Some(wanted) = args.next().and_then(|name| Profile::from_name(&name)) else {
        return ExitCode::from(2);
    };
    let Some(limits) = CompileLimits::from_args(args) else { return ExitCode::from(2) };
    match enclose_self(&limits).map_err(ChildError::Io).and_then(|reach| Ok((compile(wanted)?, reach))) {
        Ok((profile, reach)) => {
            eprintln!("{} {}", profile.as_str(), reach.words().collect::<Vec<_>>().join(" "));
            ExitCode::SUCCESS
        }
        Err(ChildError::Refused(why)) => {
            eprintln!("{why}");
            ExitCode::from(REFUSED)
        }
        Err(ChildError::Io(error)) => {
            eprintln!("{error}");
            if is_full(&error) { ExitCode::from(FULL) } else { ExitCode::FAILURE }
        }
    }
}

/// Whether there is no room on the disk, or none for this user.
pub(super) fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}

enum ChildError {
    Refused(String),
    Io(std::io::Error),
}

impl From<std::io::Error> for ChildError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

fn enclose_self(limits: &CompileLimits) -> std::io::Result<Reach> {
    limits.apply()?;
    let reach = confine_self();
    // The worker may be killed without being able to end this process. Last, because a change of rights undoes it.
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    Ok(reach)
}

fn compile(wanted: Profile) -> Result<Profile, ChildError> {
    let mut artifact = Vec::new();
    std::io::stdin().lock().take(ARTIFACT_MAX_BYTES + 1).read_to_end(&mut artifact)?;
    if artifact.len() as u64 > ARTIFACT_MAX_BYTES {
        return Err(ChildError::Refused(format!(
            "the artifact is larger than {} MiB",
            ARTIFACT_MAX_BYTES >> 20
        )));
    }
    let (profile, compiled) = compile_for(wanted, &artifact)?;
    let mut file = std::fs::File::from(std::io::stdout().as_fd().try_clone_to_owned()?);
    file.write_all(&compiled)?;
    file.sync_all()?;
    Ok(profile)
}

/// Compiles for the profile that is wanted, or for the one that the artifact needs.
fn compile_for(wanted: Profile, artifact: &[u8]) -> Result<(Profile, Vec<u8>), ChildError> {
    let compile = |profile| {
        let engine = Engine::new(&config(profile, Purpose::Compile)).map_err(std::io::Error::other)?;
        let unrolled = if profile == Profile::Long { unroll::unroll(artifact) } else { None };
        // The error is about the artifact as its owner knows it.
        unrolled
            .and_then(|unrolled| Compiled::compile(&engine, &unrolled).ok())
            .map_or_else(|| Compiled::compile(&engine, artifact), Ok)
            .map(|compiled| (profile, compiled))
            .map_err(|error| ChildError::Refused(format!("it does not compile: {}", chain(&error))))
    };
    if surface::names(artifact).iter().any(|name| name.is_wasi_03()) {
        return compile(Profile::Concurrent);
    }
    if is_core_module(artifact) {
        return compile(wanted);
    }
    // A component may be asynchronous within itself and still speak WASI 0.2.
    compile(wanted).or_else(|error| compile(Profile::Concurrent).map_err(|_| error))
}
