-- Held-out prompts with the first sampled reply of each model: the prompts that most models were asked, in the order of a hash
WITH replies AS (
    SELECT conversation_id, NULL::INTEGER AS turn, model, iter, left(prompt[-1].content, $characters) AS request,
        left(completion, $characters) AS completion
    FROM evaluations WHERE run = $run
    QUALIFY row_number() OVER (PARTITION BY conversation_id, model ORDER BY measure, sample) = 1
), shown AS (
    SELECT conversation_id FROM replies GROUP BY 1 ORDER BY count(*) DESC, md5(conversation_id) LIMIT $prompts
)
FROM replies SEMI JOIN shown USING (conversation_id) ORDER BY md5(conversation_id), iter NULLS FIRST;
