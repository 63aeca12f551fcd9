//! The Wasm backend: instances are stores of one wasmtime engine.
//!
//! An artifact is compiled once, by [`compiler`] in a process of its own, and mapped from disk. An HTTP app is a
//! pre-instantiated component ([`app`]); a request is an invocation of it ([`invoke`] for WASI 0.2, [`service`] for 0.3),
//! driven in the task of the connection that brought it. A command ([`command`]) is one store in a task of its own; it may also
//! be a core module of WASI 0.1 ([`module`]).
//!
//! Nothing of a guest is trusted: memory, CPU time, wall clock, handles, bodies and addresses have limits, and a guest that
//! computes for long is moved to threads of low priority ([`lane`]). What all guests of a namespace use together is bounded by
//! [`allowance`], and how many guests an app may have at once by [`places`].

pub mod admission;
mod allowance;
pub mod app;
pub mod backend;
pub mod body;
pub mod code;
pub mod command;
pub mod compile_child;
pub mod compiled;
pub mod compiler;
mod cpu;
pub mod engine;
pub mod failure;
mod files;
mod habit;
pub mod host;
mod invoke;
mod keyvalue;
mod lane;
mod memory;
pub mod meter;
pub(crate) mod meters;
pub mod module;
pub mod outbound;
mod places;
mod pool;
pub mod ports;
pub mod profiler;
mod service;
mod shared;
pub mod standalone;
pub mod state;
pub(crate) mod stdio;
mod surface;
pub mod table;
mod tuning;
pub mod volumes;
mod warm;

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
