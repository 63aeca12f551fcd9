//! The pure core of the control plane: what is, what is wanted, and the changes that lead from one to the other.
//!
//! Nothing here does I/O, reads a clock or draws a random number: a view and the time go in, [`Changes`] come out, and
//! [`crate::reconcile`] carries them out in one transaction. The same functions run under the simulator.

pub(crate) mod autoscale;
pub mod condition;
pub mod cron;
pub(crate) mod declared;
pub(crate) mod exec;
pub mod ids;
pub mod job;
pub(crate) mod rebalance;
pub mod routes;
pub mod schedule;
pub mod scheduler;

mod draft;
#[cfg(test)]
mod fixture;
mod moved;
mod observed;
mod places;
mod placing;
mod rollout;
#[cfg(test)]
mod simulation;
mod slots;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wharf_types::api::{Pause, Stopped};
use wharf_types::node::Reason;
use wharf_types::requests::ReleaseRequests;
use wharf_types::route::RoutePattern;
use wharf_types::spec::AppSpec;
use wharf_types::state::{Health, InstanceState, RolloutState, Wanted};
use wharf_types::world::World;
use wharf_types::{
    AppId, AppName, Digest, InstanceId, NamespaceName, NodeId, ReleaseId, RolloutId, SecretVersionId,
    Timestamp, VolumeId, VolumeName,
};

use draft::Draft;
pub use ids::{IdSource, RandomIds};
pub use places::{Place, Places};
pub(crate) use rollout::waits;
use scheduler::{Claim, Cluster, Refused};
pub use view::{alone, numbers, relevant, started_after};
pub(crate) use view::{release_of, reservation_bytes};

/// Compares what is wanted of an app with what is, and says what to change. Planning again after the changes, at the same
/// time, changes nothing more, unless [`Changes::wake_at`] is already due: then a release is needed that the view lacks.
///
/// What is placed is tried out in `cluster`, which afterwards is as before.
pub fn plan(now: Timestamp, app: &AppView, cluster: &mut Cluster, ids: &mut dyn IdSource) -> Changes {
    let mut draft = Draft::new(now, app, cluster, ids);
    slots::give_up_lost_nodes(&mut draft);
    slots::stay_without_a_place(&mut draft);
    rollout::advance(&mut draft);
    if !draft.is_blind() {
        slots::converge(&mut draft);
    }
    moved::tell(&mut draft, app);
    draft.finish()
}

/// Everything that a decision about one app needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppView {
    pub id: AppId,
    pub namespace: NamespaceName,
    pub name: AppName,
    /// The user asked for its end: everything stops, then the app's row goes.
    pub deleting: bool,
    /// A user stopped it: nothing runs and no rollout moves until it is started again.
    pub stopped: Option<Stopped>,
    /// The number of slots that `wharf scale` set. None: as many as the release itself asks for.
    pub scaled_to: Option<u32>,
    /// The number that open requests have decided on last. It counts, within the range, where a release has one.
    pub autoscaled_to: Option<u32>,
    /// Where the app is global, the nodes of its slots.
    pub places: Places,
    /// The release that every slot should run, from the moment that a rollout to it is asked for. None: nothing should run,
    /// because the first release failed.
    pub target: Option<Arc<ReleaseView>>,
    /// The newest release that a rollout brought into service: where a failed rollout goes back to.
    pub stable: Option<Arc<ReleaseView>>,
    /// The release of the newest rollout, even if it failed. Visitors of an app that runs nothing are told by its routes that
    /// the app exists.
    pub latest: Option<Arc<ReleaseView>>,
    /// The rollout to `target` that has not ended, if there is one. Most apps have none, and it is larger than all the rest.
    pub rollout: Option<Box<RolloutView>>,
    /// The volumes that the app has, also those that its releases do not ask for any more.
    pub volumes: Vec<VolumeView>,
    /// The live instances, and of those that ended since the rollout began (without a rollout: of each slot) the newest.
    pub instances: Vec<InstanceView>,
    /// Numbers of the releases of these instances, as far as they are kept: see [`numbers`].
    pub numbers: Box<[(ReleaseId, u64)]>,
    /// Of these, the releases of which there must not be two instances at once, nor one beside another release's.
    pub alone: BTreeSet<ReleaseId>,
}

