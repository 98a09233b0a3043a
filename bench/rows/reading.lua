--- Rows: reading a log, against the bare reading of its bytes.

local rows = {}

for _, size in ipairs { 128, 4096 } do
  rows[#rows + 1] = {
    what = ("verify of a log, records of %d bytes, against pread + CRC32C"):format(size),
    label = ("verify, %d-byte records"):format(size),
    contenders = {
      { name = "tidemark", worker = "verify", ask = "verify " .. size },
      { name = "pread + CRC32C", worker = "verify", ask = "pread_crc " .. size },
    },
    ratio = { "pread + CRC32C", "tidemark" },
    target = { ">=", 0.9 },
    unit = "ns/KiB",
    on_one = true,
    chart = "Reading",
  }
end

return { title = "Reading", rows = rows }
