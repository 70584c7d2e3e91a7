"""Turns raw chat logs into labelled, mined and published data sets. This half of the toolkit needs no training stack.

The packages stand in the order in which a chat log meets them. A name in brackets is the Make target of a stage whose
package has another name:

- `simulate` makes chat logs of simulated users, whose satisfaction is known.
- `sources` reads raw data sets, one module each.
- `convert` cleans what a source reads and writes `conversations`.
- `rubric` learns a rubric: the signs by which users show that a reply pleased or displeased them.
- `judge` (label) labels feedback turns by a rubric: with a language model, a local classifier, or both in a cascade.
- `labels` names and reads the label tables that judges and people make, and chooses what a sample labels.
- `calibrate` measures labels against people's, and chooses the thresholds that turn scores into labels.
- `review` shows judged turns to people in the browser, who accept or change the labels.
- `distill` trains a user's own classifier on the labels of another judge.
- `mine` (seed) turns labels into examples: `dsat`, `sat` and `seed`. `drift_train` trains on these.
- `query` answers SQL over DuckDB views of all finished tables.
- `report` writes the HTML page of a run.
- `publish` sends data sets and models to the Hub, and exports the layout of the DRIFT release (export).

The stages stand on these foundations:

- `schema` names the tables, their columns and labels, and the command that makes each folder of a workspace.
- `machine` ends processes, prepares vLLM for a CPU, and hides keys in messages.
- `workspace` writes folders and files whole or not at all, and knows which are finished and current.
- `chats` finds the feedback turns of a chat, decides in which order chats are drawn, and makes their text safe to show.
- `llm` sends requests to language models, keeps every answer, and counts what it costs.
- `html` gives all pages one look.
"""
