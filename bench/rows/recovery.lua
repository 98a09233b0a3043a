--- Rows: opening a log for writing after its writer was killed, by the log's size.

local rows = {}

local function add(what, case, size, target, chart)
  rows[#rows + 1] = {
    what = ("%s, log of MiB: %d"):format(what, size),
    contenders = {
      { name = "tidemark", worker = "recovery", ask = ("%s %d"):format(case, size) },
      { name = "pread + CRC32C", worker = "recovery", ask = "pread_crc " .. size },
    },
    ratio = { "tidemark", "pread + CRC32C" },
    target = target and { "<=", target },
    unit = "ms",
    chart = chart,
    x = size,
  }
end

for _, size in ipairs { 1, 16, 64, 256, 1024, 4096 } do
  local target = size == 1024 and 1.2 or nil
  add("opening after a kill against reading its last segment", "reopen", size, target, "Opening after a kill by mebibytes")
end
for _, size in ipairs { 1, 1024 } do
  add("opening after a kill, the last segment not synced", "unsynced", size)
end

return { title = "Recovery", rows = rows }
