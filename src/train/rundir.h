// A run directory as its owner, rank 0, sees it: config.yaml, the lock, metrics.jsonl.
// Local.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "oht/config.h"
#include "oht/data.h"
#include "oht/status.h"

typedef struct oht_rundir {
    char path[OHT_PATH];
    int lock, metrics; // descriptors, -1 = closed
} oht_rundir;

// Makes the folder, locks it against a second run, compares a configuration found there with cfg, and writes
// config.yaml.
OHT_CHECKED oht_status oht_rundir_open(oht_rundir *r, const char *path, const oht_config *cfg);
// DATA error when the run began with other data; the first call records it.
OHT_CHECKED oht_status oht_rundir_same_data(oht_rundir *r, const oht_data_info *data, const char *data_path);
// Which evaluations of a step metrics.jsonl holds: one on the way, and the run's result.
typedef struct oht_rundir_evaluations {
    bool on_the_way, result;
} oht_rundir_evaluations;
// Drops everything after `step` from metrics.jsonl and opens it for appending. *held: evaluations of `step`.
OHT_CHECKED oht_status oht_rundir_metrics(oht_rundir *r, int64_t step, oht_rundir_evaluations *held);
// Appends one line (text without newline) in one write.
OHT_CHECKED oht_status oht_rundir_append(oht_rundir *r, const char *line);
OHT_CHECKED oht_status oht_rundir_sync(oht_rundir *r);
// The lock of a run that may be training: false when another process has it. *lock: close it afterwards; -1 =
// there is none to take (no file, or a file system without locks).
bool oht_rundir_borrow(const char *path, int *lock);
// What data.json says of the data a run was trained on; false if there is none.
typedef struct oht_rundir_data_info {
    char path[OHT_PATH]; // absolute; empty = not known
    int64_t validation_rows; // -1 = not known
} oht_rundir_data_info;
bool oht_rundir_data(const char *rundir, oht_rundir_data_info *out);
void oht_rundir_close(oht_rundir *r);
