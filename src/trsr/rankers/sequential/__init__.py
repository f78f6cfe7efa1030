"""Small networks over item sequences, the catalog as their vocabulary: SASRec and its like.

Works on item numbers: what the items and users are called, and their texts, is the rankers' affair.
Only `settings` can be imported without loading torch.
"""
