/* CRC32C: known values, and both implementations say the same at every alignment and length. */
#include "../../csrc/core/crc32c.h"

#include "check.h"

/* Bit by bit, from the polynomial alone. */
static uint32_t plain(uint32_t crc, const unsigned char *bytes, size_t length) {
    crc = ~crc;
    for (; length > 0; length--) {
        crc ^= *bytes++;
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0x82F63B78u : 0);
    }
    return ~crc;
}

static void fill(unsigned char *bytes, size_t length) {
    uint32_t state = 1;
    for (size_t i = 0; i < length; i++) bytes[i] = (unsigned char)((state = state * 1664525 + 1013904223) >> 24);
}

static void test_check_value(void) {
    CHECK_INT(tidemark_crc32c(0, "123456789", 9), 0xE3069283);
    CHECK_INT(tidemark_crc32c_table(0, "123456789", 9), 0xE3069283);
}

/* RFC 3720, B.4, as the numbers that it lists byte by byte. */
static void test_rfc_3720(void) {
    unsigned char bytes[32];
    memset(bytes, 0, sizeof bytes);
    CHECK_INT(tidemark_crc32c(0, bytes, 32), 0x8A9136AA);
    memset(bytes, 0xFF, sizeof bytes);
    CHECK_INT(tidemark_crc32c(0, bytes, 32), 0x62A8AB43);
    for (size_t i = 0; i < 32; i++) bytes[i] = (unsigned char)i;
    CHECK_INT(tidemark_crc32c(0, bytes, 32), 0x46DD794E);
    for (size_t i = 0; i < 32; i++) bytes[i] = (unsigned char)(31 - i);
    CHECK_INT(tidemark_crc32c(0, bytes, 32), 0x113FDB5C);
}

static void test_every_alignment_and_length(void) {
    static _Alignas(64) unsigned char bytes[16 + 301];
    fill(bytes, sizeof bytes);
    for (size_t start = 0; start < 16; start++) {
        for (size_t length = 0; length <= 300; length++) {
            uint32_t expected = plain(0, bytes + start, length);
            CHECK_INT(tidemark_crc32c(0, bytes + start, length), expected);
            CHECK_INT(tidemark_crc32c_table(0, bytes + start, length), expected);
            if (check_failures > 5) return;
        }
    }
}

/* Lengths at which an implementation may change its way of working. */
static void test_long_inputs(void) {
    static unsigned char bytes[100003];
    fill(bytes, sizeof bytes);
    for (size_t length = 301; length <= sizeof bytes; length += length / 3) {
        uint32_t expected = plain(0, bytes + 1, length - 1);
        CHECK_INT(tidemark_crc32c(0, bytes + 1, length - 1), expected);
        CHECK_INT(tidemark_crc32c_table(0, bytes + 1, length - 1), expected);
    }
}

static void test_in_parts(void) {
    static unsigned char bytes[9000];
    fill(bytes, sizeof bytes);
    uint32_t whole = plain(0, bytes, sizeof bytes);
    for (size_t cut = 0; cut <= sizeof bytes; cut += 37) {
        uint32_t first = tidemark_crc32c(0, bytes, cut);
        CHECK_INT(tidemark_crc32c(first, bytes + cut, sizeof bytes - cut), whole);
        first = tidemark_crc32c_table(0, bytes, cut);
        CHECK_INT(tidemark_crc32c_table(first, bytes + cut, sizeof bytes - cut), whole);
    }
}

int main(void) {
    RUN(test_check_value);
    RUN(test_rfc_3720);
    RUN(test_every_alignment_and_length);
    RUN(test_long_inputs);
    RUN(test_in_parts);
    return FINISH();
}
