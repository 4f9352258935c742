"""Exchange between pickers: what each sent where, and how it ended.

May import picker.core and picker.wire.
"""
