-- The tour, page 5: a live table of Postgres
-- ===========================================
--
-- This page wants a server of your own, with wal_level = logical, and in it
--
--     CREATE TABLE rental (id int PRIMARY KEY, station int, minutes int);
--     INSERT INTO rental VALUES (1, 7, 12), (2, 7, 40), (3, 9, 5);
--     CREATE TABLE station (id int PRIMARY KEY, name text);
--     INSERT INTO station VALUES (7, 'Harbour'), (9, 'Park');
--
-- Where it is, and the password, come from the environment:
--
--     export TOUR_DATABASE=postgres://me:secret@localhost:5432/bikes
--     fuse query sql/tour/05_postgres.sql --once
--
-- Change some rows there, and run the page again.


-- 1. A table at rest ------------------------------------------------------------
--
-- Its columns are found; the server runs conditions, projections and LIMIT.

CREATE EXTERNAL TABLE station STORED AS POSTGRES LOCATION 'env:TOUR_DATABASE' OPTIONS ('table' 'station');


-- 2. The same as a stream of what changes -----------------------------------------
--
-- All rows that are there, and then each transaction, whole and in the order of
-- commits: rows come, change and go.

CREATE STREAM rental STORED AS POSTGRES LOCATION 'env:TOUR_DATABASE' OPTIONS ('table' 'rental');


-- 3. A join and an aggregate that follow it, in a table of the same database --------
--
-- Its cost follows what has changed, and not what is there. The table is made.

CREATE EXTERNAL TABLE busy (name VARCHAR, rentals BIGINT, minutes BIGINT, PRIMARY KEY (name))
STORED AS POSTGRES LOCATION 'env:TOUR_DATABASE' OPTIONS ('table' 'busy');

INSERT INTO busy
SELECT name, count(*), sum(minutes) FROM rental JOIN station ON station.id = rental.station GROUP BY name;


-- 4. Giving it up ------------------------------------------------------------------
--
-- The server keeps its log for the page until the page has taken it. Who does not
-- run it again drops its slot, which `fuse inspect .fuse/05_postgres` names:
--
--     SELECT pg_drop_replication_slot('fuse_…'); DROP PUBLICATION fuse_…;
