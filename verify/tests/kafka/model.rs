//! Another model takes over while the stage runs. Stored scores of both models are explained and audited.

use std::process::Output;

use jiff::Timestamp;
use keepwell_verify::fleet::{self, Shape};
use serde_json::Value;

use crate::live::ask_until;
use crate::{Deployment, sum};

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn a_model_takes_over_at_its_time_without_a_restart_and_scores_of_both_are_explained_and_audited() {
    let deployment = Deployment::new("model");
    let raws = fleet::dirty(14, Shape { accounts: 9, days: 40, usage: 4 });
    deployment.load(&raws);
    deployment.drain("ingest", &["--complete"]);
    // Score runs during the whole announcement.
    let (score, port) = deployment.start("score", &[]);

    let configured = deployment.config.score.model.clone().unwrap();
    let old = std::fs::read_to_string(&configured).unwrap();
    let file = |name: &str, text: &str| {
        let path = deployment.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let changed = old.replace("version: 7", "version: 8").replace(
        "missing: zero, normalise: {linear: {from: 0, to: 7}}",
        "missing: zero, normalise: {linear: {from: 0, to: 9}}",
    );
    assert!(changed.contains("to: 9}"));
    let (new, same) = (
        file("new.yaml", &changed),
        file(
            "same.yaml",
            &changed
                .replace("[1, 100]]}, weight: 20}", "[1, 100]]}, weight: 21}")
                .replace("weight: 25}", "weight: 24}"),
        ),
    );
    let middle = raws[raws.len() / 2].at_ms / 86_400_000 * 86_400_000;
    let at = Timestamp::from_millisecond(middle).unwrap().to_string();
    let apply = |model: &str| deployment.keepwell(&["model", "apply", model, "--at", &at]);

    let wrong = apply(&file("wrong.yaml", &changed.replace("sql: tickets_backlog,", "sql: tickets_backlogged,")));
    assert!(wrong.status.code() == Some(1) && text(&wrong).contains("wrong.yaml:25:"), "{}", text(&wrong));
    let applied = apply(&new);
    assert!(applied.status.success() && text(&applied).contains("version 8"), "{}", text(&applied));
    // The file is valid by itself. Only the log shows that its version is not newer.
    assert!(apply(&same).status.success());

    deployment.drain("aggregate", &[]);
    ask_until(port, "/metrics", |metrics| {
        let lines =
            |start: &str| metrics.lines().filter(|line| line.starts_with(start)).map(str::to_owned).collect::<Vec<_>>();
        let (versions, lags) = (lines("keepwell_model_version{"), lines("keepwell_lag_records{"));
        lags.len() == 3
            && lags.iter().all(|line| line.ends_with("} 0"))
            && versions.iter().all(|line| line.ends_with("} 8"))
    });
    assert_eq!(score.stop(), Some(0));
    assert_eq!(deployment.rejects()["model_refused"], 3);
    deployment.drain("sink", &[]);
    let aggregate_rejects = deployment.rejects();
    deployment.check();
    assert_eq!(sum(&aggregate_rejects, "model"), 3);

    let audit = |args: &[&str]| deployment.keepwell(&[&["audit"], args].concat());
    let both = audit(&["--model", &new]);
    assert!(both.status.success() && text(&both).contains(" 0 rows drift"), "{}", text(&both));
    assert!(!text(&both).contains("not judged"), "{}", text(&both));
    let one = audit(&["--accounts", "4", "--seed", "1"]);
    assert!(one.status.success() && text(&one).contains("of model version 8 were not judged"), "{}", text(&one));
    // Another file with the same version would give other scores: that is drift.
    let other = audit(&["--model", &same]);
    assert!(other.status.code() == Some(1) && text(&other).contains("contribution"), "{}", text(&other));

    both_models_are_explained(&deployment, middle);
}

/// A score before the change is explained with the columns that its factors saw, by the configured file.
fn both_models_are_explained(deployment: &Deployment, middle: i64) {
    let explain = |as_of: i64| {
        let as_of = Timestamp::from_millisecond(as_of).unwrap().to_string();
        let explained = deployment.keepwell(&["explain", "account-001", "--as-of", &as_of, "--output", "json"]);
        serde_json::from_slice::<Value>(&explained.stdout).unwrap_or_else(|_| panic!("{}", text(&explained)))
    };
    let (before, after) = (explain(middle - 1), explain(middle + 86_400_000 - 1));
    assert_eq!((before["model"]["version"].as_i64(), after["model"]["version"].as_i64()), (Some(7), Some(8)));
    let factors = before["factors"].as_array().unwrap();
    let sum: f64 = factors.iter().filter_map(|factor| factor["contribution"].as_f64()).sum();
    assert!((sum - before["score"].as_f64().unwrap()).abs() < 1e-9, "{before}");
    assert!(before["inputs"]["breadth"]["columns"].get("adoption_rate").is_some(), "{before}");
    assert!(after.get("inputs").is_none(), "the configured file is of another version: {after}");
}
