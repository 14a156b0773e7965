//! What the documents say is there.

use std::path::Path;

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
        let found =
            if path.contains('*') { root.join(path).parent().unwrap().exists() } else { root.join(path).exists() };
        assert!(found, "{path} is in the code map of ARCHITECTURE.md and not there");
    }
    for package in ["pipeline", "ingest", "aggregate", "score", "sink", "deploy/local", "benches"] {
        check_length(&root.join(package));
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
