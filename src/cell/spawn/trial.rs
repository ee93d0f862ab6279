//! Enters a cell for nothing but to see which layers it gets: `doctor` tells what was tried.

use super::cell::{Launched, StartError};
use crate::cell::{CellSpec, Layer, LayerReport, LayerState};
use rustix::process::{WaitOptions, getpid, waitpid};
use std::process::Stdio;

/// Whether a server would have namespaces of its own here, and the uid that it would have when nothing
/// else is asked for. Blocks for the few milliseconds of a start.
///
/// # Errors
/// What the launcher says of the layer, or that it could not be asked.
pub fn try_namespaces() -> (Result<(), String>, Option<u32>) {
    match enter() {
        Ok(report) => (found(&report), report.user),
        Err(error) => (Err(format!("they cannot be tried: {error}")), None),
    }
}

fn found(report: &LayerReport) -> Result<(), String> {
    let layers = report.layers.iter().cloned();
    let found = layers
        .into_iter()
        .find_map(|(layer, state)| (layer == Layer::Namespaces).then_some(state));
    match found {
        Some(LayerState::Enforced) => Ok(()),
        Some(LayerState::Missing(reason)) => Err(reason),
        None => Err("they cannot be tried: the launcher does not answer".to_owned()),
    }
}

/// The report of a cell that grants nothing; its program does not exist, so it ends there.
fn enter() -> Result<LayerReport, StartError> {
    let spec = CellSpec {
        program: "/nonexistent".into(),
        cwd: "/".into(),
        namespaces: true,
        user: crate::cell::plan::usual_account(),
        optional: Layer::ALL.into(),
        parent: getpid().as_raw_nonzero().get(),
        ..CellSpec::default()
    };
    let launched = Launched::start(
        &spec,
        Stdio::null(),
        Stdio::null(),
        Stdio::null(),
        None,
        None,
    )?;
    let pid = launched.pid;
    let report = launched.entered();
    // It ends by itself; with what code does not matter.
    waitpid(Some(pid), WaitOptions::empty()).ok();
    Ok(report.unwrap_or_default())
}
