-- q10. Every bid into files, a folder for each minute.
CREATE STREAM bid (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds')
STORED AS NEXMARK OPTIONS ('rows' '100000');

COPY (
  SELECT auction, bidder, price, date_time, extra,
         to_char(date_time, '%Y-%m-%d') AS dt, to_char(date_time, '%H-%M') AS hm
  FROM bid
) TO 'nexmark-q10/' STORED AS PARQUET PARTITIONED BY (dt, hm);
