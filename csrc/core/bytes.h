/* Numbers in bytes. Internal. */
#ifndef TIDEMARK_CORE_BYTES_H
#define TIDEMARK_CORE_BYTES_H

#include <stdint.h>

/* Little-endian numbers in bytes of any alignment. */
static inline void tidemark_put16(unsigned char *at, uint16_t value) {
    at[0] = (unsigned char)value;
    at[1] = (unsigned char)(value >> 8);
}

static inline void tidemark_put32(unsigned char *at, uint32_t value) {
    tidemark_put16(at, (uint16_t)value);
    tidemark_put16(at + 2, (uint16_t)(value >> 16));
}

static inline void tidemark_put64(unsigned char *at, uint64_t value) {
    tidemark_put32(at, (uint32_t)value);
    tidemark_put32(at + 4, (uint32_t)(value >> 32));
}

static inline uint16_t tidemark_get16(const unsigned char *at) {
    return (uint16_t)(at[0] | at[1] << 8);
}

static inline uint32_t tidemark_get32(const unsigned char *at) {
    return tidemark_get16(at) | (uint32_t)tidemark_get16(at + 2) << 16;
}

static inline uint64_t tidemark_get64(const unsigned char *at) {
    return tidemark_get32(at) | (uint64_t)tidemark_get32(at + 4) << 32;
}

#endif
