//! One request, as the doors see it: no connection, no clock.

use std::borrow::Cow;
use std::io::Read;

use bytes::Bytes;

use crate::refusal::Refusal;

/// A request with its whole body.
#[derive(Debug, Clone)]
pub struct Request {
    /// The HTTP method, in capitals.
    pub method: String,
    /// The path, without query.
    pub path: String,
    /// Names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The body as it was sent.
    pub body: Bytes,
    /// When it was received, UTC microseconds.
    pub received_us: i64,
}

impl Request {
    /// The value of a header. The name is in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body without compression, of at most `max_bytes`.
    ///
    /// # Errors
    /// When the body is too large, damaged, or compressed in another way than gzip.
    pub fn plain(&self, max_bytes: usize) -> Result<Cow<'_, [u8]>, Refusal> {
        let too_large = |bytes: usize| Refusal::TooLarge(format!("the body has more than {bytes} bytes"));
        match self.header("content-encoding").unwrap_or("identity") {
            "identity" if self.body.len() > max_bytes => Err(too_large(max_bytes)),
            "identity" => Ok(Cow::Borrowed(&self.body)),
            "gzip" => {
                let mut plain = Vec::new();
                let mut unpacked = flate2::read::MultiGzDecoder::new(&*self.body).take(max_bytes as u64 + 1);
                let read = unpacked.read_to_end(&mut plain);
                read.map_err(|error| Refusal::Malformed(format!("the body is no gzip: {error}")))?;
                if plain.len() > max_bytes { Err(too_large(max_bytes)) } else { Ok(Cow::Owned(plain)) }
            }
            other => Err(Refusal::Malformed(format!("content-encoding {other:?}: gzip and identity are taken"))),
        }
    }
}
