"""One module for each stage: its command, with the options, and what the command does. It is named as its Make target.

In the order of the story: simulate, convert, rubric, label, calibrate, review, distill, seed, warm, iter, eval, report,
query, export, publish; `recipe` shows settings and runs nothing, `demo` runs the whole story. The libraries of a stage
are imported when it runs, so that `drift --help` is quick.
"""
