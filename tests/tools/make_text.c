// make_text FILE clm|mlm [TRAIN_ROWS [VALIDATION_ROWS]]: the small data file of tiny.h, for tests/e2e.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tiny.h"

int main(int argc, char **argv) {
    if (argc < 3) return 2;
    long rows = argc > 3 ? atol(argv[3]) : 1000, validation = argc > 4 ? atol(argv[4]) : 40;
    oht_status status = tiny_text(argv[1], strcmp(argv[2], "mlm") == 0, false, rows, validation);
    if (status != OHT_OK) oht_error_print(stderr, oht_error_last(), 0, 1, "");
    return status;
}
