//! Training through burn-train's `Learner`.
//!
//! [`model`] is what the learner trains, [`strategy`] the loop of truncated back-propagation
//! through time, [`metrics`] what burn-train is told of it.

pub mod adamw;
pub mod clipping;
pub mod loader;
pub mod metrics;
pub mod model;
pub mod optimizer_state;
pub mod schedule;
pub mod strategy;
