"""From raw chat logs to labelled, mined and published data sets. This half of the toolkit needs no training stack.

The packages in the order in which a chat log meets them; a stage has the name of its Make target in brackets where the
two differ:

- `simulate` makes chat logs of simulated users, whose satisfaction is known.
- `sources` reads raw data sets, one module each.
- `convert` cleans what a source reads and writes `conversations`.
- `rubric` learns a rubric: the signs by which users show that a reply pleased or displeased them.
- `judge` (label) labels feedback turns by a rubric: with a language model, a local classifier, or both in a cascade.
- `labels` names, reads, samples and streams the label tables that judges and people make.
- `calibrate` measures labels against people's, and chooses the thresholds that turn scores into labels.
- `review` shows judged turns to people in the browser, who accept or change the labels.
- `distill` trains a classifier of one's own on another judge's labels.
- `mine` (seed) turns labels into examples: `dsat`, `sat` and `seed`. `drift_train` trains on these.
- `query` puts DuckDB views over all finished tables.
- `report` writes the HTML page of a run.
- `publish` sends data sets and models to the Hub, and exports the layout of the DRIFT release (export).

All of them stand on foundations that are no stage:

- `schema` names the tables, their columns and labels, and the command that makes each folder of a workspace.
- `machine` holds what concerns this machine: processes, vLLM on a CPU, hiding keys.
- `workspace` writes folders and files whole or not at all, and knows which are finished and current.
- `chats` says where the feedback turns of a chat are, in which order chats are drawn, and how their text is shown.
- `llm` sends requests to language models, keeps every answer, and counts what it costs.
- `html` gives all pages one look.
"""
