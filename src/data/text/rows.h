// The rows of a list of text files, one after the other, as one stream: lines of plain text, or lines of
// JSON. Memory is one buffer, as long as the longest line.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <sha2.h>

#include "oht/status.h"

typedef struct oht_rows oht_rows;

// files: opened one after the other. json: lines that are blank are no rows (in plain text they are empty
// rows). hash: takes in all bytes of the files, NULL = none. Nothing is opened yet. Local.
OHT_CHECKED oht_status oht_rows_open(oht_rows **out, const char *const *files, int n, bool json,
                                     SHA2_CTX *hash);
void oht_rows_close(oht_rows *rows);

// Next line without its end (LF or CR LF) and without a byte order mark at the start of a file; valid until
// the next call. A plain line of white space alone is an empty row. *line = NULL after the last one. IO error
// if a file cannot be read, DATA error if it is empty or a line is longer than 64 MiB. Local.
OHT_CHECKED oht_status oht_rows_next(oht_rows *rows, const char **line, size_t *n);

// The row's text: the string under `field` of the JSON object in line, decoded into *text, which stays valid
// until the next call. DATA errors name file and line. Local.
OHT_CHECKED oht_status oht_rows_field(oht_rows *rows, const char *line, size_t n, const char *field,
                                      const char **text, size_t *n_text);

int64_t oht_rows_bytes(const oht_rows *rows); // read so far
// Bytes of all files; each must be there, and regular if `regular`. IO error otherwise. Local.
OHT_CHECKED oht_status oht_rows_measure(const char *const *files, int n, bool regular, int64_t *bytes);
