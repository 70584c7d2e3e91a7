-- 200 feedback turns to label by hand: fill in `label`, then run `make calibrate` with GOLD= this file
SELECT
    conversation_id,
    turn,
    '' AS label,                             -- SAT, DSAT or NEUTRAL; calibrate passes over rows that are left empty
    messages[turn].content AS reply,         -- the reply that the user reacts to; turns count from 0, lists from 1
    messages[turn + 1].content AS message,
FROM (SELECT conversation_id, messages, unnest(range(1, len(messages))) AS turn FROM conversations)
WHERE messages[turn].role = 'assistant' AND messages[turn + 1].role = 'user'
ORDER BY sha256(conversation_id || '/' || turn)
LIMIT 200;
