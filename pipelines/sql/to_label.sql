-- 200 feedback turns to label by hand: fill in `label`, then `make calibrate GOLD=` that file
SELECT
    conversation_id,
    turn,
    '' AS label,                             -- SAT, DSAT or NEUTRAL; rows left empty are passed over
    messages[turn].content AS reply,         -- the judged one; turns count from 0, lists from 1
    messages[turn + 1].content AS message,
FROM (SELECT conversation_id, messages, unnest(range(1, len(messages))) AS turn FROM conversations)
WHERE messages[turn].role = 'assistant' AND messages[turn + 1].role = 'user'
ORDER BY sha256(conversation_id || '/' || turn)
LIMIT 200;
