-- Scores of each model: n counts prompts, since several samples of one prompt are not several prompts.
-- "distinct" is the mean share of a reply's word pairs that are no repetition of an earlier pair in it.
WITH replies AS (
    SELECT *, string_split_regex(trim(completion), '\s+') AS words FROM evaluations WHERE run = $run
), prompts AS (
    SELECT iter, model, measure, conversation_id, avg(score) AS score, avg(tokens) AS tokens,
        avg(CASE WHEN length(words) > 1 THEN
            length(list_distinct(list_zip(words[:-2], words[2:]))) / (length(words) - 1) END) AS pairs
    FROM replies GROUP BY ALL
)
SELECT iter, model, measure, avg(score) AS mean, coalesce(stddev_samp(score), 0) / sqrt(count(*)) AS stderr,
    count(*) AS n, avg(tokens) AS tokens, avg(pairs) AS "distinct"
FROM prompts GROUP BY ALL ORDER BY measure, iter NULLS FIRST, model;
