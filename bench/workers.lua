--- The contenders' programs: how each is started, or why it cannot be. `make benches` builds them.

local build = os.getenv "TIDEMARK_BUILD" or "build"
local lua = os.getenv "TIDEMARK_LUA" or "lua5.4"

local function exists(path)
  local file = io.open(path)
  return file ~= nil and file:close()
end

-- malloc keeps what is freed, for those who make and drop states in a loop. Otherwise it hands the memory of each state back to the
-- kernel and takes it anew: that, and not the decoding, would be most of the time, in C and in Rust alike. Everybody else has malloc
-- as it comes.
local KEEP = "MALLOC_TRIM_THRESHOLD_=1073741824 MALLOC_MMAP_THRESHOLD_=1073741824 "

-- A program that is built only where its peer's packages are; `reason` is told where it is not there.
local function optional(path, reason, before)
  return exists(path) and { command = (before or "") .. path } or { missing = reason }
end

return {
  c = { command = KEEP .. build .. "/bench/marks" },
  verify = { command = build .. "/bench/verify" },
  lua = { command = lua .. " bench/workers/calls.lua" },
  durable = { command = build .. "/bench/durable" },
  latency = { command = build .. "/bench/latency" },
  recovery = { command = build .. "/bench/recovery" },
  records = { command = lua .. " bench/workers/records.lua" },
  follow = { command = lua .. " bench/workers/follow.lua" },
  save = { command = lua .. " bench/workers/save.lua" },
  sqlite = optional(build .. "/bench/sqlite", "no SQLite (make bench-deps)"),
  lmdb = optional(build .. "/bench/lmdb", "no LMDB (make bench-deps)"),
  redis = optional(build .. "/bench/redis", "no Redis (make bench-deps)"),
  rust = optional(build .. "/bench/rust/release/marks", "no Rust with serde_json (make bench-deps)", KEEP),
}
