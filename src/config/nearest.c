// The nearest word of a list, for "unknown key; nearest: ..." (optimal string alignment distance).
#include <string.h>

#include "config/table.h"

enum { LONGEST = 64 };

// Insertions, deletions, substitutions and swaps of neighbours cost 1 each. Both words at most LONGEST
// letters.
static int distance(const char *a, const char *b) {
    int la = (int)strlen(a), lb = (int)strlen(b);
    int row[3][LONGEST + 1]; // rows i-2, i-1, i of the table, in turn
    for (int j = 0; j <= lb; j++) row[0][j] = j;
    for (int i = 1; i <= la; i++) {
        int *now = row[i % 3], *before = row[(i + 2) % 3], *two_before = row[(i + 1) % 3];
        now[0] = i;
        for (int j = 1; j <= lb; j++) {
            int best = before[j - 1] + (a[i - 1] != b[j - 1]);
            if (before[j] + 1 < best) best = before[j] + 1;
            if (now[j - 1] + 1 < best) best = now[j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                two_before[j - 2] + 1 < best)
                best = two_before[j - 2] + 1;
            now[j] = best;
        }
    }
    return row[la % 3][lb];
}

const char *oht_nearest(const char *word, const char *(*next)(const void *ctx, int i), const void *ctx) {
    if (strlen(word) > LONGEST) return NULL;
    const char *best = NULL, *candidate;
    int least = 0;
    for (int i = 0; (candidate = next(ctx, i)); i++) {
        if (strlen(candidate) > LONGEST) continue;
        int d = distance(word, candidate);
        if (!best || d < least) best = candidate, least = d;
    }
    // More than half of the letters wrong is another word, not a slip.
    return best && 2 * least <= (int)strlen(best) ? best : NULL;
}

static const char *key_name(const void *ctx, int i) {
    (void)ctx;
    int n;
    const oht_key *key = oht_keys(&n);
    return i < n ? key[i].name : NULL;
}

// Name without its section.
static const char *key_tail(const void *ctx, int i) {
    const char *name = key_name(ctx, i);
    return name ? strchr(name, '.') + 1 : NULL;
}

const char *oht_nearest_key(const char *word) {
    // "layers" or "train.layers" means model.layers: the right name under the wrong section beats a similar
    // name.
    const char *dot = strchr(word, '.'), *tail = dot ? dot + 1 : word;
    const char *name, *near;
    for (int i = 0; (name = key_tail(NULL, i)); i++)
        if (strcmp(name, tail) == 0) return key_name(NULL, i);
    if (dot) return oht_nearest(word, key_name, NULL);
    near = oht_nearest(tail, key_tail, NULL);
    for (int i = 0; near && (name = key_tail(NULL, i)); i++)
        if (name == near) return key_name(NULL, i);
    return NULL;
}
