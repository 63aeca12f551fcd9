//! Files that declare resources: read, checked with the place of every error, and made into what the platform takes.
//!
//! YAML, JSON and TOML become the same tree ([`node`]), in which each value knows its place; [`check`] turns a tree into a document and
//! goes on after an error, so that all of a file's are told at once. `wharf.toml` is read in the same way ([`manifest`]).

pub mod check;
pub mod content;
pub mod load;
pub mod manifest;
pub mod print;
pub mod saved;
pub mod schema;
pub mod show;
pub mod source;

mod decode;
mod json;
mod node;
mod toml;
mod yaml;

#[cfg(any(test, fuzzing))]
pub mod fuzzing;
#[cfg(test)]
mod tests;
