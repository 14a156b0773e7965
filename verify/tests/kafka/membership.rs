//! Members that a group loses at the worst times.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use keepwell_core::offset::{NextOffset, TopicPartition};
use keepwell_pipeline::config;
use keepwell_pipeline::log::kafka::settings::Settings;
use keepwell_pipeline::log::kafka::{self, KafkaLog};
use keepwell_pipeline::log::{Log, Polled};
use keepwell_pipeline::pulse::Pulse;
use keepwell_verify::chaos::broker::Broker;
use keepwell_verify::kafka::{Kafka, free_port};

use crate::Deployment;

/// Time limit for a group to agree, even on a slow machine.
const LIMIT: Duration = Duration::from_secs(90);

struct Member {
    log: KafkaLog,
    owned: BTreeSet<TopicPartition>,
}

impl Member {
    fn join(kafka: &config::Kafka, topic: &str, instance: &str) -> Self {
        let (stop, pulse) = (Arc::new(AtomicBool::new(false)), Pulse::default());
        let group = format!("{}-members", kafka.group_prefix);
        let log = KafkaLog::join(
            Settings::new(kafka).unwrap(),
            kafka::Member { group: &group, instance, topics: &[topic] },
            stop,
            pulse,
        )
        .unwrap();
        Self { log, owned: BTreeSet::new() }
    }

    fn poll(&mut self) -> Polled {
        self.log.poll(Duration::from_millis(20), 10, 1000).unwrap()
    }

    /// Does what the group asks.
    fn turn(&mut self) {
        match self.poll() {
            Polled::Assigned(partitions) => {
                let from: BTreeMap<_, _> = partitions.iter().map(|tp| (tp.clone(), NextOffset(0))).collect();
                self.log.start(&from).unwrap();
                self.owned.extend(partitions);
            }
            Polled::Revoked(partitions) => {
                self.log.release(&partitions).unwrap();
                self.owned.retain(|tp| !partitions.contains(tp));
            }
            Polled::Records(_) => {}
        }
    }
}

#[test]
fn a_member_that_is_lost_between_the_rounds_of_a_rebalance_leaves_no_partition_to_nobody() {
    let deployment = Deployment::new("orphans");
    let (kafka, topic) = (&deployment.config.kafka, deployment.config.topics.windows.as_str());
    let started = Instant::now();
    let mut first = Member::join(kafka, topic, "a");
    while first.owned.len() < 3 {
        first.turn();
        assert!(started.elapsed() < LIMIT, "the first owns {:?}", first.owned);
    }
    let mut other = Member::join(kafka, topic, "b");
    // The group revokes partitions of the first member in the first round. That member never joins the second round.
    while !matches!(first.poll(), Polled::Revoked(_)) {
        other.turn();
        assert!(started.elapsed() < LIMIT, "the group asks for nothing back");
    }
    let mut again = Member::join(kafka, topic, "a");
    while again.owned.union(&other.owned).count() < 3 {
        again.turn();
        other.turn();
        assert!(started.elapsed() < LIMIT, "{:?} and {:?} are owned", again.owned, other.owned);
    }
}

#[test]
fn a_member_that_is_given_partitions_can_leave_while_the_broker_is_away() {
    let folder = tempfile::tempdir().unwrap();
    let [port, behind] = [(); 2].map(|()| free_port().unwrap());
    let broker = Broker::start(folder.path(), port, (behind, behind)).unwrap();
    let address = format!("127.0.0.1:{port}");
    Kafka::at(&address).create_topic("topic", 2).unwrap();
    let deployment = Deployment::new("leave");
    let kafka = config::Kafka { bootstrap_servers: address, ..deployment.config.kafka.clone() };
    let mut member = Member::join(&kafka, "topic", "a");
    let started = Instant::now();
    while !matches!(member.poll(), Polled::Assigned(_)) {
        assert!(started.elapsed() < LIMIT, "nothing is assigned");
    }
    broker.kill().unwrap();
    let (ended, end) = mpsc::channel();
    let leaves = std::thread::spawn(move || {
        drop(member);
        ended.send(()).unwrap();
    });
    end.recv_timeout(LIMIT).expect("leaving takes for ever");
    leaves.join().unwrap();
}
