-- Rate of complaints by language: the twelve with the most turns
SELECT language AS key, count(*) AS turns, count(*) FILTER (label = 'DSAT') AS dsat, dsat / turns AS rate,
    wilson_low(dsat, turns) AS low, wilson_high(dsat, turns) AS high
FROM current_labels JOIN conversations USING (conversation_id) GROUP BY 1 ORDER BY turns DESC, key LIMIT 12;
