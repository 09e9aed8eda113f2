"""Recordings in files: `fleet` is the data set.

`pattern` and `manifest` list files and say what each is; `signal_file` opens one, each kind in a file of its own;
`time_column` makes sample rate and gaps of a column of times; `reading` is how samples become a recording's.
"""
