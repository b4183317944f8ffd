"""Page of a sharding plan: placement of the tables, memory of the ranks, and time of a step."""
