/* The allocator of the core. A test program replaces it at compile time, -DTIDEMARK_ALLOC_H='"file.h"', to fail any
 * allocation. */
#ifndef TIDEMARK_CORE_ALLOC_H
#define TIDEMARK_CORE_ALLOC_H

#ifdef TIDEMARK_ALLOC_H
#include TIDEMARK_ALLOC_H
#else
#include <stdlib.h>
#define tidemark_malloc malloc
#define tidemark_calloc calloc
#define tidemark_free   free
#endif

#endif
