//! The configuration of a node: one TOML file, read strictly, checked into [`NodeConfig`]. Knows
//! the rules between keys; opens no socket and touches no directory.

mod check;
mod endpoint;
mod error;
mod file;
pub mod node_config;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub use endpoint::Endpoint;
pub use error::ConfigError;
pub use file::{ConfigFile, ControllerEntry, NodeSection, RoleName};
pub use node_config::{LogSettings, NodeConfig};

/// Values that the command line or the environment puts over the file's.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    pub data_dir: Option<PathBuf>,
}

impl NodeConfig {
    /// Reads and checks the file at `path`.
    pub fn load(path: &Path, overrides: Overrides) -> Result<NodeConfig, ConfigError> {
        let bytes = std::fs::read(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        match std::str::from_utf8(&bytes) {
            Ok(text) => NodeConfig::parse(path, text, overrides),
            Err(error) => Err(ConfigError::not_text(path, &bytes[..error.valid_up_to()])),
        }
    }

    /// Checks the text of the file at `path`, which is only named in errors.
    pub fn parse(path: &Path, text: &str, overrides: Overrides) -> Result<NodeConfig, ConfigError> {
        let mut file: ConfigFile =
            toml::from_str(text).map_err(|error| ConfigError::syntax(path, text, &error))?;
        if let Some(data_dir) = overrides.data_dir {
            file.node.data_dir = Some(data_dir);
        }
        check::check(&file).map_err(|problem| ConfigError::key(path, text, problem))
    }
}
