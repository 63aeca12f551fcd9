//! Wharf's worker: runs what the control plane assigns to this node.

pub mod backend;
