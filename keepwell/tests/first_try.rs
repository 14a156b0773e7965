//! What a first try meets: each mistake is named, with what to do.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

/// The commented configuration that ships.
fn example() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/keepwell.yaml").display().to_string()
}

/// Runs `keepwell` and gives its exit code and what it wrote to standard error.
fn keepwell(args: &[&str]) -> std::io::Result<(Option<i32>, String)> {
    let output = Command::new(env!("CARGO_BIN_EXE_keepwell")).args(args).env_remove("KEEPWELL_CONFIG").output()?;
    Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

#[test]
fn a_configuration_that_is_not_there_is_named_with_how_to_name_another() {
    let (code, text) = keepwell(&["ingest", "--config", "nowhere.yaml"]).unwrap();
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("nowhere.yaml") && text.contains("KEEPWELL_CONFIG"), "{text}");
}

#[test]
fn a_broker_that_is_not_there_is_named_with_its_address() {
    let (config, nowhere) = (example(), "kafka.bootstrap_servers=127.0.0.1:1");
    let folder = tempfile::tempdir().unwrap();
    let events = folder.path().join("events.ndjson");
    std::fs::write(&events, "{}\n").unwrap();
    let load = format!("product-usage={}", events.display());
    // Each waits for a broker for some seconds: all at once.
    std::thread::scope(|scope| {
        for command in [&["topics", "check"][..], &["explain", "acme"], &["load", &load]] {
            let args = [command, &["--config", &config, "--set", nowhere]].concat();
            scope.spawn(move || {
                let (code, text) = keepwell(&args).unwrap();
                assert_eq!(code, Some(1), "{args:?}: {text}");
                assert!(text.contains("no broker answers at 127.0.0.1:1"), "{args:?}: {text}");
            });
        }
    });
}

#[test]
fn a_port_that_is_taken_is_named_and_a_log_that_is_no_terminal_has_no_colours() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, text) = keepwell(&["ingest", "--config", &example(), "--http", &address]).unwrap();
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains(&address) && text.contains("--http"), "{text}");
    assert!(!text.contains('\u{1b}'), "{text:?}");
}

#[test]
fn an_account_that_nobody_knows_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let scores = folder.path().join("scores.ndjson");
    std::fs::write(&scores, "").unwrap();
    let (code, text) = keepwell(&["explain", "acme", "--scores", &scores.display().to_string()]).unwrap();
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("account acme has no score: it is not known here, or not scored yet"), "{text}");
}
