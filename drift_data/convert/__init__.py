"""Turns raw data of any source into `conversations`, or into the ready examples that a data set carries.

Every row that is left out is recorded with its reason.
"""
