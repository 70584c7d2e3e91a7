-- Lengths of both replies of a pair in tokens, of at most 20,000 pairs an iteration, in the order of a hash
SELECT iter, chosen_tokens AS chosen, rejected_tokens AS rejected FROM (
    SELECT *, row_number() OVER (PARTITION BY iter ORDER BY md5(conversation_id || turn)) AS place
    FROM pairs WHERE run = $run
) WHERE place <= 20000;
