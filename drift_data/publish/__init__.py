"""Publishes tables and models: on the Hub, with cards and after a screening, or in the layout of the DRIFT release."""
