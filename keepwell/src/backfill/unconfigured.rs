//! A backfill without a configuration file: the names of the files' topics say whose records they are.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, bail};
use keepwell_core::event::Kind;
use keepwell_ingest::mapping::presets::ALL;
use keepwell_pipeline::config::Config;

/// The configuration for files of presets, mappings and kinds. All else is as by default; lines may be 30 days out of order.
///
/// # Errors
/// When a name is none of these. The message lists them.
pub fn config(files: &[String]) -> Result<Config> {
    let mut text = "epoch: 1\npartitions: 2\nkafka: {bootstrap_servers: 'unused:9092'}\nsnapshots: {url: 'memory:///'}\nsources:\n".to_owned();
    let mut names = BTreeSet::new();
    for file in files {
        let (name, _) = file.split_once('=').with_context(|| format!("{file}: expected NAME=FILE"))?;
        if names.insert(name) {
            // A JSON text is YAML, too.
            let (topic, form) = (serde_json::to_string(name)?, form(name)?);
            writeln!(text, "  - {{topic: {topic}, {form}, optional: true, bound: 30d}}")?;
        }
    }
    Ok(Config::parse("the command line", &text, &[])?)
}

/// What the records of a file are, by its name.
fn form(name: &str) -> Result<String> {
    if ALL.iter().any(|preset| preset.name == name) {
        return Ok(format!("preset: {name}"));
    }
    if Kind::ALL.iter().any(|kind| kind.name() == name) {
        return Ok(format!("kind: {name}"));
    }
    if Path::new(name).extension().is_some_and(|of| of == "yaml" || of == "yml") {
        return Ok(format!("mapping: {}", serde_json::to_string(name)?));
    }
    let presets: Vec<&str> = ALL.iter().map(|preset| preset.name).collect();
    let kinds: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
    bail!(
        "{name}: without a configuration file the name before the = is a preset ({}), a kind in Keepwell's own form ({}), or a mapping file (NAME.yaml)",
        presets.join(", "),
        kinds.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_file_says_whose_records_it_holds() {
        let files = ["segment=a.ndjson", "ticket=b.ndjson", "crm.yaml=c.csv", "segment=d.ndjson"].map(str::to_owned);
        let config = config(&files).unwrap();
        let forms: Vec<_> = config
            .sources
            .iter()
            .map(|of| (of.topic.as_str(), of.preset.as_deref(), of.kind, of.mapping.is_some()))
            .collect();
        assert_eq!(
            forms,
            [
                ("segment", Some("segment"), None, false),
                ("ticket", None, Some(Kind::Ticket), false),
                ("crm.yaml", None, None, true)
            ]
        );
    }

    #[test]
    fn another_name_is_refused_with_all_that_may_be_named() {
        let refused = config(&["helpdesk=a.ndjson".to_owned()]).unwrap_err().to_string();
        for word in ["helpdesk", "zendesk", "ticket", "NAME.yaml"] {
            assert!(refused.contains(word), "{word}: {refused}");
        }
    }
}
