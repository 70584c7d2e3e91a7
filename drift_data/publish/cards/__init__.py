"""Data cards: what is published with a data set. The texts are in the files beside this."""
