rockspec_format = "3.0"
package = "tidemark-sqlite"
version = "scm-1"
source = {
  url = "git+file://.", -- built in place, from the top: luarocks make rocks/tidemark-sqlite-scm-1.rockspec
}
description = {
  summary = "SQLite for tidemark: a database that takes each record of a log exactly once",
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
    ["tidemark.follower_db"] = "lua/tidemark/follower_db.lua",
    ["tidemark.follower_db.progress"] = "lua/tidemark/follower_db/progress.lua",
    ["tidemark.sqlite"] = {
      sources = { "csrc/sqlite/connection.c", "csrc/sqlite/sqlite.c" },
      libraries = { "sqlite3" },
      incdirs = { "$(SQLITE3_INCDIR)" },
      libdirs = { "$(SQLITE3_LIBDIR)" },
    },
  },
}
