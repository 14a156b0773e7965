//! The rights that each program needs on the broker, and no others.

use std::fmt;

use crate::config::Config;

/// The resource that a right applies to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource {
    /// Topics with these names.
    Topics(Vec<String>),
    /// A consumer group.
    Group(String),
    /// Every transactional id with this prefix.
    TransactionalIds(String),
}

/// Operations on one resource that a program must be allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Right {
    /// Name of the program.
    pub program: &'static str,
    /// Names of the operations in Kafka.
    pub operations: &'static [&'static str],
    /// The resource they apply to.
    pub resource: Resource,
}

impl fmt::Display for Right {
    /// The arguments of `kafka-acls.sh` that follow the principal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for operation in self.operations {
            write!(f, "--operation {operation} ")?;
        }
        match &self.resource {
            Resource::Topics(names) => {
                let named: Vec<String> = names.iter().map(|name| format!("--topic {name}")).collect();
                f.write_str(&named.join(" "))
            }
            Resource::Group(name) => write!(f, "--group {name}"),
            Resource::TransactionalIds(prefix) => {
                write!(f, "--transactional-id {prefix} --resource-pattern-type prefixed")
            }
        }
    }
}

/// All rights that the programs of a configuration need.
pub fn rights(config: &Config) -> Vec<Right> {
    let topics = &config.topics;
    let raw: Vec<&String> = config.sources.iter().map(|source| &source.topic).collect();
    let rejects = vec![&topics.rejects];
    let of_aggregate = vec![&topics.windows, &topics.feature_days, &topics.revenue];
    // A stage that starts afresh checks that its outputs are empty, so it must read them. Rejects are not checked.
    let stages = [
        ("ingest", "ingest", raw, vec![&topics.events], rejects.clone()),
        ("aggregate", "aggregate", vec![&topics.events], of_aggregate.clone(), rejects.clone()),
        ("score", "score", vec![&topics.windows], vec![&topics.health], rejects),
        ("sink", "publish", vec![&topics.health], vec![&topics.scores, &topics.alerts], vec![]),
        ("sink", "tables", [of_aggregate, vec![&topics.health]].concat(), vec![], vec![]),
    ];
    let named = |names: Vec<&String>| Resource::Topics(names.into_iter().cloned().collect());
    let mut rights = Vec::new();
    for (program, stage, reads, writes, rejects) in stages {
        let name = format!("{}-{stage}", config.kafka.group_prefix);
        rights.push(Right { program, operations: &["Read", "Describe"], resource: named(reads) });
        if !writes.is_empty() {
            rights.push(Right { program, operations: &["Read", "Write", "Describe"], resource: named(writes) });
        }
        if !rejects.is_empty() {
            rights.push(Right { program, operations: &["Write", "Describe"], resource: named(rejects) });
        }
        rights.push(Right { program, operations: &["Read", "Describe"], resource: Resource::Group(name.clone()) });
        let ids = Resource::TransactionalIds(format!("{name}-"));
        rights.push(Right { program, operations: &["Write", "Describe"], resource: ids });
    }
    if let Some(collect) = config.collect.as_ref().filter(|collect| !collect.topics().is_empty()) {
        let topics = Resource::Topics(collect.topics().into_iter().map(str::to_owned).collect());
        rights.push(Right { program: "collect", operations: &["Write", "Describe"], resource: topics });
    }
    rights
}
