rockspec_format = "3.0"
package = "tidemark-sqlite"
version = "scm-1"
source = {
  url = "git+file://.", -- built in place, from the top: luarocks make rockspecs/tidemark-sqlite-scm-1.rockspec
}
description = {
  summary = "SQLite for tidemark: whole 64-bit integers, strings with any bytes, bound values",
  license = "MIT",
}
supported_platforms = { "linux" }
dependencies = {
  "lua >= 5.3",
  "tidemark",
}
external_dependencies = {
  SQLITE3 = { header = "sqlite3.h" },
}
build = {
  type = "builtin",
  modules = {
    ["tidemark.sqlite"] = {
      sources = { "csrc/sqlite/connection.c", "csrc/sqlite/sqlite.c" },
      libraries = { "sqlite3" },
      incdirs = { "$(SQLITE3_INCDIR)" },
      libdirs = { "$(SQLITE3_LIBDIR)" },
    },
  },
}
