//! A configuration by its keys, for what knows them only by name.

use toml::{Table, Value};

use super::{Config, ConfigError, layers};

impl Config {
    /// This configuration, then every key of a table of sections, which messages call `origin`.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn with_table(&self, origin: &str, table: Table) -> Result<Self, ConfigError> {
        let mut layers = layers::Layers::new(&self.to_toml());
        layers.add_table(origin, table)?;
        let config = layers.into_config()?;
        config.check()?;
        Ok(config)
    }

    /// The value of `section.key`, if there is such a key.
    pub fn value(&self, path: &str) -> Option<Value> {
        let (section, key) = path.split_once('.')?;
        let table: Table = self.to_toml().parse().expect("a configuration that was just written");
        table.get(section)?.get(key).cloned()
    }
}
