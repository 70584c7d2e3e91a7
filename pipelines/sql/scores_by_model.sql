-- Evaluation of every model: mean score with standard error over prompts
SELECT
    run,
    iter,
    model,
    measure,
    count(*) AS prompts,
    avg(score) AS mean_score,
    stddev_samp(score) / sqrt(count(*)) AS stderr,  -- over prompts: the samples of one prompt are averaged before
    avg(tokens) AS mean_tokens
FROM (
    SELECT run, iter, model, measure, conversation_id, avg(score) AS score, avg(tokens) AS tokens
    FROM evaluations
    GROUP BY ALL
)
GROUP BY ALL
ORDER BY run, measure, iter NULLS FIRST;
