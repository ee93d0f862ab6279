//! What runs in one cell: a package is prepared where the command runs one, then the cell is planned.

use crate::cell;
use crate::cell::package::{self, INSTALL_LIMIT, InCell, Prepared, Setup};
use crate::cell::spawn::{Facts, Planned, StartError, Watch, Work};
use crate::cell::{CellSpec, Layer};
use crate::config::Config;
use std::collections::BTreeMap;
use std::path::Path;

/// One cell: a package is prepared when the command runs one, then the cell is planned.
pub(super) fn plan(
    config: &Config,
    command: &[String],
    tmp: &Path,
    watch: &mut Watch<'_>,
) -> Result<Planned, StartError> {
    if let Some(upstream) = &config.server.upstream
        && config.server.is_elsewhere()
    {
        let work = Work::Dial(upstream.url.clone());
        let facts = Facts::default();
        return Ok(Planned { work, facts });
    }
    let mut facts = Facts {
        name: Some(config.server.name.clone()),
        version: None,
    };
    let spec = match prepare(config, command, watch)? {
        Some(package) => {
            facts = Facts {
                name: Some(package.name.clone()),
                version: Some(package.version.clone()),
            };
            plan_package(config, &package, tmp)?
        }
        None => plan_command(&config.cell, command, tmp)?,
    };
    for warning in &spec.warnings {
        watch.progress(format!("warning: {warning}"));
    }
    let work = Work::Enclose(Box::new(spec));
    Ok(Planned { work, facts })
}

/// Installs the package that the command names, or finds it in the cache; `None` for a plain command.
fn prepare(
    config: &Config,
    command: &[String],
    watch: &mut Watch<'_>,
) -> Result<Option<Prepared>, StartError> {
    let refused = |error: package::PackageError| {
        let hint = error.hint();
        let message = if hint.is_empty() {
            error.to_string()
        } else {
            format!("{error}; {hint}")
        };
        StartError::Refused {
            exit_code: error.exit_code(),
            message,
        }
    };
    let here = |source| StartError::Os {
        doing: "find the current directory",
        source,
    };
    let cwd = std::env::current_dir().map_err(here)?;
    let Some(request) = package::detect(command, &cwd).map_err(refused)? else {
        return Ok(None);
    };
    let env: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let optional: Vec<Layer> = config
        .cell
        .optional
        .iter()
        .filter_map(|name| Layer::named(name))
        .collect();
    let setup = Setup {
        packages: &config.packages,
        env: &env,
        cwd: &cwd,
        cell_write: &config.cell.write,
        optional: &optional,
        limit: INSTALL_LIMIT,
    };
    let teller = watch.teller();
    package::prepare(&request, &setup, &mut InCell { watch }, &mut |line| {
        teller.tell(line);
    })
    .map(Some)
    .map_err(refused)
}

fn plan_package(config: &Config, package: &Prepared, tmp: &Path) -> Result<CellSpec, StartError> {
    let mut cell = config.cell.clone();
    cell.read.extend(package.read.iter().cloned());
    let mut spec = plan_command(&cell, &package.command, tmp)?;
    // The sealed entry and its runtime are trees, and nothing of them can be written in the cell.
    spec.execute.extend(package.execute.iter().cloned());
    // What the runtime needs to start from a sealed tree; the operator's own settings win.
    for (name, value) in &package.env {
        if !spec.env.iter().any(|(there, _)| there == name) {
            spec.env.push((name.clone(), value.clone()));
        }
    }
    Ok(spec)
}

fn plan_command(
    cell: &crate::config::Cell,
    command: &[String],
    tmp: &Path,
) -> Result<CellSpec, StartError> {
    cell::plan(cell, command, tmp, &|name| std::env::var_os(name)).map_err(|error| {
        StartError::Refused {
            exit_code: error.exit_code(),
            message: error.to_string(),
        }
    })
}
