"""Trains the model of an iteration: DPO with TRL, with checks around it.

`stage` makes `model` in a workspace. `train` runs one training, `trainer` sets TRL up, `checks` says what must hold before
the first step, `metrics` writes each step, `checkpoints` finds where a killed training goes on, `rehearsal` tries two
updates before hours are spent, `launch` and `worker` train in several processes.
"""
