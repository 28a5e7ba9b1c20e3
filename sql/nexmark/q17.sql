-- q17. Statistics of each auction and day.
CREATE STREAM bid (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds')
STORED AS NEXMARK OPTIONS ('rows' '100000');

SELECT auction, day, count(*) AS total_bids,
       count(*) FILTER (WHERE price < 10000) AS rank1_bids,
       count(*) FILTER (WHERE price BETWEEN 10000 AND 999999) AS rank2_bids,
       count(*) FILTER (WHERE price >= 1000000) AS rank3_bids,
       min(price) AS min_price, max(price) AS max_price, avg(price::DOUBLE) AS avg_price, sum(price) AS sum_price
FROM (SELECT *, date_trunc('day', date_time) AS day FROM bid)
GROUP BY auction, day;
