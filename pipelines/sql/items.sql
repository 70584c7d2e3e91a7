-- What people praise and complain about: rubric items by frequency, share of all feedback turns, mean strength
SELECT
    item.name AS item,
    item.polarity AS polarity,
    count(*) AS turns,
    count(*) / (SELECT count(*) FROM current_labels) AS share_of_turns,
    avg(item.strength) AS mean_strength
FROM (SELECT unnest(items) AS item FROM current_labels)
GROUP BY ALL
ORDER BY turns DESC, item;
