// Log lines, progress bar and clock (include/oht/log.h).
#include "oht/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static struct {
    int rank;
    bool quiet, terminal, bar_open;
    double drawn_s;
} screen;

// Under mpirun stderr is a pipe even on a terminal; then mpirun's own stderr tells (rank 0 runs on mpirun's node).
static bool stderr_is_terminal(void) {
    if (isatty(2)) return true;
    char link[64], target[256];
    snprintf(link, sizeof(link), "/proc/%d/fd/2", (int)getppid());
    ssize_t n = readlink(link, target, sizeof(target) - 1);
    if (n <= 0) return false;
    target[n] = '\0';
    return getenv("OMPI_COMM_WORLD_RANK") != NULL && strncmp(target, "/dev/pts/", 9) == 0;
}

void oht_log_init(int rank, bool quiet, const char *progress) {
    screen.rank = rank;
    screen.quiet = quiet;
    screen.terminal = strcmp(progress, "bar") == 0 || (strcmp(progress, "auto") == 0 && stderr_is_terminal());
}

static void close_bar(void) {
    if (screen.bar_open) fputc('\n', stderr);
    screen.bar_open = false;
}

void oht_log(const char *format, ...) {
    if (screen.rank != 0 || screen.quiet) return;
    close_bar();
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
}

void oht_warn(const char *format, ...) {
    if (screen.rank != 0) return;
    close_bar();
    va_list args;
    va_start(args, format);
    fputs("warning: ", stderr);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
}

void oht_progress(int64_t done, int64_t total, bool line, const char *format, ...) {
    if (screen.rank != 0 || screen.quiet) return;
    char text[192];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    if (!screen.terminal) {
        if (line) fprintf(stderr, "%lld/%lld  %s\n", (long long)done, (long long)total, text);
        return;
    }
    double now = oht_clock_s();
    if (screen.bar_open && done < total && now - screen.drawn_s < 0.1) return;
    screen.drawn_s = now;
    char bar[31];
    int filled = total > 0 ? (int)(30 * done / total) : 0;
    for (int i = 0; i < 30; i++) bar[i] = i < filled ? '#' : '.';
    bar[30] = '\0';
    fprintf(stderr, "\r[%s] %lld/%lld  %s\033[K", bar, (long long)done, (long long)total, text);
    fflush(stderr);
    screen.bar_open = true;
}

void oht_progress_end(void) {
    close_bar();
}

double oht_clock_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int64_t oht_peak_rss_bytes(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (int64_t)usage.ru_maxrss * 1024;
}
