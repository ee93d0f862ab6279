//! The settings of pip and uv that say where the index is and how it is reached.

use super::Setup;
use super::error::PackageError;
use super::request::Request;
use super::settings::{Settings, config_home, ini, read_file};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// pip: the option, and whether it names files.
const PIP: &[(&str, Kind)] = &[
    ("index-url", Kind::Address),
    ("extra-index-url", Kind::Address),
    ("find-links", Kind::Address),
    ("no-index", Kind::Plain),
    ("trusted-host", Kind::Plain),
    ("proxy", Kind::Proxy),
    ("cert", Kind::File),
    ("constraint", Kind::File),
    ("timeout", Kind::Plain),
    ("default-timeout", Kind::Plain),
    ("retries", Kind::Plain),
    ("pre", Kind::Plain),
    ("prefer-binary", Kind::Plain),
    ("uploaded-prior-to", Kind::Plain),
];

/// uv: variables.
const UV: &[(&str, Kind)] = &[
    ("UV_DEFAULT_INDEX", Kind::Address),
    ("UV_INDEX", Kind::Address),
    ("UV_INDEX_URL", Kind::Address),
    ("UV_EXTRA_INDEX_URL", Kind::Address),
    ("UV_FIND_LINKS", Kind::Address),
    ("UV_INDEX_STRATEGY", Kind::Plain),
    ("UV_INSECURE_HOST", Kind::Plain),
    ("UV_NATIVE_TLS", Kind::Plain),
    ("UV_SYSTEM_CERTS", Kind::Plain),
    ("UV_HTTP_TIMEOUT", Kind::Plain),
    ("UV_HTTP_RETRIES", Kind::Plain),
    ("UV_EXCLUDE_NEWER", Kind::Plain),
    ("UV_PRERELEASE", Kind::Plain),
    ("UV_CONSTRAINT", Kind::File),
];

/// uv.toml: the same, and `[[index]]` as a whole.
const UV_FILE: &[&str] = &[
    "index",
    "index-url",
    "extra-index-url",
    "find-links",
    "no-index",
    "index-strategy",
    "allow-insecure-host",
    "native-tls",
    "system-certs",
    "exclude-newer",
    "prerelease",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Addresses or local directories, separated by space.
    Address,
    Proxy,
    File,
    Plain,
}

/// The variables of the install cell. `private` is where a filtered `uv.toml` is written.
pub(super) fn collect(
    request: &Request,
    setup: &Setup<'_>,
    private: &Path,
    uv: bool,
) -> Result<Settings, PackageError> {
    let mut settings = Settings::common(setup.env);
    if uv {
        collect_uv(request, setup, private, &mut settings)?;
    } else {
        collect_pip(request, setup, &mut settings);
    }
    // The index of both tools when nothing is said.
    settings.reach("https://pypi.org/simple");
    // Named variables, such as UV_INDEX_CORP_PASSWORD.
    for name in &setup.packages.token_env {
        if let Some(value) = setup.env.get(name) {
            settings.reach_if_address(value);
            settings.env.insert(name.clone(), value.clone());
        }
    }
    Ok(settings)
}

fn collect_pip(request: &Request, setup: &Setup<'_>, settings: &mut Settings) {
    let mut values: BTreeMap<String, (String, bool)> = BTreeMap::new();
    for text in pip_files(setup).iter().filter_map(|path| read_file(path)) {
        let items = ini(&text);
        for wanted in ["global", "install"] {
            for (_, key, value) in items.iter().filter(|(section, _, _)| section == wanted) {
                values.insert(key.replace('_', "-").to_lowercase(), (value.clone(), false));
            }
        }
    }
    for (name, value) in setup.env {
        if let Some(key) = name.strip_prefix("PIP_") {
            let named = setup.packages.token_env.iter().any(|known| known == name);
            values.insert(key.replace('_', "-").to_lowercase(), (value.clone(), named));
        }
    }
    for (name, value) in &request.settings {
        // `uvx` without uv: its options mean the same to pip.
        let key = match name.as_str() {
            "PIP_INDEX_URL" | "UV_DEFAULT_INDEX" => "index-url",
            "UV_INDEX" | "UV_EXTRA_INDEX_URL" => "extra-index-url",
            "UV_PRERELEASE" if value == "allow" => "pre",
            _ => continue,
        };
        let value = value
            .split_once('=')
            .filter(|(name, _)| !name.contains(':'))
            .map_or(value.as_str(), |(_, v)| v);
        let value = if key == "pre" { "1" } else { value };
        values.insert(key.to_owned(), (value.to_owned(), false));
    }
    for (option, kind) in PIP {
        if let Some((value, named)) = values.get(*option) {
            let name = format!("PIP_{}", option.replace('-', "_").to_uppercase());
            insert(settings, name, value, *kind, *named);
        }
    }
    let env = &mut settings.env;
    // An index that is not there is noticed in seconds; what the user set stays.
    env.entry("PIP_RETRIES".to_owned())
        .or_insert_with(|| "2".to_owned());
    if !env.contains_key("PIP_DEFAULT_TIMEOUT") {
        env.entry("PIP_TIMEOUT".to_owned())
            .or_insert_with(|| "15".to_owned());
    }
    env.insert("PIP_CONFIG_FILE".to_owned(), "/dev/null".to_owned());
}

