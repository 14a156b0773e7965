//! Whether a webhook comes from whom it says: signatures of vendors, and shared secrets.
//!
//! | check | header | signed |
//! |---|---|---|
//! | `standard` | `webhook-id`, `webhook-timestamp`, `webhook-signature` | HMAC-SHA256 of `id.timestamp.body` |
//! | `zendesk` | `x-zendesk-webhook-signature`, `-timestamp` | HMAC-SHA256 of timestamp and body |
//! | `intercom` | `x-hub-signature` | HMAC-SHA1 of the body |
//! | `hubspot` | `x-hubspot-signature-v3`, `x-hubspot-request-timestamp` | HMAC-SHA256 of method, URL, body and timestamp |
//! | `header` | any | nothing: the value is the secret |
//!
//! Sources: <https://www.standardwebhooks.com>, <https://developer.zendesk.com/documentation/webhooks/verifying/>,
//! <https://developers.intercom.com/docs/webhooks/webhook-notifications> and
//! <https://developers.hubspot.com/docs/apps/legacy-apps/authentication/validating-requests>.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use keepwell_pipeline::config::{Check, Secret};
use ring::hmac;

use crate::refusal::Refusal;
use crate::request::Request;

/// How far the time of a signed request may be from the clock: Standard Webhooks and HubSpot say five minutes.
const TOLERANCE_US: i64 = 300_000_000;

/// Bytes of an HMAC-SHA256.
const SIGNATURE_BYTES: usize = 32;
/// Most signatures of a request that are looked at. Two are there while a secret is being replaced.
const MAX_SIGNATURES: usize = 8;

/// A check with its secret at hand.
pub enum Credentials {
    /// Standard Webhooks.
    Standard(hmac::Key),
    /// Zendesk.
    Zendesk(hmac::Key),
    /// Intercom.
    Intercom(hmac::Key),
    /// HubSpot, version 3, with the URL at which HubSpot knows this door.
    Hubspot(hmac::Key, String),
    /// A header with a secret value: its name, a key, and the signature of the value by this key. So it is compared as
    /// signatures are, and the time this takes tells nothing.
    Header(String, hmac::Key, hmac::Tag),
    /// Anybody may write.
    None,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Standard(_) => "Standard",
            Self::Zendesk(_) => "Zendesk",
            Self::Intercom(_) => "Intercom",
            Self::Hubspot(..) => "Hubspot",
            Self::Header(..) => "Header",
            Self::None => "None",
        })
    }
}

impl Credentials {
    /// Reads the secret of a check.
    ///
    /// # Errors
    /// A message that names the variable or file, or says what the secret must be.
    pub fn new(check: &Check) -> Result<Self, String> {
        let key = |algorithm, secret: &Secret| not_empty(secret).map(|text| hmac::Key::new(algorithm, text.as_bytes()));
        Ok(match check {
            Check::Standard(secret) => {
                let text = not_empty(secret)?;
                let encoded = text.strip_prefix("whsec_").unwrap_or(&text);
                let bytes = BASE64.decode(encoded).map_err(|_| "a secret of Standard Webhooks is whsec_ and base64")?;
                Self::Standard(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
            }
            Check::Zendesk(secret) => Self::Zendesk(key(hmac::HMAC_SHA256, secret)?),
            Check::Intercom(secret) => Self::Intercom(key(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret)?),
            Check::Hubspot { secret, url } => Self::Hubspot(key(hmac::HMAC_SHA256, secret)?, url.clone()),
            Check::Header { name, value } => {
                let value = not_empty(value)?;
                let key = hmac::Key::new(hmac::HMAC_SHA256, value.as_bytes());
                let tag = hmac::sign(&key, value.as_bytes());
                Self::Header(name.to_ascii_lowercase(), key, tag)
            }
            Check::None => Self::None,
        })
    }

    /// Whether a request is genuine.
    ///
    /// # Errors
    /// [`Refusal::NotAllowed`] with the header that is missing or wrong.
    pub fn check(&self, request: &Request) -> Result<(), Refusal> {
        match self {
            Self::Standard(key) => standard(key, request),
            Self::Zendesk(key) => {
                let [signature, at] = [SIGNED_ZENDESK, TIME_ZENDESK].map(|name| given(request, name));
                let signed = [at?.as_bytes(), &request.body].concat();
                verified(key, &signed, BASE64.decode(signature?).ok(), SIGNED_ZENDESK)
            }
            Self::Intercom(key) => {
                let signature = given(request, "x-hub-signature")?.strip_prefix("sha1=").and_then(of_hex);
                verified(key, &request.body, signature, "x-hub-signature")
            }
            Self::Hubspot(key, url) => {
                let [signature, at] = [SIGNED_HUBSPOT, TIME_HUBSPOT].map(|name| given(request, name));
                let at = at?;
                recent(at.parse::<i64>().ok().and_then(|ms| ms.checked_mul(1000)), request, TIME_HUBSPOT)?;
                let signed = [request.method.as_bytes(), url.as_bytes(), &request.body, at.as_bytes()].concat();
                verified(key, &signed, BASE64.decode(signature?).ok(), SIGNED_HUBSPOT)
            }
            Self::Header(name, key, tag) => {
                verified(key, given(request, name)?.as_bytes(), Some(tag.as_ref().to_vec()), name)
            }
            Self::None => Ok(()),
        }
    }
}

const SIGNED_ZENDESK: &str = "x-zendesk-webhook-signature";
const TIME_ZENDESK: &str = "x-zendesk-webhook-signature-timestamp";
const SIGNED_HUBSPOT: &str = "x-hubspot-signature-v3";
const TIME_HUBSPOT: &str = "x-hubspot-request-timestamp";

/// Any of the signatures of a request may be right: there are several while a secret is being replaced.
fn standard(key: &hmac::Key, request: &Request) -> Result<(), Refusal> {
    let [id, at, signatures] =
        ["webhook-id", "webhook-timestamp", "webhook-signature"].map(|name| given(request, name));
    let (id, at) = (id?, at?);
    recent(at.parse::<i64>().ok().and_then(|s| s.checked_mul(1_000_000)), request, "webhook-timestamp")?;
    let signed = [id.as_bytes(), b".", at.as_bytes(), b".", &request.body].concat();
    let of_version_1 = signatures?.split(' ').filter_map(|one| BASE64.decode(one.strip_prefix("v1,")?).ok());
    // Each look costs as much as the body is long.
    let mut of_its_length = of_version_1.filter(|one| one.len() == SIGNATURE_BYTES).take(MAX_SIGNATURES);
    let is_right = of_its_length.any(|one| hmac::verify(key, &signed, &one).is_ok());
    if is_right { Ok(()) } else { Err(wrong("webhook-signature")) }
}

fn given<'r>(request: &'r Request, name: &str) -> Result<&'r str, Refusal> {
    request.header(name).ok_or_else(|| Refusal::NotAllowed(format!("header {name} is missing")))
}

