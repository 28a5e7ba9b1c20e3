-- q4. Average winning price of each category. A bid counts while its auction is open: both sides of the join are forgotten
-- as the watermarks pass.
CREATE STREAM auction (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds')
STORED AS NEXMARK OPTIONS ('rows' '100000');

CREATE STREAM bid (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds')
STORED AS NEXMARK OPTIONS ('rows' '100000');

SELECT category, avg(final::DOUBLE) AS average
FROM (
  SELECT a.id, a.category, max(b.price) AS final
  FROM auction a
  JOIN bid b ON a.id = b.auction AND b.date_time BETWEEN a.date_time AND a.expires
  GROUP BY a.id, a.category
) AS winning
GROUP BY category;
