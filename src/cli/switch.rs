//! `kill` and `resume`: the switch of a server, for all of its instances and for those to come.

use super::args::{self, SwitchArgs};
use super::exit::{self, Exit, Failure};
use super::printable::printable;
use crate::admin::switch::Switch;
use crate::app;
use std::path::PathBuf;
use std::process::ExitCode;

/// Switches off: the tools that are named, or everything.
pub(super) fn kill(args: &SwitchArgs) -> Result<ExitCode, Failure> {
    turn(args, |switch| {
        if args.tool.is_empty() {
            switch.off = true;
        }
        switch.tools.extend(args.tool.iter().cloned());
    })
}

/// Switches on again: the tools that are named, or everything.
pub(super) fn resume(args: &SwitchArgs) -> Result<ExitCode, Failure> {
    turn(args, |switch| {
        if args.tool.is_empty() {
            *switch = Switch::default();
        }
        for tool in &args.tool {
            switch.tools.remove(tool);
        }
    })
}

fn turn(args: &SwitchArgs, change: impl FnOnce(&mut Switch)) -> Result<ExitCode, Failure> {
    let path = path(args)?;
    let switch = app::change_switch(&path, change).map_err(|error| {
        Failure::new(Exit::CONFIG, error.to_string())
            .hint("run it as the user that the server runs as, or name the file with --file")
    })?;
    let server = if switch.off { "off" } else { "on" };
    let mut text = format!("{}: the server is switched {server}\n", path.display());
    for tool in &switch.tools {
        text.push_str(&format!("the tool {} is switched off\n", printable(tool)));
    }
    text.push_str("instances that run see it at once, others when they start\n");
    Ok(exit::print(&text))
}

fn path(args: &SwitchArgs) -> Result<PathBuf, Failure> {
    if let Some(file) = &args.file {
        return Ok(file.clone());
    }
    Ok(app::switch_path(&args::resolve_named(args)?))
}
