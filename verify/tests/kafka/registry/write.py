"""Writes records with the serializers of confluent-kafka: write.py BROKER REGISTRY TOPIC COUNT.

The same kind of record in turns: by Avro that refers to another schema, by JSON Schema, by Protobuf that imports another file, and
by Avro with the GUID of its schema in a header, by Protobuf whose schema is a text. Then a record of an unknown schema, a damaged one, one that ends within its frame,
and one without a frame. Prints as JSON how many of each were written.
"""
import datetime
import faulthandler
import json
import sys
import uuid

from confluent_kafka import Producer
from confluent_kafka.schema_registry import Schema, SchemaReference, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.common.serde import SchemaId
from confluent_kafka.schema_registry.json_schema import JSONSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2

FEATURE = json.dumps({"type": "enum", "name": "Feature", "namespace": "com.example", "symbols": ["export", "import"]})
AVRO = json.dumps({
    "type": "record", "name": "Use", "namespace": "com.example", "fields": [
        {"name": "event_id", "type": "string"},
        {"name": "account_id", "type": "string"},
        {"name": "user_id", "type": ["null", "string"], "default": None},
        {"name": "feature", "type": "Feature"},
        {"name": "occurred_at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "count", "type": "int", "default": 1},
    ]})
JSON = json.dumps({
    "$schema": "http://json-schema.org/draft-07/schema#", "title": "Use", "type": "object",
    "properties": {"event_id": {"type": "string"}, "account_id": {"type": "string"}, "occurred_at": {"type": "string"}}})
TEXT = """
syntax = "proto3";
package com.example.text;
import "google/protobuf/timestamp.proto";
import "example/plan.proto";
message Use {
  string event_id = 1;
  string account_id = 2;
  optional string user_id = 3;
  Feature feature = 4;
  google.protobuf.Timestamp occurred_at = 5;
  int64 count = 6;
  Plan plan = 7;
}
enum Feature { none = 0; export = 1; }
"""
PLAN = 'syntax = "proto3";\npackage com.example.text;\nmessage Plan { string name = 1; }\n'


def protobuf():
    """A message `Use`, the second of its file, that imports an enum and a time."""
    kinds = descriptor_pb2.FieldDescriptorProto
    enum = descriptor_pb2.FileDescriptorProto(name="example/feature.proto", package="com.example", syntax="proto3")
    values = enum.enum_type.add(name="Feature").value
    values.add(name="none", number=0)
    values.add(name="export", number=1)
    file = descriptor_pb2.FileDescriptorProto(name="example/use.proto", package="com.example", syntax="proto3")
    file.dependency.extend([enum.name, "google/protobuf/timestamp.proto"])
    file.message_type.add(name="Other").field.add(name="x", number=1, type=kinds.TYPE_STRING, label=1)
    fields = file.message_type.add(name="Use").field
    for number, name in enumerate(["event_id", "account_id", "user_id"], 1):
        fields.add(name=name, number=number, type=kinds.TYPE_STRING, label=1)
    fields.add(name="feature", number=4, type=kinds.TYPE_ENUM, type_name=".com.example.Feature", label=1)
    fields.add(name="occurred_at", number=5, type=kinds.TYPE_MESSAGE, type_name=".google.protobuf.Timestamp", label=1)
    fields.add(name="count", number=6, type=kinds.TYPE_INT64, label=1)
    pool = descriptor_pool.Default()
    for known in (enum, file):
        pool.AddSerializedFile(known.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("com.example.Use"))


def delivered(error, _):
    if error:
        sys.exit(f"not delivered: {error}")


# A writer that stands still says where.
faulthandler.dump_traceback_later(120, exit=True)
broker, registry, topic, count = sys.argv[1:]
client = SchemaRegistryClient({"url": registry, "timeout": 30})
client.register_schema("com.example.Feature", Schema(FEATURE, "AVRO"))
feature = SchemaReference("com.example.Feature", "com.example.Feature", 1)
use = protobuf()
client.register_schema("plan", Schema(PLAN, "PROTOBUF"))
text_id = client.register_schema(f"{topic}-text", Schema(TEXT, "PROTOBUF", [SchemaReference("example/plan.proto", "plan", 1)]))
avro, plain = AvroSerializer(client, Schema(AVRO, "AVRO", [feature])), JSONSerializer(JSON, client)
proto = ProtobufSerializer(use, client, {"use.deprecated.format": False})
producer = Producer({"bootstrap.servers": broker, "message.timeout.ms": 60_000})
context = {name: SerializationContext(f"{topic}-{name}", MessageField.VALUE) for name in ("avro", "json", "protobuf")}
start = datetime.datetime(2026, 3, 1, 10, tzinfo=datetime.timezone.utc)
records = []
for n in range(int(count)):
    at = start + datetime.timedelta(seconds=n)
    fact = {"event_id": f"a{n}", "account_id": "by-avro", "user_id": f"u{n % 3}" if n % 2 else None, "feature": "export", "occurred_at": at, "count": 2}
    records.append((avro(fact, context["avro"]), None))
    fact = {"event_id": f"j{n}", "account_id": "by-json", "feature": "import", "occurred_at": at.isoformat()}
    records.append((plain(fact, context["json"]), None))
    time = timestamp_pb2.Timestamp()
    time.FromDatetime(at)
    message = use(event_id=f"p{n}", account_id="by-protobuf", user_id=f"u{n % 3}", feature=1, occurred_at=time, count=2)
    records.append((proto(message, context["protobuf"]), None))
    message = use(event_id=f"t{n}", account_id="by-text", feature=1, occurred_at=time, count=2)
    # A single zero stands for the first message of the file.
    records.append((SchemaId("PROTOBUF", schema_id=text_id).id_to_bytes() + b"\0" + message.SerializeToString(), None))
    fact = {"event_id": f"g{n}", "account_id": "by-guid", "user_id": None, "feature": "export", "occurred_at": at, "count": 2}
    framed = avro(fact, context["avro"])
    # The registry of this test gives no GUIDs: the number of the schema is one here.
    guid = SchemaId("AVRO", guid=str(uuid.UUID(int=int.from_bytes(framed[1:5], "big")))).guid_to_bytes()
    records.append((framed[5:], [("__value_schema_id", guid)]))
good = records[0][0]
unframed = b'{"event_id": "n1", "account_id": "by-none", "feature": "export", "occurred_at": "2026-03-01T10:00:00Z"}'
records += [(value, None) for value in (b"\0\x7f\xff\xff\xff" + good[5:], good[:-2], b"\0\0", unframed)]
for value, headers in records:
    producer.produce(topic, value, headers=headers, partition=0, on_delivery=delivered)
assert producer.flush(90) == 0, "records were not delivered"
print(json.dumps({name: int(count) for name in ("avro", "json", "protobuf", "text", "guid")}))
