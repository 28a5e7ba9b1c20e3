"""Writes and reads values with schemas, with the clients of others: tests/kafka/schemas.rs calls it.

kafka_schemas.py BROKER REGISTRY COMMAND TOPIC
"""

import datetime
import decimal
import json
import sys

from confluent_kafka import Consumer, Producer
from confluent_kafka.schema_registry import Schema, SchemaReference, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

broker, url, command, topic = sys.argv[1:]
registry = SchemaRegistryClient({"url": url})
context = SerializationContext(topic, MessageField.VALUE)

ITEM = {"type": "record", "name": "Item", "namespace": "shop", "fields": [
    {"name": "sku", "type": "string"}, {"name": "count", "type": "int"}]}
FIELDS = [
    {"name": "id", "type": "long"},
    {"name": "name", "type": ["null", "string"], "default": None},
    {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
    {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    {"name": "day", "type": {"type": "int", "logicalType": "date"}},
    {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["A", "B"]}},
    {"name": "ok", "type": "boolean"},
    {"name": "tags", "type": {"type": "array", "items": "string"}},
    {"name": "item", "type": ITEM},
]
FIRST = {"type": "record", "name": "Order", "namespace": "shop", "fields": FIELDS}
SECOND = {**FIRST, "fields": [{"name": "added", "type": "double", "default": 0.5}] + FIELDS}


def order(number):
    return {
        "id": number, "name": None if number % 3 == 0 else f"n{number}", "price": decimal.Decimal(number) / 4,
        "at": datetime.datetime(2026, 1, 1, 12, 0, 0, 250000, tzinfo=datetime.timezone.utc) + datetime.timedelta(seconds=number),
        "day": datetime.date(2026, 1, 1) + datetime.timedelta(days=number), "kind": "AB"[number % 2],
        "ok": number % 2 == 0, "tags": [f"t{n}" for n in range(number % 3)], "item": {"sku": f"s{number}", "count": number},
    }


def send(values):
    producer = Producer({"bootstrap.servers": broker, "log_level": 0})
    for key, value in values:
        producer.produce(topic, key=key, value=value, partition=0)
    producer.flush()


def framed(number, body):
    return b"\0" + number.to_bytes(4, "big") + body


def proto():
    file = descriptor_pb2.FileDescriptorProto(name="order.proto", package="shop", syntax="proto3")
    other = file.message_type.add(name="Other")
    other.field.add(name="x", number=1, type=3, label=1)
    message = file.message_type.add(name="Order")
    message.field.add(name="id", number=1, type=3, label=1)
    message.field.add(name="name", number=2, type=9, label=1)
    message.field.add(name="amount", number=3, type=1, label=1)
    message.field.add(name="tags", number=4, type=9, label=3)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("shop.Order"))


PROTO = """syntax = "proto3";
package shop;
import "money.proto";
message Other { int64 x = 1; }
message Order { int64 id = 1; string name = 2; double amount = 3; repeated string tags = 4; Money paid = 5; }
"""
MONEY = "syntax = \"proto3\";\npackage shop;\nmessage Money { int64 units = 1; }\n"


def protobuf(number):
    return proto()(id=number, name=f"n{number}", amount=number / 2, tags=["a", "b"][: number % 3]).SerializeToString()


if command == "avro":
    first = AvroSerializer(registry, json.dumps(FIRST))
    second = AvroSerializer(registry, json.dumps(SECOND))
    values = [first(order(number), context) for number in range(10)]
    values += [second({**order(number), "added": number / 2}, context) for number in range(10, 20)]
    values += [first(order(number), context) for number in range(20, 25)]
    send((None, value) for value in values)
elif command == "wrong":
    good = AvroSerializer(registry, json.dumps(FIRST))(order(100), context)
    send((None, value) for value in [b"{}", framed(9999, b"x"), good[:-3], good + b"x", good])
elif command == "keyed":
    key = AvroSerializer(registry, json.dumps("string"))
    schema = json.dumps({"type": "record", "name": "Row", "fields": [{"name": "k", "type": "string"}, {"name": "v", "type": "int"}]})
    value = AvroSerializer(registry, schema)
    field = SerializationContext(topic, MessageField.KEY)
    rows = [("a", 1), ("b", 2), ("a", 3), ("b", None), ("c", 4)]
    send((key(k, field), None if v is None else value({"k": k, "v": v}, context)) for k, v in rows)
elif command == "bare":
    import io

    import fastavro
    def body(number):
        buffer = io.BytesIO()
        fastavro.schemaless_writer(buffer, {"type": "record", "name": "R", "fields": [{"name": "a", "type": "long"}]}, {"a": number})
        return buffer.getvalue()
    send((None, body(number)) for number in range(5))
elif command == "protobuf":
    registry.register_schema("money", Schema(MONEY, "PROTOBUF"))
    schema = Schema(PROTO, "PROTOBUF", [SchemaReference("money.proto", "money", 1)])
    number = registry.register_schema(f"{topic}-value", schema)
    # The second message of the text.
    send((None, framed(number, b"\x02\x02" + protobuf(n) + b"\x2a\x02\x08\x07")) for n in range(5))
elif command == "bare_protobuf":
    send((None, protobuf(n)) for n in range(5))
elif command == "references":
    registry.register_schema("item", Schema(json.dumps(ITEM), "AVRO"))
    text = {"type": "record", "name": "Pair", "namespace": "shop", "fields": [
        {"name": "one", "type": "shop.Item"}, {"name": "two", "type": ["null", "shop.Item"]}]}
    number = registry.register_schema(f"{topic}-value", Schema(json.dumps(text), "AVRO", [SchemaReference("shop.Item", "item", 1)]))
    send([(None, framed(number, b"\x02x\x02" + b"\x02\x02y\x04"))])
elif command == "json":
    number = registry.register_schema(f"{topic}-value", Schema('{"type": "object"}', "JSON"))
    send((None, framed(number, json.dumps({"a": n}).encode())) for n in range(5))
elif command == "read":
    reader = Consumer({"bootstrap.servers": broker, "log_level": 0, "group.id": "r", "isolation.level": "read_committed",
                       "auto.offset.reset": "earliest", "enable.partition.eof": True})
    reader.subscribe([topic])
    value = AvroDeserializer(registry)
    while True:
        message = reader.poll(30)
        assert message is not None, "nothing comes"
        if message.error():
            break
        key = message.key().decode() if message.key() else None
        print(key, json.dumps(value(message.value(), context), default=str) if message.value() else None)
    reader.close()
