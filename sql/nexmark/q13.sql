-- q13. Bids with what a side table says of their auctions.
CREATE STREAM bid (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds')
STORED AS NEXMARK OPTIONS ('rows' '100000');

CREATE TABLE side_input AS
SELECT value AS key, 'value ' || value AS value FROM generate_series(0, 9999);

SELECT b.auction, b.bidder, b.price, b.date_time, s.value
FROM bid b
JOIN side_input s ON b.auction % 10000 = s.key;
