-- q2. Selection: bids on every 123rd auction.
CREATE STREAM bid (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds')
STORED AS NEXMARK OPTIONS ('rows' '100000');

SELECT auction, price
FROM bid
WHERE auction % 123 = 0;
