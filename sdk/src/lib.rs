//! A thin layer over WASI for HTTP apps on Wharf.
//!
//! An app built with this crate imports and exports standard WASI interfaces only, so it also runs on other hosts, and an
//! app that does not use this crate deploys just as well. What the crate adds is convenience: one handler signature for
//! WASI 0.2 and 0.3, a body type, and functions instead of bindings for configuration and key-value.
//!
//! ```ignore
//! use wharf_sdk::http::{Request, Response, Result};
//!
//! wharf_sdk::p2::http_app!(hello);
//!
//! async fn hello(_request: Request) -> Result<Response> {
//!     Ok(Response::new("Hello\n".into()))
//! }
//! ```
//!
//! The module chosen by the feature says which WASI the app speaks: [`p2`] (feature `p2`, the default) or [`p3`] (feature
//! `p3`). Both have the same items. Put the app into a library with `crate-type = ["cdylib"]`.
//!
//! Environment variables are the standard library's: [`std::env::var`]. What an app prints to stdout and stderr is its log.

pub mod config;
pub mod http;
pub mod keyvalue;
#[cfg(feature = "p2")]
pub mod p2;
#[cfg(feature = "p3")]
pub mod p3;

mod bindings {
    #![allow(missing_docs, reason = "generated from WIT")]
    wit_bindgen::generate!({ path: "wit", world: "imports", generate_all });
}

/// For the macros of this crate only.
#[doc(hidden)]
pub mod __private {
    #[cfg(feature = "p2")]
    pub use wasip2;
    #[cfg(feature = "p3")]
    pub use wasip3;
}
