--- Rows: marks in C against a map of atomics in Rust, by number of shards and of threads.

local rows = {}

local function against_rust(what, ask, target, chart, x)
  rows[#rows + 1] = {
    what = what,
    contenders = { { name = "tidemark", worker = "c", ask = ask }, { name = "Rust", worker = "rust", ask = ask } },
    ratio = { "Rust", "tidemark" },
    target = target,
    unit = "ns",
    on_one = not what:find "threads",
    chart = chart,
    x = x,
  }
end

-- 1024 is in the targets, the others are how cost grows
local SIZES = { 1, 16, 256, 1024, 4096, 65536 }

for _, case in ipairs { { "read", "read" }, { "stale", "stale advance" } } do
  for _, size in ipairs(SIZES) do
    local what = ("C %s, shards: %d"):format(case[2], size)
    against_rust(what, ("%s %d"):format(case[1], size), { ">=", 4 }, ("C %s by shards"):format(case[2]), size)
  end
end
for _, size in ipairs(SIZES) do
  local target = { ">=", size >= 16 and 1.5 or 1 }
  against_rust(("C rising advance, shards: %d"):format(size), "rising " .. size, target, "C rising advance by shards", size)
end
for threads = 1, 4 do
  local target = threads == 2 and { ">=", 1.2 } or nil
  local what = ("C rising advance, each thread its own neighbouring shard, threads: %d"):format(threads)
  against_rust(what, "advance_threads 16 " .. threads, target, "C rising advance by threads", threads)
end
for threads = 1, 4 do
  against_rust(("C read, threads: %d"):format(threads), "read_threads 16 " .. threads, nil, "C read by threads", threads)
end

return { title = "C against Rust", rows = rows }
