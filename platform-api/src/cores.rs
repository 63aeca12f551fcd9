//! What decides and keeps account between [`crate::plan`] and the outside, for the simulator: the real thing, without the database and the sockets.
//!
//! Nobody else uses it, and nothing promises that it stays as it is.

pub use crate::nodes::{News, NodeStatus, Nodes, Refusal};
pub use crate::plan::autoscale::{Demand, History, Scaling, Why, decide};
pub use crate::reconcile::{Beside, Fleet, Next, Published, Publisher, acknowledged};
pub use crate::store::node::NodeSettings;
