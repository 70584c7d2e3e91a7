-- Complaints to read: the same ones in every report of the same tables, in the order of a hash
SELECT conversation_id, turn, left(prompt[-1].content, $characters) AS request, length(prompt) AS messages,
    left(rejected[1].content, $characters) AS reply, left(feedback, $characters) AS feedback, items,
    left(reason, 500) AS reason
FROM dsat ORDER BY md5(conversation_id || turn) LIMIT $examples;
