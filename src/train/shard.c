// How flat buffers are cut into shares of ranks, and moments that live in shares (train.shard_optimizer; ZeRO stage 1 of
// Rajbhandari et al. 2020).
//
// The flat layout is cut into pieces, each piece into one share a rank. A piece is what one collective call takes, so the
// sum of a piece can be scattered while backward goes on with the next. Sharded moments are packed: only the own shares,
// in order. A checkpoint knows nothing of this: rank 0 asks for stretches of the whole layout, the owners answer in the
// order of the layout, all from the same arithmetic.
#include <string.h>

#include "oht/memory.h"
#include "oht/train.h"

enum { SHARE_ALIGN = 16 }; // floats; 64 bytes

// ---- arithmetic ----
oht_shares oht_shares_of(size_t flat, size_t piece_bytes, int rank, int size) {
    size_t unit = SHARE_ALIGN * (size_t)size, piece = piece_bytes / sizeof(float) / unit * unit;
    return (oht_shares){.flat = flat,
                        .padded = (flat + unit - 1) / unit * unit,
                        .piece = piece > 0 ? piece : unit,
                        .rank = rank,
                        .size = size};
}

size_t oht_shares_piece(const oht_shares *s, size_t i) {
    size_t first = i * s->piece;
    return first >= s->padded ? 0 : s->padded - first < s->piece ? s->padded - first : s->piece;
}

bool oht_shares_next(const oht_shares *s, int rank, size_t end, oht_stretch *at) {
    if (end > s->flat) end = s->flat;
    if (s->size == 1 && at->first + at->count < end) { // all of it, in one
        size_t from = at->first + at->count;
        *at = (oht_stretch){from, end - from, from};
        return true;
    }
    for (size_t from = at->first + at->count; from < end;) {
        size_t i = from / s->piece, share = oht_shares_piece(s, i) / (size_t)s->size;
        size_t start = i * s->piece + (size_t)rank * share, stop = start + share;
        size_t lo = from > start ? from : start, hi = end < stop ? end : stop;
        if (lo < hi) {
            *at = (oht_stretch){lo, hi - lo, i * (s->piece / (size_t)s->size) + (lo - start)};
            return true;
        }
        from = (i + 1) * s->piece;
    }
    return false;
}

// ---- moments on all ranks ----
struct oht_shard {
    oht_comm *comm;
    oht_backend *be;
    oht_shares shares;
    float *moment[2]; // packed, device memory
    float *host;      // one share
};

typedef struct request {
    int64_t what; // END, FETCH, STORE
    int64_t which;
    int64_t first, count;
} request;
enum { END, FETCH, STORE };

oht_status oht_shard_create(oht_shard **out, oht_comm *comm, oht_backend *be, const oht_shares *shares, float *m,
                            float *v) {
    *out = NULL;
    oht_shard *s;
    OHT_TRY(OHT_ALLOC(&s, 1, "shares of the moments"));
    *s = (oht_shard){.comm = comm, .be = be, .shares = *shares, .moment = {m, v}};
    oht_status status = OHT_ALLOC(&s->host, shares->piece / (size_t)shares->size, "a share of the moments");
    if (status != OHT_OK) {
        oht_free(s);
        return status;
    }
    *out = s;
    return OHT_OK;
}

void oht_shard_destroy(oht_shard *s) {
    if (!s) return;
    oht_free(s->host);
    oht_free(s);
}

// One stretch of one owner, between device memory there and host memory on rank 0.
static oht_status move(oht_shard *s, const request *r, const oht_stretch *at, int owner, float *host) {
    size_t bytes = at->count * sizeof(float);
    float *device = s->moment[r->which] + at->packed;
    int rank = s->shares.rank;
    bool root = rank == 0;
    float *here = root ? host + (at->first - (size_t)r->first) : s->host;
    if (r->what == FETCH) {
        if (rank == owner) s->be->download(s->be, here, device, bytes);
        if (owner == 0) return OHT_OK;
        if (root) return oht_receive(s->comm, here, bytes, owner);
        return rank == owner ? oht_send(s->comm, here, bytes, 0) : OHT_OK;
    }
    if (owner != 0 && root) return oht_send(s->comm, here, bytes, owner);
    if (rank != owner) return OHT_OK;
    if (owner != 0) OHT_TRY(oht_receive(s->comm, here, bytes, 0));
    s->be->upload(s->be, device, here, bytes);
    return OHT_OK;
}

// In the order of the layout. host: rank 0's, all of the request.
static oht_status answer(oht_shard *s, const request *r, float *host) {
    size_t end = (size_t)(r->first + r->count);
    for (size_t from = (size_t)r->first; from < end;) {
        oht_stretch at = {from, 0, 0};
        int owner = 0;
        for (; owner < s->shares.size; owner++) {
            at = (oht_stretch){from, 0, 0};
            if (oht_shares_next(&s->shares, owner, end, &at) && at.first == from) break;
        }
        if (owner == s->shares.size) OHT_FAIL(OHT_INTERNAL, "nobody owns element %zu of the moments", from);
        OHT_TRY(move(s, r, &at, owner, host));
        from += at.count;
    }
    return OHT_OK;
}

static oht_status ask(oht_shard *s, int64_t what, int which, size_t first, size_t n, float *host) {
    request r = {what, which, (int64_t)first, (int64_t)n};
    OHT_TRY(oht_broadcast(s->comm, &r, sizeof(r), 0));
    return what == END ? OHT_OK : answer(s, &r, host);
}

oht_status oht_shard_fetch(oht_shard *s, int which, size_t first, size_t n, float *host) {
    return ask(s, FETCH, which, first, n, host);
}

oht_status oht_shard_store(oht_shard *s, int which, size_t first, size_t n, const float *host) {
    return ask(s, STORE, which, first, n, (float *)(uintptr_t)host);
}

oht_status oht_shard_end(oht_shard *s) {
    return ask(s, END, 0, 0, 0, NULL);
}

oht_status oht_shard_serve(oht_shard *s) {
    for (;;) {
        request r;
        OHT_TRY(oht_broadcast(s->comm, &r, sizeof(r), 0));
        if (r.what == END) return s->be->sync(s->be);
        OHT_TRY(answer(s, &r, NULL));
    }
}
