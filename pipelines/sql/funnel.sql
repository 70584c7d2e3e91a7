-- From chat logs to training pairs: rows after each step, for the steps made so far
SELECT step, run, iter, rows FROM funnel;
