--- Rows: whole states, snapshot, checkpoint bytes and memory, against Rust's HashMap and serde_json.

local rows = {}

-- Adds a row, and gives it.
local function add(what, size, case, rust_case)
  local row = {
    what = ("%s, shards: %d"):format(what, size),
    contenders = {
      { name = "tidemark", worker = "c", ask = ("%s %d"):format(case, size) },
      { name = "Rust", worker = "rust", ask = ("%s %d"):format(rust_case, size) },
    },
    ratio = { "Rust", "tidemark" },
    unit = "ns",
    on_one = true,
  }
  rows[#rows + 1] = row
  return row
end

local function against_rust(what, case, size, least, unit)
  local row = add(what, size, case, case)
  row.target = least and { ">=", least }
  row.unit = unit or row.unit
  row.chart, row.x = what .. " by shards", size
end

local SIZES = { 1, 16, 256, 1024, 4096, 65536 }

for _, size in ipairs(SIZES) do
  against_rust("C snapshot", "snapshot", size, 15)
end
for _, size in ipairs(SIZES) do
  against_rust("C encode checkpoint bytes", "encode", size, size == 65536 and 4 or 2)
end
-- Rust with less to do than what one would write first: filling a Vec that it keeps, or serde_json alone, from a map of plain numbers
-- that is there already.
local function against_leaner_rust(what, case, rust_case, sizes)
  for _, size in ipairs(sizes) do
    add(what, size, case, rust_case)
  end
end
against_leaner_rust("C snapshot against a Vec that is kept", "snapshot", "snapshot_kept", SIZES)
against_leaner_rust("C encode against serde_json into a Vec that is kept", "encode", "encode_kept", SIZES)
against_leaner_rust("C encode against serde_json of a ready map", "encode", "encode_map", { 16, 65536 })
for _, size in ipairs(SIZES) do
  against_rust("C decode checkpoint bytes", "decode", size, size >= 1024 and 8 or 1)
end
for _, size in ipairs(SIZES) do
  against_rust("Memory", "memory", size, nil, "bytes")
end
rows[#rows + 1] = {
  what = "Memory against 64 bytes a slot + 2 bytes an id, shards: 65536",
  contenders = {
    { name = "tidemark", worker = "c", ask = "memory 65536" },
    { name = "64 + 2 bytes", worker = "c", ask = "memory_limit 65536" },
  },
  ratio = { "tidemark", "64 + 2 bytes" },
  target = { "<=", 1.01 },
  unit = "bytes",
}

return { title = "States", rows = rows }
