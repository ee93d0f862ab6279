//! One binary for every behaviour that is seen from outside.
//!
//! The modules are marked as tests so that the lints know their helpers as such.

#[cfg(test)]
mod cli;
#[cfg(test)]
mod config;
#[cfg(test)]
mod rig;