/// pip's files, the strongest last (pip: "Configuration files").
fn pip_files(setup: &Setup<'_>) -> Vec<PathBuf> {
    if setup
        .env
        .get("PIP_CONFIG_FILE")
        .is_some_and(|path| path == "/dev/null")
    {
        return Vec::new();
    }
    let mut files = vec![
        PathBuf::from("/etc/xdg/pip/pip.conf"),
        PathBuf::from("/etc/pip.conf"),
    ];
    if let Some(home) = setup.env.get("HOME") {
        files.push(Path::new(home).join(".pip/pip.conf"));
    }
    files.extend(config_home(setup.env).map(|dir| dir.join("pip/pip.conf")));
    files.extend(setup.env.get("PIP_CONFIG_FILE").map(PathBuf::from));
    files
}

fn collect_uv(
    request: &Request,
    setup: &Setup<'_>,
    private: &Path,
    settings: &mut Settings,
) -> Result<(), PackageError> {
    let from_command = |name: &str| request.settings.iter().find(|(known, _)| known == name);
    for (name, kind) in UV {
        let named = setup.packages.token_env.iter().any(|known| known == name);
        let value = from_command(name)
            .map(|(_, value)| value)
            .or_else(|| setup.env.get(*name));
        if let Some(value) = value {
            insert(settings, (*name).to_owned(), value, *kind, named);
        }
    }
    let path = private.join("uv.toml");
    let text = uv_file(setup, settings);
    fs::write(&path, text).map_err(|source| PackageError::cache(&path, source))?;
    for (name, value) in [
        ("UV_CONFIG_FILE", path.display().to_string()),
        ("UV_CACHE_DIR", private.join("uv").display().to_string()),
        ("UV_PYTHON_DOWNLOADS", "never".to_owned()),
        ("UV_NO_PROGRESS", "1".to_owned()),
    ] {
        settings.env.insert(name.to_owned(), value);
    }
    Ok(())
}

/// The user's `uv.toml`, or else the system's, with nothing but what says where the index is.
fn uv_file(setup: &Setup<'_>, settings: &mut Settings) -> String {
    let files = setup
        .env
        .get("UV_CONFIG_FILE")
        .map(PathBuf::from)
        .into_iter()
        .chain(config_home(setup.env).map(|dir| dir.join("uv/uv.toml")))
        .chain([PathBuf::from("/etc/uv/uv.toml")]);
    let found = files
        .filter_map(|path| read_file(&path))
        .find_map(|text| text.parse::<toml::Table>().ok());
    let Some(found) = found else {
        return String::new();
    };
    let mut kept = toml::Table::new();
    for (key, mut value) in found {
        if UV_FILE.contains(&key.as_str()) {
            clean_toml(&mut value, settings);
            kept.insert(key, value);
        }
    }
    kept.to_string()
}

/// Cleans every address in `value` and notes its port.
fn clean_toml(value: &mut toml::Value, settings: &mut Settings) {
    match value {
        toml::Value::String(text) if text.contains("://") || text.starts_with('/') => {
            *text = settings.clean(text, false);
            settings.reach(text);
        }
        toml::Value::Array(items) => items.iter_mut().for_each(|item| clean_toml(item, settings)),
        toml::Value::Table(table) => {
            table
                .iter_mut()
                .for_each(|(_, item)| clean_toml(item, settings));
        }
        _ => {}
    }
}

fn insert(settings: &mut Settings, name: String, value: &str, kind: Kind, named: bool) {
    let value = match kind {
        Kind::Address => {
            let value = settings.clean(value, named);
            settings.reach(&value);
            value
        }
        Kind::Proxy => {
            settings.reach(value);
            value.to_owned()
        }
        Kind::File => {
            settings
                .read
                .extend(value.split_whitespace().map(PathBuf::from));
            value.to_owned()
        }
        Kind::Plain => value.to_owned(),
    };
    settings.env.insert(name, value);
}
