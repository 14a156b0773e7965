//! Tests of the configuration: what is valid, and the messages for what is not.

use keepwell_core::event::Kind;

use super::*;

const GOOD: &str = "epoch: 1\npartitions: 4\nkafka: {bootstrap_servers: 'localhost:9092'}\nsources:\n  - {topic: usage, kind: usage}\nsnapshots: {url: 'memory:///'}\n";

#[test]
fn a_small_file_is_enough_and_the_rest_has_defaults() {
    let config = Config::parse("k.yaml", GOOD, &[]).unwrap();
    assert_eq!(config.aggregate.windows.len(), 3);
    assert_eq!(config.sources[0].delay(), Span::from_secs(3600));
}

#[test]
fn the_example_is_valid_and_shows_the_defaults() {
    let text = include_str!("../../../deploy/keepwell.yaml");
    let example = Config::parse("deploy/keepwell.yaml", text, &[]).unwrap();
    let defaults = Config::parse("k.yaml", GOOD, &[]).unwrap();
    assert_eq!(
        (&example.time, &example.ingest, &example.batch, &example.duplicates),
        (&defaults.time, &defaults.ingest, &defaults.batch, &defaults.duplicates)
    );
    assert_eq!(example.topics, defaults.topics);
    assert_eq!(example.kafka, Kafka { bootstrap_servers: "localhost:19092".into(), ..defaults.kafka });
    assert_eq!(example.sources.len(), Kind::ALL.len());
    let Aggregate { catalogue, ticket_categories, first_value_feature, feature_groups, .. } = example.aggregate.clone();
    let expected =
        Aggregate { catalogue, ticket_categories, first_value_feature, feature_groups, ..defaults.aggregate };
    assert_eq!(example.aggregate, expected);
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    // text to replace, replacement, words that the message must contain
    let cases: [(&str, &str, &[&str]); 19] = [
        ("epoch: 1", "epoch: 1\nepock: 2", &["epock", "line 2"]),
        ("partitions: 4", "partitions: four", &["line 2"]),
        ("partitions: 4", "partitions: 0", &["partitions", "line 2"]),
        ("kind: usage}", "kind: usage, bound: soon}", &["soon", "line 5"]),
        ("kind: usage}", "kind: clicks}", &["clicks", "line 5"]),
        ("snapshots:", "aggregate: {windows: [36h]}\nsnapshots:", &["36h", "1d", "aggregate.windows", "line 6"]),
        (
            "snapshots:",
            "aggregate: {feature_groups: {usage: [a]}}\nsnapshots:",
            &["feature group usage", "has that name", "line 6"],
        ),
        (
            "snapshots:",
            "aggregate: {feature_groups: {g: [a, '']}, measures: [g]}\nsnapshots:",
            &["feature group g", "an empty one", "line 6"],
        ),
        (
            "snapshots:",
            "aggregate: {measures: [usages]}\nsnapshots:",
            &["usages", "usage, people", "aggregate.measures", "line 6"],
        ),
        (
            "snapshots:",
            "aggregate: {measures: [{of: [uses], windows: [30d]}]}\nsnapshots:",
            &["30d", "7d, 28d, 90d", "aggregate.measures", "line 6"],
        ),
        (
            "snapshots:",
            "aggregate: {measures: [{of: [uses], window: 7d}]}\nsnapshots:",
            &["window", "windows", "line 6"],
        ),
        ("snapshots:", "ingest: {max_event_bytes: 500000}\nsnapshots:", &["500000", "900000", "line 6", "column 27"]),
        (
            "snapshots:",
            "ingest: {max_event_bytes: 400000, max_facts: 100000}\nsnapshots:",
            &["400000", "max_facts: 100000", "216808"],
        ),
        (
            "\nsnapshots:",
            "\n  - {topic: keepwell.events, kind: ticket}\nsnapshots:",
            &["keepwell.events", "again", "line 6"],
        ),
        ("snapshots:", "topics: {events: a, windows: a}\nsnapshots:", &["topics", "a is the name of two"]),
        ("'localhost:9092'}", "'localhost:9092', max_record_bytes: 200000}", &["262144", "200000", "line 3"]),
        ("snapshots:", "time: {lateness: 400d}\nsnapshots:", &["time.lateness", "line 6"]),
        ("snapshots:", "time: {lateness: 180d}\nsnapshots:", &["time.lateness", "less than two", "90d", "line 6"]),
        ("\nsnapshots:", "\n  - {topic: usage, kind: ticket}\nsnapshots:", &["usage", "twice", "line 6"]),
    ];
    for (from, to, words) in cases {
        let message = Config::parse("k.yaml", &GOOD.replace(from, to), &[]).unwrap_err().to_string();
        for word in words.iter().chain(&["k.yaml"]) {
            assert!(message.contains(word), "{word:?} is not in: {message}");
        }
    }
}

