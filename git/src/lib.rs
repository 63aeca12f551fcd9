//! The transport of `git push` deploys: smart HTTP for bare repositories, driven by the system's `git`.
//!
//! This crate knows no router, no user and no app. Whoever serves `…/info/refs`, `…/git-upload-pack` and `…/git-receive-pack` checks who asks,
//! takes a [`Repository`] by its id, and passes bodies in and answers out. It needs git 2.31 or later, `sh` and `cat` on the host.
//!
//! The course of a push:
//!
//! 1. The client asks [`Repository::advertise`] for the refs. Before a push of more than a MiB it also sends an empty one.
//! 2. [`Repository::receive`] starts a task, which reads what stands before the pack: refs, options, the number of objects.
//! 3. What is beyond [`Limits`] or to a ref of the platform's own is refused there.
//! 4. `git receive-pack` gets the rest as it comes, checks each object, and keeps all of them in a folder of their own, the quarantine.
//! 5. Git runs the only hook that there is, a script of ours. It tells this process over a pipe what is pushed, and where that is.
//! 6. If the refs are what the client takes them for, the [`Handler`] is asked. It reads the commit from its [`Objects`], builds and deploys.
//! 7. What it tells [`Progress`] goes to the hook, which prints it; git sends it to the client as `remote:` lines.
//! 8. The verdict goes to the hook. If it is [`Verdict::Accept`], git moves objects and refs; if not, it forgets both.
//! 9. When git has ended, the refs are looked at, and the handler is told by [`Handler::ended`] which have moved.
//!
//! If the client goes away after 4, all goes on without it. If this process ends before 8, the hook's pipe closes, the hook refuses, and no ref
//! moves; if it ends between 8 and 9, the refs tell at the next start ([`Repository::refs`]).
//!
//! What a client fetches is not secret to it by ref alone: in protocol 2 git serves every object whose id a client knows, also one that only a
//! hidden ref leads to. A repository has one owner here, so nobody knows the ids of somebody else.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

mod limits;
mod object_id;
mod ref_name;
mod repositories;
mod service;

mod checkout;
mod gunzip;
mod held;
mod objects;
mod progress;
mod receive;
mod refs;
mod upload;
mod window;

mod git;
mod pkt;
mod push_head;
mod text;

#[cfg(any(test, fuzzing))]
pub mod fuzzing;

pub use checkout::{Checkout, CheckoutError};
pub use git::GitError;
pub use gunzip::{UnknownEncoding, decoded};
pub use held::Held;
pub use limits::{CheckoutLimits, Limits};
pub use object_id::{InvalidObjectId, ObjectId};
pub use objects::{Commit, Entry, EntryKind, FileError, Objects};
pub use pkt::InvalidFrame;
pub use progress::Progress;
pub use push_head::InvalidPush;
pub use receive::hook::HookError;
pub use receive::{Handler, Outcome, Push, ReceiveError, Verdict};
pub use ref_name::{HIDDEN, InvalidRefName, RefName, RefUpdate};
pub use repositories::{Repositories, Repository};
pub use service::{Protocol, Service, UnknownService};
pub use upload::UploadError;
pub use window::Answer;
