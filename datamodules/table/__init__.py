"""Tables of ready features: `fleet` is the data set.

`table_files` reads CSV and Parquet; `uses` says what each column is for; `rows` are those to use, with a column
for each role; `classes` are what a target tells; `columns` are what the network sees of a row; `groups` are a
machine's rows that belong together, and which of them are enough; `leaks` are rows that are met twice.
"""
