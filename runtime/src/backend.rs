//! The seam between supervising instances and executing them.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use wharf_types::InstanceId;
use wharf_types::node::{AssignedInstance, Reason, ReasonKind};
use wharf_types::spec::ContainerHealthSpec;

/// One run of an assigned instance.
#[derive(Clone, Debug)]
pub struct Run {
    /// The instance itself; after a restart by the supervisor not the one of the assignment.
    pub id: InstanceId,
    /// The instances that this one replaced in its slot, oldest first. Routes may name them for a moment longer, so the
    /// backend answers for them too.
    pub replaces: Vec<InstanceId>,
    pub assigned: Arc<AssignedInstance>,
}

/// Executes instances. Every verb is idempotent: starting what runs, or removing what is gone, is `Ok`.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Makes everything ready that does not need the guest: fetches and compiles the artifact.
    async fn prepare(&self, run: &Run) -> Result<(), Failure>;

    /// How far [`Self::prepare`] has come with an instance, in words. None: there is nothing to tell.
    fn progress(&self, _id: InstanceId) -> Option<String> {
        None
    }

    /// Starts the guest. HTTP apps are started when they can be instantiated, commands when they run.
    async fn start(&self, run: &Run) -> Result<(), Failure>;

    /// Waits until the guest ends by itself; for ever where it does not.
    async fn wait(&self, id: InstanceId) -> Ended;

    /// Whether the guest has ended by itself, also where [`Self::wait`] does not return yet because its output is still read.
    fn has_ended(&self, _id: InstanceId) -> bool {
        false
    }

    /// One HTTP request to the guest, for a health check; the answer is the status code.
    async fn probe(&self, id: InstanceId, path: &str, timeout: Duration) -> Result<u16, Failure>;

    /// Connects to each port that the guest of a command should listen at, for a health check.
    async fn accepts(&self, id: InstanceId, timeout: Duration) -> Result<(), Failure>;

    /// The check by a command that an instance which runs asks for. None: it asks for none.
    async fn health_command(&self, _id: InstanceId) -> Option<ContainerHealthSpec> {
        None
    }

    /// Runs a command beside the guest, for a health check.
    async fn run_check(
        &self,
        _id: InstanceId,
        _command: &[String],
        _timeout: Duration,
    ) -> Result<(), Failure> {
        Err(Failure::new(ReasonKind::Platform, "commands cannot be run in this instance"))
    }

    /// Whether something may be left of a process before this one.
    fn is_to_be_swept(&self) -> bool {
        false
    }

    /// Removes what is left of a process before this one, but for what belongs to the instances that are to run.
    async fn sweep(&self, _wanted: HashSet<InstanceId>) {}

    /// Whether what ran of an instance in a process before this one may still run.
    fn adopts(&self, _assigned: &AssignedInstance) -> bool {
        false
    }

    /// Takes no new requests and connections, lets the open ones finish for up to `drain`, then ends the guest.
    async fn stop(&self, id: InstanceId, drain: Duration);

    /// Forgets the instance and frees what it held.
    async fn remove(&self, id: InstanceId);
}

/// How a guest ended by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// A command that returned success.
    Success,
    Failed(Failure),
}

/// Why a verb failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", reason.message)]
pub struct Failure {
    pub reason: Reason,
    /// What the guest of a command gave back, if it is that.
    pub exit_code: Option<i32>,
    /// Whether it says something of the guest. A node that has no room to ask it says nothing.
    pub is_telling: bool,
}

impl From<Reason> for Failure {
    fn from(reason: Reason) -> Self {
        Self { reason, exit_code: None, is_telling: true }
    }
}

impl Failure {
    pub fn new(kind: ReasonKind, message: impl Into<String>) -> Self {
        Reason { kind, message: message.into() }.into()
    }

    /// Whether the same call may succeed later without anyone changing anything.
    pub fn is_retryable(&self) -> bool {
        self.reason.kind != ReasonKind::Artifact
    }
}
