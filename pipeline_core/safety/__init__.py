"""Images to checked images.

`network.py` embeds, `preprocess.py` feeds it, `checker.py` judges, `policy.py` acts and is the only
way from `Images` to `CheckedImages`.
"""
