//! What cofferdam says of itself: log lines for people and machines, Prometheus metrics for dashboards.

pub mod logs;
mod metrics;
mod tally;

pub use metrics::{Figures, Kind, Metrics, Outcome};
pub use tally::Tally;
