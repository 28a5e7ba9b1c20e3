-- q14. Prices in euros, the time of the day, and how often extra has a c.
CREATE STREAM bid (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds')
STORED AS NEXMARK OPTIONS ('rows' '100000');

SELECT auction, bidder, CAST(0.908 * price AS DECIMAL(23, 3)) AS price,
       CASE WHEN hour BETWEEN 8 AND 18 THEN 'dayTime' WHEN hour <= 6 OR hour >= 20 THEN 'nightTime' ELSE 'otherTime' END
         AS bid_time_type,
       date_time, extra, length(extra) - length(replace(extra, 'c', '')) AS c_counts
FROM (SELECT *, extract(hour FROM date_time) AS hour FROM bid)
WHERE 0.908 * price > 1000000 AND 0.908 * price < 50000000;
