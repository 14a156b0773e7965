//! The raw topics.

use std::path::{Path, PathBuf};

use garde::Validate;
use keepwell_core::event::Kind;
use serde::{Deserialize, Serialize};

use super::{Encoding, Span};

/// One raw topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Topic name.
    #[garde(length(min = 1, max = 249))]
    pub topic: String,
    /// What its records contain, if they are in Keepwell's own form.
    #[garde(skip)]
    pub kind: Option<Kind>,
    /// The system whose records these are, if Keepwell has a mapping for it.
    #[garde(skip)]
    pub preset: Option<String>,
    /// A mapping file, which says what the records mean. Relative to the folder of the configuration file.
    #[garde(skip)]
    pub mapping: Option<PathBuf>,
    /// How records are encoded.
    #[serde(default)]
    #[garde(skip)]
    pub encoding: Encoding,
    /// How far events may be out of order. The watermark stays this far behind the highest event time.
    #[serde(default = "hour")]
    #[garde(skip)]
    pub bound: Span,
    /// How long after its event time an event may reach the topic. Once the topic is read to its end, the watermark
    /// stays this far behind the clock. Default: `bound`.
    #[garde(skip)]
    pub delay: Option<Span>,
    /// Whether the watermark may advance although the topic has never contained an event.
    #[serde(default)]
    #[garde(skip)]
    pub optional: bool,
    /// Rises when the topic is deleted and made again.
    #[serde(default)]
    #[garde(skip)]
    pub epoch: u32,
}

impl Source {
    /// How many of `kind`, `preset` and `mapping` are configured.
    pub(super) fn num_forms(&self) -> usize {
        [self.kind.is_some(), self.preset.is_some(), self.mapping.is_some()].into_iter().filter(|is| *is).count()
    }

    /// Makes paths relative to the folder of the configuration file.
    pub(super) fn resolve(&mut self, config: &Path) {
        if let (Some(mapping), Some(folder)) = (&mut self.mapping, config.parent()) {
            *mapping = folder.join(&mapping);
        }
    }

    /// The configured delay, or the bound.
    pub fn delay(&self) -> Span {
        self.delay.unwrap_or(self.bound)
    }
}

fn hour() -> Span {
    Span::from_secs(3600)
}
