-- Each label table: its judge, and how many turns have each label
SELECT labels_of, any_value(judge) AS judge, count(*) AS turns,
    count(*) FILTER (label = 'SAT') AS "SAT", count(*) FILTER (label = 'DSAT') AS "DSAT",
    count(*) FILTER (label = 'NEUTRAL') AS "NEUTRAL"
FROM labels GROUP BY labels_of ORDER BY labels_of;
