/* Error codes, their words, and the version. */
#include "error.h"

#include <stdarg.h>
#include <stdio.h>

int tidemark_fail(tidemark_error *error, int code, const char *format, ...) {
    if (error != NULL) {
        va_list arguments;
        va_start(arguments, format);
        error->code = code;
        (void)vsnprintf(error->message, sizeof error->message, format, arguments);
        va_end(arguments);
    }
    return code;
}

const char *tidemark_version(void) {
    return TIDEMARK_VERSION;
}

const char *tidemark_code_name(int code) {
    switch (code) {
    case TIDEMARK_EINVAL: return "INVALID";
    case TIDEMARK_ENOMEM: return "NO_MEMORY";
    case TIDEMARK_EIO: return "IO";
    case TIDEMARK_EUNKNOWN_SHARD: return "UNKNOWN_SHARD";
    case TIDEMARK_ECORRUPT: return "CORRUPT";
    case TIDEMARK_EUNSUPPORTED: return "UNSUPPORTED";
    case TIDEMARK_ENOT_FOUND: return "NOT_FOUND";
    case TIDEMARK_EDENIED: return "DENIED";
    case TIDEMARK_EREADONLY: return "READONLY";
    case TIDEMARK_EBUSY: return "BUSY";
    case TIDEMARK_EREPLACED: return "REPLACED";
    case TIDEMARK_EPOISONED: return "POISONED";
    case TIDEMARK_EFORKED: return "FORKED";
    case TIDEMARK_ELOCKED: return "LOCKED";
    case TIDEMARK_ETIMEOUT: return "TIMEOUT";
    case TIDEMARK_EFENCED: return "FENCED";
    case TIDEMARK_ELOST: return "LOST";
    case TIDEMARK_EFOREIGN: return "FOREIGN";
    case TIDEMARK_EPRUNED: return "PRUNED";
    case TIDEMARK_EEND: return "END";
    case TIDEMARK_EGAP: return "GAP";
    case TIDEMARK_EDIVERGED: return "DIVERGED";
    case TIDEMARK_EAPPLY_FAILED: return "APPLY_FAILED";
    case TIDEMARK_EINTERRUPTED: return "INTERRUPTED";
    case TIDEMARK_EAHEAD: return "AHEAD";
    default: return "UNKNOWN";
    }
}
