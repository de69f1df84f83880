// UTF-8 for the tokenizers. Text is repaired once at the door (each maximal ill-formed part becomes U+FFFD,
// as the WHATWG decoder and Python's errors="replace" do); behind it all code may decode without checks.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "oht/status.h"

// Decodes the character at s (well-formed UTF-8), sets its length in bytes.
static inline uint32_t oht_utf8_next(const uint8_t *s, size_t *length) {
    if (s[0] < 0x80) return (void)(*length = 1), s[0];
    if (s[0] < 0xe0) return (void)(*length = 2), (s[0] & 0x1fu) << 6 | (s[1] & 0x3fu);
    if (s[0] < 0xf0) return (void)(*length = 3), (s[0] & 0x0fu) << 12 | (s[1] & 0x3fu) << 6 | (s[2] & 0x3fu);
    *length = 4;
    return (s[0] & 0x07u) << 18 | (s[1] & 0x3fu) << 12 | (s[2] & 0x3fu) << 6 | (s[3] & 0x3fu);
}

// Writes c as UTF-8 into out (4 bytes at most), returns the number of bytes.
static inline size_t oht_utf8_put(uint8_t *out, uint32_t c) {
    if (c < 0x80) return (void)(out[0] = (uint8_t)c), 1;
    if (c < 0x800) {
        out[0] = (uint8_t)(0xc0 | c >> 6);
        out[1] = (uint8_t)(0x80 | (c & 0x3f));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (uint8_t)(0xe0 | c >> 12);
        out[1] = (uint8_t)(0x80 | (c >> 6 & 0x3f));
        out[2] = (uint8_t)(0x80 | (c & 0x3f));
        return 3;
    }
    out[0] = (uint8_t)(0xf0 | c >> 18);
    out[1] = (uint8_t)(0x80 | (c >> 12 & 0x3f));
    out[2] = (uint8_t)(0x80 | (c >> 6 & 0x3f));
    out[3] = (uint8_t)(0x80 | (c & 0x3f));
    return 4;
}

// Number of leading bytes of s that are well-formed UTF-8; n if all are.
size_t oht_utf8_valid(const uint8_t *s, size_t n);

// A buffer for repaired text.
typedef struct oht_utf8_buffer {
    uint8_t *text;
    size_t capacity;
} oht_utf8_buffer;

// *text, *n: any bytes in, well-formed UTF-8 out. Well-formed input is returned as it is; otherwise the
// repaired copy lies in buffer (oht_free(buffer->text) when done).
OHT_CHECKED oht_status oht_utf8_repair(const uint8_t **text, size_t *n, oht_utf8_buffer *buffer);

bool oht_is_space(uint32_t c); // Unicode property White_Space
