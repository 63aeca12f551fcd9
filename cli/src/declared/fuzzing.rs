//! What the readers of declared files are asked by [`crate::fuzzing`].

use std::path::PathBuf;

use wharf_types::NamespaceName;

use super::load::Files;
use super::source::Source;

pub use super::source::Format;

/// Reads a file. What is wrong is told as the user would see it.
pub fn told(text: &str, folder: PathBuf, format: Format, namespace: &NamespaceName) -> Result<(), String> {
    let source = Source { name: "file".into(), folder, text: text.into(), format };
    Files::of(vec![source], namespace).map(drop).map_err(|error| format!("{error:#}"))
}
