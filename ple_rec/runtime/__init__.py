"""Processes, ranks and hosts: exit codes, the elastic agent, threads, memory and installed versions."""
