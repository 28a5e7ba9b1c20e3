-- The tour, page 3: topics of Kafka
-- =================================
--
-- A topic is a table that grows, and one that a pipeline writes to. This page
-- needs a broker at localhost:9092 with the topic rides, whose messages are such
-- as {"id": 1, "station": "harbour", "minutes": 12}:
--
--     cargo run --release -- query sql/tour/03_kafka.sql --once
--
-- Offsets are in the state of the pipeline: run again, it goes on behind the last
-- message that it took. docs/connectors.md has all options, and what holds.


-- 1. A topic that is read ------------------------------------------------------
--
-- What a message has beside its value is there under names that begin with
-- kafka_, where it is declared. The group shows others how far the page is.

CREATE STREAM rides (id BIGINT, station VARCHAR, minutes BIGINT, kafka_partition INT, kafka_offset BIGINT)
STORED AS JSON LOCATION 'kafka://localhost:9092/rides' OPTIONS ('group' 'tour');


-- 2. A topic that is written ---------------------------------------------------
--
-- With a PRIMARY KEY, the last message of a key is the row as it is now. Each
-- commit is one transaction, so who reads what is committed sees whole results.

CREATE EXTERNAL TABLE stations (station VARCHAR, rides BIGINT, minutes BIGINT, PRIMARY KEY (station))
STORED AS JSON LOCATION 'kafka://localhost:9092/stations';

INSERT INTO stations
SELECT station, count(*), sum(minutes) FROM rides GROUP BY station;


-- 3. Beside files ---------------------------------------------------------------
--
-- All outputs of a page show the same input.

COPY (SELECT id, station, kafka_partition, kafka_offset FROM rides WHERE minutes > 60)
TO 'out/tour/long_rides/' STORED AS PARQUET;
