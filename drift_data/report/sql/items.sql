-- Rubric items by the number of turns that show them and have their label
SELECT item.name AS name, item.polarity AS polarity, count(*) AS turns,
    count(*) / (SELECT count(*) FROM current_labels) AS share, avg(item.strength) AS strength
FROM (SELECT label, unnest(items) AS item FROM current_labels) WHERE item.polarity = label
GROUP BY ALL ORDER BY turns DESC, name LIMIT 20;
