"""From raw chat logs to labelled, mined, published data sets. Needs no training stack."""
