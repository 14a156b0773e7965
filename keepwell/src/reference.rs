//! The reference pages: tables, metrics, settings and schemas, written from what the programs themselves use.

mod asyncapi;

use anyhow::Result;
use keepwell_core::schema::dictionary;
use keepwell_pipeline::config::Config;
use keepwell_pipeline::metrics::Metrics;

/// The commented configuration.
const CONFIGURATION: &str = include_str!("../../deploy/keepwell.yaml");

/// A reference page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Page {
    /// The columns of every topic and table.
    Tables,
    /// Every metric.
    Metrics,
    /// Every setting.
    Configuration,
    /// The JSON Schema of every input and output.
    Schemas,
    /// All topics, as an AsyncAPI document.
    Asyncapi,
}

/// The page: Markdown, or JSON for schemas and AsyncAPI.
///
/// # Errors
/// When a metric cannot be registered.
pub fn page(page: Page) -> Result<String> {
    Ok(match page {
        Page::Tables => dictionary::markdown(),
        Page::Metrics => metrics(&Metrics::new()?),
        Page::Configuration => configuration(),
        Page::Schemas => asyncapi::schemas_page()?,
        Page::Asyncapi => asyncapi::asyncapi_page(&Config::parse("deploy/keepwell.yaml", CONFIGURATION, &[])?)?,
    })
}

fn metrics(metrics: &Metrics) -> String {
    let mut out = String::from(
        "# Metrics\n\nWritten by `keepwell reference metrics`; a test compares it with this file. Times are Unix seconds, not ages: an age is `time() - metric`.\n\n\
         | metric | type | labels | meaning |\n|---|---|---|---|\n",
    );
    for metric in metrics.names() {
        out += &format!("| `{}` | {} | {} | {} |\n", metric.name, metric.kind, metric.labels.join(", "), metric.help);
    }
    out
}

/// A setting in the commented configuration.
#[derive(Debug, PartialEq, Eq)]
struct Setting {
    path: String,
    value: String,
    meaning: String,
}

fn configuration() -> String {
    let mut out = String::from(
        "# Configuration\n\nWritten by `keepwell reference configuration` from [`deploy/keepwell.yaml`](../../deploy/keepwell.yaml); a test compares the two. \
         A value is the default, unless its meaning says \"example\".\n\n| setting | value | meaning |\n|---|---|---|\n",
    );
    for Setting { path, value, meaning } in settings(CONFIGURATION) {
        let value = if value.is_empty() { String::new() } else { format!("`{value}`") };
        out += &format!("| `{path}` | {value} | {} |\n", meaning.replace('|', "\\|"));
    }
    out
}

/// The settings of a commented YAML text. Comments above a key, or behind it, say what it means. A key that is itself commented
/// out (`# key: value`) has no default.
fn settings(text: &str) -> Vec<Setting> {
    let (mut found, mut above): (Vec<Setting>, Vec<&str>) = (Vec::new(), Vec::new());
    // Keys that the line is in, each with its indentation.
    let mut within: Vec<(usize, &str)> = Vec::new();
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        let trimmed = line.trim();
        if trimmed.is_empty() {
            above.clear();
            continue;
        }
        let commented = trimmed.strip_prefix("# ").filter(|rest| !rest.starts_with(' '));
        let is_setting =
            |line: &str| key_of(line).is_some_and(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'));
        if trimmed.starts_with('#') && !commented.is_some_and(|rest| is_setting(rest) && !above.is_empty()) {
            above.extend(commented);
            continue;
        }
        let is_item = trimmed.starts_with("- ");
        let Some((key, rest)) = key_of(commented.unwrap_or(trimmed).trim_start_matches("- ")) else { continue };
        within.retain(|(outer, _)| *outer < indent);
        let path = within.iter().map(|(_, key)| *key).chain([key]).collect::<Vec<_>>().join(".");
        let (value, behind) =
            rest.split_once(" #").map_or((rest.trim(), ""), |(value, behind)| (value.trim(), behind.trim()));
        let meaning =
            above.drain(..).chain([behind].into_iter().filter(|text| !text.is_empty())).collect::<Vec<_>>().join(" ");
        if !found.iter().any(|setting| setting.path == path) && !key.starts_with('{') {
            let value = if commented.is_some() { String::new() } else { value.to_owned() };
            found.push(Setting { path, value, meaning });
        }
        within.push((indent + if is_item { 1 } else { 0 }, key));
        if is_item {
            within.pop();
        }
    }
    found
}

fn key_of(line: &str) -> Option<(&str, &str)> {
    let (key, rest) = line.split_once(':')?;
    let is_key = !key.is_empty() && !key.contains([' ', '{', '"', '`']) && (rest.is_empty() || rest.starts_with(' '));
    is_key.then_some((key, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_written_pages_are_those_of_the_program() {
        let pages = [
            (Page::Tables, include_str!("../../docs/reference/tables.md"), "tables"),
            (Page::Metrics, include_str!("../../docs/reference/metrics.md"), "metrics"),
            (Page::Configuration, include_str!("../../docs/reference/configuration.md"), "configuration"),
            (Page::Schemas, include_str!("../../docs/reference/schemas.json"), "schemas"),
            (Page::Asyncapi, include_str!("../../docs/reference/asyncapi.json"), "asyncapi"),
        ];
        for (of, written, name) in pages {
            let is_same = written == page(of).unwrap();
            assert!(
                is_same,
                "write it: cargo run --bin keepwell -- reference {name} > docs/reference/{name}.{{md,json}}"
            );
        }
    }

    #[test]
    fn settings_have_the_comments_above_and_behind_them() {
        let text = "# About the file.\n\n# What.\nepoch: 1\nkafka:\n  # Who.\n  group: a   # example\n  # Optional.\n  # size: 3\nlist:\n  - topic: x\n    bound: 1h  # how far\n";
        let found: Vec<_> = settings(text).into_iter().map(|s| (s.path, s.value, s.meaning)).collect();
        let of = |path: &str, value: &str, meaning: &str| (path.to_owned(), value.to_owned(), meaning.to_owned());
        let expected = [
            of("epoch", "1", "What."),
            of("kafka", "", ""),
            of("kafka.group", "a", "Who. example"),
            of("kafka.size", "", "Optional."),
            of("list", "", ""),
            of("list.topic", "x", ""),
            of("list.bound", "1h", "how far"),
        ];
        assert_eq!(found, expected);
    }
}
