-- Evaluation of every model: mean score with standard error
SELECT
    run,
    iter,
    model,
    measure,
    count(*) AS replies,
    avg(score) AS mean_score,
    stddev_samp(score) / sqrt(count(*)) AS stderr,
    avg(tokens) AS mean_tokens
FROM evaluations
GROUP BY ALL
ORDER BY run, measure, iter NULLS FIRST;
