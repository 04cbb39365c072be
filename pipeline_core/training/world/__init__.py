"""The small world: scenes that can be drawn, put into words in 18 languages, and read back.

scene -> drawing -> picture -> reader -> reading; scene -> captions -> claims; `obeys` compares.
"""
