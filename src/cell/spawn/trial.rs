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
    match enter(Layer::Namespaces) {
        Ok(report) => (found(&report, Layer::Namespaces), report.user),
        Err(error) => (Err(format!("they cannot be tried: {error}")), None),
    }
}

/// The same for the supervisor of a server without namespaces.
///
/// # Errors
/// What the launcher says of the layer, or that it could not be asked.
pub fn try_supervision() -> Result<(), String> {
    match enter(Layer::Supervision) {
        Ok(report) => found(&report, Layer::Supervision),
        Err(error) => Err(format!("it cannot be tried: {error}")),
    }
}

fn found(report: &LayerReport, wanted: Layer) -> Result<(), String> {
    let layers = report.layers.iter().cloned();
    let found = layers
        .into_iter()
        .find_map(|(layer, state)| (layer == wanted).then_some(state));
    match found {
        Some(LayerState::Enforced) => Ok(()),
        Some(LayerState::Missing(reason)) => Err(reason),
        None => Err("it cannot be tried: the launcher does not answer".to_owned()),
    }
}

/// The report of a cell that grants nothing; its program does not exist, so it ends there.
fn enter(wanted: Layer) -> Result<LayerReport, StartError> {
    let spec = CellSpec {
        program: "/nonexistent".into(),
        cwd: "/".into(),
        namespaces: wanted == Layer::Namespaces,
        supervision: wanted == Layer::Supervision,
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