#[test]
fn no_message_shows_a_value_of_the_file_that_may_be_a_secret() {
    let kafka = "kafka: {bootstrap_servers: 'localhost:9092', properties: {sasl.password: hunter2}}";
    let text = GOOD.replace("kafka: {bootstrap_servers: 'localhost:9092'}", kafka);
    for (from, to) in [("epoch: 1", "epoch: x"), ("partitions: 4", "partitions: 0"), ("epoch: 1", "epoch: 1\nfoo: 2")] {
        let message = Config::parse("k.yaml", &text.replace(from, to), &[]).unwrap_err().to_string();
        assert!(!message.contains("hunter2") && message.contains("line"), "{message}");
    }
    // Mistakes of users who write a secret in place of its environment variable.
    for wrong in [
        "aggregate: {erasure_key: hunter2}",
        "ingest: {user_id_key: hunter2}",
        "ingest: {user_id_key: [hunter2]}",
        "ingest: {user_id_key: {hunter2: x}}",
        "tables: {url: 's3://a/b', options: hunter2}",
        "tables: {url: 's3://a/b', options: {aws_secret_access_key: [hunter2]}}",
        "tables: {url: 's3://a/b', secrets: {aws_secret_access_key: hunter2}}",
    ] {
        let message = Config::parse("k.yaml", &format!("{GOOD}{wrong}\n"), &[]).unwrap_err().to_string();
        assert!(!message.contains("hunter2") && message.contains("line "), "{wrong}: {message}");
    }
    for set in ["kafka.properties.sasl.password.=hunter2", "epoch.x=hunter2", "tables.options=hunter2"] {
        let message = Config::parse("k.yaml", &text, &[set.to_owned()]);
        assert!(!message.as_ref().is_err_and(|error| error.to_string().contains("hunter2")), "{set}: {message:?}");
    }
    let shown = format!("{:#?}", Config::parse("k.yaml", &text, &[]).unwrap());
    assert!(shown.contains("sasl.password") && !shown.contains("hunter2"), "{shown}");
}

#[test]
fn set_replaces_a_value_and_is_checked_too() {
    let set = |assignment: &str| Config::parse("k.yaml", GOOD, &[assignment.to_owned()]);
    assert_eq!(set("partitions=7").unwrap().partitions, 7);
    assert_eq!(set("sources.0.bound=2h").unwrap().sources[0].bound, Span::from_secs(7200));
    assert_eq!(set("kafka.properties.linger.ms=5").unwrap().kafka.properties["linger.ms"], "5");
    assert!(set("partitions=0").is_err());
    assert!(set("partition=3").is_err());
    assert!(set("partitions").is_err());
}

#[test]
fn a_source_has_a_kind_or_a_preset_or_a_mapping() {
    // form, whether it is accepted
    let cases = [
        ("kind: usage", true),
        ("preset: segment", true),
        ("mapping: crm.yaml", true),
        ("optional: true", false),
        ("kind: usage, preset: segment", false),
        ("preset: segment, mapping: crm.yaml", false),
    ];
    for (form, is_accepted) in cases {
        let text = GOOD.replace("kind: usage", form);
        let read = Config::parse("k.yaml", &text, &[]).map_err(|error| error.to_string());
        assert_eq!(read.is_ok(), is_accepted, "{form}: {read:?}");
        if let Err(why) = read {
            assert!(why.contains("line 5, column") && why.contains("topic usage needs one of"), "{form}: {why}");
        }
    }
    let text = GOOD.replace("kind: usage", "mapping: maps/crm.yaml");
    let folder = std::env::temp_dir().join(format!("keepwell-config-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("k.yaml"), text).unwrap();
    let config = Config::read(&folder.join("k.yaml"), &[]).unwrap();
    assert_eq!(config.sources[0].mapping.as_deref(), Some(folder.join("maps/crm.yaml").as_path()));
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn success_plans_that_cannot_be_are_refused_by_name() {
    // the plans, words of the message
    let cases: [(&str, &[&str]); 4] = [
        ("[{name: p, items: []}]", &["success plan p", "no item"]),
        ("[{name: p, items: [{name: a, due: 7d, feature: f, milestone: m}]}]", &["item a", "not by both"]),
        ("[{name: p, items: [{name: a, due: 7d}], first_value: {within: 14d}}]", &["success plan p", "either"]),
        (
            "[{name: p, items: [{name: a, due: 7d}]}, {name: q, items: [{name: a, due: 7d}]}]",
            &["success plan p", "put it last"],
        ),
    ];
    for (plans, words) in cases {
        let text = GOOD.replace("snapshots:", &format!("aggregate: {{success_plans: {plans}}}\nsnapshots:"));
        let message = Config::parse("keepwell.yaml", &text, &[]).unwrap_err().to_string();
        for word in words.iter().chain(&["line 6"]) {
            assert!(message.contains(word), "{word:?} is not in: {message}");
        }
    }
}
