//! What the spawner's loop asks its owner for.

use super::cell::StartError;
use super::completion::Watch;
use super::event::Event;
use super::freeze::Frozen;
use super::protocol::Facts;
use crate::cell::CellSpec;
use crate::config::{self, Endpoint};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What a cell will be, made from the configuration that the spawner itself has read.
#[derive(Debug)]
pub struct Planned {
    pub work: Work,
    pub facts: Facts,
}

/// What runs for a cell.
#[derive(Debug)]
pub enum Work {
    /// A server of ours, enclosed.
    Enclose(Box<CellSpec>),
    /// Connections to one that runs elsewhere.
    Dial(Endpoint),
}

/// What the spawner does from the configuration that it has read by itself: a request only says when.
pub trait Duties {
    /// Prepares the package and plans the cell with this number, whose private directory is given.
    ///
    /// # Errors
    /// Whatever keeps the cell from being planned.
    fn plan(
        &mut self,
        cell: u32,
        directory: &Path,
        watch: &mut Watch<'_>,
    ) -> Result<Planned, StartError>;

    /// Moves the audit log aside when it has grown to its limit; the log to go on with, and its size.
    ///
    /// # Errors
    /// What the file system says, or that there is no log.
    fn rotate(&mut self) -> io::Result<(OwnedFd, u64)>;

    /// What becomes readable when a file that is watched may have changed.
    fn watched(&self) -> Vec<BorrowedFd<'_>>;

    /// When [`Duties::look`] has something to do without that.
    fn due(&self) -> Option<Instant>;

    /// Reads the files that are watched where that is due, or `now` in any case; what the message
    /// process is to know of it.
    fn look(&mut self, now: bool) -> Vec<Event>;

    /// True while the operator wants nothing to run.
    fn is_off(&self) -> bool;

    /// Private directories of cells that have to end at once.
    fn doomed(&self) -> Vec<PathBuf>;

    /// Somebody wants nothing to run, from now on.
    fn switch_off(&mut self);

    /// True while what runs is to stand still; nothing is started then.
    fn is_frozen(&self) -> bool;

    /// These stand still now.
    fn frozen(&mut self, processes: Vec<Frozen>);

    /// Somebody wants the configuration to be read again; the next [`Duties::look`] does it.
    fn reload(&mut self);

    /// Puts the values that the message process knows into the files of cells: when it has `taken` them,
    /// and later where that failed. Which cells (by their private directories) are to be told, and how.
    fn hand_over(&mut self, taken: bool) -> Vec<(PathBuf, config::Signal)>;
}
