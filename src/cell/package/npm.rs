//! Installs from the npm registry: which node and npm, the install cell, the programs afterwards.

use super::Setup;
use super::cache::Staging;
use super::error::PackageError;
use super::request::{Request, Version, Wanted};
use super::settings::{Settings, ini, read_file};
use super::tools::{find_program, is_script, real, system_cell};
use crate::cell::CellSpec;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Keys of `.npmrc` that say how the registry is reached or which versions may be taken.
/// `@scope:registry` passes as well; keys that hold a credential or run something do not.
const KEYS: &[&str] = &[
    "registry",
    "cafile",
    "ca",
    "strict-ssl",
    "proxy",
    "https-proxy",
    "http-proxy",
    "noproxy",
    "fetch-retries",
    "fetch-retry-mintimeout",
    "fetch-retry-maxtimeout",
    "fetch-timeout",
    "maxsockets",
    "before",
    "min-release-age",
    "legacy-peer-deps",
    "strict-peer-deps",
    "local-address",
];

/// node and npm of this start.
#[derive(Debug, Clone)]
pub(super) struct Node {
    /// The real path of node.
    pub(super) node: PathBuf,
    /// The directory of the npm package.
    npm: PathBuf,
}

impl Node {
    /// Finds node and npm as the command would: beside a command that is a path, else on PATH.
    pub(super) fn find(request: &Request, setup: &Setup<'_>) -> Result<Self, PackageError> {
        let missing = |what: &str| PackageError::MissingTool {
            what: what.to_owned(),
            hint: "install Node.js with npm, or put it on PATH".to_owned(),
        };
        let named = request
            .program
            .contains('/')
            .then(|| setup.cwd.join(&request.program));
        let launcher = named
            .clone()
            .or_else(|| find_program(&request.program, setup.env));
        let launcher = launcher.filter(|path| path.exists());
        let beside = named
            .and_then(|path| Some(path.parent()?.join("node")))
            .filter(|path| path.exists());
        let node = beside
            .or_else(|| find_program("node", setup.env))
            .ok_or_else(|| missing("node"))?;
        let node = Self::behind_shim(&node).ok_or_else(|| missing("node"))?;
        // `npx` is a link into the npm package; where it is a program of a version manager, npm lies
        // beside node.
        let prefix = node.parent().and_then(Path::parent);
        let npm = launcher
            .and_then(|path| real(&path))
            .and_then(|path| Some(path.parent()?.parent()?.to_owned()))
            .into_iter()
            .chain(prefix.map(|prefix| prefix.join("lib/node_modules/npm")))
            .chain(prefix.map(|prefix| prefix.join("share/nodejs/npm")))
            .find(|dir| dir.join("bin/npm-cli.js").is_file())
            .ok_or_else(|| missing("npm"))?;
        let npm = real(&npm).ok_or_else(|| missing("npm"))?;
        Ok(Self { node, npm })
    }

    /// Version managers put a program of their own in node's place; it is asked where node is.
    fn behind_shim(found: &Path) -> Option<PathBuf> {
        let path = real(found)?;
        let name = path.file_name()?.to_str()?;
        if name.starts_with("node") && !is_script(&path) {
            return Some(path);
        }
        let output = Command::new(found)
            .args(["-p", "process.execPath"])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .ok()?;
        real(Path::new(String::from_utf8(output.stdout).ok()?.trim()))
    }

    /// What decides whether an installed copy fits: packages that were built, fit one node only.
    pub(super) fn identity(&self, scripts: bool) -> String {
        let about = fs::metadata(&self.node).ok();
        match about.filter(|_| scripts) {
            Some(about) => {
                use std::os::unix::fs::MetadataExt as _;
                format!("{} {} {}", self.node.display(), about.size(), about.mtime())
            }
            None => String::new(),
        }
    }

    /// The cell that installs `request` into `staging`.
    pub(super) fn cell(
        &self,
        request: &Request,
        setup: &Setup<'_>,
        staging: &Staging,
    ) -> Result<(CellSpec, Settings), PackageError> {
        let npmrc = staging.private().join("npmrc");
        let empty = staging.private().join("npmrc.global");
        let (settings, text) = self.settings(request, setup);
        for (path, text) in [(&npmrc, text.as_str()), (&empty, "")] {
            fs::write(path, text).map_err(|source| PackageError::cache(path, source))?;
        }
        let mut args: Vec<String> = vec![
            self.node.display().to_string(),
            self.npm.join("bin/npm-cli.js").display().to_string(),
            "install".into(),
            "--no-audit".into(),
            "--no-fund".into(),
            "--omit=dev".into(),
            "--no-update-notifier".into(),
            "--no-progress".into(),
            "--save".into(),
            "--install-links".into(),
            "--logs-max=0".into(),
            // One line for each request: that is how we see that it goes on.
            "--loglevel=http".into(),
            format!("--ignore-scripts={}", !setup.packages.scripts),
            format!("--prefix={}", staging.tree().display()),
            format!("--cache={}", staging.private().join("npm").display()),
            format!("--userconfig={}", npmrc.display()),
            format!("--globalconfig={}", empty.display()),
            "--".into(),
        ];
        args.extend(request.packages.iter().map(Wanted::npm_spec));
        let mut spec = system_cell(setup, staging, &settings);
        spec.program.clone_from(&self.node);
        spec.args = args;
        spec.execute.push(self.node.clone());
        // Scripts start `node` by name.
        if let Some(dir) = self.node.parent() {
            for (_, value) in spec.env.iter_mut().filter(|(name, _)| name == "PATH") {
                value.insert_str(0, &format!("{}:", dir.display()));
            }
        }
        // npm of a distribution finds its modules beside itself.
        spec.read
            .push(self.npm.parent().unwrap_or(&self.npm).to_owned());
        if let Some(prefix) = self.node.parent().and_then(Path::parent)
            && prefix != Path::new("/usr")
            && prefix != Path::new("/")
        {
            spec.read.push(prefix.join("lib"));
        }
        for package in &request.packages {
            if let Version::File(path) = &package.version {
                spec.read.push(path.clone());
            }
        }
        Ok((spec, settings))
    }

