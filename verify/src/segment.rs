//! Changes the files of a broker, as a bad disk or a strange producer would.

use std::io::{Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result};

/// Bytes before the checksum in a batch of records: base offset, length, leader epoch and version. Source: Kafka's
/// documentation of the record batch, version 2.
const BEFORE_CHECKSUM: usize = 17;
/// Bytes before the length of a batch, and before what the length counts.
const BEFORE_LENGTH: usize = 8;
const BEFORE_COUNTED: usize = 12;

/// Changes a segment in place, because the broker has the file open. `change` returns the range that it changed.
///
/// # Errors
/// When the file cannot be read or written, or `change` fails.
pub fn rewrite(path: &Path, change: impl FnOnce(&mut [u8]) -> Result<Range<usize>>) -> Result<()> {
    let mut content = std::fs::read(path).with_context(|| path.display().to_string())?;
    let changed = change(&mut content)?;
    let mut file = std::fs::OpenOptions::new().write(true).open(path)?;
    file.seek(SeekFrom::Start(changed.start as u64))?;
    Ok(file.write_all(&content[changed])?)
}

fn position(content: &[u8], bytes: &[u8]) -> Result<usize> {
    content.windows(bytes.len()).position(|window| window == bytes).context("no record holds these bytes")
}

/// Changes the first of these bytes.
///
/// # Errors
/// When no record contains these bytes.
pub fn damage(content: &mut [u8], bytes: &[u8]) -> Result<Range<usize>> {
    let at = position(content, bytes)?;
    content[at] ^= 1;
    Ok(at..at + 1)
}

/// Replaces the first of these bytes by 0xff and mends the checksum of its batch.
///
/// # Errors
/// When no batch contains these bytes.
pub fn forge(content: &mut [u8], bytes: &[u8]) -> Result<Range<usize>> {
    let at = position(content, bytes)?;
    content[at] = 0xff;
    let mut start = 0;
    loop {
        let length = content.get(start + BEFORE_LENGTH..start + BEFORE_COUNTED).context("the batch has no end")?;
        let end = start + BEFORE_COUNTED + u32::from_be_bytes(length.try_into()?) as usize;
        if at < end {
            let checked = start + BEFORE_CHECKSUM + 4;
            let checksum = crc32c(content.get(checked..end).context("the batch has no end")?);
            content[checked - 4..checked].copy_from_slice(&checksum.to_be_bytes());
            return Ok(start..end);
        }
        start = end;
    }
}

/// The checksum of a batch: CRC-32C, as in RFC 3720, appendix B.4.
fn crc32c(bytes: &[u8]) -> u32 {
    let bit = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), bit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_rfc_3720() {
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }
}
