-- Training prompts with the first sampled reply of each policy: the prompts that most policies were asked, in the order of a hash
WITH replies AS (
    SELECT conversation_id, turn, 'M' || (iter - 1) || ' ' || kind AS model, iter,
        left(messages[-1].content, $characters) AS request, left(completion, $characters) AS completion
    FROM rollouts WHERE run = $run AND sample = 0
), shown AS (
    SELECT conversation_id, turn FROM replies GROUP BY 1, 2
    ORDER BY count(*) DESC, md5(conversation_id || turn) LIMIT $prompts
)
FROM replies SEMI JOIN shown USING (conversation_id, turn) ORDER BY md5(conversation_id || turn), iter, model;
