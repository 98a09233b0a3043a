/* CRC32C (Castagnoli, RFC 3720): of "123456789" it is 0xE3069283. Internal. */
#ifndef TIDEMARK_CORE_CRC32C_H
#define TIDEMARK_CORE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

#pragma GCC visibility push(hidden)

/* The CRC of bytes that follow others whose CRC is `crc`; 0 to begin. Uses the processor's instruction where there is
 * one. */
uint32_t tidemark_crc32c(uint32_t crc, const void *bytes, size_t length);

/* The same by a table, for every processor. */
uint32_t tidemark_crc32c_table(uint32_t crc, const void *bytes, size_t length);

#pragma GCC visibility pop

#endif
