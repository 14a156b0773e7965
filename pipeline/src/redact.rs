//! Text that people may see: it contains no secret and no terminal control characters.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// Text that replaces a secret.
const HIDDEN: &str = "(hidden)";

/// Whether a setting with this name contains a secret, by the names used in librdkafka and the object stores.
pub fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace(['-', '.'], "_");
    let words = [
        "password",
        "passwd",
        "passphrase",
        "secret",
        "token",
        "credential",
        "private",
        "jaas",
        "access_key",
        "sas_key",
        "customer_key",
    ];
    let is_named = words.iter().any(|word| name.contains(word));
    is_named || name.ends_with("key") || name.ends_with("_pem") || name.ends_with("oauthbearer_config")
}

/// The value of a setting, hidden if it is a secret.
fn value<'v>(name: &str, value: &'v str) -> Cow<'v, str> {
    if is_secret(name) { Cow::Borrowed(HIDDEN) } else { url(value) }
}

/// A URL without its parts that may be secret: user, password and query. Other text is unchanged.
pub fn url(text: &str) -> Cow<'_, str> {
    let Some((scheme, rest)) = text.split_once("://") else {
        // This may be a misspelt URL.
        return match text.rsplit_once('@') {
            Some((user, host)) if user.contains(':') => Cow::Owned(format!("{HIDDEN}@{host}")),
            _ => Cow::Borrowed(text),
        };
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    // A password may contain an at sign, or a slash that was not escaped.
    let (has_user, authority, path) = match (authority.rsplit_once('@'), path.rsplit_once('@')) {
        (Some((_, host)), _) => (true, host, path),
        (None, Some((_, host))) if authority.contains(':') && !path.starts_with('/') => (true, host, ""),
        (None, Some((before, host))) if authority.contains(':') && !before.is_empty() => (true, host, ""),
        _ => (false, authority, path),
    };
    let (path, has_query) = match path.split_once('?') {
        Some((path, _)) => (path, true),
        None => (path, false),
    };
    if !has_user && !has_query {
        return Cow::Borrowed(text);
    }
    let user = if has_user { "(hidden)@" } else { "" };
    let query = if has_query { "?(hidden)" } else { "" };
    Cow::Owned(format!("{scheme}://{user}{authority}{path}{query}"))
}

/// Untrusted text on one line of a terminal. It escapes control characters and those that reverse the text direction.
pub fn line(text: &str) -> Cow<'_, str> {
    let obeyed = |c: char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(obeyed) {
        return Cow::Borrowed(text);
    }
    let shown = |c: char| if obeyed(c) { c.escape_default().to_string() } else { c.to_string() };
    Cow::Owned(text.chars().map(shown).collect())
}

/// Text of several lines for a terminal: like [`line`], but it keeps line ends and tabs.
pub fn lines(text: &str) -> String {
    let kept = |piece: &str| piece.split('\t').map(line).collect::<Vec<_>>().join("\t");
    text.split('\n').map(kept).collect::<Vec<_>>().join("\n")
}

/// Settings by name that pass through to a library. Secrets among them are not printed.
#[derive(Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Properties(pub std::collections::BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Properties {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The input may be a secret, so no message repeats it.
        let wrong = |_| D::Error::custom("expected names and values of settings, each a text, a number or a flag");
        let pairs = std::collections::BTreeMap::<Scalar, Scalar>::deserialize(deserializer).map_err(wrong)?;
        Ok(Self(pairs.into_iter().map(|(name, value)| (name.0, value.0)).collect()))
    }
}

/// A text, a number or a flag, kept as text.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Scalar(pub String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfText;
        impl Visitor<'_> for OfText {
            type Value = Scalar;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, a number or a flag")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Scalar, E> {
                Ok(Scalar(text.to_owned()))
            }

            fn visit_bool<E: serde::de::Error>(self, flag: bool) -> Result<Scalar, E> {
                Ok(Scalar(flag.to_string()))
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Scalar, E> {
                Ok(Scalar(number.to_string()))
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Scalar, E> {
                Ok(Scalar(number.to_string()))
            }

            fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Scalar, E> {
                Ok(Scalar(number.to_string()))
            }
        }
        // Read it as text if possible: YAML's 007 is not 7.
        deserializer.deserialize_str(OfText)
    }
}

impl Deref for Properties {
    type Target = std::collections::BTreeMap<String, String>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter().map(|(name, text)| (name, value(name, text)))).finish()
    }
}

/// A URL that may contain a secret. The secret is not printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoreUrl(String);

impl Deref for StoreUrl {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl From<String> for StoreUrl {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&url(&self.0), f)
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&url(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_known_by_their_usual_names_and_what_is_none_is_shown() {
        let secret = [
            "sasl.password",
            "ssl.key.password",
            "ssl.keystore.password",
            "ssl.key.pem",
            "sasl.oauthbearer.client.secret",
            "sasl.oauthbearer.config",
            "sasl.jaas.config",
            "aws_secret_access_key",
            "aws_session_token",
            "AWS_ACCESS_KEY_ID",
            "azure_storage_account_key",
            "azure_storage_sas_key",
            "azure_storage_client_secret",
            "google_service_account_key",
            "user_id_key",
        ];
        for name in secret {
            assert!(is_secret(name), "{name}");
        }
        for name in
            ["ssl.key.location", "security.protocol", "sasl.username", "sasl.mechanisms", "aws_region", "linger.ms"]
        {
            assert!(!is_secret(name), "{name}");
        }
    }

    #[test]
    fn a_url_is_shown_without_user_password_and_query() {
        let cases = [
            ("s3://bucket/prefix", "s3://bucket/prefix"),
            ("file:///var/lib/a@b", "file:///var/lib/a@b"),
            ("s3://AKIA:hunter2@bucket/p", "s3://(hidden)@bucket/p"),
            ("https://u:p@ss@host/x?sig=hunter2", "https://(hidden)@host/x?(hidden)"),
            ("https://u:hun/ter2@host/x", "https://(hidden)@host/x"),
            ("az://c/p?sv=1&sig=hunter2", "az://c/p?(hidden)"),
            ("s3//u:hunter2@bucket", "(hidden)@bucket"),
            ("me@example.com", "me@example.com"),
            ("no url", "no url"),
        ];
        for (text, shown) in cases {
            assert_eq!(url(text), shown, "{text}");
        }
    }

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        assert_eq!(line("acme\u{1b}]0;x\u{7}\nFAKE"), "acme\\u{1b}]0;x\\u{7}\\nFAKE");
        assert_eq!(line("Größe 漢字"), "Größe 漢字");
        assert_eq!(line("a\u{202e}b\u{9b}c"), "a\\u{202e}b\\u{9b}c");
        assert_eq!(lines("a\tb\nc\u{1b}[2J\r\n"), "a\tb\nc\\u{1b}[2J\\r\n");
    }
}
