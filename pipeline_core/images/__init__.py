"""Pictures in and out.

`convert.py` turns files and PIL pictures into tensors, `png.py` writes checked images with what
`metadata.py` says of them, under names that `folders.py` keeps in place; `grid.py` joins several.
"""
