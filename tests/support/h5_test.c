// See h5_test.h.
#include "h5_test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "oht/random.h"

static char folder[] = "/tmp/oht-h5-XXXXXX";

const char *in_folder(const char *name) {
    static _Thread_local char path[4][256];
    static _Thread_local int next;
    next = (next + 1) % 4;
    snprintf(path[next], sizeof(path[0]), "%s/%s", folder, name);
    return path[next];
}

const char *h5t_folder(void) {
    return folder;
}

int make_temporary_folder(void **state) {
    (void)state;
    oht_h5_silence();
    return mkdtemp(folder) ? 0 : -1;
}

int remove_temporary_folder(void **state) {
    (void)state;
    char command[300];
    snprintf(command, sizeof(command), "rm -rf %s", folder);
    return system(command);
}

void refused(oht_status got, oht_status code, const char *word) {
    if (got != code || !strstr(oht_error_last()->text, word))
        fail_msg("got status %d: %s\nexpected status %d and '%s'", got, oht_error_last()->text, code, word);
}

uint32_t rnd(uint32_t i) {
    return oht_random_block(7, OHT_DRAW_INIT, i, 0, 0, 0).v[0];
}
void write_rows(const char *path) {
    uint16_t *rows = malloc(1000 * 64 * 2);
    for (uint32_t i = 0; i < 64000; i++) rows[i] = (uint16_t)rnd(i);
    oht_h5 *f;
    OK(oht_h5_create(&f, path));
    const oht_h5_shape shape = {.type = OHT_H5_U16, .rank = 2, .dim = {1000, 64}, .chunk = {64, 64}};
    OK(oht_h5_make(f, "/train/tokens", &shape, false, true));
    OK(oht_h5_write(f, "/train/tokens", 0, 1000, OHT_H5_U16, rows));
    OK(oht_h5_set_int(f, "/", "vocab_size", 65536));
    OK(oht_h5_commit(f));
    free(rows);
}

size_t slurp(const char *path, unsigned char **bytes) {
    FILE *in = fopen(path, "rb");
    assert_non_null(in);
    fseek(in, 0, SEEK_END);
    size_t n = (size_t)ftell(in);
    rewind(in);
    *bytes = malloc(n + 1);
    assert_int_equal(fread(*bytes, 1, n, in), n);
    fclose(in);
    return n;
}

void spill(const char *path, const unsigned char *bytes, size_t n) {
    FILE *out = fopen(path, "wb");
    assert_non_null(out);
    assert_int_equal(fwrite(bytes, 1, n, out), n);
    fclose(out);
}
