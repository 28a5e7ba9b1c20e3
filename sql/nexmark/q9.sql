-- q9. The winning bid of each auction: the highest while it is open, of equal ones the first.
CREATE STREAM auction (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds')
STORED AS NEXMARK OPTIONS ('rows' '100000');

CREATE STREAM bid (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds')
STORED AS NEXMARK OPTIONS ('rows' '100000');

SELECT a.*, b.auction, b.bidder, b.price, b.date_time AS bid_date_time, b.extra AS bid_extra
FROM auction a
JOIN bid b ON a.id = b.auction AND b.date_time BETWEEN a.date_time AND a.expires
QUALIFY row_number() OVER (PARTITION BY a.id ORDER BY b.price DESC, b.date_time, b.bidder, b.extra) = 1;
