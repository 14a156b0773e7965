//! Checks that the things which the documents name exist.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use keepwell_verify::invariant::Invariant;

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

pub fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

/// Documents that people write or that are generated for them: all but records of measurements.
pub fn documents() -> Vec<String> {
    let mut found = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"].map(str::to_owned).to_vec();
    found.extend(["benches/README.md", "benches/RESULTS.md"].map(str::to_owned));
    for folder in ["docs", "docs/reference", "docs/decisions"] {
        for entry in std::fs::read_dir(root().join(folder)).unwrap() {
            let name = entry.unwrap().file_name().to_string_lossy().into_owned();
            found.extend(name.ends_with(".md").then(|| format!("{folder}/{name}")));
        }
    }
    found
}

#[test]
fn no_file_of_code_is_longer_than_500_lines() {
    for package in
        ["core", "pipeline", "collect", "ingest", "aggregate", "score", "sink", "keepwell", "verify", "benches"]
    {
        check_length(&root().join(package));
    }
}

#[test]
fn every_file_that_a_document_names_or_links_to_exists() {
    let mut checked = 0;
    for document in documents() {
        let text = read(&document);
        let folder = Path::new(&document).parent().unwrap();
        let linked =
            text.match_indices("](").filter_map(|(at, _)| text[at + 2..].split_once(')')).map(|(link, _)| link);
        for link in linked.filter(|link| !link.starts_with("http") && !link.starts_with("...")) {
            let (path, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() { PathBuf::from(&document) } else { folder.join(path) };
            assert!(root().join(&target).exists(), "{document} links to {link}, which is not there");
            if !heading.is_empty() {
                let headings = std::fs::read_to_string(root().join(&target)).unwrap();
                let is_there =
                    headings.lines().filter(|line| line.starts_with('#')).any(|line| anchor(line) == heading);
                assert!(is_there, "{document} links to {link}, and there is no such heading");
            }
            checked += 1;
        }
        let is_path = |quoted: &&str| quoted.contains('/') && quoted.ends_with(".rs") && !quoted.contains(' ');
        for path in text.split('`').skip(1).step_by(2).filter(is_path).filter(|path| path.split('/').count() > 2) {
            assert!(root().join(path).exists(), "{document} names {path}, which is not there");
            checked += 1;
        }
    }
    assert!(checked > 100, "{checked}");
}

/// The anchor of a heading, as GitHub makes it.
/// Docker opens a published port around the host's firewall, and nobody is asked who they are.
#[test]
fn the_broker_for_a_try_listens_on_this_machine_only() {
    let compose = read("deploy/compose.yaml");
    let ports: Vec<&str> = compose.lines().filter(|line| line.trim_start().starts_with("ports:")).collect();
    assert!(!ports.is_empty() && ports.iter().all(|line| line.contains("[\"127.0.0.1:")), "{ports:?}");
}

fn anchor(heading: &str) -> String {
    let words = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = words.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn the_invariants_of_the_document_are_those_of_the_checks_and_each_mutation_breaks_one() {
    let text = read("docs/ARCHITECTURE.md");
    let (_, list) = text.split_once("## Invariants").unwrap();
    let (list, _) = list.split_once("\n## ").unwrap();
    let named: Vec<&str> =
        list.lines().filter_map(|line| line.strip_prefix("- **")?.split_once(".**")).map(|l| l.0).collect();
    assert_eq!(named, Invariant::ALL.iter().map(|invariant| invariant.words()).collect::<Vec<_>>());
    let mutations = read("verify/mutations/run.py");
    let broken: BTreeSet<&str> =
        mutations.lines().filter_map(|line| line.strip_prefix("    (\"")?.split_once('"')).map(|l| l.0).collect();
    let known: BTreeSet<&str> = Invariant::ALL.iter().map(|invariant| invariant.code()).collect();
    assert_eq!(broken.difference(&known).collect::<Vec<_>>(), [] as [&&str; 0]);
    assert!(broken.len() > 8, "{broken:?}");
}

/// Names of metrics in a text, without the suffix `_bucket` of histograms.
fn metrics(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_lowercase() || c == '_'));
    let of_a_histogram = |name: &str| name.trim_end_matches("_bucket").to_owned();
    words.filter(|word| word.starts_with("keepwell_")).map(of_a_histogram).collect()
}

#[test]
fn every_metric_of_the_rules_and_the_dashboard_exists_and_every_alert_has_its_section() {
    let source = read("pipeline/src/metrics.rs");
    // The test in that file contains each name and its type on a line, as `/metrics` shows them.
    let known: BTreeSet<String> = source
        .lines()
        .filter(|line| {
            line.ends_with(" gauge")
                || line.ends_with(" counter")
                || line.ends_with(" histogram")
                || line.ends_with(" gauge\";")
        })
        .flat_map(metrics)
        .collect();
    assert!(known.len() > 15, "{known:?}");
    let (rules, tests) = (read("deploy/prometheus/alerts.yaml"), read("deploy/prometheus/alerts.test.yaml"));
    let dashboard = read("deploy/grafana/keepwell.json") + &read("deploy/grafana/customers.json");
    for (name, text) in [("the rules", &rules), ("their tests", &tests), ("the dashboard", &dashboard)] {
        let unknown: Vec<_> = metrics(text).difference(&known).cloned().collect();
        assert!(unknown.is_empty(), "{name} name metrics that are not there: {unknown:?}");
    }
    let shown = metrics(&dashboard);
    let hidden: Vec<_> = known.difference(&shown).collect();
    assert!(hidden.is_empty(), "the dashboard does not show {hidden:?}");
    let runbook = read("docs/runbook.md");
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 8);
    for alert in alerts {
        assert!(runbook.contains(&format!("\n## {alert}\n")), "{alert} has no section");
        assert!(
            rules.contains(&format!("docs/runbook.md#{}", alert.to_lowercase())),
            "{alert} does not name its section"
        );
        assert!(tests.contains(&format!("alertname: {alert}\n")), "{alert} has no test");
    }
}

fn check_length(folder: &Path) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            check_length(&path);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let lines = std::fs::read_to_string(&path).unwrap().lines().count();
            assert!(lines <= 500, "{} has {lines} lines", path.display());
        }
    }
}

#[test]
fn every_preset_is_in_the_table_of_the_document_and_in_the_example() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
    let (document, example) = (read("docs/mappings.md"), read("deploy/keepwell.yaml"));
    for preset in keepwell_ingest::mapping::presets::ALL {
        let row = format!("| [`{0}`](../ingest/presets/{0}.yaml) |", preset.name);
        assert!(document.contains(&row) && example.contains(preset.name), "{}", preset.name);
    }
}
