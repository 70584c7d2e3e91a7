"""Raw data of any source → `conversations`, or examples that a data set already carries; every row left out has a reason."""
