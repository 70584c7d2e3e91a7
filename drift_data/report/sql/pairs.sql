-- Pairs of each iteration, and the lengths of their replies in tokens
SELECT iter, any_value(method) AS method, any_value(policy) AS policy, count(*) AS pairs,
    avg(chosen_tokens) AS chosen_mean, median(chosen_tokens) AS chosen_median,
    avg(rejected_tokens) AS rejected_mean, median(rejected_tokens) AS rejected_median
FROM pairs WHERE run = $run GROUP BY iter ORDER BY iter;
