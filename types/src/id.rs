//! Immutable identifiers. Names are aliases that users choose; ids are what rows refer to.
//!
//! Every id is a UUIDv7, so that ids made later sort later.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident;)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A new id, greater than the ones that this process made before.
            #[allow(clippy::new_without_default, reason = "an id out of nowhere is never a default")]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }

            pub const fn from_uuid(id: Uuid) -> Self {
                Self(id)
            }

            pub const fn as_uuid(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    )+};
}

ids! {
    /// A tenant.
    NamespaceId;
    /// What a user deploys and routes to.
    AppId;
    /// An immutable, numbered pair of artifact and settings of an app.
    ReleaseId;
    /// The moving of an app to a release.
    RolloutId;
    /// One run of a release in a slot on a node.
    InstanceId;
    /// A registered computer.
    NodeId;
    /// One process of a worker.
    ProcessId;
    /// A folder that outlives instances. An id is never used again, so a volume never shows what another one held.
    VolumeId;
    /// A run to completion.
    JobId;
    /// What starts jobs at planned times.
    ScheduleId;
    /// A push, and what is made of it.
    BuildId;
    /// A command that somebody runs in a container.
    ExecId;
    /// A bearer token (not its secret).
    TokenId;
    /// Somebody who may be a member of namespaces and has tokens. A name can be given again, an id never is.
    UserId;
    /// One value of a secret. It is never used for another value, not even of a secret that takes the name of a removed one.
    SecretVersionId;
}

/// No process in particular.
impl Default for ProcessId {
    fn default() -> Self {
        Self(Uuid::nil())
    }
}

impl JobId {
    /// Whose a job's runs are where instances are counted by app: on nodes, and among watchers. Ids are never used twice, so it is no app's.
    pub const fn as_owner(self) -> AppId {
        AppId::from_uuid(self.as_uuid())
    }
}
