"""How good labels are: held against labelled turns, or against another judge's; thresholds chosen on the way."""
