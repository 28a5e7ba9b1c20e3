-- q7. The highest bids of each 10 s.
CREATE STREAM bid (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds')
STORED AS NEXMARK OPTIONS ('rows' '100000');

WITH timed AS (
  SELECT * FROM TUMBLE(TABLE bid, DESCRIPTOR(date_time), INTERVAL '10 seconds')
)
SELECT b.auction, b.price, b.bidder, b.date_time, b.extra
FROM timed b
JOIN (SELECT window_start, max(price) AS price FROM timed GROUP BY window_start) m
  ON b.window_start = m.window_start AND b.price = m.price;
