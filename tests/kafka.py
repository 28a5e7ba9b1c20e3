"""Writes and reads topics with confluent-kafka, which is not what fuse uses: tests/kafka.rs calls it.

kafka.py BROKER COMMAND ARGUMENT…; a message is an object of JSON a line: value, key, partition, timestamp, headers.
"""

import json
import sys

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

broker, command, *rest = sys.argv[1:]
config = {"bootstrap.servers": broker, "log_level": 0}
admin = AdminClient(config)


def done(futures):
    for future in futures.values():
        future.result()


def send(producer, topic, line):
    message = json.loads(line)
    known = {name: message[name] for name in ("key", "value", "partition", "timestamp", "headers") if name in message}
    producer.produce(topic, **known)
    producer.poll(0)


def consumer(**more):
    return Consumer({**config, "group.id": "reader", "isolation.level": "read_committed",
                     "enable.partition.eof": True, "enable.auto.commit": False, **more})


if command == "create":
    done(admin.create_topics([NewTopic(rest[0], int(rest[1]), config={"retention.ms": "-1"})]))
elif command == "partitions":
    done(admin.create_partitions([NewPartitions(rest[0], int(rest[1]))]))
elif command == "delete":
    done(admin.delete_topics([rest[0]]))
elif command == "cut":
    # What is before an offset goes.
    done(admin.delete_records([TopicPartition(rest[0], int(rest[1]), int(rest[2]))]))
elif command == "write":
    # Compressed, if it is said how.
    codec = rest[1] if len(rest) > 1 else "none"
    producer = Producer({**config, "compression.type": codec, "linger.ms": 200})
    for line in sys.stdin:
        send(producer, rest[0], line)
    producer.flush()
elif command == "transact":
    # A line that is "commit" or "abort" ends a transaction; what is open at the end is left so.
    producer = Producer({**config, "transactional.id": "writer"})
    producer.init_transactions()
    producer.begin_transaction()
    for line in sys.stdin:
        if line.strip() in ("commit", "abort"):
            producer.flush()
            producer.commit_transaction() if line.strip() == "commit" else producer.abort_transaction()
            producer.begin_transaction()
        else:
            send(producer, rest[0], line)
    producer.flush()
elif command == "read":
    reader = consumer()
    topic = reader.list_topics(rest[0]).topics[rest[0]]
    open_ends = set(topic.partitions)
    reader.assign([TopicPartition(rest[0], partition, 0) for partition in topic.partitions])
    while open_ends:
        message = reader.poll(10)
        if message is None:
            sys.exit("nothing comes")
        if message.error():
            open_ends.discard(message.partition())
            continue
        value, key = message.value(), message.key()
        print(json.dumps({
            "partition": message.partition(),
            "offset": message.offset(),
            "key": None if key is None else key.decode(),
            "value": None if value is None else value.decode(),
        }))
elif command == "group":
    # What a group shows of a topic's partitions.
    reader = consumer(**{"group.id": rest[0]})
    asked = [TopicPartition(rest[1], partition) for partition in reader.list_topics(rest[1]).topics[rest[1]].partitions]
    print(json.dumps({one.partition: one.offset for one in reader.committed(asked)}))
else:
    sys.exit(f"no command {command}")
