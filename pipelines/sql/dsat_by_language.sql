-- Complaints by language: share of feedback turns that are DSAT, with 95 % Wilson interval
SELECT
    coalesce(language, '(not known)') AS language,
    count(*) AS feedback_turns,
    count(*) FILTER (label = 'DSAT') AS dsat,
    dsat / feedback_turns AS dsat_rate,
    wilson_low(dsat, feedback_turns) AS low,
    wilson_high(dsat, feedback_turns) AS high
FROM current_labels
JOIN conversations USING (conversation_id)
GROUP BY ALL
ORDER BY feedback_turns DESC, language;
