// Expectations of the unit tests that CMocka does not have: calls that succeed, or fail with a message that says
// why, and numbers that are close.
#pragma once

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "oht/status.h"

#define OK(call)                                                                                             \
    do {                                                                                                     \
        if ((call) != OHT_OK) fail_msg("%s: %s", #call, oht_error_last()->text);                             \
    } while (0)
#define FAILS(call, code, part)                                                                              \
    do {                                                                                                     \
        assert_int_equal((call), (code));                                                                    \
        if (!strstr(oht_error_last()->text, (part)))                                                         \
            fail_msg("\"%s\" not in: %s", (part), oht_error_last()->text);                                   \
    } while (0)
#define NEAR(x, y, tolerance)                                                                                \
    do {                                                                                                     \
        double x_ = (x), y_ = (y);                                                                           \
        if (!(fabs(x_ - y_) <= (tolerance)))                                                                 \
            fail_msg("line %d: %.17g, expected %.17g", __LINE__, x_, y_);                                    \
    } while (0)
