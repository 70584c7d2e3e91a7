"""The command line, the recipes and the stages: the only place that knows both halves of the toolkit."""
