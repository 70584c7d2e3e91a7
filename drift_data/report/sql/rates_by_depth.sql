-- Rate of complaints by the number of the judged reply in its conversation; 10 stands for all later ones
SELECT least(turn // 2, 10) AS key, count(*) AS turns, count(*) FILTER (label = 'DSAT') AS dsat, dsat / turns AS rate,
    wilson_low(dsat, turns) AS low, wilson_high(dsat, turns) AS high
FROM current_labels GROUP BY 1 ORDER BY turns DESC, key LIMIT 12;
