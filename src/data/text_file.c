// Token rows in an HDF5 file (text_file.h). The wrapper h5.c distrusts the file's structure; this file
// distrusts what it says: format, sizes that must fit together, and every single id while it is read.
#include "data/text_file.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "oht/memory.h"

struct oht_text {
    oht_h5 *file;
    oht_text_info info;
};

#define PREPARE_AGAIN "fix: prepare the file again with `ohtrain prepare text`"

// The special ids: attribute and place in oht_text_info.
static const struct {
    const char *name;
    size_t offset;
} special[] = {
    {"pad_id", offsetof(oht_text_info, pad_id)}, {"mask_id", offsetof(oht_text_info, mask_id)},
    {"cls_id", offsetof(oht_text_info, cls_id)}, {"sep_id", offsetof(oht_text_info, sep_id)},
    {"bos_id", offsetof(oht_text_info, bos_id)}, {"eos_id", offsetof(oht_text_info, eos_id)},
};
enum { N_SPECIAL = sizeof(special) / sizeof(*special) };

const char *oht_text_dataset(oht_split split) {
    return split == OHT_SPLIT_TRAIN ? "/train/tokens" : "/validation/tokens";
}

oht_h5_type oht_text_type(int64_t vocab_size) {
    return vocab_size <= 65536 ? OHT_H5_U16 : OHT_H5_U32;
}

oht_status oht_text_write_info(oht_h5 *file, const oht_text_info *info) {
    OHT_TRY(oht_h5_set_text(file, "/", "format", OHT_TEXT_FORMAT));
    OHT_TRY(oht_h5_set_int(file, "/", "format_version", OHT_TEXT_VERSION));
    OHT_TRY(oht_h5_set_text(file, "/", "kind", info->mlm ? "mlm" : "clm"));
    OHT_TRY(oht_h5_set_text(file, "/", "tokenizer", info->tokenizer));
    OHT_TRY(oht_h5_set_text(file, "/", "source_sha256", info->source_sha256));
    OHT_TRY(oht_h5_set_int(file, "/", "vocab_size", info->vocab_size));
    OHT_TRY(oht_h5_set_int(file, "/", "block_size", info->tokens));
    OHT_TRY(oht_h5_set_int(file, "/", "padded", info->padded));
    for (size_t i = 0; i < N_SPECIAL; i++)
        OHT_TRY(oht_h5_set_int(file, "/", special[i].name,
                               *(const int32_t *)((const char *)info + special[i].offset)));
    return OHT_OK;
}

// An integer attribute of the file in [low, high].
static oht_status get_int(oht_h5 *file, const char *name, int64_t low, int64_t high, int64_t *out) {
    OHT_TRY(oht_h5_get_int(file, "/", name, out));
    if (*out < low || *out > high)
        OHT_FAIL(OHT_DATA, "%s: attribute %s is %lld, expected %lld to %lld\n" PREPARE_AGAIN,
                 oht_h5_path(file), name, (long long)*out, (long long)low, (long long)high);
    return OHT_OK;
}

static oht_status read_info(oht_h5 *file, oht_text_info *info) {
    const char *path = oht_h5_path(file);
    char format[32] = "(none)", kind[16];
    if (oht_h5_has(file, "/", "format"))
        OHT_TRY(oht_h5_get_text(file, "/", "format", format, sizeof(format)));
    if (strcmp(format, OHT_TEXT_FORMAT) != 0)
        OHT_FAIL(OHT_DATA,
                 "%s: not a text file of ohtrain: attribute format is %s, expected " OHT_TEXT_FORMAT
                 "\n" PREPARE_AGAIN,
                 path, format);
    int64_t number;
    OHT_TRY(oht_h5_get_int(file, "/", "format_version", &number));
    if (number != OHT_TEXT_VERSION)
        OHT_FAIL(OHT_DATA, "%s: format_version is %lld, this program reads %d\n" PREPARE_AGAIN, path,
                 (long long)number, OHT_TEXT_VERSION);
    OHT_TRY(oht_h5_get_text(file, "/", "kind", kind, sizeof(kind)));
    info->mlm = strcmp(kind, "mlm") == 0;
    if (!info->mlm && strcmp(kind, "clm") != 0)
        OHT_FAIL(OHT_DATA, "%s: attribute kind is '%s', expected mlm or clm\n" PREPARE_AGAIN, path, kind);
    OHT_TRY(oht_h5_get_text(file, "/", "tokenizer", info->tokenizer, sizeof(info->tokenizer)));
    OHT_TRY(oht_h5_get_text(file, "/", "source_sha256", info->source_sha256, sizeof(info->source_sha256)));
    OHT_TRY(get_int(file, "vocab_size", 1, INT32_MAX, &info->vocab_size));
    OHT_TRY(get_int(file, "block_size", 1, 1 << 24, &info->tokens));
    OHT_TRY(get_int(file, "padded", 0, 1, &number));
    info->padded = number == 1;
    for (size_t i = 0; i < N_SPECIAL; i++) {
        OHT_TRY(get_int(file, special[i].name, -1, info->vocab_size - 1, &number));
        *(int32_t *)((char *)info + special[i].offset) = (int32_t)number;
    }
    if (info->padded && info->pad_id < 0)
        OHT_FAIL(OHT_DATA, "%s: rows are padded, but attribute pad_id is -1\n" PREPARE_AGAIN, path);
    if (info->mlm && info->mask_id < 0)
        OHT_FAIL(OHT_DATA, "%s: kind is mlm, but attribute mask_id is -1\n" PREPARE_AGAIN, path);
    return OHT_OK;
}

