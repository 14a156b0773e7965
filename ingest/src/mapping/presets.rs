//! Mappings that come with Keepwell, for records of well-known systems.

use super::{Mapping, MappingError, parse};

/// A mapping that comes with Keepwell.
#[derive(Debug, Clone, Copy)]
pub struct Preset {
    /// Its name in the configuration.
    pub name: &'static str,
    /// The text of its file.
    pub text: &'static str,
    /// The text of its tests: records as the system documents them, and what they become.
    pub tests: &'static str,
}

macro_rules! presets {
    ($($name:literal),+ $(,)?) => {
        /// All presets, by name.
        pub const ALL: &[Preset] = &[$(Preset {
            name: $name,
            text: include_str!(concat!("../../presets/", $name, ".yaml")),
            tests: include_str!(concat!("../../presets/", $name, ".tests.yaml")),
        }),+];
    };
}

presets![
    "amplitude",
    "cloudevents",
    "delighted",
    "freshdesk",
    "hubspot_companies",
    "hubspot_tickets",
    "intercom",
    "jira",
    "mixpanel",
    "posthog",
    "salesforce",
    "segment",
    "snowplow",
    "stripe",
    "surveymonkey",
    "typeform",
    "zendesk",
];

impl Preset {
    /// The preset with this name.
    pub fn named(name: &str) -> Option<Self> {
        ALL.iter().find(|preset| preset.name == name).copied()
    }

    /// Its mapping.
    ///
    /// # Errors
    /// None in a release: a test reads all of them.
    pub fn mapping(self) -> Result<Mapping, MappingError> {
        parse(&format!("preset {}", self.name), self.text)
    }
}
