//! One binary for every behaviour that is seen from outside.

mod cli;
mod config;
mod rig;
