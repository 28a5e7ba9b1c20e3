-- The tour, page 1: files at rest
-- ===============================
--
-- Half a year of a bike share scheme, one SQL file, no set-up. From the root of
-- the repository:
--
--     cargo run --release -- query sql/tour/01_batch.sql
--
-- The statements run from top to bottom. A SELECT prints its rows; a COPY
-- writes files. testdata/README.md explains the columns.


-- 1. A file is a table --------------------------------------------------------
--
-- Put its path where a table name goes. The ending tells the format, and
-- `.gz` is unpacked on the way. Columns and types come from the file itself: a
-- Parquet file knows them, a CSV file is looked into. An empty CSV field is
-- NULL.

SELECT station_id, name, docks, opened
FROM 'testdata/stations.csv'
WHERE district = 'Harbour'
ORDER BY station_id;


-- 2. A folder is a table too --------------------------------------------------
--
-- 'testdata/trips/' holds one Parquet file a month, in folders such as
-- `year=2024/month=04/`. What the folders say becomes two more columns, year
-- and month, and a filter on them decides which files are opened at all: here
-- the first three months stay closed.
--
-- The folder spells the month '04'; CAST says that a number is meant.

SELECT CAST(month AS INT) AS month,
       count(*) AS trips,
       count(*) FILTER (WHERE rider = 'casual') AS casual,
       CAST(round(sum(distance_m) / 1000) AS INT) AS km
FROM 'testdata/trips/'
WHERE CAST(month AS INT) >= 4
GROUP BY CAST(month AS INT)
ORDER BY month;


-- 3. A view names a query -----------------------------------------------------
--
-- Real data has odd rows: bikes that never came back (ended_at is NULL) and
-- bikes put back at once (0 m). A view says once what counts as a ride. It
-- stores nothing; it is worked into every query that uses it.

CREATE VIEW rides AS
SELECT trip_id, CAST(started_at AS DATE) AS day, start_station, rider, distance_m
FROM 'testdata/trips/'
WHERE ended_at IS NOT NULL AND distance_m > 0;

-- What a day was like. Where the rain gauge failed, rain_mm is NULL; no branch
-- of the CASE is true for NULL, so the day falls through to 'unknown'.

CREATE VIEW days AS
SELECT day, temp_c,
       CASE WHEN snow THEN 'snow'
            WHEN rain_mm >= 1 THEN 'wet'
            WHEN rain_mm < 1 THEN 'dry'
            ELSE 'unknown'
       END AS sky
FROM 'testdata/weather.csv.gz';


-- 4. Join a folder of Parquet with a gzipped CSV ------------------------------
--
-- Trips per day against the weather. First count the rides of each day, then
-- average over days of one kind: a mean of days, not of trips.

CREATE VIEW daily AS
SELECT days.day, days.sky, days.temp_c,
       count(*) AS trips,
       count(*) FILTER (WHERE rides.rider = 'casual') AS casual
FROM days JOIN rides ON rides.day = days.day
GROUP BY days.day, days.sky, days.temp_c;

SELECT sky,
       count(*) AS days,
       round(avg(temp_c), 1) AS temp_c,
       round(avg(trips), 1) AS trips_per_day,
       round(100.0 * sum(casual) / sum(trips), 1) AS casual_percent
FROM daily
GROUP BY sky
ORDER BY trips_per_day DESC, sky;


-- 5. Write one Parquet file ---------------------------------------------------
--
-- The three busiest stations of each district. QUALIFY filters on a window
-- function, as HAVING does on an aggregate; station_id breaks ties, so that the
-- answer is the same on every run.
--
-- The file appears under its name only when it is complete. Run the tour
-- again, and the new file takes the place of the old one.

COPY (
    SELECT s.district,
           row_number() OVER (
               PARTITION BY s.district
               ORDER BY count(*) DESC, s.station_id
           ) AS place,
           s.station_id,
           s.name,
           count(*) AS trips,
           CAST(round(sum(r.distance_m) / 1000) AS INT) AS km
    FROM rides r JOIN 'testdata/stations.csv' s ON s.station_id = r.start_station
    WHERE s.district IS NOT NULL
    GROUP BY s.district, s.station_id, s.name
    QUALIFY place <= 3
    ORDER BY s.district, place
) TO 'out/tour/busiest.parquet';


-- 6. Write a partitioned folder -----------------------------------------------
--
-- One folder per month: out/tour/daily/month=2024-01/ and so on. With
-- 'mode' 'replace' the whole folder is replaced in one step: a reader sees
-- either all of the old files or all of the new ones.

COPY (
    SELECT to_char(day, '%Y-%m') AS month, day, sky, temp_c, trips, casual
    FROM daily
    ORDER BY day
) TO 'out/tour/daily/'
STORED AS PARQUET
PARTITIONED BY (month)
OPTIONS ('mode' 'replace');


-- 7. Read it back: which stations does the rain empty? ------------------------
--
-- What was written is a table like any other. For the busiest station of each
-- district: how many rides start there on a dry day, how many on a wet one?
--
-- Only April to June count: in winter few people ride, wet or dry, and that
-- would blur the answer. With 31 wet days, less than ten percent either way may
-- be chance. The rest is not: rain keeps half of the riders from the garden and
-- from the zoo, but few from the way to work.

WITH season AS (
    SELECT day, sky
    FROM 'out/tour/daily/'
    WHERE month >= '2024-04'
),
sizes AS (
    SELECT count(*) FILTER (WHERE sky = 'dry') AS dry_days,
           count(*) FILTER (WHERE sky = 'wet') AS wet_days
    FROM season
),
starts AS (
    SELECT r.start_station,
           count(*) FILTER (WHERE season.sky = 'dry') AS dry,
           count(*) FILTER (WHERE season.sky = 'wet') AS wet
    FROM rides r JOIN season ON season.day = r.day
    GROUP BY r.start_station
)
SELECT b.district,
       b.name AS busiest_station,
       b.trips,
       round(1.0 * dry / dry_days, 2) AS per_dry_day,
       round(1.0 * wet / wet_days, 2) AS per_wet_day,
       CAST(round(100.0 * (1.0 * wet / wet_days) / (1.0 * dry / dry_days) - 100) AS INT) AS change_percent
FROM 'out/tour/busiest.parquet' b
JOIN starts ON starts.start_station = b.station_id
CROSS JOIN sizes
WHERE b.place = 1
ORDER BY change_percent, b.district;
