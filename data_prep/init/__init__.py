"""What the columns of a log may be: guesses that `ple-rec init` writes down for its user to correct."""
