//! Why it is not known how to build a tree, in the words of whoever has to change it.

use wharf_types::manifest::ManifestError;

use crate::tree::{Entry, EntryKind, Unreadable};

/// Names of the tree that an error shows.
const SHOWN_MAX: usize = 8;

const WAYS_OUT: &str =
    "Say how it is built in wharf.toml (`[build]` with `command` and `artifact`), or push a built .wasm file";

#[derive(Debug, thiserror::Error)]
pub enum DetectError {
    /// The source names the key and draws the line.
    #[error("wharf.toml is not valid")]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    #[error("`{file}` is not valid")]
    Syntax {
        file: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error(
        "there are several .wasm files: {}. Name the one to deploy as `[build] artifact` in wharf.toml, or remove the others",
        files.join(", ")
    )]
    SeveralArtifacts { files: Vec<String> },
    /// A project that is understood, of which nothing can be built.
    #[error("{file}: {what}. {help}")]
    NothingToBuild { file: String, what: String, help: String },
    #[error(
        "{file}: there is more than one {what}: {}. Choose one in wharf.toml, for example\n\n[build]\n{example}",
        choices.join(", ")
    )]
    Ambiguous { file: String, what: &'static str, choices: Vec<String>, example: String },
    #[error(
        "there is a {file}, and nothing that makes a WebAssembly component: this namespace may not run containers. An \
         administrator can allow it, or {}",
        lower(WAYS_OUT)
    )]
    ContainersRefused { file: String },
    #[error("it is not known how to build this: {}. {here}. {WAYS_OUT}", looked_for.0)]
    Nothing { looked_for: LookedFor, here: String },
}

/// What would have been understood, in one sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookedFor(pub String);

impl DetectError {
    pub(super) fn nothing(top: &[Entry], because: Option<String>) -> Self {
        let mut looked_for =
            "there is no .wasm file, no Cargo.toml, no Python project with componentize-py, no package.json \
                              with jco or componentize-js, no Compose file and no Dockerfile"
                .to_owned();
        if let Some(because) = because {
            looked_for = format!("{looked_for} ({because})");
        }
        Self::Nothing { looked_for: LookedFor(looked_for), here: here(top) }
    }
}

fn here(top: &[Entry]) -> String {
    let shown = top.iter().take(SHOWN_MAX).map(|entry| match entry.kind {
        EntryKind::Folder => format!("{}/", entry.name.escape_debug()),
        EntryKind::File | EntryKind::Other => entry.name.escape_debug().to_string(),
    });
    let shown = shown.collect::<Vec<_>>().join(", ");
    match top.len() {
        0 => "The folder is empty".to_owned(),
        count if count > SHOWN_MAX => format!("Here are {shown} and {} more", count - SHOWN_MAX),
        _ => format!("Here are {shown}"),
    }
}

fn lower(sentence: &str) -> String {
    let mut letters = sentence.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}
