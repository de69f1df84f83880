// The HDF5 file of token rows: names and attributes, known here alone. The same description is written by
// `prepare` and read by oht_text_open.
//
//   /train/tokens, /validation/tokens   (N,T) uint16 or uint32, 256 rows a chunk, fletcher32; a split may be
//   absent attributes of "/": format, format_version, kind (mlm | clm), tokenizer, vocab_size, block_size,
//   padded (0 | 1),
//                      pad_id, mask_id, cls_id, sep_id, bos_id, eos_id (-1 = none), source_sha256
//   and, for people: created_by, config
#pragma once

#include "oht/data.h"
#include "oht/h5.h"

#define OHT_TEXT_FORMAT "ohtrain-text"
enum {
    OHT_TEXT_VERSION = 1,
    OHT_TEXT_BLOCK = 256, // rows of a chunk, and of a block of the training order
    OHT_ORDER_WINDOW_BLOCKS = 16 // blocks whose rows are mixed: what a reader has to keep
};

// "/train/tokens" or "/validation/tokens".
const char *oht_text_dataset(oht_split split);

// Type the ids are stored in: uint16 where they fit.
oht_h5_type oht_text_type(int64_t vocab_size);

// Writes all attributes but created_by and config. Local.
OHT_CHECKED oht_status oht_text_write_info(oht_h5 *file, const oht_text_info *info);
