-- The tour, page 2: inputs that grow
-- ==================================
--
-- The dock sensors of the bike share scheme report all day. The same SQL as on
-- page 1 keeps answers up to date while their file grows. From the root of the
-- repository:
--
--     cargo run --release -- query sql/tour/02_streams.sql --once
--
-- `--once` takes what is there, commits and exits, as cron wants it. Run it
-- again: nothing new has come, so nothing is printed, and nothing is written.
-- Without it the page runs until Ctrl-C, and goes on from where it stopped when
-- it is started again. `--fresh` forgets all and begins anew.


-- 1. A file that grows is a table --------------------------------------------
--
-- CREATE STREAM says that more will come. A folder, a followed file such as a
-- log, or standard input: docs/streams.md has them all. Columns that are not
-- named are found in what is there when the page is run for the first time.
--
-- A line that cannot be read would stop the page with its place. Here it would
-- go to a folder, with the reason.

CREATE STREAM readings STORED AS JSON LOCATION 'testdata/events.ndjson'
OPTIONS ('dead_letter' 'out/tour/unread/');

-- The stations rest: a table as on page 1.

CREATE EXTERNAL TABLE stations STORED AS CSV LOCATION 'testdata/stations.csv';


-- 2. A materialized view is kept up to date -----------------------------------
--
-- It is computed once, however many statements read it. A view may read views.
-- Tables that grow and tables that rest are joined like any others.

CREATE MATERIALIZED VIEW states AS
SELECT r.station_id, s.name, s.district, CAST(r.ts AS TIMESTAMP) AS at, r.free_docks, s.docks,
       array_has(r.tags, 'full') AS is_full,
       array_has(r.tags, 'empty') AS is_empty
FROM readings r JOIN stations s ON s.station_id = r.station_id;


-- 3. A query that only adds rows appends to a folder ---------------------------
--
-- Each commit shows its rows at once, each row once, also after kill -9. DuckDB,
-- Polars or fuse itself may read the folder at any moment.

COPY (
    SELECT station_id, name, at FROM states WHERE is_full OR is_empty
) TO 'out/tour/alarms/' STORED AS PARQUET;


-- 4. A query whose rows change keeps a file as it should be ---------------------
--
-- A new reading changes the row of its station. So the file is exchanged as a
-- whole at each commit: a reader sees the answer before, or the one behind.

COPY (
    SELECT district,
           count(*) AS readings,
           count(*) FILTER (WHERE is_full) AS full,
           count(*) FILTER (WHERE is_empty) AS empty,
           round(avg(100.0 * free_docks / docks), 1) AS free_percent
    FROM states
    GROUP BY district
    ORDER BY district
) TO 'out/tour/districts.csv';


-- 5. Or says what has changed ----------------------------------------------------
--
-- In mode 'changelog' the folder has a row for each change: op is insert or
-- delete, epoch is the number of the commit.

COPY (
    SELECT station_id, max(at) AS last_seen FROM states GROUP BY station_id
) TO 'out/tour/last_seen/' STORED AS PARQUET OPTIONS ('mode' 'changelog');


-- 6. A SELECT prints ---------------------------------------------------------------
--
-- On a terminal as a table at each commit, else an object a line, whose op says
-- whether the row came or went. In the interactive session (`fuse`) it is a table
-- that changes in place, until you press q.

SELECT district, count(DISTINCT station_id) AS stations, min(at) AS first, max(at) AS last
FROM states
GROUP BY district
ORDER BY district;


-- 7. A table that others change -----------------------------------------------------
--
-- Where rows also change and go, the input says what each does: here Debezium, which
-- tells the changes of a database. The table has the rows that are there now; all
-- that is made of it follows. Plain rows with a key, or with a column for what they
-- do, are docs/streams.md, "Tables that others change".

CREATE STREAM passes (code VARCHAR PRIMARY KEY, name VARCHAR, price DECIMAL(8, 2), since TIMESTAMP)
STORED AS DEBEZIUM LOCATION 'testdata/passes.ndjson' OPTIONS ('time_unit' 'us', 'decimals' 'string');

SELECT name, price, CAST(since AS DATE) AS since FROM passes ORDER BY price;


-- 8. Generators ---------------------------------------------------------------------
--
-- STORED AS RATE counts, STORED AS NEXMARK makes the auctions of a known benchmark,
-- both as fast as they are told and the same in every run: to try a query before its
-- input is there.

CREATE STREAM bid STORED AS NEXMARK OPTIONS ('rows' '20000');

SELECT channel, count(*) AS bids, max(price) AS highest
FROM bid
GROUP BY channel
HAVING count(*) > 2000
ORDER BY bids DESC;


-- 9. What now? ------------------------------------------------------------------------
--
--     fuse inspect .fuse/02_streams
--
-- tells how far the page is, where its sources stand and what it keeps, and
--
--     fuse query -c "FROM 'out/tour/districts.csv'"
--
-- reads what it wrote.
