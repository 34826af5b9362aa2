"""The commands of `embed-service`, a file for each room that has many."""
