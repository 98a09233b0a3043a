/* Filling a tidemark_error. Internal. */
#ifndef TIDEMARK_CORE_ERROR_H
#define TIDEMARK_CORE_ERROR_H

#include "tidemark.h"

/* Writes code and message to `error`, if there is one, and returns `code`, so that a caller can `return` it. */
__attribute__((format(printf, 3, 4), visibility("hidden"))) int tidemark_fail(tidemark_error *error, int code,
                                                                              const char *format, ...);

#endif
