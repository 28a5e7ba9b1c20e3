-- The tour, page 4: answers in a SQLite database
-- ===============================================
--
-- One file, no server: any program that reads SQLite reads the answer, while
-- fuse keeps it as it should be. From the root of the repository:
--
--     cargo run --release -- query sql/tour/04_sqlite.sql --once
--
-- docs/connectors.md has the types, and what holds.


-- 1. The input, as on page 2 ---------------------------------------------------

CREATE STREAM readings STORED AS JSON LOCATION 'testdata/events.ndjson'
OPTIONS ('dead_letter' 'out/tour/unread_sqlite/');


-- 2. Rows that only come are inserted -------------------------------------------
--
-- The table is made when the page is run for the first time. Each row is there
-- once, also after kill -9: all rows of a commit are in one transaction with its
-- number, which the table _fuse_epochs keeps.

CREATE EXTERNAL TABLE alarms (station_id BIGINT, at TIMESTAMP)
STORED AS SQLITE LOCATION 'out/tour/bikes.db' OPTIONS ('table' 'alarms');

INSERT INTO alarms
SELECT station_id, CAST(ts AS TIMESTAMP) FROM readings WHERE array_has(tags, 'full');


-- 3. Rows that change want a key --------------------------------------------------
--
-- By its key a row is found again: it is replaced when its station reports again,
-- and deleted when the answer has it no more.

CREATE EXTERNAL TABLE stations (station_id BIGINT, readings BIGINT, least BIGINT, PRIMARY KEY (station_id))
STORED AS SQLITE LOCATION 'out/tour/bikes.db' OPTIONS ('table' 'stations');

INSERT INTO stations
SELECT station_id, count(*), min(free_docks) FROM readings GROUP BY station_id HAVING min(free_docks) < 3;

SELECT count(*) AS readings FROM readings;


-- 4. What now? ---------------------------------------------------------------------
--
--     sqlite3 out/tour/bikes.db 'SELECT * FROM stations'
--
-- or fuse itself, which finds the columns:
--
--     CREATE EXTERNAL TABLE stations STORED AS SQLITE
--     LOCATION 'out/tour/bikes.db' OPTIONS ('table' 'stations');
--     SELECT * FROM stations;
