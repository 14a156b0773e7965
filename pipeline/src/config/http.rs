//! Where each stage serves `/metrics`, `/livez` and `/readyz`.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;

use garde::Validate;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An address to serve at, or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    /// Serve at this address.
    At(SocketAddr),
    /// Do not serve.
    Off,
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            _ => text
                .parse()
                .map(Self::At)
                .map_err(|error| format!("{text:?} is neither HOST:PORT, such as 127.0.0.1:9101, nor off: {error}")),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(address) => address.fmt(f),
            Self::Off => f.write_str("off"),
        }
    }
}

impl Serialize for Listen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Where each stage serves HTTP. The default is loopback.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// Address of `keepwell-ingest`.
    #[garde(skip)]
    pub ingest: Listen,
    /// Address of `keepwell-aggregate`.
    #[garde(skip)]
    pub aggregate: Listen,
    /// Address of `keepwell-score`.
    #[garde(skip)]
    pub score: Listen,
    /// Address of `keepwell-sink`.
    #[garde(skip)]
    pub sink: Listen,
    /// Address of `keepwell-collect`. Its doors are at `collect.listen`.
    #[garde(skip)]
    pub collect: Listen,
}

impl Default for Http {
    fn default() -> Self {
        let at = |port| Listen::At(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        Self { ingest: at(9101), aggregate: at(9102), score: at(9103), sink: at(9104), collect: at(9105) }
    }
}

impl Http {
    /// Address of the program with this stage name.
    pub fn of(&self, stage: &str) -> Listen {
        match stage {
            "ingest" => self.ingest,
            "aggregate" => self.aggregate,
            "score" => self.score,
            "sink" => self.sink,
            "collect" => self.collect,
            _ => Listen::Off,
        }
    }
}
