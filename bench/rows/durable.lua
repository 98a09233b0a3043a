--- Rows: making marks and batches durable, against one raw pwrite + fdatasync of as many bytes, and against peers.

local rows = {}
local REPEATS = 12

local function contender(name, worker, ask)
  return { name = name, worker = worker, ask = ask }
end

-- The first contender's time in units of the second's.
local function cost(what, ours, limit, target, chart, x)
  rows[#rows + 1] = {
    what = what,
    contenders = { ours, limit },
    ratio = { ours.name, limit.name },
    target = target and { "<=", target },
    repeats = REPEATS,
    unit = "us",
    chart = chart,
    x = x,
  }
end

-- How often the first contender fits into the time of the second.
local function speed(what, ours, other, target, label)
  rows[#rows + 1] = {
    what = what,
    label = label,
    contenders = { ours, other },
    ratio = { other.name, ours.name },
    target = target and { ">=", target },
    repeats = REPEATS,
    unit = "us",
    chart = label and "A durable save of 128 shards",
  }
end

local RAW = "pwrite + fdatasync"

local function save(shards)
  return contender("tidemark", "durable", "save " .. shards)
end

for _, shards in ipairs { 1, 16, 128, 1024, 8192, 65536 } do
  local target = shards <= 128 and 1.15 or shards == 65536 and 1.3 or nil
  local limit = contender(RAW, "durable", "raw_save " .. shards)
  cost(("save, shards: %d"):format(shards), save(shards), limit, target, "A durable save by shards", shards)
end

-- As many bytes as the checkpoint of 128 shards has: they fit into a block of 4 KiB.
local VALUE = 2700
speed("save of 128 shards against tmp + fsync + rename + fsync", save(128),
  contender("tmp + rename", "durable", "renamed_save 128"), 4, "tmp + rename")
speed("save of 128 shards against LMDB", save(128), contender("LMDB", "lmdb", "save " .. VALUE), 1.4, "LMDB")
speed("save of 128 shards against SQLite, FULL", save(128), contender("SQLite", "sqlite", "save_journal " .. VALUE), 1.4,
  "SQLite")
speed("save of 128 shards against SQLite, FULL, WAL", save(128), contender("SQLite, WAL", "sqlite", "save " .. VALUE), 1.4,
  "SQLite, WAL")
speed("save of 128 shards against Redis, always", save(128), contender("Redis", "redis", "save " .. VALUE), nil, "Redis")
-- What one sync can gain at all on this disk.
local raw = contender(RAW, "durable", "raw_save 128")
speed("limit: pwrite + fdatasync against tmp + fsync + rename + fsync", raw,
  contender("tmp + rename", "durable", "renamed_save 128"))
speed("limit: pwrite + fdatasync against LMDB", raw, contender("LMDB", "lmdb", "save " .. VALUE))
speed("limit: pwrite + fdatasync against SQLite, FULL, WAL", raw, contender("SQLite, WAL", "sqlite", "save " .. VALUE))
for _, shards in ipairs { 128, 65536 } do
  speed(("Lua, save of %d shards against cjson + write + rename, not durable"):format(shards),
    contender("tidemark", "save", "save " .. shards), contender("cjson + rename", "save", "cjson " .. shards))
end

for _, records in ipairs { 1, 10, 100, 1000 } do
  cost(("append of a batch, records of 128 bytes: %d"):format(records), contender("tidemark", "durable", "append " .. records),
    contender(RAW, "durable", "raw_append " .. records), 1.15, "A durable append by records", records)
end

local pipe = assert(io.popen "df --output=fstype \"${BENCH_DIR:-build/bench}\" 2>&1 | tail -n 1")
local file_system = pipe:read "l"
pipe:close()
local warning = file_system == "tmpfs" and ", which is memory: what syncs means nothing here" or ""
return { title = ("On the disk (%s, file system %s%s)"):format(os.getenv "BENCH_DIR" or "build/bench", file_system, warning), rows = rows }