static oht_status check_split(oht_h5 *file, oht_split split, oht_text_info *info) {
    const char *name = oht_text_dataset(split);
    if (!oht_h5_exists(file, name)) return OHT_OK; // rows stay 0
    oht_h5_shape shape;
    OHT_TRY(oht_h5_shape_of(file, name, 2, -1, &shape));
    if (shape.type != OHT_H5_U16 && shape.type != OHT_H5_U32)
        OHT_FAIL(OHT_DATA, "%s: %s does not hold 16- or 32-bit unsigned integers\n" PREPARE_AGAIN,
                 oht_h5_path(file), name);
    if (shape.dim[0] < 1) OHT_FAIL(OHT_DATA, "%s: %s has no rows\n" PREPARE_AGAIN, oht_h5_path(file), name);
    if (shape.dim[1] != info->tokens)
        OHT_FAIL(OHT_DATA, "%s: %s has rows of %lld tokens, attribute block_size says %lld\n" PREPARE_AGAIN,
                 oht_h5_path(file), name, (long long)shape.dim[1], (long long)info->tokens);
    info->rows[split] = shape.dim[0];
    return OHT_OK;
}

oht_status oht_text_open(oht_text **out, const char *path) {
    *out = NULL;
    oht_text *text = NULL;
    oht_status status = OHT_OK;
    OHT_TRY_GOTO(status, OHT_ALLOC(&text, 1, "text file"), failed);
    OHT_TRY_GOTO(status, oht_h5_open(&text->file, path), failed);
    OHT_TRY_GOTO(status, read_info(text->file, &text->info), failed);
    OHT_TRY_GOTO(status, check_split(text->file, OHT_SPLIT_TRAIN, &text->info), failed);
    OHT_TRY_GOTO(status, check_split(text->file, OHT_SPLIT_VALIDATION, &text->info), failed);
    if (text->info.rows[0] + text->info.rows[1] == 0)
        OHT_FAIL_GOTO(status, OHT_DATA, failed,
                      "%s: has neither /train/tokens nor /validation/tokens\n" PREPARE_AGAIN, path);
    *out = text;
    return OHT_OK;
failed:
    oht_text_close(text);
    return status;
}

void oht_text_close(oht_text *text) {
    if (!text) return;
    oht_h5_close(text->file);
    oht_free(text);
}

const oht_text_info *oht_text_info_of(const oht_text *text) {
    return &text->info;
}

oht_status oht_text_read(oht_text *text, oht_split split, int64_t first, int64_t n, int32_t *out) {
    const char *name = oht_text_dataset(split);
    int64_t rows = text->info.rows[split], T = text->info.tokens;
    if (first < 0 || n < 0 || first > rows - n)
        OHT_FAIL(OHT_INTERNAL, "%s: rows %lld to %lld of %s asked for, it has %lld", oht_h5_path(text->file),
                 (long long)first, (long long)(first + n), name, (long long)rows);
    // Read as unsigned: a 32-bit id beyond INT32_MAX must be seen as it is, not clamped by HDF5's conversion.
    uint32_t *ids = (uint32_t *)out;
    OHT_TRY(oht_h5_read(text->file, name, first, n, OHT_H5_U32, ids));
    uint32_t vocab = (uint32_t)text->info.vocab_size;
    for (int64_t i = 0; i < n * T; i++)
        if (ids[i] >= vocab)
            OHT_FAIL(
                OHT_DATA,
                "%s: %s holds id %u at row %lld, column %lld, but the vocabulary has %u ids\n" PREPARE_AGAIN,
                oht_h5_path(text->file), name, ids[i], (long long)(first + i / T), (long long)(i % T), vocab);
    return OHT_OK;
}
