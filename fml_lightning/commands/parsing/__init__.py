"""The command line as text: parsers, and what they refuse as one sentence.

Read `arguments` (the parser of every verb) and `learning_parser` (that of learning, with the short help);
`parse_error` makes a sentence of what jsonargparse says, `foreign_code` of what the user's own modules raise;
`working_folder` lets Python find these.
"""
