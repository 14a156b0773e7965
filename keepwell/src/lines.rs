//! The records of a file: the lines of NDJSON, or the rows of CSV as JSON objects of texts.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Bytes that are read ahead.
const BUFFER_BYTES: usize = 1 << 20;

/// A file, read record by record. A name that ends in `.csv` is CSV with a header line; any other is NDJSON.
#[derive(Debug)]
pub struct Lines {
    name: String,
    records: Records,
    /// Number of the line that the last record began at, from 1.
    line: u64,
    num_bytes: u64,
}

#[derive(Debug)]
enum Records {
    Ndjson(BufReader<File>),
    Csv { reader: Box<csv::Reader<File>>, names: csv::StringRecord },
}

impl Lines {
    /// Opens a file. Of CSV it reads the header line.
    ///
    /// # Errors
    /// When it cannot be read. The error names it.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let file = File::open(path).with_context(|| name.clone())?;
        let is_csv = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv"));
        let records = if is_csv {
            let mut builder = csv::ReaderBuilder::new();
            let mut reader = Box::new(builder.flexible(true).buffer_capacity(BUFFER_BYTES).from_reader(file));
            let names = reader.headers().with_context(|| name.clone())?.clone();
            let twice =
                names.iter().enumerate().find(|(at, column)| names.iter().take(*at).any(|other| other == *column));
            if let Some((_, column)) = twice {
                bail!("{name}: two columns have the name {column:?}; rename one");
            }
            if names.len() == 1 && names.get(0).is_some_and(|all| all.contains([';', '\t'])) {
                bail!("{name}: the columns are not separated by commas; save it with commas");
            }
            Records::Csv { reader, names }
        } else {
            Records::Ndjson(BufReader::with_capacity(BUFFER_BYTES, file))
        };
        Ok(Self { name, records, line: 0, num_bytes: 0 })
    }

    /// The next record that is not empty, as bytes of JSON. A row of CSV is an object of texts by the names of the
    /// header; further values of a row have the names `column_N`. None at the end.
    ///
    /// # Errors
    /// When the file cannot be read. The error names file and line.
    pub fn take(&mut self) -> Result<Option<Vec<u8>>> {
        match &mut self.records {
            Records::Ndjson(lines) => loop {
                let mut line = Vec::new();
                let num_bytes = lines.read_until(b'\n', &mut line).with_context(|| self.name.clone())?;
                if num_bytes == 0 {
                    return Ok(None);
                }
                self.num_bytes += num_bytes as u64;
                self.line += 1;
                while line.last().is_some_and(|byte| *byte == b'\n' || *byte == b'\r') {
                    line.pop();
                }
                if !line.is_empty() {
                    return Ok(Some(line));
                }
            },
            Records::Csv { reader, names } => {
                let mut row = csv::ByteRecord::new();
                let read = reader.read_byte_record(&mut row);
                if !read.with_context(|| format!("{}, after line {}", self.name, self.line))? {
                    return Ok(None);
                }
                self.line = row.position().map_or(0, csv::Position::line);
                self.num_bytes = reader.position().byte();
                Ok(Some(object(names, &row)?))
            }
        }
    }

    /// Number of the line that the last record began at, from 1.
    pub fn line(&self) -> u64 {
        self.line
    }

    /// Number of bytes read.
    pub fn num_bytes(&self) -> u64 {
        self.num_bytes
    }

    /// The file, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// A row as a JSON object. A row that is not UTF-8 stays as it is: ingest rejects it with the reason.
fn object(names: &csv::StringRecord, row: &csv::ByteRecord) -> Result<Vec<u8>> {
    let mut fields = serde_json::Map::new();
    for (index, value) in row.iter().enumerate() {
        let Ok(value) = std::str::from_utf8(value) else { return Ok(row.as_slice().to_vec()) };
        let name = names.get(index).map_or_else(|| format!("column_{}", index + 1), |name| name.trim().to_owned());
        fields.insert(name, value.into());
    }
    Ok(serde_json::to_vec(&fields)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(name: &str, content: &[u8]) -> Vec<(u64, String)> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        let mut lines = Lines::open(&path).unwrap();
        let mut found = Vec::new();
        while let Some(record) = lines.take().unwrap() {
            found.push((lines.line(), String::from_utf8(record).unwrap()));
        }
        assert_eq!(lines.num_bytes(), content.len() as u64);
        found
    }

    #[test]
    fn lines_are_records_and_empty_ones_are_none() {
        let found = taken("a.ndjson", b"{\"a\":1}\r\n\n\n{\"b\":2}");
        assert_eq!(found, [(1, "{\"a\":1}".to_owned()), (4, "{\"b\":2}".to_owned())]);
    }

    #[test]
    fn csv_that_would_be_misread_is_refused_and_bytes_that_are_no_text_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        let opened = |content: &[u8]| {
            std::fs::write(&path, content).unwrap();
            Lines::open(&path).map_err(|error| error.to_string())
        };
        assert!(opened(b"account,at,account\n").unwrap_err().contains("\"account\""));
        assert!(opened(b"account;at\na;b\n").unwrap_err().contains("commas"));
        let mut lines = opened(b"account\nab\xffc\n").unwrap();
        assert_eq!(lines.take().unwrap().as_deref(), Some(&b"ab\xffc"[..]));
    }

    #[test]
    fn rows_of_csv_are_objects_by_the_names_of_the_header() {
        let content =
            "\u{feff}id,Account Name,at\n1,\"Acme, \"\"Inc\"\"\",2026-03-01\n2,,\n3,x,y,more\n4,\"two\nlines\",z\n";
        let found = taken("a.CSV", content.as_bytes());
        let expected = [
            (2, r#"{"Account Name":"Acme, \"Inc\"","at":"2026-03-01","id":"1"}"#),
            (3, r#"{"Account Name":"","at":"","id":"2"}"#),
            (4, r#"{"Account Name":"x","at":"y","column_4":"more","id":"3"}"#),
            (5, r#"{"Account Name":"two\nlines","at":"z","id":"4"}"#),
        ];
        assert_eq!(found, expected.map(|(line, record)| (line, record.to_owned())));
    }
}
