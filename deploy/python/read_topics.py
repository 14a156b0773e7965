"""Reads Keepwell's topics with a client and an Arrow that are not Keepwell's own.

    deploy/python/python deploy/python/read_topics.py BROKER SCORES HEALTH WINDOWS

Prints one JSON object: the last score of each account on SCORES, the number of final rows on HEALTH and how often each factor
is there, the sum of all uses on WINDOWS, and the number of columns there that are run-end encoded.
Fails where a key does not lie in the partition of the Java client's default partitioner.
"""

import json
import sys

import pyarrow
from kafka import KafkaConsumer, TopicPartition
from kafka.partitioner.default import murmur2

from arrow_record import rows


def records(broker, topic):
    consumer = KafkaConsumer(
        bootstrap_servers=broker, isolation_level="read_committed", auto_offset_reset="earliest", enable_auto_commit=False
    )
    partitions = sorted(consumer.partitions_for_topic(topic))
    for partition in partitions:
        tp = TopicPartition(topic, partition)
        consumer.assign([tp])
        consumer.seek_to_beginning(tp)
        end = consumer.end_offsets([tp])[tp]
        while consumer.position(tp) < end:
            for batch in consumer.poll(timeout_ms=1000).values():
                for record in batch:
                    yield len(partitions), record
    consumer.close()


def main():
    broker, scores, health, windows = sys.argv[1:]
    last = {}
    for count, record in records(broker, scores):
        expected = (murmur2(record.key) & 0x7FFFFFFF) % count
        if record.partition != expected:
            sys.exit(f"{record.key!r} lies in partition {record.partition}, the default partitioner says {expected}")
        account = record.key.decode()
        if record.value is None:
            last.pop(account, None)
        else:
            last[account] = json.loads(record.value)["score"]
    factors, tables = {}, []
    for _, record in records(broker, health):
        if record.value is not None:
            tables.append(rows(record.value))
    everything = pyarrow.concat_tables(tables, promote_options="default")
    finals = sum(everything.column("final").to_pylist())
    for factor in pyarrow.compute.list_flatten(everything.column("factors")).to_pylist():
        factors[factor["name"]] = factors.get(factor["name"], 0) + 1
    uses = runs = 0
    for _, record in records(broker, windows):
        if record.value is not None:
            uses += sum(rows(record.value).column("uses_14d").to_pylist())
            schema = pyarrow.ipc.open_stream(record.value).schema
            runs += sum(pyarrow.types.is_run_end_encoded(field.type) for field in schema)
    print(json.dumps({"last": last, "finals": finals, "factors": factors, "uses": uses, "runs": runs}))


if __name__ == "__main__":
    main()
