//! What the end-to-end suites share: a platform of their own, the real `wharf` command, a client for apps and API, and guests.
//!
//! A suite starts [`Platform`]s, which are the real binary on free ports with a folder of their own, and waits for values with
//! [`eventually`]. Nothing in here knows more of the platform than a user does: commands, HTTP, and the wire types.

#![allow(clippy::unwrap_used, reason = "everything in here is a part of tests, which fail by panicking")]

mod clock;
mod cluster;
mod command;
pub mod conformance;
mod engine;
mod fault;
mod guestbook;
mod handmade;
mod http;
mod load;
mod logs;
mod name_server;
mod object_storage;
mod ours;
mod platform;
mod postgres;
mod process;
mod proxy;
mod raw;
mod repository;
mod siege;
mod small_disk;
mod wait;
mod watch;
pub mod workspace;

pub use crate::clock::Clock;
pub use crate::cluster::{Cluster, Host, Speak};
pub use crate::command::{Ran, Wharf};
pub use crate::engine::{DockerEngine, PrivateRegistry, WEB};
pub use crate::fault::{Beside, Course, Dice, Fault, Role, Step};
pub use crate::guestbook::Guestbook;
pub use crate::handmade::{HttpGuest, command_p3, with_core_instances};
pub use crate::http::{Client, Reply, RequestBody, empty, full, request};
pub use crate::load::{Load, Served};
pub use crate::name_server::NameServer;
pub use crate::object_storage::ObjectStorage;
pub use crate::ours::{ANSWER, Ours};
pub use crate::platform::{Platform, Ready, Start};
pub use crate::postgres::Postgres;
pub use crate::proxy::{Proxy, Weather};
pub use crate::raw::RawReply;
pub use crate::repository::{Repository, remote_lines};
pub use crate::siege::Siege;
pub use crate::small_disk::SmallDisk;
pub use crate::wait::{COMPILED, SHORT, eventually, within};
pub use crate::watch::{Sight, Stall, Watch, seen_beside_another};
