//! What another configuration would change in a run that goes on.

use toml::Table;

use super::Config;

/// What the state of a run belongs to: sections, and keys.
const FIXED: [&str; 3] = ["data", "model", "train.seed"];
/// The key among those that only says where the text lies.
const PLACE: &str = "data.text";

/// The keys in which two configurations differ, as `key: was A, now B`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Those without which the state of a run means something else.
    pub fixed: Vec<String>,
    /// Those that a run may go on with.
    pub free: Vec<String>,
}

impl Changes {
    /// Between what a run had and what is wanted of it. Where the text lies is no change: what it
    /// holds is compared elsewhere.
    pub fn between(had: &Config, wanted: &Config) -> Self {
        let table = |config: &Config| -> Table {
            config.to_toml().parse().expect("a configuration that was just written")
        };
        let (had, wanted) = (table(had), table(wanted));
        let mut changes = Self::default();
        for (section, keys) in &had {
            for (key, was) in keys.as_table().into_iter().flatten() {
                let now = &wanted[section][key];
                let path = format!("{section}.{key}");
                if was == now || path == PLACE {
                    continue;
                }
                let fixed = FIXED.contains(&section.as_str()) || FIXED.contains(&path.as_str());
                let list = if fixed { &mut changes.fixed } else { &mut changes.free };
                list.push(format!("{path}: was {was}, now {now}"));
            }
        }
        changes
    }
}
