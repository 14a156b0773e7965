//! Sends a file of JSON texts through ingest, between good neighbours. The file is gzipped, with one `{name,
//! bytes_base64}` per line.
//!
//! Run `cargo run -p keepwell-verify --bin json_cases -- cases.ndjson.gz`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Parser;
use keepwell_verify::bad_input::judge;
use serde::Deserialize;

#[derive(Debug, Parser)]
#[command(
    about = "JSON texts that are no events: each must be rejected by name, with its bytes, and harm no neighbour"
)]
struct Args {
    /// The gzipped file, for example made from github.com/nst/JSONTestSuite.
    file: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Case {
    name: String,
    bytes_base64: String,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let file = std::fs::File::open(&args.file).with_context(|| args.file.display().to_string())?;
    let lines = BufReader::new(flate2::read::GzDecoder::new(file)).lines();
    let cases = lines.map(|line| Ok(serde_json::from_str::<Case>(&line?)?)).collect::<Result<Vec<_>>>()?;
    let texts = cases.iter().map(|case| STANDARD.decode(&case.bytes_base64).with_context(|| case.name.clone()));
    let texts = texts.collect::<Result<Vec<_>>>()?;
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for (case, judged) in cases.iter().zip(judge(&texts)?) {
        let reason = judged.reason.with_context(|| format!("{} was accepted", case.name))?;
        *reasons.entry(reason).or_default() += 1;
    }
    ensure!(reasons.values().sum::<usize>() == cases.len(), "a text has no reason");
    println!("{} texts rejected, {} good neighbours accepted: {reasons:?}", cases.len(), cases.len() + 1);
    Ok(())
}
