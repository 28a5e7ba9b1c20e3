-- q8. Who has opened an auction within the 10 s in which they registered.
CREATE STREAM person (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds')
STORED AS NEXMARK OPTIONS ('rows' '100000');

CREATE STREAM auction (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds')
STORED AS NEXMARK OPTIONS ('rows' '100000');

SELECT p.id, p.name, p.window_start
FROM (
  SELECT DISTINCT id, name, window_start
  FROM TUMBLE(TABLE person, DESCRIPTOR(date_time), INTERVAL '10 seconds')
) AS p
JOIN (
  SELECT DISTINCT seller, window_start
  FROM TUMBLE(TABLE auction, DESCRIPTOR(date_time), INTERVAL '10 seconds')
) AS a ON p.id = a.seller AND p.window_start = a.window_start;
