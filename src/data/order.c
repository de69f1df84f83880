// The order training rows are visited in: a shuffle without state or memory. Two keyed bijections make it:
//
//   1. the file's blocks of 256 rows get random places; 16 neighbouring places are a window,
//   2. the rows of a window are permuted among themselves.
//
// So 4096 consecutive steps through the order touch 16 blocks of the file, and a reader that keeps 16 blocks
// reads each one once an epoch. The bijection of [0, n) is a Feistel network on the next power of two with
// Philox as its round function, walked along its cycle until it lands below n (Black and Rogaway 2002).
#include "oht/data.h"

#include "data/text_file.h"
#include "oht/random.h"

enum {
    BLOCK = OHT_TEXT_BLOCK,
    WINDOW_BLOCKS = OHT_ORDER_WINDOW_BLOCKS,
    WINDOW = BLOCK * WINDOW_BLOCKS,
    ROUNDS = 8
};

// One permutation: of the blocks of an epoch (kind 0), of the rows of one of its windows (kind 1), or of all
// its rows (kind 2).
typedef struct shuffle {
    uint64_t seed;
    uint32_t kind, epoch, window;
} shuffle;

static uint64_t round_bits(const shuffle *key, uint32_t round, uint64_t half) {
    return oht_random_block(key->seed, OHT_DRAW_ORDER, key->kind * ROUNDS + round, key->epoch, key->window,
                            (uint32_t)half)
        .v[0];
}

static uint64_t ones(int bits) {
    return (UINT64_C(1) << bits) - 1;
}

// One pass of the network over `bits` bits, or its inverse. The halves may differ by a bit; even rounds
// change the high one.
static uint64_t network(const shuffle *key, uint64_t x, int bits, bool inverse) {
    int low_bits = bits / 2;
    uint64_t low = x & ones(low_bits), high = x >> low_bits;
    for (uint32_t i = 0; i < ROUNDS; i++) {
        uint32_t round = inverse ? ROUNDS - 1 - i : i;
        if (round % 2 == 0)
            high ^= round_bits(key, round, low) & ones(bits - low_bits);
        else
            low ^= round_bits(key, round, high) & ones(low_bits);
    }
    return high << low_bits | low;
}

static int64_t permute(const shuffle *key, int64_t n, int64_t x, bool inverse) {
    int bits = 0;
    while ((n - 1) >> bits > 0) bits++;
    uint64_t y = (uint64_t)x;
    do y = network(key, y, bits, inverse);
    while (y >= (uint64_t)n);
    return (int64_t)y;
}

// Units of `unit` elements lie end to end, except that unit `odd` is shorter by `missing`: the unit that
// holds element x.
static int64_t unit_of(int64_t x, int64_t unit, int64_t odd, int64_t missing) {
    return x < unit * (odd + 1) - missing ? x / unit : (x + missing) / unit;
}
// And where that unit starts.
static int64_t unit_start(int64_t i, int64_t unit, int64_t odd, int64_t missing) {
    return i * unit - (i > odd ? missing : 0);
}

int64_t oht_order(uint64_t seed, int64_t rows, int64_t position) {
    uint32_t epoch = (uint32_t)(position / rows);
    int64_t p = position % rows, blocks = (rows + BLOCK - 1) / BLOCK;
    int64_t missing = blocks * BLOCK - rows; // rows that the file's last block lacks
    shuffle of_blocks = {seed, 0, epoch, 0};
    int64_t odd = missing ? permute(&of_blocks, blocks, blocks - 1, true) : blocks; // place of that block
    int64_t window = unit_of(p, WINDOW, odd / WINDOW_BLOCKS, missing);
    int64_t start = unit_start(window, WINDOW, odd / WINDOW_BLOCKS, missing);
    int64_t end = unit_start(window + 1, WINDOW, odd / WINDOW_BLOCKS, missing);
    if (end > rows) end = rows;
    shuffle of_rows = {seed, 1, epoch, (uint32_t)window};
    int64_t q = start + permute(&of_rows, end - start, p - start, false);
    int64_t place = unit_of(q, BLOCK, odd, missing);
    return permute(&of_blocks, blocks, place, false) * BLOCK + q - unit_start(place, BLOCK, odd, missing);
}

int64_t oht_order_whole(uint64_t seed, int64_t rows, int64_t position) {
    shuffle of_rows = {seed, 2, (uint32_t)(position / rows), 0};
    return permute(&of_rows, rows, position % rows, false);
}
