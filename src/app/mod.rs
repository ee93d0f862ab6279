//! The only place that wires everything.
//!
//! Order of a start: spawner → server (it starts while we go on) → policy, audit, admin → the loop.

mod drain;
mod lane;
mod stdio;

use crate::admin::{self, Facts, Health};
use crate::audit::Log;
use crate::cell::spawn::{Mode, Spawner};
use crate::cli::Exit;
use crate::config::{Config, EnvRule};
use crate::policy::{Policy, scrub::Scrubber};
use crate::proxy::Session;
use crate::secret::Secret;
use crate::telemetry::Metrics;
use std::ffi::OsString;
use std::sync::Arc;