fn verified(key: &hmac::Key, signed: &[u8], signature: Option<Vec<u8>>, name: &str) -> Result<(), Refusal> {
    let is_right = signature.is_some_and(|signature| hmac::verify(key, signed, &signature).is_ok());
    if is_right { Ok(()) } else { Err(wrong(name)) }
}

fn wrong(name: &str) -> Refusal {
    Refusal::NotAllowed(format!("header {name} does not fit body and secret"))
}

/// A signed time far from the clock: somebody may have kept the request and sent it again.
fn recent(at_us: Option<i64>, request: &Request, name: &str) -> Result<(), Refusal> {
    let is_recent = at_us.is_some_and(|at_us| request.received_us.abs_diff(at_us) <= TOLERANCE_US.unsigned_abs());
    if is_recent {
        Ok(())
    } else {
        Err(Refusal::NotAllowed(format!("header {name} is not within five minutes of now")))
    }
}

fn not_empty(secret: &Secret) -> Result<String, String> {
    secret.reveal().and_then(|text| if text.is_empty() { Err(format!("{secret:?} is empty")) } else { Ok(text) })
}

fn of_hex(text: &str) -> Option<Vec<u8>> {
    let is_hex = text.len().is_multiple_of(2) && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    let digits = || (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok());
    if is_hex { digits().collect() } else { None }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const NOW_US: i64 = 1_614_265_330_000_000;

    fn request(headers: &[(&str, &str)], body: &str) -> Request {
        Request {
            method: "POST".into(),
            path: "/webhooks/any".into(),
            headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            body: Bytes::copy_from_slice(body.as_bytes()),
            received_us: NOW_US,
        }
    }

    fn of(key: &[u8], algorithm: hmac::Algorithm, signed: &str) -> Vec<u8> {
        hmac::sign(&hmac::Key::new(algorithm, key), signed.as_bytes()).as_ref().to_vec()
    }

    fn secret(text: &str) -> (tempfile::NamedTempFile, Secret) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let secret = Secret::File(file.path().display().to_string());
        (file, secret)
    }

    /// Each check with a request that fits. Then a byte of body, signature or secret is another.
    #[test]
    fn a_request_is_taken_only_with_the_signature_of_its_own_body() {
        let body = r#"{"test": 2432232314}"#;
        let (_key, plain) = secret("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLjSw");
        let (_whsec, whsec) = secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLjSw");
        let (_other, other) = secret("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLjSx");
        let (_whother, whother) = secret("whsec_NfKQ9r8GKYqrTwjUPD8ILPZIo2LaLjSw");
        let text = b"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLjSw";
        let bytes = BASE64.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLjSw").unwrap();
        let (seconds, ms) = ("1614265330", "1614265330000");
        let standard =
            format!("v1a,x v1,{}", BASE64.encode(of(&bytes, hmac::HMAC_SHA256, &format!("m1.{seconds}.{body}"))));
        let zendesk = BASE64.encode(of(text, hmac::HMAC_SHA256, &format!("{seconds}{body}")));
        let hex: String =
            of(text, hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, body).iter().map(|byte| format!("{byte:02x}")).collect();
        let url = "https://collect.example.com/webhooks/hubspot";
        let hubspot = BASE64.encode(of(text, hmac::HMAC_SHA256, &format!("POST{url}{body}{ms}")));
        let named = |value: Secret| Check::Header { name: "X-Api-Key".into(), value };
        let at = |secret: Secret| Check::Hubspot { secret, url: url.to_owned() };
        let cases = [
            (
                Check::Standard(whsec),
                Check::Standard(whother),
                vec![("webhook-id", "m1"), ("webhook-timestamp", seconds), ("webhook-signature", &standard)],
            ),
            (
                Check::Zendesk(plain.clone()),
                Check::Zendesk(other.clone()),
                vec![(TIME_ZENDESK, seconds), (SIGNED_ZENDESK, &zendesk)],
            ),
            (
                Check::Intercom(plain.clone()),
                Check::Intercom(other.clone()),
                vec![("x-hub-signature", &*format!("sha1={hex}").leak())],
            ),
            (at(plain.clone()), at(other.clone()), vec![(TIME_HUBSPOT, ms), (SIGNED_HUBSPOT, &hubspot)]),
            (named(plain), named(other), vec![("x-api-key", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLjSw")]),
        ];
        for (check, with_another_secret, headers) in cases {
            let credentials = Credentials::new(&check).unwrap();
            assert_eq!(credentials.check(&request(&headers, body)), Ok(()), "{check:?}");
            let refused = |credentials: &Credentials, request: &Request| {
                assert!(matches!(credentials.check(request), Err(Refusal::NotAllowed(_))), "{check:?} {request:?}");
            };
            refused(&Credentials::new(&with_another_secret).unwrap(), &request(&headers, body));
            for (place, (name, value)) in headers.iter().enumerate() {
                let without: Vec<_> = headers.iter().copied().filter(|(other, _)| other != name).collect();
                refused(&credentials, &request(&without, body));
                let mut changed = headers.clone();
                let spoilt = format!("{value}0");
                changed[place].1 = &spoilt;
                refused(&credentials, &request(&changed, body));
            }
            if !matches!(check, Check::Header { .. }) {
                refused(&credentials, &request(&headers, &body.replace('4', "5")));
            }
        }
    }

    #[test]
    fn a_signed_request_that_is_sent_again_later_is_refused() {
        let (_whsec, whsec) = secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLjSw");
        let credentials = Credentials::new(&Check::Standard(whsec)).unwrap();
        let key = BASE64.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLjSw").unwrap();
        for (ahead_s, is_taken) in [(0, true), (299, true), (-299, true), (301, false), (-301, false)] {
            let at = (NOW_US / 1_000_000 + ahead_s).to_string();
            let signature = format!("v1,{}", BASE64.encode(of(&key, hmac::HMAC_SHA256, &format!("m1.{at}.{{}}"))));
            let headers = [("webhook-id", "m1"), ("webhook-timestamp", &*at), ("webhook-signature", &*signature)];
            assert_eq!(credentials.check(&request(&headers, "{}")).is_ok(), is_taken, "{ahead_s} s");
        }
    }

    /// A header of 400 kB holds thousands of signatures, and each would cost as much as the body is long.
    #[test]
    fn only_a_few_signatures_of_a_request_are_looked_at() {
        let (_whsec, whsec) = secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLjSw");
        let credentials = Credentials::new(&Check::Standard(whsec)).unwrap();
        let key = BASE64.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLjSw").unwrap();
        let right = format!("v1,{}", BASE64.encode(of(&key, hmac::HMAC_SHA256, "m1.1614265330.{}")));
        let wrong = format!("v1,{}", BASE64.encode([0; SIGNATURE_BYTES]));
        for (num_wrong, is_taken) in [(0, true), (MAX_SIGNATURES - 1, true), (MAX_SIGNATURES, false)] {
            let signatures = [vec![wrong.as_str(); num_wrong], vec!["v1,AAAA", right.as_str()]].concat().join(" ");
            let headers =
                [("webhook-id", "m1"), ("webhook-timestamp", "1614265330"), ("webhook-signature", &*signatures)];
            assert_eq!(credentials.check(&request(&headers, "{}")).is_ok(), is_taken, "{num_wrong}");
        }
    }

    #[test]
    fn a_secret_that_cannot_be_one_stops_the_start() {
        let (_empty, empty) = secret("\n");
        let (_text, text) = secret("whsec_!");
        assert!(Credentials::new(&Check::Intercom(empty)).unwrap_err().contains("empty"));
        assert!(Credentials::new(&Check::Standard(text)).unwrap_err().contains("base64"));
    }
}
