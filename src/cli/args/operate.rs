//! Flags of the commands that talk to what runs.

use crate::config::TimeSpan;
use clap::Args;
use std::path::PathBuf;

/// Which instances a command is for.
#[derive(Debug, Clone, Default, Args)]
pub struct WhichArgs {
    /// Name of the server, as `run` shows it [default: the only one that runs]
    pub name: Option<String>,
    /// Configuration file of the server, in place of its name
    #[arg(short, long, value_name = "FILE", conflicts_with = "name")]
    pub config: Option<PathBuf>,
    /// Only the instance with this process number
    #[arg(long, value_name = "PID")]
    pub pid: Option<i32>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Flags of `status`.
#[derive(Debug, Clone, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    pub which: WhichArgs,
    /// Look again and again, every SECONDS [default: 1]
    #[arg(short, long, value_name = "SECONDS", num_args = 0..=1, require_equals = true,
          default_missing_value = "1", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub watch: Option<u64>,
}

/// Flags of `drain`.
#[derive(Debug, Clone, Args)]
pub struct DrainArgs {
    #[command(flatten)]
    pub which: WhichArgs,
    /// Wait no longer than this for what is open [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = super::unit::<TimeSpan>)]
    pub within: Option<TimeSpan>,
}

/// Flags of `kill` and `resume`.
#[derive(Debug, Clone, Args)]
pub struct SwitchArgs {
    #[command(flatten)]
    pub which: WhichArgs,
    /// The switch file itself, whatever runs
    #[arg(long, value_name = "FILE", conflicts_with_all = ["name", "config", "pid"])]
    pub file: Option<PathBuf>,
    /// Only this tool, and not the whole server
    #[arg(long, value_name = "NAME")]
    pub tool: Vec<String>,
}