/// A folder of the app on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeView {
    pub id: VolumeId,
    pub name: VolumeName,
    /// None: no instance that has it was placed yet.
    pub node: Option<NodeId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleaseView {
    pub id: ReleaseId,
    pub number: u64,
    pub artifact: Digest,
    pub world: World,
    pub spec: Arc<AppSpec>,
    /// Of each variable of `spec.secrets`, the version that it was made with.
    pub secrets: Arc<BTreeMap<String, SecretVersionId>>,
    /// The default route first. Empty for commands.
    pub routes: Vec<RoutePattern>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolloutView {
    pub id: RolloutId,
    pub from: Option<ReleaseId>,
    pub to: ReleaseId,
    pub state: RolloutState,
    /// Whether the failure of another rollout started this one. Its own failure starts no further one.
    pub automatic: bool,
    /// Whether it brings back a release, so that the dials of its `update.rollback` count.
    pub backwards: bool,
    /// Whether the instances that the release had before are replaced as if they were another's: a restart.
    pub renews: bool,
    pub started_at: Timestamp,
    /// The last time that an instance of the new release became ready; at first, the start.
    pub progressed_at: Timestamp,
    /// Ready instances of the new release when `progressed_at` was set.
    pub progressed_ready: u32,
    /// When an instance of the new release became ready last. None: none has. Unlike `progressed_at` it never begins anew.
    pub stepped_at: Option<Timestamp>,
    /// The trial, once all its instances are routed.
    pub canary: Option<Trial>,
    /// Since when every slot serves the new release.
    pub monitoring_since: Option<Timestamp>,
    /// Slots in which the new release has failed since `judged_since`.
    pub failed_slots: BTreeSet<u32>,
    /// The start, or when somebody resumed it last: what failed before is forgiven.
    pub judged_since: Timestamp,
    /// It stands still until somebody resumes or aborts it.
    pub paused: Option<Pause>,
    /// Who wants it to go back now.
    pub aborted_by: Option<String>,
    /// What became of requests since the start, by release, as far as it is known.
    pub requests: Vec<ReleaseRequests>,
}

/// A release on trial with a part of the requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    pub since: Timestamp,
    /// The requests of the rollout before that.
    pub before: Vec<ReleaseRequests>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceView {
    pub id: InstanceId,
    pub release: ReleaseId,
    pub slot: u32,
    pub node: Option<NodeId>,
    pub wanted: Wanted,
    pub state: InstanceState,
    pub health: Health,
    pub restarts: u32,
    /// In a box, because most have none, and there may be a million of them.
    pub reason: Option<Box<Reason>>,
    pub created_at: Timestamp,
    pub ended_at: Option<Timestamp>,
    /// Whether an instance made by the supervisor took over this one's slot.
    pub replaced: bool,
    /// Whether it has been healthy at any time.
    pub was_healthy: bool,
    /// Whether every ingress has acknowledged a route table without it. Looked at once it is wanted [`Wanted::Unroute`];
    /// always true for what no route can lead to, such as a command without a port.
    pub let_go: bool,
    /// Whether every ingress has acknowledged a route table with this instance; true for what no route leads to.
    pub routed: bool,
    /// Whether it is to make way for one on another node, once that one serves.
    pub moves: bool,
}

/// What is to be written, in this order, in one transaction. Each is a guarded update: one that no longer applies changes
/// nothing and the app is planned again.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    pub changes: Vec<Change>,
    /// When the app must be planned again even if nothing happens, such as the end of a monitor window.
    pub wake_at: Option<Timestamp>,
    /// Slots that no node can take, with the reason as users read it.
    pub unplaced: Vec<Unplaced>,
    /// Room that slots are waiting for: see [`Change::Preempt`].
    pub claims: Vec<Claim>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    CreateInstance {
        id: InstanceId,
        release: ReleaseId,
        slot: u32,
        node: NodeId,
    },
    /// The nodes of a global app are others, or are there for another release.
    SetPlaces {
        places: Places,
    },
    /// The volume is where an instance that has it is placed first, and stays there.
    PlaceVolume {
        volume: VolumeId,
        node: NodeId,
    },
    SetWanted {
        instance: InstanceId,
        wanted: Wanted,
    },
    /// An instance of another app, of a lower priority, has to go so that one of this app can run. It is unrouted first, as ever.
    Preempt {
        instance: InstanceId,
        app: AppId,
        /// Where it is.
        node: NodeId,
    },
    /// The control plane's own verdict on an instance whose node is lost.
    EndInstance {
        instance: InstanceId,
        state: InstanceState,
        reason: Reason,
    },
    SetRollout {
        rollout: RolloutId,
        state: RolloutState,
        reason: Option<Reason>,
        monitoring_since: Option<Timestamp>,
    },
    /// The progress deadline begins anew; `stepped`, because another instance of the new release became ready.
    Progress {
        rollout: RolloutId,
        ready: u32,
        stepped: bool,
    },
    /// The slots in which the new release has failed so far.
    CountFailures {
        rollout: RolloutId,
        slots: BTreeSet<u32>,
    },
    /// The rollout stands still because of a failure.
    Pause {
        rollout: RolloutId,
        reason: Reason,
    },
    /// The instances of the trial are routed: it begins now.
    BeginTrial {
        rollout: RolloutId,
        before: Vec<ReleaseRequests>,
    },
    /// The release in service from now on, and where a later rollout goes back to. None: there is nothing to go back to.
    SetStable {
        release: Option<ReleaseId>,
    },
    /// Whether a user who asks for the release before may get this one: it was in service, and has not failed since then
    /// in a rollout of its own.
    SetServed {
        release: ReleaseId,
        served: bool,
    },
    /// What every slot should run from now on.
    SetTarget {
        release: Option<ReleaseId>,
    },
    /// Starts an automatic rollout back to `to`: pending, with its start and its last progress now, and nothing ready.
    RollBack {
        failed: RolloutId,
        rollout: RolloutId,
        from: ReleaseId,
        to: ReleaseId,
    },
    /// Nothing of the app is left.
    DeleteApp,
    /// A fact for the user. The kind is dotted and stable, such as `rollout.failed`.
    Event {
        kind: &'static str,
        message: String,
    },
}

/// A slot that waits, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Unplaced {
    pub slot: u32,
    /// Counts per filter, such as `0 of 1 nodes fit: 1 has too little free memory (needs 128MiB, 64MiB free on box-1)`.
    pub message: String,
    /// The smallest change after which a node fits. None: it will have its node without one.
    pub change: Option<String>,
}

impl Unplaced {
    fn refused(slot: u32, refused: &Refused) -> Self {
        Self { slot, message: refused.facts.clone(), change: Some(refused.change.clone()) }
    }

    /// Both in one, where there is no other place for advice.
    pub fn told(&self) -> String {
        match &self.change {
            Some(change) => format!("{}; {change}", self.message),
            None => self.message.clone(),
        }
    }
}
