//! The control plane as its clients see it: the router without a socket, a fresh database per test, and a simulated worker
//! that speaks the workers' HTTP.

mod access;
mod audit;
mod authorities;
mod autoscale;
mod away;
mod backup;
mod bucket;
mod configs;
pub(crate) mod database;
mod declare;
mod deploying;
mod durability;
mod execs;
pub(crate) mod fixture;
mod forwarding;
mod going_away;
mod input;
mod jobs;
mod keyvalue;
mod leading;
mod migrating;
mod namespaces;
mod nodes;
mod object_storage;
mod observing;
mod once;
mod opening;
mod placing;
mod pushes;
mod quotas;
mod secrets;
mod settings;
mod sharing;
mod streams;
mod tenants;
mod worker;
