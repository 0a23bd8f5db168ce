"""The files of a trial: how to read and write them."""
