// Errors: one return type, one record of what went wrong, printed once by main.
//
// A function that can fail returns oht_status and gives results through its last arguments. OHT_FAIL creates the
// error (message, place), OHT_TRY passes it up and adds a frame. Nothing below main.c prints an error or exits.
// A message says what was found, what was expected, where (file, key, line); text after "\nfix: " says what to do.
#pragma once

#include <stdio.h>

// The values are the program's exit codes.
typedef enum oht_status {
    OHT_OK = 0,
    OHT_INTERNAL = 1, // our own bug, or a failed check
    OHT_CONFIG = 2,   // usage or configuration
    OHT_DATA = 3,     // an input file is damaged, foreign or does not fit
    OHT_NUMERIC = 4,  // a loss or gradient left the finite range
    OHT_COMM = 5,     // device or communication
    OHT_IO = 6,       // disk full, no permission, no such file
    OHT_MEMORY = 7,
    OHT_STOPPED = 75, // SIGUSR1, SIGTERM or SIGINT: start me again (train: from the checkpoint it wrote)
} oht_status;

#define OHT_CHECKED __attribute__((warn_unused_result))

enum { OHT_ERROR_FRAMES = 8, OHT_ERROR_TEXT = 1536 };

// What went wrong; plain data, so that it can travel between threads and ranks.
typedef struct oht_error {
    oht_status code;
    int n_frames;
    char text[OHT_ERROR_TEXT];          // message, then optionally "\nfix: ..."
    char frame[OHT_ERROR_FRAMES][64];   // "src/data/h5.c:142", innermost first
} oht_error;

// Records an error of this thread, replacing the previous one; returns code. Local.
oht_status oht_error_set(oht_status code, const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

// Adds a frame to this thread's error; returns status unchanged. Local.
oht_status oht_error_frame(oht_status status, const char *file, int line);

// This thread's error record (never NULL; code OHT_OK when nothing failed). Local.
oht_error *oht_error_last(void);

// Prints an error as users see it: "ohtrain: DATA error on rank 3 of 16 (node n012): ...", frames, fix. Local.
void oht_error_print(FILE *out, const oht_error *error, int rank, int size, const char *node);

#define OHT_FAIL(code, ...) return oht_error_set((code), __FILE__, __LINE__, __VA_ARGS__)

#define OHT_TRY(call)                                                                                        \
    do {                                                                                                     \
        oht_status try_status_ = (call);                                                                     \
        if (try_status_ != OHT_OK) return oht_error_frame(try_status_, __FILE__, __LINE__);                  \
    } while (0)

// As OHT_TRY, for functions with one cleanup at the end: sets `status` and jumps to `label`.
#define OHT_TRY_GOTO(status, call, label)                                                                    \
    do {                                                                                                     \
        (status) = (call);                                                                                   \
        if ((status) != OHT_OK) {                                                                            \
            (void)oht_error_frame((status), __FILE__, __LINE__);                                             \
            goto label;                                                                                      \
        }                                                                                                    \
    } while (0)

// Creates an error, sets `status` and jumps to `label`.
#define OHT_FAIL_GOTO(status, code, label, ...)                                                              \
    do {                                                                                                     \
        (status) = oht_error_set((code), __FILE__, __LINE__, __VA_ARGS__);                                   \
        goto label;                                                                                          \
    } while (0)
