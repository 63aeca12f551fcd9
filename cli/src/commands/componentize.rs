//! `wharf componentize`: makes a core module of WASI 0.1 into a component, on this machine.
//!
//! `wharf deploy` and `wharf run` take core modules as they are where these are commands of WASI 0.1 and nothing else. The command is for
//! build scripts whose compiler stops at core modules, and whose apps handle HTTP or use sockets.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use wharf_runtime::componentize::{ComponentizeError, componentize};

use crate::exit::{Exit, Failure};

#[derive(Args, Debug)]
pub struct ComponentizeArgs {
    /// The core module, made for wasm32-wasip1
    #[arg(value_name = "IN")]
    pub input: PathBuf,
    /// Where the component goes; may be the same file
    #[arg(value_name = "OUT")]
    pub output: PathBuf,
}

pub fn run(args: &ComponentizeArgs) -> anyhow::Result<()> {
    let shown = args.input.display();
    let module = match fs::read(&args.input) {
        Ok(module) => module,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Failure::new(Exit::NotFound, format!("there is no file {shown}")).into());
        }
        Err(error) => return Err(error).with_context(|| format!("could not read {shown}")),
    };
    let component = componentize(&module).map_err(|error| refusal(&args.input, error))?;
    write(&args.output, &component).with_context(|| format!("could not write {}", args.output.display()))
}

/// The input is at fault, whatever went wrong: nothing else takes part.
fn refusal(input: &Path, error: ComponentizeError) -> Failure {
    let error = anyhow::Error::new(error);
    Failure::invalid(format!("{}: {error:#}", input.display()))
}

/// Written beside and renamed, so that input and output may be the same file and nobody reads half of it.
fn write(output: &Path, component: &[u8]) -> anyhow::Result<()> {
    let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut draft = tempfile::Builder::new().prefix(".wharf-").tempfile_in(folder)?;
    draft.write_all(component)?;
    // A temporary file is for its owner's eyes only; an artifact is a file like any other.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    draft.as_file().set_permissions(mode)?;
    draft.persist(output)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A module with a memory, whose `_start` does nothing.
    const COMMAND: &[u8] = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x05\x03\x01\0\x01\
        \x07\x13\x02\x06_start\0\0\x06memory\x02\0\x0a\x04\x01\x02\0\x0b";

    fn args(folder: &Path, input: &[u8]) -> ComponentizeArgs {
        let args = ComponentizeArgs { input: folder.join("in.wasm"), output: folder.join("out.wasm") };
        fs::write(&args.input, input).unwrap();
        args
    }

    #[test]
    fn a_core_module_becomes_a_component() {
        let folder = tempfile::tempdir().unwrap();
        let args = args(folder.path(), COMMAND);
        run(&args).unwrap();
        let made = fs::read(&args.output).unwrap();
        assert_eq!(made[..8], *b"\0asm\x0d\0\x01\0", "the header of a component");
    }

    #[test]
    fn what_is_no_module_is_refused_and_nothing_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let args = args(folder.path(), b"hello");
        let error = run(&args).unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Invalid);
        assert!(error.to_string().contains("in.wasm"), "{error}");
        assert!(!args.output.exists());
    }

    #[test]
    fn a_missing_file_is_told_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let args =
            ComponentizeArgs { input: folder.path().join("no.wasm"), output: folder.path().join("out.wasm") };
        assert_eq!(Exit::of(&run(&args).unwrap_err()), Exit::NotFound);
    }
}
