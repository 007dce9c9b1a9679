"""The ``dgl`` backend: rows on DGL's servers, one a host, reached by DGL's own RPC."""
