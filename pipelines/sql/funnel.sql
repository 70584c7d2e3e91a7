-- From chat logs to training pairs: rows after each step that has been made
SELECT step, run, iter, rows FROM funnel;
