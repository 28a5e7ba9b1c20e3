-- The tour, page 7: everything in a bucket
-- ========================================
--
-- Input, output and state in S3, or in what speaks its language. GCS (gs://) and
-- Azure (az://) are used alike. The environment says where it is and who asks,
-- never the SQL:
--
--     export AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=… AWS_REGION=us-east-1
--
-- and for a server of one's own, such as `pip install 'moto[server]'`, which
-- `moto_server -p 5000` starts:
--
--     export AWS_ENDPOINT=http://127.0.0.1:5000 AWS_ALLOW_HTTP=true
--
-- The page reads a bucket with the name `lake`. Some input for it:
--
--     fuse query -c "COPY (SELECT * FROM 'testdata/events.ndjson') TO 's3://lake/incoming/1.json'"
--     fuse query sql/tour/07_s3.sql --once --state s3://lake/state
--
-- docs/connectors.md has the options, and what holds.


-- 1. A folder that grows -------------------------------------------------------
--
-- Each object that comes under the prefix is read once. With --once fuse ends
-- behind the last; without, it looks for new ones until it is stopped.

CREATE STREAM readings (station_id BIGINT, ts TIMESTAMP, free_docks BIGINT)
STORED AS JSON LOCATION 's3://lake/incoming/';


-- 2. Rows that only come ----------------------------------------------------------
--
-- Files are completed at the commit of their epoch: readers see all rows of it or
-- none, and each row once, also after kill -9 at any instant.

COPY (SELECT station_id, ts FROM readings WHERE free_docks = 0)
TO 's3://lake/full/' STORED AS PARQUET;


-- 3. The answer as it is now --------------------------------------------------------

COPY (SELECT station_id, count(*) AS readings, min(free_docks) AS least FROM readings GROUP BY station_id)
TO 's3://lake/stations.parquet';

SELECT count(*) AS readings FROM readings;


-- 4. What now? ------------------------------------------------------------------------
--
-- Copy another file into the bucket, and run the page again: only that is read.
--
--     fuse query -c "SELECT * FROM 's3://lake/stations.parquet' ORDER BY readings DESC LIMIT 5"
--     fuse verify sql/tour/07_s3.sql --state s3://lake/state