    /// The variables of the cell and the text of its `.npmrc`.
    fn settings(&self, request: &Request, setup: &Setup<'_>) -> (Settings, String) {
        let mut settings = Settings::common(setup.env);
        let mut values: BTreeMap<String, String> = BTreeMap::new();
        let mut tokens: Vec<(String, String)> = Vec::new();
        let prefix = self
            .node
            .parent()
            .and_then(Path::parent)
            .unwrap_or(Path::new("/usr"));
        let path = |name: &str| {
            let lower = setup.env.get(&name.to_lowercase());
            lower
                .or_else(|| setup.env.get(&name.to_uppercase()))
                .map(PathBuf::from)
        };
        let files = [
            Some(self.npm.join("npmrc")),
            path("npm_config_globalconfig").or_else(|| Some(prefix.join("etc/npmrc"))),
            path("npm_config_userconfig").or_else(|| {
                setup
                    .env
                    .get("HOME")
                    .map(|home| Path::new(home).join(".npmrc"))
            }),
        ];
        for text in files
            .into_iter()
            .flatten()
            .filter_map(|path| read_file(&path))
        {
            for (_, key, value) in ini(&text) {
                let key = key.trim_end_matches("[]").to_owned();
                if is_setting(&key) {
                    values.insert(key, expand(&value, setup.env));
                } else if key.starts_with("//") {
                    tokens.push((key, value));
                }
            }
        }
        for (name, value) in setup.env {
            let lower = name.to_lowercase();
            if let Some(key) = lower.strip_prefix("npm_config_") {
                let key = key.replace('_', "-");
                if is_setting(&key) {
                    values.insert(key, value.clone());
                }
            }
        }
        for (name, value) in &request.settings {
            if let Some(key) = name.strip_prefix("npm_config_") {
                values.insert(key.replace('_', "-"), value.clone());
            }
        }
        let registry = values
            .entry("registry".to_owned())
            // The default of npm itself (npm-config(7)).
            .or_insert_with(|| "https://registry.npmjs.org/".to_owned())
            .clone();
        let mut text = String::new();
        for (key, value) in &values {
            let value = if key == "ca" || key.contains("proxy") {
                value.clone()
            } else {
                settings.clean(value, false)
            };
            if key.ends_with("registry") || key.ends_with("proxy") && key != "noproxy" {
                settings.reach(&value);
            }
            if key == "cafile" {
                settings.read.push(PathBuf::from(&value));
            }
            // A line break would start a setting of its own.
            if !value.contains(['\n', '\r']) {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "{key}={value}");
            }
        }
        // npm waits more than a minute for a registry that is not there; a start cannot.
        for (key, value) in [
            ("fetch-retries", "2"),
            ("fetch-retry-mintimeout", "1000"),
            ("fetch-retry-maxtimeout", "5000"),
        ] {
            if !values.contains_key(key) {
                let _ = writeln!(text, "{key}={value}");
            }
        }
        self.tokens(setup, &registry, &tokens, &mut settings, &mut text);
        (settings, text)
    }

    /// Credentials whose variable is named, by reference: the file of the cell holds no value.
    fn tokens(
        &self,
        setup: &Setup<'_>,
        registry: &str,
        found: &[(String, String)],
        settings: &mut Settings,
        text: &mut String,
    ) {
        let mut used = false;
        for (key, value) in found {
            let name = value
                .strip_prefix("${")
                .and_then(|rest| rest.strip_suffix('}'));
            match name.filter(|name| setup.packages.token_env.iter().any(|known| known == name)) {
                Some(name) => {
                    if let Some(secret) = setup.env.get(name) {
                        settings.env.insert(name.to_owned(), secret.clone());
                        let _ = writeln!(text, "{key}={value}");
                        used = true;
                    }
                }
                None => settings.left_out = true,
            }
        }
        if used {
            return;
        }
        // Named, and no line of .npmrc uses it: then it is the token of the registry.
        let address = registry
            .split_once("://")
            .map_or(registry, |(_, rest)| rest);
        for name in &setup.packages.token_env {
            if let Some(secret) = setup.env.get(name)
                && !name.starts_with("UV_")
                && !name.starts_with("PIP_")
            {
                settings.env.insert(name.clone(), secret.clone());
                let _ = writeln!(
                    text,
                    "//{}/:_authToken=${{{name}}}",
                    address.trim_end_matches('/')
                );
                return;
            }
        }
    }
}

fn is_setting(key: &str) -> bool {
    KEYS.contains(&key) || key.starts_with('@') && key.ends_with(":registry")
}

/// `${NAME}` as npm expands it; a name that is not set stays as it is written.
fn expand(value: &str, env: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut rest = value;
    while let Some((before, after)) = rest.split_once("${") {
        out.push_str(before);
        match after.split_once('}') {
            Some((name, tail)) => {
                match env.get(name) {
                    Some(known) => out.push_str(known),
                    None => out.push_str(&format!("${{{name}}}")),
                }
                rest = tail;
            }
            None => {
                out.push_str("${");
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}
