-- The tour, page 6: a lake table that holds the current answer
-- =============================================================
--
-- A Delta table is a folder of Parquet files with a log of its versions, which
-- Spark, DuckDB, Polars and others read. From the root of the repository:
--
--     cargo run --release -- query sql/tour/06_delta.sql --once
--
-- docs/connectors.md has the options, and what holds.


-- 1. The input, as on page 2 ---------------------------------------------------

CREATE STREAM readings STORED AS JSON LOCATION 'testdata/events.ndjson'
OPTIONS ('dead_letter' 'out/tour/unread_delta/');


-- 2. The answer as it is now ------------------------------------------------------
--
-- With a PRIMARY KEY, rows are replaced and deleted as the answer changes. No
-- MERGE to write: each commit of the table is the answer after an epoch, and
-- carries the epoch's number, so it is there once, also after kill -9.

CREATE EXTERNAL TABLE stations (station_id BIGINT, readings BIGINT, least BIGINT, PRIMARY KEY (station_id))
STORED AS DELTA LOCATION 'out/tour/lake/stations';

INSERT INTO stations
SELECT station_id, count(*), min(free_docks) FROM readings GROUP BY station_id;


-- 3. Rows that only come ------------------------------------------------------------

CREATE EXTERNAL TABLE alarms (station_id BIGINT, at TIMESTAMP)
STORED AS DELTA LOCATION 'out/tour/lake/alarms';

INSERT INTO alarms
SELECT station_id, CAST(ts AS TIMESTAMP) FROM readings WHERE array_has(tags, 'full');

SELECT count(*) AS readings FROM readings;


-- 4. What now? ------------------------------------------------------------------------
--
--     fuse query -c "SELECT * FROM 'out/tour/lake/stations/'"
--     fuse query -c "SELECT count(*) FROM 'out/tour/lake/stations/' VERSION AS OF 1"
--
-- and what changes in such a table is an input itself, joins and aggregates
-- included:
--
--     CREATE STREAM stations STORED AS DELTA LOCATION 'out/tour/lake/stations';
