-- q5. The auctions with the most bids in the last 10 s, every 2 s.
CREATE STREAM bid (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds')
STORED AS NEXMARK OPTIONS ('rows' '100000');

WITH counts AS (
  SELECT auction, window_start, window_end, count(*) AS num
  FROM HOP(TABLE bid, DESCRIPTOR(date_time), INTERVAL '2 seconds', INTERVAL '10 seconds')
  GROUP BY auction, window_start, window_end
)
SELECT c.auction, c.num, c.window_start, c.window_end
FROM counts c
JOIN (SELECT window_start, max(num) AS most FROM counts GROUP BY window_start) m
  ON c.window_start = m.window_start AND c.num = m.most;
