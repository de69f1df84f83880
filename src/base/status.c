// The error record of each thread (include/oht/status.h).
#include "oht/status.h"

#include <stdarg.h>
#include <string.h>

static _Thread_local oht_error last;

static const char *category(oht_status code) {
    switch (code) {
    case OHT_OK:
        return "OK";
    case OHT_INTERNAL:
        return "INTERNAL";
    case OHT_CONFIG:
        return "CONFIG";
    case OHT_DATA:
        return "DATA";
    case OHT_NUMERIC:
        return "NUMERIC";
    case OHT_COMM:
        return "COMM";
    case OHT_IO:
        return "IO";
    case OHT_MEMORY:
        return "MEMORY";
    case OHT_STOPPED:
        return "STOPPED";
    }
    return "UNKNOWN";
}

oht_status oht_error_frame(oht_status status, const char *file, int line) {
    if (last.n_frames < OHT_ERROR_FRAMES) {
        const char *root = strstr(file, "src/");
        const char *kernels = strstr(file, "kernels/");
        snprintf(last.frame[last.n_frames++], sizeof(last.frame[0]), "%.50s:%d",
                 root      ? root
                 : kernels ? kernels
                           : file,
                 line);
    }
    return status;
}

oht_status oht_error_set(oht_status code, const char *file, int line, const char *format, ...) {
    va_list args;
    va_start(args, format);
    last.code = code;
    last.n_frames = 0;
    vsnprintf(last.text, sizeof(last.text), format, args);
    va_end(args);
    return oht_error_frame(code, file, line);
}

oht_error *oht_error_last(void) {
    return &last;
}

void oht_error_print(FILE *out, const oht_error *error, int rank, int size, const char *node) {
    const char *fix = strstr(error->text, "\nfix: ");
    int length = fix ? (int)(fix - error->text) : (int)strlen(error->text);
    if (error->code == OHT_STOPPED) { // asked for: no failure, no place
        fprintf(out, "ohtrain: %.*s\n%s%s", length, error->text, fix ? fix + 1 : "", fix ? "\n" : "");
        fflush(out);
        return;
    }
    fprintf(out, "ohtrain: %s error", category(error->code));
    if (size > 1) fprintf(out, " on rank %d of %d (node %s)", rank, size, node);
    fprintf(out, ": %.*s\n", length, error->text);
    for (int i = 0; i < error->n_frames; i++)
        fprintf(out, "%s%s", i == 0 ? "  at " : " <- ", error->frame[i]);
    if (error->n_frames > 0) fputc('\n', out);
    if (fix) fprintf(out, "  %s\n", fix + 1);
    fflush(out);
}
