-- What people praise and complain about: rubric items on turns with the item's own label, their share of all feedback turns, mean strength
SELECT
    item.name AS item,
    item.polarity AS polarity,
    count(*) AS turns,
    count(*) / (SELECT count(*) FROM current_labels) AS share_of_turns,
    avg(item.strength) AS mean_strength
FROM (SELECT label, unnest(items) AS item FROM current_labels)
WHERE item.polarity = label                  -- an item of another polarity did not decide its turn's label
GROUP BY ALL
ORDER BY turns DESC, item;
