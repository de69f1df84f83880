// What people see while it runs: log lines, the progress bar, the clock. Only rank 0 speaks (oht_log_init says who
// this is); errors are main's business (status.h).
#pragma once

#include <stdbool.h>
#include <stdint.h>

// Local. progress: "auto" draws a bar when a terminal watches and prints plain lines otherwise; "bar", "lines" force one.
void oht_log_init(int rank, bool quiet, const char *progress);

// One line on stderr from rank 0, unless quiet. printf format, no newline at the end.
void oht_log(const char *format, ...) __attribute__((format(printf, 1, 2)));
// As oht_log, but also when quiet, with "warning: " before it.
void oht_warn(const char *format, ...) __attribute__((format(printf, 1, 2)));

// Progress: done of total, with a ready-made text (loss, tokens/s, ...). On a terminal the bar is redrawn at most 10
// times a second; otherwise a plain line when `line` is set. oht_progress_end leaves the last state on screen.
void oht_progress(int64_t done, int64_t total, bool line, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
void oht_progress_end(void);

double oht_clock_s(void);      // monotonic, seconds
int64_t oht_peak_rss_bytes(void); // VmHWM of this process
