//! Mistakes of a first try: each error names the mistake and the remedy.

use std::process::{Command, Output};

fn keepwell(args: &[&str]) -> std::io::Result<Output> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keepwell"));
    command.args(args).env_remove("KEEPWELL_CONFIG").output()
}

#[test]
fn a_configuration_that_is_not_there_is_named() {
    let output = keepwell(&["ingest", "--config", "nowhere.yaml"]).unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("nowhere.yaml"), "{text}");
}
