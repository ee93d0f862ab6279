//! A configuration for unit tests, from the same text that a user would write.

use super::{Config, File, Overrides, Surroundings, build};

/// What that text is to root in `/`, as `/etc/t.toml` and without flags.
pub(crate) fn sample(toml: &str) -> Config {
    let file = File::parse("/etc/t.toml", toml).unwrap_or_else(|e| panic!("{e} in {toml}"));
    let around = Surroundings {
        directory: "/".into(),
        home: Some("/root".into()),
        ..Surroundings::default()
    };
    build(Some(&file), &Overrides::default(), &around)
        .unwrap_or_else(|e| panic!("{e} in {toml}"))
        .config
}
