//! Why an invocation failed, in the words of the guest's developer.

use wasmtime::Trap;
use wasmtime::component::ResourceTableError;
use wharf_types::node::{Reason, ReasonKind};

use super::memory::Denied;
use super::pool::TABLE_ELEMENTS_MAX;
use super::state::HANDLES_MAX;
use crate::backend::Failure;

/// An invocation without a response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvokeError {
    /// The app's concurrency or the pool was used up, and nothing became free in time.
    #[error("every place for a request is taken")]
    Busy,
    /// The guests of the namespace use what its quota lets them, and this one has not begun. The text says what it is of.
    #[error("the quota of the namespace is used up: {0}")]
    OverQuota(String),
    /// The instance had to go, and this request did not end in time.
    #[error("the instance was stopped before it answered")]
    Stopped,
    #[error("no response within {0:?}: `limits.timeout` is reached")]
    Timeout(std::time::Duration),
    #[error("the request computed for more than {0:?}: `limits.cpu` is reached")]
    Cpu(std::time::Duration),
    #[error("the request body is larger than `limits.request_body`")]
    BodyTooLarge,
    #[error("{0}")]
    BadRequest(String),
    /// The guest trapped; the text says how, with the guest's last words.
    #[error("{0}")]
    Trap(String),
    #[error("the guest returned without a response: it never set its `response-outparam`")]
    NoResponse,
    /// The guest answered with a `wasi:http` error code.
    #[error("the guest answered with the error {0}")]
    Guest(String),
    /// The fault is the platform's.
    #[error("{0}")]
    Platform(String),
}

impl InvokeError {
    pub fn reason(&self) -> Reason {
        let kind = match self {
            Self::Timeout(_) | Self::Cpu(_) | Self::BodyTooLarge | Self::OverQuota(_) => ReasonKind::Limit,
            Self::Trap(_) => ReasonKind::Trap,
            Self::NoResponse | Self::Guest(_) | Self::BadRequest(_) => ReasonKind::Probe,
            Self::Busy | Self::Stopped | Self::Platform(_) => ReasonKind::Platform,
        };
        Reason { kind, message: self.to_string() }
    }

    /// The same for who looks after the instance. A guest for which there was no room has not been asked, and what others hold says nothing of it.
    pub(crate) fn failure(&self) -> Failure {
        let is_telling = !matches!(self, Self::Busy | Self::OverQuota(_));
        Failure { is_telling, ..Failure::from(self.reason()) }
    }
}

/// Raised by the epoch callback when the CPU budget of an invocation is used up.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the CPU budget of {0:?} is used up")]
pub(super) struct CpuExhausted(pub(super) std::time::Duration);

/// Whether an engine's pool lacked something that the guest needed, because of what others hold.
pub(super) fn is_pool_exhausted(error: &wasmtime::Error) -> bool {
    error.downcast_ref::<wasmtime::PoolConcurrencyLimitError>().is_some()
}

/// Sorts out how a guest ended. `memory_denied` tells that the guest was refused memory before, `last_words` what it printed.
pub(super) fn classify(
    error: &wasmtime::Error,
    memory_denied: Option<Denied>,
    last_words: &[String],
) -> InvokeError {
    if let Some(CpuExhausted(budget)) = error.downcast_ref() {
        return InvokeError::Cpu(*budget);
    }
    if is_pool_exhausted(error) {
        return InvokeError::Busy;
    }
    let mut text = match (error.downcast_ref::<Trap>(), error.downcast_ref::<wasmtime_wasi::I32Exit>()) {
        (Some(trap), _) => format!("the guest trapped: {trap}"),
        (None, Some(exit)) => format!("the guest ended itself with exit code {}", exit.0),
        (None, None) => format!("the guest failed: {}", chain(error)),
    };
    if let Some(ResourceTableError::Full) = error.downcast_ref() {
        text.push_str(&format!("; a guest may have {HANDLES_MAX} open at once"));
    }
    match memory_denied {
        Some(Denied::Limit(limit)) => {
            let limit = wharf_types::quantity::ByteSize::bytes(limit);
            text.push_str(&format!("; it asked for more memory than `limits.memory`, {limit}"));
        }
        Some(Denied::Host) => {
            text.push_str("; it asked for memory that the host does not have, or not for one app");
        }
        Some(Denied::Namespace { max_bytes, alone }) => {
            let quota = wharf_types::quantity::ByteSize::bytes(max_bytes);
            text.push_str(&match alone {
                true => format!("; it asked for more memory than the quota of its namespace, {quota}"),
                false => format!(
                    "; it asked for memory while the guests of its namespace held what the quota allows on a node, {quota}"
                ),
            });
        }
        Some(Denied::Table) => {
            text.push_str(&format!("; it asked for a table of more than {TABLE_ELEMENTS_MAX} elements"));
        }
        None => {}
    }
    if !last_words.is_empty() {
        text.push_str("; it last printed: ");
        text.push_str(&last_words[last_words.len().saturating_sub(3)..].join(" / "));
    }
    InvokeError::Trap(text)
}

/// The error and its causes on one line, without the Wasm backtrace, which has many.
pub(super) fn chain(error: &wasmtime::Error) -> String {
    let causes: Vec<String> = error
        .chain()
        .map(|cause| cause.to_string())
        .filter(|cause| !cause.starts_with("error while executing at wasm backtrace"))
        .collect();
    causes.join(": ")
}
