//! The schema registry of sources whose records name a schema.

use garde::Validate;
use serde::{Deserialize, Serialize};

use super::{Secret, Span};

/// How the records of a source are encoded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// JSON.
    #[default]
    Json,
    /// Confluent's frame: a zero byte, the id of a schema, and Avro or JSON by that schema. A record without the frame is JSON.
    Confluent,
}

/// A schema registry with Confluent's API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Validate)]
#[serde(deny_unknown_fields)]
pub struct Registry {
    /// Address of the API, without `/schemas`.
    #[garde(custom(of_http))]
    pub url: String,
    /// User name.
    #[garde(skip)]
    pub user: Option<String>,
    /// Password of the user.
    #[garde(skip)]
    pub password: Option<Secret>,
    /// Time limit for an answer.
    #[serde(default = "five_seconds")]
    #[garde(skip)]
    pub timeout: Span,
}

fn five_seconds() -> Span {
    Span::from_secs(5)
}

fn of_http(url: &str, _: &()) -> garde::Result {
    let is_http = url::Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let has_user = url::Url::parse(url).is_ok_and(|url| !url.username().is_empty() || url.password().is_some());
    match (is_http, has_user) {
        (true, false) => Ok(()),
        (true, true) => Err(garde::Error::new("must not hold a user; `user` and `password` do")),
        (false, _) => Err(garde::Error::new("must be http://HOST:PORT or https://HOST")),
    }
}
