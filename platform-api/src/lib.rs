//! Wharf's control plane: HTTP API, store, scheduler and reconcilers.

pub mod plan;
