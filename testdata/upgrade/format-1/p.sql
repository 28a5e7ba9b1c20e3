CREATE STREAM s (id BIGINT, k BIGINT, v BIGINT, ts TIMESTAMP) STORED AS JSON LOCATION 'in/s/' OPTIONS ('max_files_per_epoch' '1');
CREATE STREAM u (id BIGINT, k BIGINT, v BIGINT, ts TIMESTAMP) STORED AS JSON LOCATION 'in/u/' OPTIONS ('max_files_per_epoch' '1');
COPY (SELECT id, v FROM s WHERE v > 3) TO 'rows/' STORED AS PARQUET;
COPY (SELECT window_start, count(*) AS n FROM TUMBLE(TABLE s, DESCRIPTOR(ts), INTERVAL '1 minute')
        GROUP BY window_start) TO 'windows.csv';
COPY (SELECT k, count(*) AS n, sum(v) AS s, min(v) AS low, count(DISTINCT v) AS d FROM s GROUP BY k) TO 'sums.csv';
COPY (SELECT s.id, u.id AS other, s.v + u.v AS w FROM s LEFT JOIN u ON s.k = u.k AND s.v = u.v) TO 'joined.parquet';
COPY (SELECT k, id, v FROM s QUALIFY row_number() OVER (PARTITION BY k ORDER BY id DESC) <= 2) TO 'last.parquet';
COPY (SELECT id, v FROM s ORDER BY v DESC, id LIMIT 5) TO 'top.csv';
COPY (SELECT DISTINCT k, v FROM s EXCEPT SELECT k, v FROM u) TO 'without.csv';
COPY (SELECT id, k, sum(v) OVER (PARTITION BY k ORDER BY id) AS r FROM s) TO 'running.parquet';
