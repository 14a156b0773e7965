//! Which measures of the windows a row keeps.

use std::fmt;

use keepwell_core::schema::window::Wanted;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::Span;

/// Measures that a row keeps. In the file: the name of a set or measure, such as `usage`, or a map:
/// `{of: [uses, nps], windows: [28d], previous: true}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Measures {
    /// Names of sets or measures.
    pub of: Vec<String>,
    /// Windows of which they are kept. Empty: all.
    pub windows: Vec<Span>,
    /// Whether those of the window of equal length before are kept, too.
    pub previous: bool,
}

/// The map form.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Choice {
    of: Vec<String>,
    #[serde(default)]
    windows: Vec<Span>,
    #[serde(default)]
    previous: bool,
}

impl Measures {
    /// A set or measure over all windows.
    pub fn of(name: &str) -> Self {
        Self { of: vec![name.to_owned()], windows: Vec::new(), previous: false }
    }

    pub(super) fn wanted(&self) -> Wanted {
        let Self { of, windows, previous } = self;
        Wanted { of: of.clone(), windows: windows.iter().map(ToString::to_string).collect(), with_previous: *previous }
    }
}

impl<'de> Deserialize<'de> for Measures {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;

        impl<'de> Visitor<'de> for Form {
            type Value = Measures;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a set or measure, such as `usage`, or {of: [uses], windows: [28d], previous: true}")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Measures, E> {
                Ok(Measures::of(name))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Measures, A::Error> {
                let Choice { of, windows, previous } = Choice::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Measures { of, windows, previous })
            }
        }

        deserializer.deserialize_any(Form)
    }
}
