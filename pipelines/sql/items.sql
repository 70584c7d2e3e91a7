-- What people praise and complain about: rubric items of turns with the item's label, share of all feedback turns, mean strength
SELECT
    item.name AS item,
    item.polarity AS polarity,
    count(*) AS turns,
    count(*) / (SELECT count(*) FROM current_labels) AS share_of_turns,
    avg(item.strength) AS mean_strength
FROM (SELECT label, unnest(items) AS item FROM current_labels)
WHERE item.polarity = label                  -- a sign below the threshold made no complaint of its turn
GROUP BY ALL
ORDER BY turns DESC, item;
