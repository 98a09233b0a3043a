--- Rows: what a follower does with a log.

local rows = {}

local function records(method, into, size)
  rows[#rows + 1] = {
    what = ("batch:%s into %s, bytes of a record: %d"):format(method, into, size),
    contenders = {
      { name = "tidemark", worker = "records", ask = ("%s %d"):format(method, size) },
      { name = "C loop", worker = "records", ask = "loop " .. size },
    },
    ratio = { "C loop", "tidemark" },
    target = { ">=", 0.8 },
    unit = "ns",
    on_one = true,
    chart = ("batch:%s into %s by bytes"):format(method, into),
    x = size,
  }
end
for _, size in ipairs { 16, 128, 1024, 8192 } do
  records("each", "a Lua function", size)
end
for _, size in ipairs { 16, 128, 1024, 8192 } do
  records("records", "a loop's body", size)
end

for _, size in ipairs { 1, 10, 100, 1000 } do
  rows[#rows + 1] = {
    what = ("follower into SQLite against a C program, records of a batch: %d"):format(size),
    contenders = {
      { name = "tidemark", worker = "follow", ask = "sqlite " .. size },
      { name = "C and SQLite", worker = "sqlite", ask = "inserts " .. size },
    },
    ratio = { "C and SQLite", "tidemark" },
    target = { ">=", 0.8 },
    unit = "us",
    on_one = true,
    chart = "A follower into SQLite, a record, by records",
    x = size,
  }
end

local function latency(what, case, target)
  rows[#rows + 1] = {
    what = what .. " against fdatasync + futex wake",
    contenders = {
      { name = "tidemark", worker = "latency", ask = case .. " 128" },
      { name = "fdatasync + wake", worker = "latency", ask = "bare 128" },
    },
    ratio = { "tidemark", "fdatasync + wake" },
    target = target,
    repeats = 8,
    unit = "us",
    label = (what:gsub(" in another process", "")),
    chart = "From an append to another process",
  }
end
latency("append to read in another process", "read")
latency("append to applied in another process, in Lua", "applied", { "<=", 2 })

rows[#rows + 1] = {
  what = "peak memory of a follower, log of 64 MiB against 4 MiB",
  contenders = {
    { name = "64 MiB", worker = "follow", ask = "memory 64" },
    { name = "4 MiB", worker = "follow", ask = "memory 4" },
  },
  ratio = { "64 MiB", "4 MiB" },
  unit = "KiB",
}

return { title = "Following", rows = rows }
