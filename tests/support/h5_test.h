// What the tests of HDF5 files share: a temporary folder, expectations, the file of rows.
#pragma once

#include "check.h"
#include "oht/h5.h"

const char *h5t_folder(void);
const char *in_folder(const char *name); // good for three more calls
int make_temporary_folder(void **state); // group fixtures
int remove_temporary_folder(void **state);
// Expects a failure of this code whose text holds every word.
void refused(oht_status got, oht_status code, const char *word);
uint32_t rnd(uint32_t i);
// A small text file as `ohtrain prepare` makes them: /train/tokens, 1000 rows of 64, value i is (uint16_t)rnd(i).
void write_rows(const char *path);
size_t slurp(const char *path, unsigned char **bytes); // freed with free
void spill(const char *path, const unsigned char *bytes, size_t n);
