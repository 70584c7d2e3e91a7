-- Rows that were left out, by table and reason
SELECT "table", run, iter, reason, count(*) AS rows
FROM dropped
GROUP BY ALL
ORDER BY "table", run, iter, rows DESC, reason;
