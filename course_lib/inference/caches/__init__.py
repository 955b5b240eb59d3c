"""Key-value caches: the keys and values of the tokens so far, so that each token is computed only once.

==========  ==========================================================  ==========================
name        what it keeps                                               bytes a token
==========  ==========================================================  ==========================
`dynamic`   all tokens, joined anew for each one                        `kv_bytes_per_token`
`static`    all tokens, in memory set aside once                        the same, for the capacity
`int8`      all tokens, as whole numbers with a scale a head            about a quarter of float32
`paged`     all tokens or the last pages, in pages that rows can share  the same, by the page
`sink`      the first tokens and a window of the last                   a fixed number of tokens
==========  ==========================================================  ==========================

They work with our `Decoder`, with models from `prepare`, and with transformers' models (5.23 accepts any class that has
the methods of `base.Cache`).
"""

from course_lib.inference.caches.base import Cache, kv_bytes_per_token
from course_lib.inference.caches.making import make_cache
from course_lib.inference.caches.paged import PagedCache
from course_lib.inference.caches.pages import BlockTable, OutOfPages, PagePool, useful_share
from course_lib.inference.caches.plain import DynamicCache, Int8Cache, StaticCache
from course_lib.inference.caches.sink import SinkCache
from course_lib.vocabulary import CACHES

__all__ = [
    "CACHES",
    "BlockTable",
    "Cache",
    "DynamicCache",
    "Int8Cache",
    "OutOfPages",
    "PagePool",
    "PagedCache",
    "SinkCache",
    "StaticCache",
    "kv_bytes_per_token",
    "make_cache",
    "useful_share",
]
