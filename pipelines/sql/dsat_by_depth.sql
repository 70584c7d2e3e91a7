-- Satisfaction by depth: reply 1 is the first of a conversation, reply 10 stands for the tenth and all later ones
SELECT
    least(turn // 2, 10) AS reply,  -- roles alternate, so the count holds with and without a system message
    count(*) AS feedback_turns,
    count(*) FILTER (label = 'DSAT') AS dsat,
    count(*) FILTER (label = 'SAT') AS sat,
    dsat / feedback_turns AS dsat_rate,
    wilson_low(dsat, feedback_turns) AS low,
    wilson_high(dsat, feedback_turns) AS high
FROM current_labels
GROUP BY ALL
ORDER BY reply;
