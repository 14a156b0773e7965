"""Writes records with the serializers of confluent-kafka: write.py BROKER REGISTRY TOPIC COUNT.

One kind of record by Avro and the same by JSON Schema, in turns; then a record of an unknown schema, a damaged one, and one
without a frame. Prints as JSON how many of each were written.
"""
import datetime
import faulthandler
import json
import sys

from confluent_kafka import Producer
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.json_schema import JSONSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

AVRO = json.dumps({
    "type": "record", "name": "Use", "namespace": "com.example", "fields": [
        {"name": "event_id", "type": "string"},
        {"name": "account_id", "type": "string"},
        {"name": "user_id", "type": ["null", "string"], "default": None},
        {"name": "feature", "type": {"type": "enum", "name": "Feature", "symbols": ["export", "import"]}},
        {"name": "occurred_at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "count", "type": "int", "default": 1},
    ]})
JSON = json.dumps({
    "$schema": "http://json-schema.org/draft-07/schema#", "title": "Use", "type": "object",
    "properties": {"event_id": {"type": "string"}, "account_id": {"type": "string"}, "occurred_at": {"type": "string"}}})

# A writer that stands still says where.
faulthandler.dump_traceback_later(120, exit=True)
broker, registry, topic, count = sys.argv[1:]
client = SchemaRegistryClient({"url": registry, "timeout": 30})
avro, plain = AvroSerializer(client, AVRO), JSONSerializer(JSON, client)
producer = Producer({"bootstrap.servers": broker, "message.timeout.ms": 60_000})
context = {name: SerializationContext(f"{topic}-{name}", MessageField.VALUE) for name in ("avro", "json")}


def delivered(error, _):
    if error:
        sys.exit(f"not delivered: {error}")


start = datetime.datetime(2026, 3, 1, 10, tzinfo=datetime.timezone.utc)
values = []
for n in range(int(count)):
    at = start + datetime.timedelta(seconds=n)
    use = {"event_id": f"a{n}", "account_id": "by-avro", "user_id": f"u{n % 3}" if n % 2 else None, "feature": "export", "occurred_at": at, "count": 2}
    values.append(avro(use, context["avro"]))
    use = {"event_id": f"j{n}", "account_id": "by-json", "feature": "import", "occurred_at": at.isoformat()}
    values.append(plain(use, context["json"]))
damaged = values[0][:-2]
for value in values + [b"\0\x7f\xff\xff\xff" + values[0][5:], damaged, b"\0\0", b'{"event_id": "n1", "account_id": "by-none", "feature": "export", "occurred_at": "2026-03-01T10:00:00Z"}']:
    producer.produce(topic, value, partition=0, on_delivery=delivered)
assert producer.flush(90) == 0, "records were not delivered"
print(json.dumps({"avro": int(count), "json": int(count)}))
