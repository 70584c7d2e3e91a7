"""From preference data to a better model.

In the order in which a run uses them:

    options     what can be set; the options of a whole run stand in methods/options.py
    loop        the algorithm on one page: warm start, then rollouts → pairs → DPO, iteration by iteration
    methods     DRIFT, SPIN, IterDPO: which examples, which rollouts, which reply is chosen and which rejected
    models      finds, loads and renders for a model; makes the tiny one
    rollout     samples fresh replies from the policy, by one of several engines
    pairs       makes preference pairs of logged and sampled replies, filters and ranks them
    dpo         trains the next policy on the pairs
    analysis    measures what a policy says and how far it has moved
    evaluate    scores the models of a run on held-out prompts or pairs

This half imports only three parts of `drift_data`: `schema` (the tables), `workspace` (where they lie) and `machine`
(processes, and vLLM on a CPU).
"""
