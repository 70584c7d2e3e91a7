"""One short module a stage: take the recipe's options, call the library, say what came out."""
