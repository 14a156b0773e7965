//! What the documents say is there.

use std::collections::BTreeSet;
use std::path::Path;

use keepwell_verify::invariant::Invariant;

/// Paths that a code map names in back quotes, with `{a,b}` spelled out.
fn paths(text: &str) -> Vec<String> {
    let is_path = |quoted: &&str| quoted.contains('/') && !quoted.contains(' ') && !quoted.contains("keepwell.");
    text.split('`').skip(1).step_by(2).filter(is_path).flat_map(spelled_out).collect()
}

fn spelled_out(path: &str) -> Vec<String> {
    match path.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?))) {
        Some((before, (names, after))) => names.split(',').map(|name| format!("{before}{name}{after}")).collect(),
        None => vec![path.to_owned()],
    }
}

#[test]
fn every_file_of_the_code_map_exists_and_no_file_is_longer_than_500_lines() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = std::fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let (_, map) = text.split_once("## Code map").unwrap();
    let (map, _) = map.split_once("\n## ").unwrap();
    let named = paths(map);
    assert!(named.len() > 30, "{named:?}");
    for path in &named {
        assert!(is_there(&root, path), "{path} is in the code map of ARCHITECTURE.md and not there");
    }
    for package in ["core", "pipeline", "ingest", "aggregate", "score", "sink", "keepwell", "verify", "benches"] {
        check_length(&root.join(package));
    }
}

#[test]
fn the_invariants_of_the_document_are_those_of_the_checks_and_each_mutation_breaks_one() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = std::fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let (_, list) = text.split_once("## Invariants").unwrap();
    let (list, _) = list.split_once("\n## ").unwrap();
    let named: Vec<&str> =
        list.lines().filter_map(|line| line.strip_prefix("- **")?.split_once(".**")).map(|l| l.0).collect();
    assert_eq!(named, Invariant::ALL.iter().map(|invariant| invariant.words()).collect::<Vec<_>>());
    let mutations = std::fs::read_to_string(root.join("verify/mutations/run.py")).unwrap();
    let broken: BTreeSet<&str> =
        mutations.lines().filter_map(|line| line.strip_prefix("    (\"")?.split_once('"')).map(|l| l.0).collect();
    let known: BTreeSet<&str> = Invariant::ALL.iter().map(|invariant| invariant.code()).collect();
    assert_eq!(broken.difference(&known).collect::<Vec<_>>(), [] as [&&str; 0]);
    assert!(broken.len() > 8, "{broken:?}");
}

/// Whether there is a file or folder of this name; of a name with a star, whether one fits.
fn is_there(root: &Path, path: &str) -> bool {
    let Some((before, after)) = path.split_once('*') else { return root.join(path).exists() };
    let (folder, start) = before.rsplit_once('/').unwrap_or((".", before));
    let names = std::fs::read_dir(root.join(folder)).into_iter().flatten().map(|entry| entry.unwrap().file_name());
    names.map(|name| name.to_string_lossy().into_owned()).any(|name| name.starts_with(start) && name.ends_with(after))
}

#[test]
fn a_pattern_that_no_file_fits_is_not_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    assert!(is_there(&root, "verify/src/oracle/*.sql") && is_there(&root, "verify/src/oracle"));
    assert!(!is_there(&root, "verify/src/oracle/*.yaml") && !is_there(&root, "verify/src/nothing/*.sql"));
}

/// Names of metrics in a text, without what a histogram adds to them.
fn metrics(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_lowercase() || c == '_'));
    let of_a_histogram = |name: &str| name.trim_end_matches("_bucket").to_owned();
    words.filter(|word| word.starts_with("keepwell_")).map(of_a_histogram).collect()
}

#[test]
fn every_metric_of_the_rules_and_the_dashboard_exists_and_every_alert_has_its_section() {
    let read =
        |path: &str| std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).unwrap();
    let source = read("pipeline/src/metrics.rs");
    // The test there holds each name and its type on a line, as `/metrics` shows them.
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
    let dashboard = read("deploy/grafana/keepwell.json");
    for (name, text) in [("the rules", &rules), ("their tests", &tests), ("the dashboard", &dashboard)] {
        let unknown: Vec<_> = metrics(text).difference(&known).cloned().collect();
        assert!(unknown.is_empty(), "{name} name metrics that are not there: {unknown:?}");
    }
    let shown = metrics(&dashboard);
    let hidden: Vec<_> = known.difference(&shown).collect();
    assert!(hidden.is_empty(), "the dashboard does not show {hidden:?}");
    let runbook = read("deploy/RUNBOOK.md");
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 8);
    for alert in alerts {
        assert!(runbook.contains(&format!("\n## {alert}\n")), "{alert} has no section");
        assert!(rules.contains(&format!("RUNBOOK.md#{}", alert.to_lowercase())), "{alert} does not name its section");
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
