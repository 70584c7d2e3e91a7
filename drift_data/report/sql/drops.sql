-- Rows left out of the data tables and of the run, by table and reason
SELECT "table", run, iter, reason, count(*) AS rows FROM dropped WHERE run IS NULL OR run = $run
GROUP BY ALL ORDER BY run NULLS FIRST, iter NULLS FIRST, "table", rows DESC, reason;
