-- q12. Bids of each bidder within 10 s of processing time: the time that the epoch has recorded which took them.
CREATE STREAM bid (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds')
STORED AS NEXMARK OPTIONS ('rows' '100000');

SELECT bidder, count(*) AS bid_count, starttime, starttime + INTERVAL '10 seconds' AS endtime
FROM (SELECT bidder, date_bin(INTERVAL '10 seconds', now()) AS starttime FROM bid)
GROUP BY bidder, starttime;
