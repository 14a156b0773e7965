//! Leaving a group. A client of librdkafka can wait for ever for its group when it is closed during a rebalance (its
//! issues 4041 and 4884). What it has to lose is committed by then, so the wait has a limit.

use std::collections::BTreeMap;
use std::sync::{Arc, mpsc};
use std::thread::Builder;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use tracing::warn;

use super::list;
use super::ownership::{self, Change, Ownership};
use super::queue::Queue;
use keepwell_core::offset::TopicPartition;

/// Longest time to leave a group. The broker answers within milliseconds.
const LEAVES_WITHIN: Duration = Duration::from_secs(20);

/// A client that leaves its group.
pub(super) struct Departure {
    pub consumer: Arc<BaseConsumer<Ownership>>,
    /// The queues keep the consumer alive. It can leave the group only when they are gone.
    pub queues: BTreeMap<TopicPartition, Queue>,
    /// A change that the group waits to have answered: whether it assigns partitions, and which.
    pub unanswered: Option<(bool, Vec<TopicPartition>)>,
}

impl Departure {
    /// Leaves the group and closes the client. After [`LEAVES_WITHIN`] the client is left to itself: the group gives
    /// its partitions away after the session timeout.
    pub fn leave(self) {
        if !is_done_within(LEAVES_WITHIN, || self.close()) {
            warn!(seconds = LEAVES_WITHIN.as_secs(), "the client does not leave its group; the session timeout will");
        }
    }

    /// Accepts every change the group asks for from now on. Otherwise the close of the client would wait for ever.
    fn close(self) {
        let Self { consumer, queues, mut unanswered } = self;
        consumer.context().close();
        while let Some((is_assign, partitions)) =
            unanswered.take().or_else(|| match consumer.context().next_change()? {
                Change::Assigned(partitions) => Some((true, partitions)),
                Change::Revoked(partitions) => Some((false, partitions)),
            })
        {
            ownership::answer(&consumer, is_assign, &list(&partitions));
        }
        drop(queues);
        drop(consumer);
    }
}

/// Does something in a thread of its own. False if it is not done within the limit; the thread goes on.
fn is_done_within(limit: Duration, work: impl FnOnce() + Send + 'static) -> bool {
    let (done, is_done) = mpsc::channel::<()>();
    let started = Builder::new().name("leave".to_owned()).spawn(move || {
        work();
        drop(done);
    });
    match started {
        Ok(_) => is_done.recv_timeout(limit) != Err(mpsc::RecvTimeoutError::Timeout),
        // Without a thread the work is dropped, and the client closes with it.
        Err(error) => {
            warn!(%error, "no thread to leave the group with");
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_never_ends_is_not_waited_for() {
        let (end, ended) = mpsc::channel::<()>();
        assert!(!is_done_within(Duration::from_millis(20), move || assert!(ended.recv().is_err())));
        drop(end);
    }

    #[test]
    fn work_that_ends_is_waited_for() {
        let (result, of_work) = mpsc::channel();
        assert!(is_done_within(Duration::from_secs(3600), move || result.send(7).unwrap()));
        assert_eq!(of_work.try_recv(), Ok(7));
    }
}
