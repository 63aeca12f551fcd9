//! Runs apps whose artifact is an image, in the containers of a Docker engine.
//!
//! [`backend`] is the other side of the supervisor's seam, beside [`crate::wasm`]; [`run`] says what a container is given, without an engine;
//! [`upstream`] is the way of a request to its port, and [`exec`] runs what people ask for beside an app; [`copy`] moves files; [`brought`] gives images back, [`disk`] bounds what
//! containers write, and [`egress`] holds what containers send to the quota of their
//! namespace. What has to be known after this process was killed is in the containers' labels,
//! so that they are adopted by the next one.

pub mod backend;
pub mod copy;
pub mod exec;

pub(crate) mod upstream;

mod brought;
mod disk;
mod egress;
mod images;
pub(crate) mod names;
mod output;
mod run;
mod usage;
