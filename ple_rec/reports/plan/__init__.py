"""The page of a sharding plan: where the tables lie, and where a step's time goes."""
