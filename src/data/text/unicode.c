// UTF-8 checking and repair (unicode.h); ill-formed parts by table 3-7 of the Unicode standard.
#include "data/text/unicode.h"

#include <string.h>

#include "oht/memory.h"

// Length of the character at s if it is well-formed, else 0 and in *bad the length of the maximal ill-formed
// part.
static size_t checked_length(const uint8_t *s, size_t n, size_t *bad) {
    *bad = 1;
    if (s[0] < 0x80) return 1;
    if (s[0] < 0xc2 || s[0] > 0xf4) return 0;
    size_t length = s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
    // the second byte's range excludes overlong forms, surrogates, and what lies above U+10FFFF
    uint8_t low = s[0] == 0xe0 ? 0xa0 : s[0] == 0xf0 ? 0x90 : 0x80;
    uint8_t high = s[0] == 0xed ? 0x9f : s[0] == 0xf4 ? 0x8f : 0xbf;
    for (size_t i = 1; i < length; i++) {
        if (i >= n || s[i] < low || s[i] > high) {
            *bad = i;
            return 0;
        }
        low = 0x80, high = 0xbf;
    }
    return length;
}

size_t oht_utf8_valid(const uint8_t *s, size_t n) {
    size_t i = 0, bad;
    while (i < n) {
        if (i + 8 <= n) { // eight ASCII characters at a time
            uint64_t eight;
            memcpy(&eight, s + i, 8);
            if (!(eight & 0x8080808080808080u)) {
                i += 8;
                continue;
            }
        }
        size_t length = checked_length(s + i, n - i, &bad);
        if (length == 0) return i;
        i += length;
    }
    return n;
}

oht_status oht_utf8_repair(const uint8_t **text, size_t *n, oht_utf8_buffer *buffer) {
    const uint8_t *s = *text;
    size_t total = *n, i = oht_utf8_valid(s, total), m = i;
    if (i == total) return OHT_OK;
    size_t wanted = i + 3 * (total - i); // one bad byte becomes three
    if (wanted > buffer->capacity) {
        OHT_TRY(oht_grow((void **)&buffer->text, 0, wanted, 1, "repaired text"));
        buffer->capacity = wanted;
    }
    memcpy(buffer->text, s, i);
    while (i < total) {
        size_t bad, good = oht_utf8_valid(s + i, total - i);
        memcpy(buffer->text + m, s + i, good);
        m += good;
        i += good;
        if (i == total) break;
        (void)checked_length(s + i, total - i, &bad);
        i += bad;
        m += oht_utf8_put(buffer->text + m, 0xfffd);
    }
    *text = buffer->text;
    *n = m;
    return OHT_OK;
}

bool oht_is_space(uint32_t c) {
    return (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
           c == 0x3000;
}
