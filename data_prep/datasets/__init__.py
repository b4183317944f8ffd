"""Public datasets that `ple-rec prep NAME` knows."""
