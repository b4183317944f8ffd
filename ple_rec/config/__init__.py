"""What a run is: typed, strict, without torch."""
