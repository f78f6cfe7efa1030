"""Small networks over item sequences, the catalog as their vocabulary: SASRec and its like.

Works on item numbers: what the items and users are called, and their texts, is the rankers' affair.
`networks` and `training` load torch; `forward` and `ranker` do not.
"""
