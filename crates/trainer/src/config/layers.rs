//! Files and assignments laid over the configuration that is compiled in.

use toml::{Table, Value};

use super::{Config, ConfigError};

/// A table with every key, into which files and assignments write.
pub(super) struct Layers {
    table: Table,
}

impl Layers {
    /// Starts from the text of a complete configuration.
    pub(super) fn new(complete: &str) -> Self {
        let table = complete.parse().expect("the configuration compiled in is TOML");
        Self { table }
    }

    /// Writes every key of a TOML document over what is there.
    pub(super) fn add_file(&mut self, origin: &str, text: &str) -> Result<(), ConfigError> {
        let syntax = |error: toml::de::Error| ConfigError::Syntax {
            origin: origin.to_owned(),
            message: error.to_string().trim_end().to_owned(),
        };
        self.add_table(origin, text.parse().map_err(syntax)?)
    }

    /// Writes every key of a table of sections over what is there.
    pub(super) fn add_table(&mut self, origin: &str, table: Table) -> Result<(), ConfigError> {
        for (section, content) in table {
            match content {
                Value::Table(keys) if self.table.contains_key(&section) => {
                    for (key, value) in keys {
                        self.write(origin, &section, &key, value)?;
                    }
                }
                content if self.table.contains_key(&section) => {
                    return Err(wrong_type(origin, &section, "a section", &content));
                }
                _ => return Err(self.unknown(origin, &section)),
            }
        }
        Ok(())
    }

    /// Writes one `section.key=value`. The value is TOML, or the text itself.
    pub(super) fn assign(&mut self, assignment: &str) -> Result<(), ConfigError> {
        let bad = || ConfigError::BadAssignment { argument: assignment.to_owned() };
        let (path, text) = assignment.split_once('=').ok_or_else(bad)?;
        let (section, key) = path.trim().split_once('.').ok_or_else(bad)?;
        let plain = || Value::String(text.to_owned());
        let value = match self.known(section, key) {
            // A path needs no quotes, even if it reads as a number.
            Some(Value::String(_)) if !text.trim_start().starts_with(['"', '\'']) => plain(),
            _ => format!("value = {text}")
                .parse::<Table>()
                .ok()
                .and_then(|mut table| table.remove("value"))
                .unwrap_or_else(plain),
        };
        self.write("--set", section, key, value)
    }

    /// The configuration that came of it.
    pub(super) fn into_config(self) -> Result<Config, ConfigError> {
        serde_path_to_error::deserialize(Value::Table(self.table)).map_err(|error| {
            ConfigError::UnknownWord {
                key: error.path().to_string(),
                message: error.inner().message().to_owned(),
            }
        })
    }

    fn known(&self, section: &str, key: &str) -> Option<&Value> {
        self.table.get(section)?.get(key)
    }

    fn write(
        &mut self,
        origin: &str,
        section: &str,
        key: &str,
        value: Value,
    ) -> Result<(), ConfigError> {
        let path = format!("{section}.{key}");
        let Some(slot) = self.table.get_mut(section).and_then(|keys| keys.get_mut(key)) else {
            return Err(self.unknown(origin, &path));
        };
        let value = match (&*slot, value) {
            (Value::Float(_), Value::Integer(whole)) => Value::Float(whole as f64),
            (Value::Integer(_), Value::Integer(whole)) if whole < 0 => {
                let got = Value::Integer(whole);
                return Err(wrong_type(origin, &path, "a whole number of at least 0", &got));
            }
            (_, value) => value,
        };
        if !slot.same_type(&value) {
            return Err(wrong_type(origin, &path, type_name(slot), &value));
        }
        *slot = value;
        Ok(())
    }

    fn unknown(&self, origin: &str, key: &str) -> ConfigError {
        let sections = self.table.iter().flat_map(|(section, content)| {
            let keys = content.as_table().into_iter().flat_map(Table::keys);
            let paths = keys.map(move |key| format!("{section}.{key}"));
            std::iter::once(section.clone()).chain(paths)
        });
        // A key in the wrong section is nearer than a word that merely looks alike.
        let last = |path: &str| path.rsplit('.').next().unwrap_or(path).to_owned();
        let likeness = |path: &String| {
            let whole = strsim::jaro_winkler(key, path);
            whole.max(strsim::jaro_winkler(&last(key), &last(path)) - 0.01)
        };
        let nearest = sections
            .map(|path| (likeness(&path), path))
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .filter(|(likeness, _)| *likeness > 0.7)
            .map(|(_, path)| path);
        ConfigError::UnknownKey { origin: origin.to_owned(), key: key.to_owned(), nearest }
    }
}

fn wrong_type(origin: &str, key: &str, expected: &'static str, got: &Value) -> ConfigError {
    let got = match got {
        Value::Table(_) => "a section".to_owned(),
        got => format!("{} {got}", type_name(got)),
    };
    ConfigError::WrongType { origin: origin.to_owned(), key: key.to_owned(), expected, got }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a text",
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a number",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::Table(_) => "a section",
    }
}
