//! The enclosure: what a server may touch, who starts it, and how the whole tree ends.

pub mod package;
mod report;
pub mod spawn;
mod spec;

pub use report::{Layer, LayerReport, LayerState};
pub use spec::CellSpec;
