-- Models that people complain about most: share of judged replies that drew a complaint, with 95 % Wilson interval
SELECT
    coalesce(model, '(not known)') AS model,
    count(*) AS feedback_turns,
    count(*) FILTER (label = 'DSAT') AS dsat,
    dsat / feedback_turns AS dsat_rate,
    wilson_low(dsat, feedback_turns) AS low,
    wilson_high(dsat, feedback_turns) AS high
FROM current_labels
JOIN conversations USING (conversation_id)
GROUP BY ALL
ORDER BY low DESC, feedback_turns DESC, model;
