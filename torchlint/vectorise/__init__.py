"""Loops into batched code: what is done row by row, written as one whole-tensor expression.

`body` says what one turn of a row loop does; `lift` turns an expression about one row into one about all rows; `emit`
writes the fix. `pairs` and `scatter` do the same for tables filled pair by pair and for one write per row; `growth` and
`gather` are about tensors that grow by concatenation.
"""
