"""Makes preference pairs: candidates by the method, filters with their reasons, rewards where samples are ranked."""
