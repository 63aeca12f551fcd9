//! What decides in the worker, for the simulator: without tasks, guests and sockets.
//!
//! Nobody else uses it, and nothing promises that it stays as it is.

pub use crate::session::{Verdict, after_a_restart, judge};
pub use crate::supervisor::{
    Attempts, Board, ChainKey, Order, Step, exit_code, final_report, given_up, order_of, plan, report,
    successor_after, waiting,
};
