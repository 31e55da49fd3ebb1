"""Kills, hangs, full disks and outages, each for real."""
