//! The command line once more, for a configuration that is read while everything runs.

use super::args::{self, Error, RunArgs};
use super::exit::Failure;
use super::preflight;
use crate::app;
use crate::config::{self, Config, File, Overrides, Surroundings};
use std::path::{Path, PathBuf};

/// What `run` was typed with.
#[derive(Debug, Clone)]
pub(super) struct Again {
    /// `None`: there are only flags.
    path: Option<PathBuf>,
    flags: Overrides,
    around: Surroundings,
}

impl Again {
    /// Remembers what these arguments come from.
    ///
    /// # Errors
    /// The current directory is not known.
    pub(super) fn of(args: &RunArgs) -> Result<Self, Error> {
        Ok(Self {
            path: args.shared.config.clone(),
            flags: args::overrides(args),
            around: args::surroundings()?,
        })
    }
}

impl app::Again for Again {
    fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    fn read(&self) -> Result<Option<String>, String> {
        let text = self.path.as_deref().map(config::read).transpose();
        text.map_err(|error| error.to_string())
    }

    fn build(&self, text: Option<&str>) -> Result<Config, String> {
        let file = self
            .path
            .as_ref()
            .zip(text)
            .map(|(path, text)| File::parse(path.clone(), text))
            .transpose();
        let built = file.and_then(|file| config::build(file.as_ref(), &self.flags, &self.around));
        match built {
            Ok(effective) => Ok(effective.config),
            Err(error) => {
                let details = error.details(false);
                Err(match details.is_empty() {
                    true => Failure::from(Error::from(error)).to_string(),
                    false => format!("{error}\n{details}"),
                })
            }
        }
    }

    fn check(&self, config: &Config) -> Result<(), String> {
        preflight::first_failure(config).map_err(|failure| {
            let text = failure.to_string();
            let text = text.strip_prefix("cofferdam: error: ").unwrap_or(&text);
            text.trim_end().to_owned()
        })
    }
}
