//! The first part of the quickstart, as it stands in the document: its commands print what it says.

use std::process::Command;

/// The text of the first code block behind a position, and where it ends.
fn block<'d>(document: &'d str, language: &str) -> (&'d str, &'d str) {
    let opening = format!("```{language}\n");
    let (_, behind) = document.split_once(&opening).unwrap();
    behind.split_once("```").unwrap()
}

#[test]
fn exports_of_segment_and_zendesk_become_explained_scores_with_two_commands() {
    let document = super::documents::read("docs/quickstart.md");
    let (commands, behind) = block(&document, "sh");
    let (printed, _) = block(behind, "");
    let folder = tempfile::tempdir().unwrap();
    let program = keepwell_verify::programs::keepwell().unwrap();
    let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("bash");
    let output = command.args(["-euc", commands]).current_dir(&folder).env("PATH", path).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), printed);
}
